package platformdb

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// A newer ledger is what an upgrade makes first. It has all that an older manager needs, unless a migration says which
// version of a manager is the oldest that works with it.

// addWorksSince keeps with each migration what it says. What the releases before this one applied only added.
const addWorksSince = `ALTER TABLE playbook.schema_migrations
	ADD COLUMN IF NOT EXISTS works_since integer NOT NULL DEFAULT 1`

// worksSinceLine is how a migration says it, anywhere in its file.
var worksSinceLine = regexp.MustCompile(`(?m)^-- works since: ([0-9]+)$`)

// worksSince is the oldest version of a manager that works with the ledger after a migration. It never falls.
func worksSince(sql string, before []migration) int {
	oldest := 1
	if len(before) > 0 {
		oldest = before[len(before)-1].worksSince
	}
	if said := worksSinceLine.FindStringSubmatch(sql); said != nil {
		version, _ := strconv.Atoi(said[1]) // digits
		oldest = max(oldest, min(version, len(before)+1))
	}
	return oldest
}

// versions are the ledger's own, and the oldest of a manager that works with it.
func versions(ctx context.Context, q querier) (current, works int, err error) {
	// Through JSON, since a ledger that an older release migrated last has no such column.
	rows, err := q.Query(ctx, `SELECT coalesce(max(version), 0), coalesce(max((to_jsonb(m) ->> 'works_since')::integer), 1)
		FROM playbook.schema_migrations m`)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&current, &works}, func() error { return nil })
	}
	return current, works, err
}

// knows refuses a ledger that a program of an older version does not work with.
func knows(own, current, works int) error {
	if works <= own {
		return nil
	}
	return fmt.Errorf("%w: the ledger's schema is version %d, and works with managers of version %d and newer. This one "+
		"is of version %d: run the release that migrated the ledger, or a newer one", ErrNotReady, current, works, own)
}
