package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// diagnosed dead letters, of parties applications.
	diagnosed = 1_000_000
	parties   = 10
)

// textsSQL gives each dead entry what dispatchers write. What a relying party writes after it is different in each.
const textsSQL = `UPDATE webhook_outbox_entries SET attempts = CASE id % 5 WHEN 0 THEN 7 WHEN 1 THEN 7 ELSE 2 END,
	last_error = CASE id % 5 WHEN 0 THEN 'HTTP 503: order ' || id WHEN 1 THEN 'Net::ReadTimeout: Net::ReadTimeout'
		WHEN 2 THEN 'HTTP 401: unknown kid' WHEN 3 THEN 'HTTP 409: seen at ' || enqueued_at
		ELSE 'HTTP 422: ' || repeat(md5(id::text), 6) END`

// barestSQL is what a diagnosis can't be had without, and says no cause.
const barestSQL = `SELECT oauth_application_id, kid, split_part(last_error, ':', 1), count(*)
	FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL AND delivered_at IS NULL GROUP BY 1, 2, 3`

// BenchmarkDiagnose measures what a diagnosis of a million dead letters takes, over a bare GROUP BY of the same rows,
// and what it costs the dispatcher while it is repeated without a pause.
func BenchmarkDiagnose(b *testing.B) {
	d := newDatabase(b, "diagnosis")
	defer d.drop(b)
	for party := range int64(parties) {
		d.seed(b, party+1, 0, diagnosed/parties)
	}
	d.exec(b, textsSQL)
	d.exec(b, "VACUUM (FULL, ANALYZE) webhook_outbox_entries")
	d.exec(b, fmt.Sprintf("ALTER ROLE playbook_monitor PASSWORD '%s'", password))
	d.checkpoint(b)
	db, err := platformdb.Open(d.url(b, "playbook_monitor"), nil)
	check(b, err)
	defer db.Close()
	diagnose := func(ctx context.Context) error {
		found, err := db.Diagnose(ctx, nil, 1000)
		if err == nil && (found.Entries < diagnosed || found.Groups != 5*parties) {
			err = fmt.Errorf("%d entries in %d groups", found.Entries, found.Groups)
		}
		return err
	}
	// On one core, as the diagnosis is.
	d.exec(b, "SET max_parallel_workers_per_gather = 0")
	d.exec(b, "SET jit = off")
	bare := func(ctx context.Context) error {
		rows, err := d.owner.Query(ctx, barestSQL)
		if err != nil {
			return err
		}
		_, err = pgx.CollectRows(rows, pgx.RowToMap)
		return err
	}
	timed := func(do func(context.Context) error) float64 {
		began := time.Now()
		check(b, do(b.Context()))
		return milliseconds(time.Since(began))
	}
	timed(bare) // brings the rows into memory
	timed(diagnose)
	var ofBare, took, xIdle []float64
	for round := range rounds {
		// The fastest of three each: both read the same rows in memory, and what else runs only slows them.
		base, ours := timed(bare), timed(diagnose)
		for range 2 {
			ours, base = min(ours, timed(diagnose)), min(base, timed(bare))
		}
		ofBare, took = append(ofBare, ours/base), append(took, ours)
		p99 := map[string]float64{}
		again := func(ctx context.Context) error {
			for ctx.Err() == nil {
				if err := diagnose(context.WithoutCancel(ctx)); err != nil {
					return err
				}
			}
			return nil
		}
		idle := func(context.Context) error { return nil }
		for i := range 2 {
			name, run := "idle", idle
			if (i+round)%2 == 1 {
				name, run = "diagnosed", again
			}
			claims, _ := d.traffic(b, phase, run, 1)
			p99[name] = quantile(claims, 0.99)
		}
		xIdle = append(xIdle, p99["diagnosed"]/p99["idle"])
		b.Logf("round %d: %.0f ms, and %.0f ms bare; p99 of the claim in ms: %.2f idle, %.2f diagnosed", round, ours, base,
			p99["idle"], p99["diagnosed"])
	}
	b.ReportMetric(median(ofBare), "of-group-by")
	b.ReportMetric(median(took), "diagnose-ms")
	b.ReportMetric(median(xIdle), "claim-p99-x-idle")
	b.ReportMetric(0, "ns/op")
}
