package platformdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Event is the outbox entry of webhook_key.compromised.
type Event struct {
	DeliveredAt *time.Time `db:"delivered_at"`
	DeadAt      *time.Time `db:"dlq_at"`
	// Answer to the last failed attempt: a status code or a cause; empty where there was none.
	Answer string `db:"answer"`
	// Requeued is how often it was given back to the dispatcher.
	Requeued int32 `db:"requeued"`
	// Now is the database's clock when the row was read.
	Now time.Time `db:"now"`
}

// CompromiseEvent reads how far the relying party was told. ErrNoEntry where the entry is gone.
func (db *DB) CompromiseEvent(ctx context.Context, r *Revocation) (*Event, error) {
	rows, err := db.alone.Query(ctx, `SELECT delivered_at, dlq_at,
			CASE WHEN last_error IS NULL THEN '' ELSE `+answerSQL+` END AS answer,
			(SELECT count(*) FROM playbook.event_requeues q WHERE q.entry_id = o.id) AS requeued,
			clock_timestamp()::timestamp AS now
		FROM webhook_outbox_entries o WHERE id = $1`, r.EventEntryID)
	if err == nil {
		var e *Event
		if e, err = pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Event]); err == nil {
			return e, nil
		}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNoEntry
	}
	return nil, fmt.Errorf("reading the event's entry: %w", describe(err))
}

// RequeueEvent gives a dead webhook_key.compromised back to the dispatcher under its idempotency key, and enters that
// into the ledger. One that is not dead, or that was requeued since the caller saw how often it had been, is left
// alone.
func (db *DB) RequeueEvent(ctx context.Context, uid string, seen int32) error {
	return db.transact(ctx, "giving the event back to the dispatcher", pgx.TxOptions{}, func(tx pgx.Tx) error {
		op, err := lock(ctx, tx, uid)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `WITH dead AS (
				SELECT o.id, o.dlq_at, o.attempts, o.last_error, clock_timestamp()::timestamp AS now
				FROM webhook_outbox_entries o JOIN playbook.key_revocations r ON r.event_entry_id = o.id
				WHERE r.operation_id = $1 AND o.dlq_at IS NOT NULL AND o.delivered_at IS NULL
					AND $2 = (SELECT count(*) FROM playbook.event_requeues q WHERE q.entry_id = o.id)
				FOR UPDATE OF o
			), recorded AS (
				INSERT INTO playbook.event_requeues (entry_id, attempt, operation_id, requeued_at, dlq_at, attempts, last_error)
				SELECT id, $2 + 1, $1, now, dlq_at, attempts, last_error FROM dead RETURNING entry_id, requeued_at
			)
			UPDATE webhook_outbox_entries o SET dlq_at = NULL, next_retry_at = NULL, attempts = 0, last_error = NULL,
				enqueued_at = requeued_at, updated_at = clock_timestamp()
			FROM recorded WHERE o.id = recorded.entry_id`, op.ID, seen)
		return err
	})
}

// DiedUnderSuccessor counts entries of the application that died since the revocation because the relying party refused
// their signature, the event left out.
func (db *DB) DiedUnderSuccessor(ctx context.Context, r *Revocation) (died int64, err error) {
	if err := db.alone.QueryRow(ctx, `SELECT count(*) FROM webhook_outbox_entries o
		WHERE oauth_application_id = $1 AND dlq_at IS NOT NULL AND delivered_at IS NULL AND dlq_at >= $2 AND kid = $3
			AND id <> $4 AND `+causeSQL("false")+` = 'SignatureRejected'`,
		r.ApplicationID, r.RevokedAt, r.SuccessorKid, r.EventEntryID).Scan(&died); err != nil {
		return 0, fmt.Errorf("counting webhooks that were refused: %w", describe(err))
	}
	return died, nil
}

// DeliveredUnderSuccessor returns a webhook signed by the successor that was delivered after the revocation, or
// ErrNoEntry.
func (db *DB) DeliveredUnderSuccessor(ctx context.Context, r *Revocation) (id int64, at time.Time, err error) {
	// The event first: it is found without reading what was delivered before.
	err = db.alone.QueryRow(ctx, `(SELECT id, delivered_at FROM webhook_outbox_entries
			WHERE id = $4 AND delivered_at >= $2 AND kid = $3)
		UNION ALL (SELECT id, delivered_at FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND delivered_at >= $2 AND kid = $3 LIMIT 1)
		LIMIT 1`, r.ApplicationID, r.RevokedAt, r.SuccessorKid, r.EventEntryID).Scan(&id, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, at, ErrNoEntry
	}
	if err != nil {
		return 0, at, fmt.Errorf("looking for a webhook signed by the successor: %w", describe(err))
	}
	return id, at, nil
}
