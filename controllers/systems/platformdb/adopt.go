package platformdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Unfinished says that a key is revoked, and that something which belongs to its end is missing.
type Unfinished struct{ Missing string }

func (e *Unfinished) Error() string { return "the key is revoked, and there is no " + e.Missing }

// eventSlack is by how much the platform's two clocks, and the order in which it writes, may put the event before the
// revocation.
const eventSlack = time.Minute

// AdoptRevocation enters a key into the ledger that the platform itself ended: when, what signs now, and which entry
// tells the relying party. It changes nothing of the platform's, reads no private key, and needs the everyday role
// only. Adopting again returns what was entered first.
//
// It returns UnknownKid; ErrNotRevoked where the key may still sign; Unfinished; or Taken where another operation ended
// the key, or is running its command for it.
func (db *DB) AdoptRevocation(ctx context.Context, uid, kid, reason string) (*Revocation, error) {
	var r *Revocation
	err := db.transact(ctx, "reading whether the key was ended", pgx.TxOptions{}, func(tx pgx.Tx) error {
		op, err := lockAlone(ctx, tx, uid)
		if err != nil {
			return err
		}
		if r, err = known(ctx, tx, op, kid); err != nil || r != nil {
			return err
		}
		r = &Revocation{ApplicationID: op.ApplicationID, Kid: kid}
		notEnded := readEnd(ctx, tx, r)
		if unfinished := (*Unfinished)(nil); errors.Is(notEnded, ErrNotRevoked) || errors.As(notEnded, &unfinished) {
			if err := begun(ctx, tx, op, kid); err != nil && !errors.Is(err, ErrCommandRan) {
				return err
			}
		}
		if notEnded != nil {
			return notEnded
		}
		return record(ctx, tx, op, r, reason)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// readEnd reads from the platform's tables how a key was ended.
func readEnd(ctx context.Context, tx pgx.Tx, r *Revocation) error {
	var status string
	err := tx.QueryRow(ctx, `SELECT status, coalesce(revoked_at, clock_timestamp()::timestamp) FROM webhook_signing_keys
		WHERE oauth_application_id = $1 AND kid = $2`, r.ApplicationID, r.Kid).Scan(&status, &r.RevokedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return unknownKid(ctx, tx, r.ApplicationID)
	}
	if err != nil {
		return err
	}
	if status != "revoked" {
		return ErrNotRevoked
	}
	err = tx.QueryRow(ctx, `SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1 AND status = 'active'
		ORDER BY activated_at DESC NULLS LAST, id DESC LIMIT 1`, r.ApplicationID).Scan(&r.SuccessorKid)
	if errors.Is(err, pgx.ErrNoRows) {
		return &Unfinished{"active key to sign with"}
	}
	if err != nil {
		return err
	}
	// Which kid it is about is in its payload, which this role does not read. One that was given back to the dispatcher is
	// younger than it was, and known to the ledger.
	err = tx.QueryRow(ctx, `SELECT id FROM webhook_outbox_entries o
		WHERE oauth_application_id = $1 AND event_type = $2 AND enqueued_at >= $3 AND kid <> $4
			AND NOT EXISTS (SELECT FROM playbook.key_revocations r WHERE r.event_entry_id = o.id)
		ORDER BY id LIMIT 1`, r.ApplicationID, CompromisedEvent, r.RevokedAt.Add(-eventSlack), r.Kid).Scan(&r.EventEntryID)
	if errors.Is(err, pgx.ErrNoRows) {
		return &Unfinished{"event " + CompromisedEvent + " in the outbox"}
	}
	if err != nil {
		return err
	}
	// What was enqueued before the revocation and is under the successor was signed anew; what is under the old kid the
	// dispatcher held, or a straggler inserted.
	return tx.QueryRow(ctx, `SELECT count(*) FILTER (WHERE kid = $2 AND enqueued_at < $4 AND id <> $5),
			count(*) FILTER (WHERE kid = $3)
		FROM (
			SELECT id, kid, enqueued_at FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND delivered_at IS NULL AND dlq_at IS NOT NULL
			UNION ALL
			SELECT id, kid, enqueued_at FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND delivered_at IS NULL AND dlq_at IS NULL) u`,
		r.ApplicationID, r.SuccessorKid, r.Kid, r.RevokedAt, r.EventEntryID).Scan(&r.Resigned, &r.Claimed)
}
