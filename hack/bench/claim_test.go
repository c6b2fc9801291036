package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const (
	// workers of the dispatcher and the time of an answer allow at most 800 deliveries a second.
	workers = 4
	answer  = 5 * time.Millisecond
	// freshPerTick webhooks of an application are enqueued each tick, 200 a second.
	freshPerTick = 20
	tick         = 100 * time.Millisecond
	phase        = 5 * time.Second
	// observeInterval is the same as the controller's.
	observeInterval = 250 * time.Millisecond
)

// BenchmarkClaim measures what a replay costs the dispatcher: how long its claim query takes while nothing is replayed,
// while a replay runs at its default pace, and while it goes on without a pace.
func BenchmarkClaim(b *testing.B) {
	var xPaced, xUnpaced, batches []float64
	for round := range rounds {
		d := copyOutbox(b)
		r := d.plan(b, application)
		d.checkpoint(b)
		p99 := map[string]float64{}
		order := []string{"idle", "paced"}
		if round%2 == 1 {
			order = []string{"paced", "idle"}
		}
		for _, name := range append(order, "unpaced") {
			run := map[string]func(context.Context) error{
				"idle":    func(context.Context) error { return nil },
				"paced":   func(ctx context.Context) error { return r.keepRequeueing(ctx, platformdb.Pace{MaxInFlight: 500}, nil) },
				"unpaced": func(ctx context.Context) error { return r.keepRequeueing(ctx, platformdb.Pace{}, &batches) },
			}[name]
			claims, _ := d.traffic(b, phase, run, application)
			p99[name] = quantile(claims, 0.99)
		}
		op, err := r.Operation(b.Context(), r.uid)
		check(b, err)
		r.Close()
		d.drop(b)
		xPaced = append(xPaced, p99["paced"]/p99["idle"])
		xUnpaced = append(xUnpaced, p99["unpaced"]/p99["idle"])
		b.Logf("round %d: p99 of the claim in ms: %.2f idle, %.2f paced, %.2f unpaced; %d requeued, %d delivered of them",
			round, p99["idle"], p99["paced"], p99["unpaced"], op.Requeued, op.Delivered)
	}
	b.ReportMetric(median(xPaced), "claim-p99-x-idle")
	b.ReportMetric(median(xUnpaced), "claim-p99-x-idle-unthrottled")
	b.ReportMetric(quantile(batches, 0.99), "batch-p99-ms")
	b.ReportMetric(0, "ns/op")
}

// keepRequeueing does what the controller does, until ctx is done or nothing remains. It adds how many milliseconds
// each batch took to batches.
func (r *replay) keepRequeueing(ctx context.Context, pace platformdb.Pace, batches *[]float64) error {
	whole := context.WithoutCancel(ctx) // a batch runs to its end
	var observed time.Time
	for ctx.Err() == nil {
		if time.Since(observed) > observeInterval {
			if _, err := r.Observe(whole, r.uid); err != nil {
				return err
			}
			observed = time.Now()
		}
		began := time.Now()
		batch, err := r.Requeue(whole, r.uid, r.selection, pace)
		if err != nil {
			return err
		}
		if batches != nil {
			*batches = append(*batches, milliseconds(time.Since(began)))
		}
		switch {
		case batch.Remaining == 0:
			return nil
		case batch.Looked == 0:
			time.Sleep(observeInterval)
		}
	}
	return nil
}

// traffic plays the platform for a time. If that is 0, it plays for as long as run takes. Webhooks arrive for each
// application, and a dispatcher delivers them. It returns how many milliseconds each claim took, and each insertion for
// the first application.
func (d *database) traffic(b *testing.B, length time.Duration, run func(context.Context) error,
	applications ...int64) (claims, enqueues []float64) {
	b.Helper()
	server, err := postgres()
	check(b, err)
	url := server.URL(d.name)
	var mu sync.Mutex
	ctx, cancel := context.WithCancel(b.Context())
	if length > 0 {
		ctx, cancel = context.WithTimeout(b.Context(), length)
	}
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		if length == 0 {
			defer cancel()
		}
		return run(ctx)
	})
	for i, application := range applications {
		group.Go(func() error {
			return connected(ctx, url, func(conn *pgx.Conn) error {
				took, err := enqueue(ctx, conn, application)
				if i == 0 {
					enqueues = took
				}
				return err
			})
		})
	}
	for range workers {
		group.Go(func() error {
			return connected(ctx, url, func(conn *pgx.Conn) error {
				took, err := dispatch(ctx, conn)
				mu.Lock()
				defer mu.Unlock()
				claims = append(claims, took...)
				return err
			})
		})
	}
	check(b, group.Wait())
	return claims, enqueues
}

func connected(ctx context.Context, url string, fn func(*pgx.Conn) error) error {
	ctx = context.WithoutCancel(ctx)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connecting to the platform's database: %w", err)
	}
	return errors.Join(fn(conn), conn.Close(ctx))
}

// enqueue adds fresh webhooks of an application until ctx is done, and returns how many milliseconds each insertion
// took.
func enqueue(ctx context.Context, conn *pgx.Conn, application int64) (took []float64, err error) {
	for ctx.Err() == nil {
		began := time.Now()
		if _, err := conn.Exec(context.WithoutCancel(ctx), `INSERT INTO webhook_outbox_entries
				(oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
			SELECT o.oauth_application_id, o.event_type, o.payload, gen_random_uuid(), o.kid, o.signature, clock_timestamp()
			FROM (SELECT * FROM webhook_outbox_entries WHERE oauth_application_id = $1 LIMIT 1) o, generate_series(1, $2::int)`,
			application, freshPerTick); err != nil {
			return nil, fmt.Errorf("enqueueing fresh webhooks: %w", err)
		}
		took = append(took, milliseconds(time.Since(began)))
		time.Sleep(tick)
	}
	return took, nil
}

// dispatch delivers until ctx is done, and returns how many milliseconds each claim took that found an entry.
func dispatch(ctx context.Context, conn *pgx.Conn) (claims []float64, err error) {
	whole := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		found := false
		err := pgx.BeginFunc(whole, conn, func(tx pgx.Tx) error {
			began := time.Now()
			rows, err := tx.Query(whole, logi.ClaimQuery)
			if err != nil {
				return err
			}
			row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			claims, found = append(claims, milliseconds(time.Since(began))), true
			time.Sleep(answer)
			_, err = tx.Exec(whole, `UPDATE webhook_outbox_entries SET attempts = attempts + 1, delivered_at = clock_timestamp(),
				next_retry_at = NULL, updated_at = clock_timestamp() WHERE id = $1`, row["id"])
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("dispatching: %w", err)
		}
		if !found {
			time.Sleep(answer)
		}
	}
	return claims, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
