package platformdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// diagnosisTimeout ends a diagnosis that takes too long: a million dead letters take about a second.
const diagnosisTimeout = 30 * time.Second

// Diagnosis says why entries are dead.
type Diagnosis struct {
	// Entries are all that are dead, and Groups how many kinds of them there are.
	Entries int64
	Groups  int
	// Dead has the groups with the most entries first, and at most as many as were asked for.
	Dead []Dead
}

// Dead are dead entries of one application, kid, cause and status code.
type Dead struct {
	ApplicationID int64
	Kid, Cause    string
	// Status is the HTTP status that was answered; 0 where none is known.
	Status  int
	Entries int64
	// Since and Newest are when the first of them died, and the last.
	Since, Newest time.Time
	// EntryIDs are up to 3 of them to look at, in order.
	EntryIDs []int64
}

const diagnosisSQL = `SELECT sum(entries) OVER ()::bigint, count(*) OVER ()::integer,
		application_id, kid, cause, coalesce(status, 0), entries, since, newest, entry_ids
	FROM playbook.dead_letters($1) ORDER BY entries DESC, application_id, cause, status, kid LIMIT $2`

// Diagnose says why the dead entries of these applications died, or those of all where none is given, in at most limit
// groups. It needs no right to read an error text, and a replica answers too. A ledger that an older `manager migrate`
// made gets ErrNotReady, which says so.
func (db *DB) Diagnose(ctx context.Context, applications []int64, limit int) (*Diagnosis, error) {
	d := &Diagnosis{}
	err := db.transactFor(ctx, "diagnosing dead letters", diagnosisTimeout, readOnly, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, diagnosisSQL, applications, limit)
		if err != nil {
			return err
		}
		d.Dead, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (group Dead, err error) {
			err = row.Scan(&d.Entries, &d.Groups, &group.ApplicationID, &group.Kid, &group.Cause, &group.Status,
				&group.Entries, &group.Since, &group.Newest, &group.EntryIDs)
			return group, err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Fresh are deliveries that prove that a relying party accepts webhooks.
type Fresh struct {
	// Deliveries are how many were seen. None is no proof of the contrary.
	Deliveries int64
	// Newest is when the last one was delivered; nil where there is none.
	Newest *time.Time
}

// freshSQL reads by the primary key, backwards, what was enqueued last. No index leads to what was delivered.
const freshSQL = `SELECT count(*), max(e.delivered_at)
	FROM (SELECT id, oauth_application_id, kid, enqueued_at, delivered_at FROM webhook_outbox_entries
		ORDER BY id DESC LIMIT $1) e
	WHERE e.oauth_application_id = $2 AND e.enqueued_at >= $3 AND e.delivered_at IS NOT NULL
		AND ($4 = '' OR e.kid = $4)
		AND NOT EXISTS (SELECT FROM playbook.replay_entries r WHERE r.entry_id = e.id AND r.action = 'settled' OFFSET 0)`

// FreshDeliveries looks for what was enqueued for an application at or after a time and is delivered, under one kid or,
// where that is empty, any, among the entries with the newest ids. What the operator itself settled as delivered does
// not count: it is the operator's own write.
func (db *DB) FreshDeliveries(ctx context.Context, application int64, since time.Time, kid string) (Fresh, error) {
	var fresh Fresh
	err := db.transactFor(ctx, "looking for fresh deliveries", deliveriesTimeout, readOnly, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, freshSQL, newest, application, since.UTC(), kid).Scan(&fresh.Deliveries, &fresh.Newest)
	})
	return fresh, err
}

const receiversSQL = `SELECT coalesce(array_agg(DISTINCT e.oauth_application_id ORDER BY e.oauth_application_id), '{}')
	FROM (SELECT id, oauth_application_id, enqueued_at, delivered_at FROM webhook_outbox_entries
		ORDER BY id DESC LIMIT $1) e
	WHERE e.enqueued_at >= localtimestamp - $2::bigint * interval '1 second' AND e.delivered_at IS NOT NULL
		AND NOT EXISTS (SELECT FROM playbook.replay_entries r WHERE r.entry_id = e.id AND r.action = 'settled' OFFSET 0)`

// Receivers are the applications, in order, that received something that was enqueued within the window that ends now,
// among the entries with the newest ids. What the operator settled does not count.
func (db *DB) Receivers(ctx context.Context, window time.Duration) (applications []int64, err error) {
	err = db.transactFor(ctx, "looking who receives webhooks", deliveriesTimeout, readOnly, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, receiversSQL, newest, int64(window.Seconds())).Scan(&applications)
	})
	return applications, err
}
