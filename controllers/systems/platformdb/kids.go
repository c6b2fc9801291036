package platformdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// newestKeys is how many of the signing keys that were made last are looked at. What a look costs does not grow with
// those that ended long ago.
const newestKeys = 20_000

// ActiveKid is a key that the platform signs webhooks with.
type ActiveKid struct {
	ApplicationID int64
	Kid           string
	// Age is for how long it has been active, by the database's clock.
	Age time.Duration
}

const activeKidsSQL = `SELECT oauth_application_id, kid, extract(epoch FROM localtimestamp - activated_at)::float8
	FROM (SELECT id, oauth_application_id, kid, status, activated_at FROM webhook_signing_keys
		ORDER BY id DESC LIMIT $1) k
	WHERE status = 'active' AND activated_at IS NOT NULL ORDER BY id`

// ActiveKids are the keys that the platform signs webhooks with, the oldest first. A key that doesn't say since when it
// is active is left out. A role that may not read them gets ErrNotReady.
func (db *DB) ActiveKids(ctx context.Context) ([]ActiveKid, error) {
	var kids []ActiveKid
	err := db.transactFor(ctx, "reading which keys are active", deliveriesTimeout, readOnly,
		func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, activeKidsSQL, newestKeys)
			if err != nil {
				return err
			}
			kids, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (ActiveKid, error) {
				var key ActiveKid
				var seconds float64
				err := row.Scan(&key.ApplicationID, &key.Kid, &seconds)
				key.Age = time.Duration(seconds * float64(time.Second))
				return key, err
			})
			return err
		})
	if err != nil {
		return nil, err
	}
	return kids, nil
}

// Key is what the platform's table says about a signing key, without the key.
type Key struct {
	ApplicationID int64
	Kid           string
	// Status is the platform's own word, such as active, grace or revoked.
	Status string
	// Served says that JWKS must show it now: it is active, or its grace has not ended by the database's clock.
	Served bool
	// GraceUntil and RevokedAt are nil where the platform wrote none.
	GraceUntil, RevokedAt *time.Time
}

const keysSQL = `SELECT oauth_application_id, kid, status,
		status = 'active' OR status = 'grace' AND (grace_until IS NULL OR grace_until > localtimestamp),
		grace_until, revoked_at
	FROM webhook_signing_keys WHERE kid = ANY ($1) ORDER BY id`

// Keys are the rows of signing keys by kid. One that the table does not have is left out.
func (db *DB) Keys(ctx context.Context, kids []string) ([]Key, error) {
	var keys []Key
	err := db.transactFor(ctx, "reading what the platform says about keys", deliveriesTimeout, readOnly,
		func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, keysSQL, kids)
			if err != nil {
				return err
			}
			keys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Key])
			return err
		})
	if err != nil {
		return nil, err
	}
	return keys, nil
}
