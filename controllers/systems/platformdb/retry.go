package platformdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// RemainingEntries lists the planned entries not looked at yet, in their order; for plans of a few entries.
func (db *DB) RemainingEntries(ctx context.Context, op *Operation) ([]int64, error) {
	rows, err := db.alone.Query(ctx, `SELECT e.id FROM playbook.replay_pages, unnest(entry_ids) WITH ORDINALITY AS e(id, n)
		WHERE operation_id = $1 ORDER BY page, n`, op.ID)
	if err == nil {
		var ids []int64
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err == nil {
			return ids, nil
		}
	}
	return nil, fmt.Errorf("reading the remaining entries: %w", describe(err))
}

// Entry is what is known of an outbox row that the admin API is asked to retry.
type Entry struct {
	EnqueuedAt time.Time  `db:"enqueued_at"`
	DeadAt     *time.Time `db:"dlq_at"`
	Attempts   int32      `db:"attempts"`
	LastError  *string    `db:"last_error"`
}

// ErrNoEntry says that the outbox has no such row.
var ErrNoEntry = errors.New("no such outbox entry")

// Entry reads an outbox row.
func (db *DB) Entry(ctx context.Context, id int64) (*Entry, error) {
	rows, err := db.alone.Query(ctx,
		`SELECT enqueued_at, dlq_at, attempts, last_error FROM webhook_outbox_entries WHERE id = $1`, id)
	if err == nil {
		var e *Entry
		if e, err = pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Entry]); err == nil {
			return e, nil
		}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNoEntry
	}
	return nil, fmt.Errorf("reading outbox entry %d: %w", id, describe(err))
}

// RecordRetry enters into the ledger that the admin API requeued an entry: before is the row as it was, after as it is.
// Recording twice does nothing.
func (db *DB) RecordRetry(ctx context.Context, uid string, id int64, before, after *Entry) (*Operation, error) {
	var op *Operation
	err := db.transact(ctx, "recording a retry in the ledger", pgx.TxOptions{}, func(tx pgx.Tx) error {
		var err error
		if op, err = lock(ctx, tx, uid); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO playbook.replay_entries
			(operation_id, entry_id, batch, action, outcome, acted_at, enqueued_at, dlq_at, attempts, last_error)
			VALUES ($1, $2, $3, 'requeued', 'waiting', $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
			op.ID, id, op.Batches+1, after.EnqueuedAt, before.EnqueuedAt, before.DeadAt, before.Attempts, before.LastError)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		last, args := &pgx.Batch{}, pgx.NamedArgs{"operation": op.ID, "chosen": []int64{id}}
		for _, sql := range takeOutSQL {
			last.Queue(sql, args)
		}
		op = advance(last, op, tally{requeued: 1}, after.EnqueuedAt, Pace{}, false)
		return sendLast(ctx, tx, last)
	})
	return op, err
}
