package platformdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// UndoSettlement makes entries that an operation settled dead letters again, as they were, by the evidence in the
// ledger. An entry that changed since is left. With no ids, all of the operation's. It returns how many it undid;
// undoing again undoes none.
func (db *DB) UndoSettlement(ctx context.Context, uid string, ids []int64) (int64, error) {
	var undone int64
	err := db.transact(ctx, "undoing a settlement", pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := lock(ctx, tx, uid); err != nil && !errors.Is(err, ErrClosed) {
			return err
		}
		return tx.QueryRow(ctx, `WITH o AS (
				SELECT id FROM playbook.operations WHERE uid = $1
			), evidence AS (
				SELECT r.entry_id, r.operation_id, r.dlq_at, r.acted_at
				FROM playbook.replay_entries r JOIN o ON r.operation_id = o.id
				WHERE r.action = 'settled' AND ($2::bigint[] IS NULL OR r.entry_id = ANY ($2))
			), reverted AS (
				UPDATE webhook_outbox_entries w SET delivered_at = NULL, dlq_at = e.dlq_at, updated_at = clock_timestamp()
				FROM evidence e WHERE w.id = e.entry_id AND w.delivered_at = e.acted_at RETURNING w.id
			), marked AS (
				UPDATE playbook.replay_entries r SET action = 'left' FROM o, reverted
				WHERE r.operation_id = o.id AND r.entry_id = reverted.id RETURNING r.entry_id
			)
			UPDATE playbook.operations p SET settled = settled - n, left_alone = left_alone + n
			FROM o, (SELECT count(*) AS n FROM marked) m WHERE p.id = o.id RETURNING n`, uid, ids).Scan(&undone)
	})
	return undone, err
}

// Purge clears the relying parties' error texts, and what commands printed, from evidence of operations that were
// closed before a time. What was done to which entry and key stays: it is what keeps a re-created object from doing it
// again. It returns how many texts it cleared.
func (db *DB) Purge(ctx context.Context, closedBefore time.Time) (int64, error) {
	var cleared int64
	for _, text := range []struct{ table, column string }{{"replay_entries", "last_error"},
		{"event_requeues", "last_error"}, {"command_runs", "output"}} {
		tag, err := db.alone.Exec(ctx, `UPDATE playbook.`+text.table+` r SET `+text.column+` = NULL
			FROM playbook.operations o
			WHERE o.id = r.operation_id AND o.closed_at < $1 AND r.`+text.column+` IS NOT NULL`, closedBefore)
		if err != nil {
			return cleared, fmt.Errorf("clearing texts of %s: %w", text.table, describe(err))
		}
		cleared += tag.RowsAffected()
	}
	return cleared, nil
}
