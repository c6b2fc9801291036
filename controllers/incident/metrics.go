package incident

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	secondsToPage = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "playbook_incident_page_seconds",
		Help:    "From an incident's creation until a channel accepted its first page.",
		Buckets: []float64{1, 2, 5, 10, 30, 60, 120, 300, 600, 1800},
	}, []string{"severity"})
	overdueTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "playbook_incident_response_overdue_total",
		Help: "Incidents to which nobody had responded in time.",
	}, []string{"severity"})
	pagesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "playbook_incident_pages_total",
		Help: "Pages by channel type and what became of them.",
	}, []string{"type", "state"})
	secondsToRollBack = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "playbook_incident_rollback_seconds",
		Help:    "From an incident's creation until the earlier deploy was live again.",
		Buckets: []float64{5, 10, 30, 60, 120, 300, 600, 1800},
	})
)

func init() {
	metrics.Registry.MustRegister(secondsToPage, overdueTotal, pagesTotal, secondsToRollBack)
}
