package bench

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// byHand is how many entries the row-by-row loop gets. It is enough to measure a rate, and the rate does not depend on
// it.
const byHand = 3000

// BenchmarkRequeue compares batches with the loop that people type. Each gets its own copy of the same outbox.
func BenchmarkRequeue(b *testing.B) { compareBatches(b, 0) }

// BenchmarkRequeueFar is the same with a millisecond between the client and the server and back, as where they are in
// two buildings of one city.
func BenchmarkRequeueFar(b *testing.B) { compareBatches(b, time.Millisecond) }

// BenchmarkRequeueFarther has a millisecond each way.
func BenchmarkRequeueFarther(b *testing.B) { compareBatches(b, 2*time.Millisecond) }

func compareBatches(b *testing.B, roundTrip time.Duration) {
	var batches, ofSingleUpdate, xRowByRow, perSecond, trips, tripTook []float64
	for round := range rounds {
		took := map[string]float64{}
		contestants := []contestant{
			{"batches", func(d *database, r *replay) int {
				last, n, turns := time.Now(), 0, d.turns()
				r.run(b, func(*platformdb.Batch) {
					batches = append(batches, milliseconds(time.Since(last)))
					last, n = time.Now(), n+1
				})
				trips = append(trips, float64(d.turns()-turns)/float64(n))
				return dead
			}},
			{"single", func(d *database, r *replay) int {
				d.exec(b, `UPDATE webhook_outbox_entries SET dlq_at = NULL, next_retry_at = NULL, attempts = 0, last_error = NULL,
					enqueued_at = clock_timestamp(), updated_at = clock_timestamp()
					WHERE oauth_application_id = $1 AND dlq_at IS NOT NULL AND delivered_at IS NULL AND dlq_at <= $2`,
					application, r.planned.Cutoff)
				return dead
			}},
			{"rows", func(d *database, r *replay) int { return d.rowByRow(b) }},
		}
		for i := range contestants {
			c := contestants[(round+i)%len(contestants)]
			d := copyOutbox(b)
			d.leave(b, roundTrip)
			r := d.plan(b, application)
			d.checkpoint(b)
			tripTook = append(tripTook, d.trip(b))
			began := time.Now()
			entries := c.requeue(d, r)
			took[c.name] = time.Since(began).Seconds() / float64(entries)
			r.Close()
			d.drop(b)
		}
		ofSingleUpdate = append(ofSingleUpdate, took["single"]/took["batches"])
		xRowByRow = append(xRowByRow, took["rows"]/took["batches"])
		perSecond = append(perSecond, 1/took["batches"])
		b.Logf("round %d: µs per entry: batches %.1f, single update %.1f, row by row %.1f", round, took["batches"]*1e6,
			took["single"]*1e6, took["rows"]*1e6)
	}
	b.ReportMetric(median(ofSingleUpdate), "of-single-update")
	b.ReportMetric(median(xRowByRow), "x-row-by-row")
	b.ReportMetric(median(perSecond), "entries/s")
	b.ReportMetric(quantile(batches, 0.99), "batch-p99-ms")
	if roundTrip > 0 {
		b.ReportMetric(median(trips), "round-trips/batch")
		b.ReportMetric(median(tripTook), "round-trip-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// trip is the median time of a statement that does nothing, in milliseconds.
func (d *database) trip(b *testing.B) float64 {
	b.Helper()
	var took []float64
	for range 50 {
		began := time.Now()
		check(b, d.owner.Ping(b.Context()))
		took = append(took, milliseconds(time.Since(began)))
	}
	return median(took)
}

// turns are the round trips over the line so far.
func (d *database) turns() int64 {
	if d.line == nil {
		return 0
	}
	return d.line.turns.Load()
}

// contestant requeues dead entries and returns how many.
type contestant struct {
	name    string
	requeue func(*database, *replay) int
}

// rowByRow is the playbook's one-liner: find_each loads a thousand whole rows at a time in the order of their ids, and
// update! writes each in a transaction of its own.
func (d *database) rowByRow(b *testing.B) int {
	ctx := b.Context()
	done := 0
	for last := int64(0); done < byHand; {
		rows, err := d.owner.Query(ctx, `SELECT * FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND dlq_at IS NOT NULL AND delivered_at IS NULL AND id > $2
			ORDER BY id LIMIT 1000`, application, last)
		check(b, err)
		loaded, err := pgx.CollectRows(rows, pgx.RowToMap)
		check(b, err)
		for _, row := range loaded {
			last = row["id"].(int64)
			d.exec(b, "BEGIN")
			d.exec(b, `UPDATE webhook_outbox_entries
				SET dlq_at = $2, next_retry_at = $3, attempts = $4, last_error = $5, enqueued_at = $6, updated_at = $6
				WHERE id = $1`, last, nil, nil, 0, nil, time.Now().UTC())
			d.exec(b, "COMMIT")
			done++
		}
	}
	return done
}
