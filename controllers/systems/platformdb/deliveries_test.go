package platformdb_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestDeliveries(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	postgres := startPostgres(t, nil)
	owner := connect(t, postgres)
	execute := func(sql string, args ...any) {
		t.Helper()
		if _, err := owner.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	execute(`SET TimeZone = 'UTC'`)
	execute(`INSERT INTO oauth_applications (id, name, uid, secret) SELECT n, 'rp', n, '' FROM generate_series(1, 20) n`)
	monitor := openAs(t, postgres, "playbook_monitor")
	look := func() *platformdb.Deliveries {
		t.Helper()
		d, err := monitor.Deliveries(ctx, 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := look(); !reflect.DeepEqual(d, &platformdb.Deliveries{Failing: []int64{}}) {
		t.Errorf("an empty outbox: %+v", d)
	}

	// enqueue n entries of an application; the times are minutes ago, and none where negative.
	enqueue := func(application int64, n, attempts int, enqueued, updated, delivered, dead float64) {
		t.Helper()
		execute(`INSERT INTO webhook_outbox_entries (oauth_application_id, event_type, idempotency_key, kid, signature,
				attempts, enqueued_at, updated_at, delivered_at, dlq_at)
			SELECT $1::bigint, 'e', gen_random_uuid(), '', '', $3::int,
				localtimestamp - $4::float8 * interval '1 minute',
				localtimestamp - $5::float8 * interval '1 minute',
				CASE WHEN $6::float8 >= 0 THEN localtimestamp - $6::float8 * interval '1 minute' END,
				CASE WHEN $7::float8 >= 0 THEN localtimestamp - $7::float8 * interval '1 minute' END
			FROM generate_series(1, $2::int)`, application, n, attempts, enqueued, updated, delivered, dead)
	}
	enqueue(1, 10, 1, 1, 1, 1, -1)    // delivered at once
	enqueue(1, 1, 1, 1, 1, -1, -1)    // fails, and others of its application arrive
	enqueue(2, 3, 2, 2, 1, -1, -1)    // fails
	enqueue(3, 2, 1, 1, 1, -1, 1)     // died at once
	enqueue(4, 5, 7, 600, 2, -1, 2)   // died after hours, just now
	enqueue(5, 5, 7, 600, 30, -1, 30) // died half an hour ago
	enqueue(6, 5, 4, 600, 1, -1, -1)  // enqueued hours ago, fails still
	enqueue(7, 5, 4, 600, 30, -1, -1) // waits for its next retry
	enqueue(8, 5, 0, 1, 1, -1, -1)    // not attempted yet
	enqueue(9, 5, 3, 60, 1, 1, -1)    // delivered by a retry
	if d, want := look(), (&platformdb.Deliveries{Failing: []int64{2, 3, 4, 6}, Attempted: 16,
		Failed: 6}); !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, want %+v", d, want)
	}
	execute(`UPDATE webhook_outbox_entries SET delivered_at = localtimestamp`)
	if d, want := look(), (&platformdb.Deliveries{Failing: []int64{}, Attempted: 21}); !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, want %+v", d, want)
	}

	// What a look costs: it reads by indexes, and no more of a larger outbox.
	cost := func() (blocks int64, plan string) {
		t.Helper()
		execute(`SET enable_seqscan = off; SET jit = off`)
		var text string
		if err := owner.QueryRow(ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+platformdb.DeliveriesSQL, int64(300),
			20_000, 20).Scan(&text); err != nil {
			t.Fatal(err)
		}
		var explained []struct {
			Plan struct {
				Hit  int64 `json:"Shared Hit Blocks"`
				Read int64 `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal([]byte(text), &explained); err != nil {
			t.Fatal(err)
		}
		return explained[0].Plan.Hit + explained[0].Plan.Read, text
	}
	fill := func(first int64, n int) {
		t.Helper()
		for application := first; application < first+4; application++ {
			if err := logi.SeedFiller(ctx, owner, application, n, n/4); err != nil {
				t.Fatal(err)
			}
		}
		execute(`VACUUM ANALYZE webhook_outbox_entries`)
	}
	fill(11, 5_000)
	small, _ := cost()
	fill(15, 20_000)
	large, plan := cost()
	if strings.Contains(plan, "Seq Scan") {
		t.Errorf("it scans the table:\n%s", plan)
	}
	if large > small*2 {
		t.Errorf("it reads %d blocks of a small outbox and %d of one five times larger:\n%s", small, large, plan)
	}
	t.Logf("%d blocks of a small outbox, %d of a large one", small, large)
}
