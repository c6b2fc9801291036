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
func BenchmarkRequeue(b *testing.B) {
	var batches, ofSingleUpdate, xRowByRow, perSecond []float64
	for round := range rounds {
		took := map[string]float64{}
		contestants := []contestant{
			{"batches", func(d *database, r *replay) int {
				last := time.Now()
				r.run(b, func(*platformdb.Batch) {
					batches = append(batches, milliseconds(time.Since(last)))
					last = time.Now()
				})
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
			r := d.plan(b, application)
			d.checkpoint(b)
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
	b.ReportMetric(0, "ns/op")
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
