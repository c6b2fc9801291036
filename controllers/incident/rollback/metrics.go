package rollback

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var secondsToRollBack = prometheus.NewHistogram(prometheus.HistogramOpts{
	Name:    "playbook_incident_rollback_seconds",
	Help:    "From an incident's creation until the earlier deploy was live again.",
	Buckets: []float64{5, 10, 30, 60, 120, 300, 600, 1800},
})

func init() { metrics.Registry.MustRegister(secondsToRollBack) }
