package incident

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var overdueTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "playbook_incident_response_overdue_total",
	Help: "Incidents to which nobody had responded in time.",
}, []string{"severity"})

func init() { metrics.Registry.MustRegister(overdueTotal) }
