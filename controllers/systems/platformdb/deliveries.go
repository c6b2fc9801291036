package platformdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// newest is how many entries are looked at of those enqueued last, and of those that wait for a retry: what a look
	// costs does not grow with the outbox. Among so many, a relying party that is down shows up.
	newest = 20_000
	// newestDead is how many of each application's dead entries: a 4xx kills an entry as soon as it was enqueued.
	newestDead = 20
	// deliveriesTimeout ends a look that takes too long, so that it is never a burden.
	deliveriesTimeout = 5 * time.Second
)

// Deliveries is how webhooks fared within a window.
type Deliveries struct {
	// Failing are the applications, in order, to which attempts failed and none succeeded.
	Failing []int64
	// Attempted are the webhooks, enqueued in the window, that were attempted, and Failed those of them that are
	// undelivered. A webhook counts once, however often it was attempted: there is no record of each attempt.
	Attempted, Failed int64
}

// deliveriesSQL reads by the primary key, backwards, what was enqueued last; by the index of due entries, backwards,
// what waits for a retry; and by the index of dead entries each application's newest ones, going from one application
// to the next. No index leads to what was delivered of older entries, so these don't count.
const deliveriesSQL = `WITH RECURSIVE since AS MATERIALIZED (
		SELECT localtimestamp - $1::bigint * interval '1 second' AS at
	), fresh AS MATERIALIZED (
		SELECT oauth_application_id AS app, delivered_at IS NOT NULL AS delivered,
			attempts > 0 OR dlq_at IS NOT NULL AS attempted
		FROM (SELECT oauth_application_id, attempts, enqueued_at, delivered_at, dlq_at FROM webhook_outbox_entries
			ORDER BY id DESC LIMIT $2) e
		WHERE enqueued_at >= (SELECT at FROM since)
	), waiting AS (
		SELECT DISTINCT oauth_application_id AS app
		FROM (SELECT oauth_application_id, attempts, updated_at FROM webhook_outbox_entries
			WHERE delivered_at IS NULL AND dlq_at IS NULL
			ORDER BY enqueued_at DESC, id DESC LIMIT $2) e
		WHERE attempts > 0 AND updated_at >= (SELECT at FROM since)
	), dying AS (
		(SELECT oauth_application_id AS app FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL AND delivered_at IS NULL
			ORDER BY oauth_application_id, enqueued_at, id LIMIT 1)
		UNION ALL
		SELECT (SELECT oauth_application_id FROM webhook_outbox_entries
			WHERE dlq_at IS NOT NULL AND delivered_at IS NULL AND oauth_application_id > d.app
			ORDER BY oauth_application_id, enqueued_at, id LIMIT 1)
		FROM dying d WHERE d.app IS NOT NULL
	), dead AS (
		SELECT d.app FROM dying d WHERE d.app IS NOT NULL AND EXISTS (
			SELECT FROM (SELECT dlq_at FROM webhook_outbox_entries
				WHERE dlq_at IS NOT NULL AND delivered_at IS NULL AND oauth_application_id = d.app
				ORDER BY enqueued_at DESC, id DESC LIMIT $3) e
			WHERE dlq_at >= (SELECT at FROM since))
	)
	SELECT
		coalesce((SELECT array_agg(app ORDER BY app) FROM (SELECT app FROM waiting UNION SELECT app FROM dead) f
			WHERE NOT EXISTS (SELECT FROM fresh WHERE fresh.app = f.app AND delivered)), '{}'),
		(SELECT count(*) FROM fresh WHERE delivered OR attempted),
		(SELECT count(*) FROM fresh WHERE attempted AND NOT delivered)`

// Deliveries looks at how webhooks fared within the window that ends now, by the database's clock.
func (db *DB) Deliveries(ctx context.Context, window time.Duration) (*Deliveries, error) {
	d := &Deliveries{}
	err := db.transactFor(ctx, "looking at deliveries", deliveriesTimeout, readOnly, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, deliveriesSQL, int64(window.Seconds()), newest, newestDead).Scan(&d.Failing, &d.Attempted,
			&d.Failed)
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}
