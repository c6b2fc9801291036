package platformdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// DeadLetters counts the dead entries of one application.
type DeadLetters struct {
	ApplicationID int64 `db:"oauth_application_id"`
	Dead          int64 `db:"dead"`
}

// DeadLetters counts undelivered dead entries: in total, and by application, the most first and at most limit of them.
func (db *DB) DeadLetters(ctx context.Context, limit int) (total int64, applications []DeadLetters, err error) {
	rows, err := db.alone.Query(ctx, `SELECT sum(count(*)) OVER () AS total, oauth_application_id, count(*) AS dead
		FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL AND delivered_at IS NULL
		GROUP BY oauth_application_id ORDER BY dead DESC, oauth_application_id LIMIT $1`, limit)
	if err != nil {
		return 0, nil, fmt.Errorf("counting dead letters: %w", describe(err))
	}
	var d DeadLetters
	_, err = pgx.ForEachRow(rows, []any{&total, &d.ApplicationID, &d.Dead}, func() error {
		applications = append(applications, d)
		return nil
	})
	if err != nil {
		return 0, nil, fmt.Errorf("counting dead letters: %w", describe(err))
	}
	return total, applications, nil
}
