package platformdb_test

import (
	"testing"
	"time"
)

func TestFreshDeliveries(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	onset := death
	minutes := func(n int) time.Time { return onset.Add(time.Duration(n) * time.Minute) }
	// deliver an entry that was enqueued minutes after the onset, and delivered a minute later.
	deliver := func(application int64, kid string, enqueued int) (id int64) {
		t.Helper()
		if err := o.owner.QueryRow(t.Context(), `INSERT INTO webhook_outbox_entries (oauth_application_id, event_type,
				idempotency_key, kid, signature, attempts, enqueued_at, delivered_at)
			VALUES ($1, 'e', gen_random_uuid(), $2, '', 1, $3, $3::timestamp + interval '1 minute') RETURNING id`,
			application, kid, minutes(enqueued)).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	expect := func(what string, kid string, n int64, newest time.Time) {
		t.Helper()
		// Any zone: Rails' columns have none.
		fresh, err := o.monitor.FreshDeliveries(t.Context(), 1, onset.In(time.FixedZone("KST", 9*60*60)), kid)
		switch {
		case err != nil || fresh.Deliveries != n || (fresh.Newest == nil) != (n == 0):
			t.Errorf("%s: %+v, %v; want %d", what, fresh, err, n)
		case n > 0 && !fresh.Newest.Equal(newest):
			t.Errorf("%s: the newest at %v, want %v", what, fresh.Newest, newest)
		}
	}
	expect("an empty outbox", "", 0, time.Time{})
	deliver(1, "whk_1", -1)
	deliver(2, "whk_1", 5)
	o.die(1, "whk_1", 3, 1, new("HTTP 503: x"))
	expect("before the onset, of another application, and dead ones", "", 0, time.Time{})
	settled := deliver(1, "whk_1", 3)
	o.exec(`INSERT INTO playbook.replay_entries (entry_id, operation_id, acted_at, batch, action)
		VALUES ($1, 1, now(), 1, 'settled')`, settled)
	expect("what the operator settled", "", 0, time.Time{})
	deliver(1, "whk_1", 0)
	requeued := deliver(1, "whk_2", 2)
	o.exec(`INSERT INTO playbook.replay_entries (entry_id, operation_id, acted_at, batch, action, outcome)
		VALUES ($1, 1, now(), 1, 'requeued', 'delivered')`, requeued)
	expect("one at the onset, and one that a replay gave back to the dispatcher", "", 2, minutes(3))
	expect("under a kid", "whk_1", 1, minutes(1))
	expect("under another kid", "whk_3", 0, time.Time{})
	o.exec(`INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, idempotency_key, kid, signature, enqueued_at)
		SELECT 2, 'e', gen_random_uuid(), '', '', now() FROM generate_series(1, 19999)`)
	expect("the last one of the newest 20,000", "", 1, minutes(3))
	o.exec(`INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, idempotency_key, kid, signature, enqueued_at)
		VALUES (2, 'e', 'k', '', '', now())`)
	expect("none of the newest 20,000", "", 0, time.Time{})
}
