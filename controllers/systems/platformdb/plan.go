package platformdb

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Plan is what an operation would do, fixed when it was planned.
type Plan struct {
	Causes []CauseCount `json:"causes,omitempty"` // the most frequent first
	Oldest *time.Time   `json:"oldest,omitempty"` // enqueued_at
	Newest *time.Time   `json:"newest,omitempty"`
	// Named are the entries that the selector names, and Excluded those that it names to leave them out.
	Named    *Named `json:"named,omitempty"`
	Excluded *Named `json:"excluded,omitempty"`
}

// CauseCount counts planned entries.
type CauseCount struct {
	Cause   string `json:"cause"`
	Entries int64  `json:"entries"`
}

// TooLarge says that a plan has more entries than it may. Nothing of it was kept.
type TooLarge struct{ Entries, Limit int64 }

func (e *TooLarge) Error() string {
	return fmt.Sprintf("the plan has %d entries, more than %d", e.Entries, e.Limit)
}

// pageSize is how many entry ids a page of the plan holds; a batch never spans pages.
const pageSize = 1000

var countSQL = `SELECT ` + causeSQL(requeuedBefore) + ` AS cause, count(*) AS entries,
		min(o.enqueued_at) AS oldest, max(o.enqueued_at) AS newest
	FROM webhook_outbox_entries o WHERE ` + selected + ` GROUP BY 1 ORDER BY 2 DESC, 1`

var pagesSQL = `INSERT INTO playbook.replay_pages (operation_id, page, entry_ids)
	SELECT @operation, n / @page_size, array_agg(id ORDER BY n)
	FROM (SELECT o.id, row_number() OVER (ORDER BY o.enqueued_at, o.id) - 1 AS n
		FROM webhook_outbox_entries o WHERE ` + selected + `) s
	GROUP BY n / @page_size`

// Plan counts the selected entries by cause and keeps their ids in the ledger, in the old order. Planning again returns
// the first plan. More entries than limit is TooLarge.
func (db *DB) Plan(ctx context.Context, uid string, selection Selection, limit int64) (*Operation, error) {
	var op *Operation
	// Both statements must see the same rows.
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
	err := db.transactFor(ctx, "planning", planTimeout, options, func(tx pgx.Tx) error {
		var err error
		if op, err = lock(ctx, tx, uid); err != nil || op.PlannedAt != nil {
			return err
		}
		plan, total, err := count(ctx, tx, selection.args(op.Cutoff))
		if err != nil {
			return err
		}
		if total > limit {
			return &TooLarge{Entries: total, Limit: limit}
		}
		args := selection.args(op.Cutoff)
		if err := countNamed(ctx, tx, selection, args, plan); err != nil {
			return err
		}
		args["operation"], args["page_size"] = op.ID, pageSize
		if _, err := tx.Exec(ctx, pagesSQL, args); err != nil {
			return err
		}
		digest, err := planDigest(ctx, tx, op.ID)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE playbook.operations
			SET planned_at = clock_timestamp(), plan = $2, plan_digest = $3, total = $4, remaining = $4
			WHERE id = $1`, op.ID, plan, digest, total); err != nil {
			return err
		}
		op, err = operation(ctx, tx, uid, "")
		return err
	})
	return op, err
}

func count(ctx context.Context, tx pgx.Tx, args pgx.NamedArgs) (*Plan, int64, error) {
	rows, err := tx.Query(ctx, countSQL, args)
	if err != nil {
		return nil, 0, err
	}
	plan, total := &Plan{}, int64(0)
	var c CauseCount
	var oldest, newest time.Time
	_, err = pgx.ForEachRow(rows, []any{&c.Cause, &c.Entries, &oldest, &newest}, func() error {
		plan.Causes = append(plan.Causes, c)
		total += c.Entries
		if plan.Oldest == nil || oldest.Before(*plan.Oldest) {
			t := oldest
			plan.Oldest = &t
		}
		if plan.Newest == nil || newest.After(*plan.Newest) {
			t := newest
			plan.Newest = &t
		}
		return nil
	})
	return plan, total, err
}

// planDigest is the digest of exactly what the operation would do: the immutable spec, the cutoff, and each entry in
// its order.
func planDigest(ctx context.Context, tx pgx.Tx, operationID int64) (string, error) {
	var spec string
	var cutoff time.Time
	var entries []byte
	err := tx.QueryRow(ctx, `SELECT spec_digest, cutoff,
		(SELECT coalesce(sha256(string_agg(sha256(array_send(entry_ids)), ''::bytea ORDER BY page)), ''::bytea)
		 FROM playbook.replay_pages p WHERE p.operation_id = o.id)
		FROM playbook.operations o WHERE id = $1`, operationID).Scan(&spec, &cutoff, &entries)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%x", spec, cutoff.Format(time.RFC3339Nano), entries))
	return fmt.Sprintf("sha256:%x", sum), nil
}

// ErrNothingToTry says that no remaining entry would be requeued, so that a canary has nothing to try.
var ErrNothingToTry = errors.New("no remaining entry would be requeued")

// ChooseCanary picks up to n of the remaining entries that would be requeued, spread over causes and age, moves them to
// the front of the plan as a page of their own, and keeps them as the operation's canary. Those that another session
// holds are chosen only where it holds all that were looked at. Choosing again returns the first choice.
func (db *DB) ChooseCanary(ctx context.Context, uid string, selection Selection, n int32) (*Operation, error) {
	var op *Operation
	err := db.transact(ctx, "choosing the canary", pgx.TxOptions{}, func(tx pgx.Tx) error {
		var err error
		if op, err = lock(ctx, tx, uid); err != nil || op.CanaryEntries != nil {
			return err
		}
		chosen, err := chooseCanary(ctx, tx, op, selection, n)
		if err != nil {
			return err
		}
		args := pgx.NamedArgs{"operation": op.ID, "chosen": chosen}
		for _, move := range moveToFrontSQL {
			if _, err := tx.Exec(ctx, move, args); err != nil {
				return err
			}
		}
		op, err = operation(ctx, tx, uid, "")
		return err
	})
	return op, err
}

// canaryRounds is how often a canary is chosen for which another session holds entries, each time of twice as many.
const canaryRounds = 10

func chooseCanary(ctx context.Context, tx pgx.Tx, op *Operation, selection Selection, n int32) ([]int64, error) {
	locked, free := []int64{}, []int64{}
	for round := range canaryRounds {
		args := selection.args(op.Cutoff)
		args["operation"], args["entries"] = op.ID, (n-int32(len(free)))<<round
		args["known"] = append(slices.Clone(locked), free...)
		var chosen []int64
		if err := tx.QueryRow(ctx, canarySQL, args).Scan(&chosen); err != nil {
			return nil, err
		}
		if len(chosen) == 0 {
			break
		}
		rows, err := tx.Query(ctx, `SELECT id FROM webhook_outbox_entries WHERE id = ANY ($1) FOR UPDATE SKIP LOCKED`,
			chosen)
		if err != nil {
			return nil, err
		}
		taken, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return nil, err
		}
		// In the order of the choice, which begins with what is far apart.
		for _, id := range chosen {
			switch {
			case !slices.Contains(taken, id):
				locked = append(locked, id)
			case len(free) < int(n):
				free = append(free, id)
			}
		}
		if len(free) == int(n) {
			return free, nil
		}
	}
	switch {
	case len(free) > 0:
		return free, nil
	case len(locked) == 0:
		return nil, ErrNothingToTry
	}
	return locked[:min(len(locked), int(n))], nil
}

// canarySQL looks at no more than the first, middle and last pages' worth of the plan: a spread over age needs no more,
// and a plan may have millions of entries.
var canarySQL = `WITH pages AS (
		SELECT entry_ids, ntile(20) OVER (ORDER BY page) AS part, page FROM playbook.replay_pages
		WHERE operation_id = @operation
	), sampled AS (
		SELECT DISTINCT ON (part) entry_ids FROM pages ORDER BY part, page
	), judged AS (
		SELECT o.id, o.enqueued_at, ` + causeSQL(requeuedBefore) + ` AS cause,
			` + judgeSQL("SELECT unnest(entry_ids) FROM sampled") + ` AS action
		FROM sampled, unnest(sampled.entry_ids) AS s(id) JOIN webhook_outbox_entries o ON o.id = s.id
	), ranked AS (
		SELECT id, ntile(@entries::int) OVER (PARTITION BY cause ORDER BY enqueued_at, id) AS age, cause FROM judged
		WHERE (action = 'requeued' OR @re_sign AND action = 'unpublished') AND id <> ALL (@known::bigint[])
	), spread AS (
		SELECT id, row_number() OVER (PARTITION BY cause, age ORDER BY id) AS within, age, cause FROM ranked
	), per_cause AS (
		-- The ages in an order that begins with both ends, so that even two entries of a cause are far apart.
		SELECT id, within,
			row_number() OVER (PARTITION BY cause ORDER BY within, least(age, @entries::int + 1 - age), age) AS turn,
			cause
		FROM spread
	)
	SELECT array_agg(id ORDER BY turn, cause)
	FROM (SELECT id, turn, cause FROM per_cause ORDER BY turn, cause LIMIT @entries) c`

// takeOutSQL takes chosen entries out of the plan's pages.
var takeOutSQL = []string{
	`DELETE FROM playbook.replay_pages WHERE operation_id = @operation AND entry_ids <@ @chosen::bigint[]`,
	`UPDATE playbook.replay_pages p
		SET entry_ids = (SELECT array_agg(id ORDER BY n) FROM unnest(p.entry_ids) WITH ORDINALITY AS e(id, n)
			WHERE id <> ALL (@chosen::bigint[]))
		WHERE operation_id = @operation AND entry_ids && @chosen::bigint[]`,
}

var moveToFrontSQL = append(slices.Clone(takeOutSQL),
	`INSERT INTO playbook.replay_pages (operation_id, page, entry_ids)
		SELECT @operation,
			(SELECT coalesce(min(page), 0) - 1 FROM playbook.replay_pages WHERE operation_id = @operation),
			array_agg(o.id ORDER BY o.enqueued_at, o.id)
		FROM webhook_outbox_entries o WHERE o.id = ANY (@chosen::bigint[])`,
	`UPDATE playbook.operations SET canary_entries = @chosen, canary_at = NULL,
		canary_since = coalesce(canary_since, clock_timestamp()) WHERE id = @operation`,
)
