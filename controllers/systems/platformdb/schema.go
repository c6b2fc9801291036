package platformdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// migrationVersion is how Rails numbers a migration of the platform: by the time, in UTC, at which it was written.
const migrationVersion = "20060102150405"

// MigrationsSince counts the platform's own migrations that have run and were written after an instant, and names the
// newest. Rails keeps their versions in schema_migrations. Code that is older than the instant knows none of them; one
// that was written before it and merged later is not told apart, and does not count.
func (db *DB) MigrationsSince(ctx context.Context, since time.Time) (count int32, newest string, err error) {
	// What is numbered in another way says no time.
	err = db.alone.QueryRow(ctx, `SELECT count(*)::integer, coalesce(max(version COLLATE "C"), '') FROM schema_migrations
		WHERE version ~ '^[0-9]{14}$' AND version COLLATE "C" > $1`,
		since.UTC().Format(migrationVersion)).Scan(&count, &newest)
	const undefinedTable = "42P01"
	if said := (*pgconn.PgError)(nil); errors.As(err, &said) && said.Code == undefinedTable {
		return 0, "", errors.New("the platform's database has no table schema_migrations")
	}
	if err != nil {
		return 0, "", fmt.Errorf("reading which migrations have run: %w", describe(err))
	}
	return count, newest, nil
}
