package platformdb

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Refusal counts entries whose change the platform's database refused.
type Refusal struct {
	// State is the SQLSTATE. The words that came with it may quote the row, and are kept nowhere.
	State   string `json:"state"`
	Entries int64  `json:"entries"`
	// Entry is one of them.
	Entry int64 `json:"entry"`
}

// refusedBy returns the SQLSTATE by which the database refused a change because of what the row holds, or nothing where
// another row would have fared no better.
func refusedBy(err error) string {
	said := (*pgconn.PgError)(nil)
	// A constraint of the ledger guards against the operator's own mistakes.
	if !errors.As(err, &said) || len(said.Code) != 5 || said.SchemaName == "playbook" {
		return ""
	}
	switch class := said.Code[:2]; class {
	case "22", "23", // data exceptions and integrity constraints
		"44", // WITH CHECK OPTION of a view
		"P0": // PL/pgSQL: RAISE, ASSERT, INTO STRICT
		return said.Code
	case "53", "54", "55", "57", "58", "72", "XX":
		return "" // Postgres' own: resources, limits, locks, operators, the system, and damage
	default:
		// A trigger's own code: ISO 9075 leaves the classes from these characters on to whoever writes one.
		if strings.Contains("56789IJKLMNOPQRSTUVWXYZ", class[:1]) {
			return said.Code
		}
		return ""
	}
}

// carefully is some for a batch that was refused: it halves the entries until each that is refused is found and entered
// into the ledger as such, and deals with the others. One batch stays one transaction.
func (r *requeuing) carefully(ctx context.Context, tx pgx.Tx, ids []int64, base time.Time) (t tally, err error) {
	err = pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) (err error) {
		if t, err = r.some(ctx, savepoint, ids, base); err != nil {
			return err
		}
		return checkNow(ctx, savepoint)
	})
	state := refusedBy(err)
	switch {
	case state == "":
		return t, err
	case len(ids) == 1:
		return r.refused(ctx, tx, ids[0], base, state)
	}
	half := len(ids) / 2
	first, err := r.carefully(ctx, tx, ids[:half], base)
	if err != nil {
		return first, err
	}
	second, err := r.carefully(ctx, tx, ids[half:], base.Add(time.Duration(half)*time.Microsecond))
	return first.plus(second), err
}

// checkNow has the constraints speak that would speak at the commit, when an entry can't be told any more.
func checkNow(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SET CONSTRAINTS ALL IMMEDIATE`)
	return err
}

func (r *requeuing) refused(ctx context.Context, tx pgx.Tx, id int64, at time.Time, state string) (tally, error) {
	tag, err := tx.Exec(ctx, `INSERT INTO playbook.replay_entries
			(operation_id, entry_id, batch, action, sqlstate, acted_at, enqueued_at, dlq_at, attempts, last_error)
		SELECT $1, id, $3, 'refused', $4, $5, enqueued_at, dlq_at, attempts, last_error
		FROM webhook_outbox_entries WHERE id = $2`,
		r.op.ID, id, r.op.Batches+1, state, at)
	if err != nil || tag.RowsAffected() == 0 {
		return tally{}, err
	}
	return tally{refusals: []Refusal{{State: state, Entries: 1, Entry: id}}}, nil
}

func (t *tally) refused() int64 { return refused(t.refusals) }

func refused(refusals []Refusal) (n int64) {
	for _, r := range refusals {
		n += r.Entries
	}
	return n
}

func (t tally) plus(other tally) tally {
	sum := tally{resigned: t.resigned + other.resigned, refusals: addRefusals(t.refusals, other.refusals)}
	for i, n := range sum.targets() {
		*n.(*int64) = *t.targets()[i].(*int64) + *other.targets()[i].(*int64)
	}
	return sum
}

// addRefusals adds counts by SQLSTATE, and keeps the first entry of each.
func addRefusals(to, more []Refusal) []Refusal {
	to = slices.Clone(to)
	for _, m := range more {
		if i := slices.IndexFunc(to, func(r Refusal) bool { return r.State == m.State }); i >= 0 {
			to[i].Entries += m.Entries
			continue
		}
		to = append(to, m)
	}
	return to
}
