package bench

import (
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	smallOutbox = 500_000
	largeOutbox = 5_000_000
	grown       = 50_000
)

// BenchmarkOutboxGrowth replays the same number of entries in a small outbox and in one that is ten times larger. Each
// round has its own relying party, so nothing has to be restored between rounds.
func BenchmarkOutboxGrowth(b *testing.B) {
	outboxes := []*database{newDatabase(b, "small"), newDatabase(b, "large")}
	for i, size := range []int{smallOutbox, largeOutbox} {
		outboxes[i].seed(b, rounds+1, size-rounds*grown, 0)
		for round := range rounds {
			outboxes[i].seed(b, int64(round+1), 0, grown)
		}
		outboxes[i].settle(b)
	}
	var growth []float64
	for round := range rounds {
		var took [2]float64
		for turn := range outboxes {
			i := (round + turn) % 2
			outboxes[i].checkpoint(b)
			began := time.Now()
			r := outboxes[i].plan(b, int64(round+1))
			r.run(b, func(*platformdb.Batch) {})
			took[i] = time.Since(began).Seconds()
			r.Close()
		}
		growth = append(growth, took[1]/took[0])
		b.Logf("round %d: %.2f s in the small outbox, %.2f s in the large one", round, took[0], took[1])
	}
	for _, d := range outboxes {
		d.drop(b)
	}
	b.ReportMetric(median(growth), "x-outbox-growth")
	b.ReportMetric(0, "ns/op")
}
