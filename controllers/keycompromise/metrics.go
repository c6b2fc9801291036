package keycompromise

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var secondsToRevoke = prometheus.NewHistogram(prometheus.HistogramOpts{
	Name:    "playbook_keycompromise_seconds_to_revoke",
	Help:    "From the creation of a KeyCompromise to the revocation of its key.",
	Buckets: prometheus.ExponentialBuckets(1, 2, 14),
})

func init() { metrics.Registry.MustRegister(secondsToRevoke) }
