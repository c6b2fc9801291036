package dlqreplay

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

var (
	entriesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "playbook_dlqreplay_entries_total",
		Help: "Planned entries that batches dealt with, by what was done. The ledger is exact; this counter loses what a " +
			"crash interrupts.",
	}, []string{"action"})
	batchSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "playbook_dlqreplay_batch_seconds",
		Help:    "Duration of a batch, its commit included.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	})
)

func init() { metrics.Registry.MustRegister(entriesTotal, batchSeconds) }

func countEntries(before, after *platformdb.Operation) {
	for action, n := range map[string]int64{
		"requeued": after.Requeued - before.Requeued, "settled": after.Settled - before.Settled,
		"left":   after.Left - before.Left,
		"parked": after.Parked - before.Parked, "unpublished": after.Unpublished - before.Unpublished,
		"gone": after.Gone - before.Gone, "changed": after.Changed - before.Changed,
		"refused": after.Refused - before.Refused,
	} {
		entriesTotal.WithLabelValues(action).Add(float64(max(n, 0)))
	}
}
