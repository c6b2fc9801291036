package escalation

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	secondsToPage = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "playbook_incident_page_seconds",
		Help:    "From an incident's creation, or the rise of its severity, until a channel accepted its first page.",
		Buckets: []float64{1, 2, 5, 10, 30, 60, 120, 300, 600, 1800},
	}, []string{"severity"})
	pagesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "playbook_incident_pages_total",
		Help: "Pages by channel type and what became of them.",
	}, []string{"type", "state"})
)

func init() { metrics.Registry.MustRegister(secondsToPage, pagesTotal) }
