package platformdb

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Named is what became of entries that a selector names, at the time of the plan.
type Named struct {
	Total     int64 `json:"total"`
	Missing   int64 `json:"missing,omitempty"`   // in the outbox
	Foreign   int64 `json:"foreign,omitempty"`   // of another application
	Delivered int64 `json:"delivered,omitempty"` // already
	Pending   int64 `json:"pending,omitempty"`   // with the dispatcher
	// LeftOut are dead, and left out by something else in the selector, or by the cutoff.
	LeftOut int64 `json:"leftOut,omitempty"`
}

// namedSQL looks at each entry of a list; leftOut is an SQL condition on the outbox row o of one that is dead.
func namedSQL(list, leftOut string) string {
	return `SELECT count(*), count(*) FILTER (WHERE o.id IS NULL),
			count(*) FILTER (WHERE o.oauth_application_id <> @application),
			count(*) FILTER (WHERE o.oauth_application_id = @application AND o.delivered_at IS NOT NULL),
			count(*) FILTER (WHERE o.oauth_application_id = @application AND o.delivered_at IS NULL AND o.dlq_at IS NULL),
			count(*) FILTER (WHERE o.oauth_application_id = @application AND o.delivered_at IS NULL
				AND o.dlq_at IS NOT NULL AND ` + leftOut + `)
		FROM unnest(` + list + `) AS named(id) LEFT JOIN webhook_outbox_entries o ON o.id = named.id`
}

var (
	includedSQL = namedSQL("@entry_ids::bigint[]", "("+selected+") IS NOT TRUE")
	excludedSQL = namedSQL("@exclude_ids::bigint[]", "false")
)

// countNamed counts what a selector names, for the plan.
func countNamed(ctx context.Context, tx pgx.Tx, s Selection, args pgx.NamedArgs, plan *Plan) error {
	for _, c := range []struct {
		ids []int64
		sql string
		to  **Named
	}{{s.EntryIDs, includedSQL, &plan.Named}, {s.ExcludeIDs, excludedSQL, &plan.Excluded}} {
		if c.ids == nil {
			continue
		}
		n := &Named{}
		if err := tx.QueryRow(ctx, c.sql, args).Scan(&n.Total, &n.Missing, &n.Foreign, &n.Delivered, &n.Pending,
			&n.LeftOut); err != nil {
			return err
		}
		*c.to = n
	}
	return nil
}

// Text says what became of the entries that a field names, leaving out what did not occur; empty where each was found
// as it should be.
func (n *Named) Text(field string) string {
	if n == nil {
		return ""
	}
	var texts []string
	for _, c := range []struct {
		n         int64
		one, many string
	}{
		{n.Missing, "does not exist", "do not exist"}, {n.Foreign, "is another application's", "are another application's"},
		{n.Delivered, "was delivered", "were delivered"}, {n.Pending, "is with the dispatcher", "are with the dispatcher"},
		{n.LeftOut, "is dead and left out by the rest of the selector", "are dead and left out by the rest of the selector"},
	} {
		switch {
		case c.n == 1:
			texts = append(texts, "1 "+c.one)
		case c.n > 1:
			texts = append(texts, fmt.Sprintf("%d %s", c.n, c.many))
		}
	}
	if texts == nil {
		return ""
	}
	entries := "entries"
	if n.Total == 1 {
		entries = "entry"
	}
	return fmt.Sprintf("of %d %s in %s, %s", n.Total, entries, field, strings.Join(texts, ", "))
}
