package platformdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Operation is one object's row in the ledger. Times are UTC and the database's.
type Operation struct {
	ID            int64      `db:"id"`
	UID           string     `db:"uid"`
	Namespace     string     `db:"namespace"`
	Name          string     `db:"name"`
	ApplicationID int64      `db:"application_id"`
	Cutoff        time.Time  `db:"cutoff"`
	ClosedAt      *time.Time `db:"closed_at"`
	Outcome       *string    `db:"outcome"`
	PlannedAt     *time.Time `db:"planned_at"`
	Plan          *Plan      `db:"plan"`
	PlanDigest    *string    `db:"plan_digest"`

	Total       int64 `db:"total"`
	Remaining   int64 `db:"remaining"`
	Requeued    int64 `db:"requeued"`
	Settled     int64 `db:"settled"`
	Left        int64 `db:"left_alone"`
	Parked      int64 `db:"parked"`
	Unpublished int64 `db:"unpublished"`
	Gone        int64 `db:"gone"`
	Changed     int64 `db:"changed"`
	Refused     int64 `db:"refused"`
	// Resigned of the requeued ones were signed anew.
	Resigned int64 `db:"resigned"`
	// Refusals are the refused ones by SQLSTATE, in the order in which they came.
	Refusals []Refusal `db:"refusals"`

	Waiting   int64 `db:"waiting"`
	Failing   int64 `db:"failing"`
	Delivered int64 `db:"delivered"`
	Died      int64 `db:"died"`

	Batches        int32      `db:"batches"`
	ObservedBatch  int32      `db:"observed_batch"`
	LastEnqueuedAt *time.Time `db:"last_enqueued_at"`
	PacedAt        *time.Time `db:"paced_at"`
	CanaryEntries  []int64    `db:"canary_entries"`
	CanaryAt       *time.Time `db:"canary_at"`
	// CanarySince is from when on the canary's time counts: since the first entries were chosen, of which another session
	// may hold all, or since the replay may act again. While it may not, it is nil.
	CanarySince *time.Time `db:"canary_since"`
	RequeuedAt  *time.Time `db:"requeued_at"`

	// Now is the database's clock when the row was read.
	Now time.Time `db:"now"`
}

const operationColumns = `id, uid::text AS uid, namespace, name, application_id, cutoff, closed_at, outcome, planned_at,
	plan, plan_digest, total, remaining, requeued, settled, left_alone, parked, unpublished, gone, changed, refused,
	refusals, resigned, waiting, failing, delivered, died, batches, observed_batch, last_enqueued_at, paced_at,
	canary_entries, canary_at, canary_since, requeued_at, clock_timestamp() AS now`

// Identity is what the ledger knows an object by.
type Identity struct {
	UID, Kind, Namespace, Name string
	// SpecDigest is of the fields that can't be changed.
	SpecDigest    string
	ApplicationID int64
}

// Outcomes of a closed operation.
const (
	OutcomeComplete = "complete" // everything it was asked for was done
	OutcomePlanned  = "planned"  // it was asked for a plan, and changed nothing
	OutcomeDeleted  = "deleted"  // its object was deleted before it was complete
)

// ErrNoOperation says that the ledger has no operation of that UID.
var ErrNoOperation = errors.New("the ledger has no such operation")

// ErrClosed says that the operation was closed, so that nothing more may be done for it.
var ErrClosed = errors.New("the operation is closed in the ledger")

// ErrNoApplication says that the platform has no application of that id.
var ErrNoApplication = errors.New("no such application")

// OpenOperation returns the operation of an object; the first call fixes its cutoff by the database's clock.
func (db *DB) OpenOperation(ctx context.Context, id Identity) (*Operation, error) {
	var op *Operation
	err := db.transact(ctx, "opening the operation in the ledger", pgx.TxOptions{}, func(tx pgx.Tx) error {
		var known bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM oauth_applications WHERE id = $1)`,
			id.ApplicationID).Scan(&known); err != nil {
			return err
		}
		if !known {
			return ErrNoApplication
		}
		if err := insert(ctx, tx, id); err != nil {
			return err
		}
		var err error
		op, err = operation(ctx, tx, id.UID, "")
		return err
	})
	return op, err
}

func insert(ctx context.Context, tx pgx.Tx, id Identity) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO playbook.operations (uid, kind, namespace, name, spec_digest, application_id, cutoff)
		VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp()) ON CONFLICT (uid) DO NOTHING`,
		id.UID, id.Kind, id.Namespace, id.Name, id.SpecDigest, id.ApplicationID)
	return err
}

// Operation reads an object's operation, or returns ErrNoOperation.
func (db *DB) Operation(ctx context.Context, uid string) (*Operation, error) {
	op, err := operation(ctx, db.alone, uid, "")
	if err != nil {
		return nil, fmt.Errorf("reading the operation from the ledger: %w", describe(err))
	}
	return op, nil
}

// FinishedTwin returns the operation that finished the same work under the same namespace, name and digest for an
// object that no longer exists, or nil.
func (db *DB) FinishedTwin(ctx context.Context, id Identity) (*Operation, error) {
	rows, err := db.alone.Query(ctx, `SELECT `+operationColumns+` FROM playbook.operations
		WHERE namespace = $1 AND name = $2 AND spec_digest = $3 AND kind = $4 AND uid <> $5 AND outcome = $6
		ORDER BY opened_at LIMIT 1`, id.Namespace, id.Name, id.SpecDigest, id.Kind, id.UID, OutcomeComplete)
	if err == nil {
		var op *Operation
		op, err = pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Operation])
		if err == nil {
			return op, nil
		}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return nil, fmt.Errorf("looking for an earlier operation of this name in the ledger: %w", describe(err))
}

// CloseOperation ends an operation: it waits for a batch that is under way, and no later one can begin. One that was
// never opened is entered as closed, so that a manager that read its object before can't open it afterwards. Closing
// twice does nothing.
func (db *DB) CloseOperation(ctx context.Context, id Identity, outcome string) error {
	return db.transact(ctx, "closing the operation in the ledger", pgx.TxOptions{}, func(tx pgx.Tx) error {
		if err := insert(ctx, tx, id); err != nil {
			return err
		}
		op, err := lock(ctx, tx, id.UID)
		if errors.Is(err, ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM playbook.replay_pages WHERE operation_id = $1`, op.ID); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE playbook.operations SET closed_at = clock_timestamp(), outcome = $2 WHERE id = $1`,
			op.ID, outcome)
		return err
	})
}

// ResumeOperation lets a stalled operation go on, once per request: the breaker judges what is attempted from now on, a
// new canary is chosen from the entries that remain, and the time for delivery begins anew.
func (db *DB) ResumeOperation(ctx context.Context, uid, request string) error {
	return db.transact(ctx, "resuming the operation in the ledger", pgx.TxOptions{}, func(tx pgx.Tx) error {
		op, err := lock(ctx, tx, uid)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE playbook.operations SET judged_from = clock_timestamp(),
			canary_entries = NULL, canary_at = NULL, canary_since = NULL,
			requeued_at = CASE WHEN requeued_at IS NULL THEN NULL ELSE clock_timestamp() END, resumed_for = $2
			WHERE id = $1 AND resumed_for IS DISTINCT FROM $2`, op.ID, request)
		return err
	})
}

// ForgetCanary lets another canary be chosen, within the time of the first.
func (db *DB) ForgetCanary(ctx context.Context, uid string) error {
	return db.transact(ctx, "forgetting the canary", pgx.TxOptions{}, func(tx pgx.Tx) error {
		op, err := lock(ctx, tx, uid)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE playbook.operations SET canary_entries = NULL, canary_at = NULL WHERE id = $1`, op.ID)
		return err
	})
}

// ClockCanary stops the time that a canary may take, or lets it begin anew where it was stopped.
func (db *DB) ClockCanary(ctx context.Context, uid string, runs bool) error {
	return db.transactLocked(ctx, "keeping the canary's time", uid, nil, func(tx pgx.Tx, op *Operation) error {
		last := &pgx.Batch{}
		last.Queue(`UPDATE playbook.operations
			SET canary_since = CASE WHEN $2 THEN coalesce(canary_since, clock_timestamp()) END
			WHERE id = $1`, op.ID, runs)
		return sendLast(ctx, tx, last)
	})
}

// lock takes the locks of a transaction that acts for an operation, in the order that holds for everyone: the
// application's advisory lock (shared; a key rotation takes it exclusively), then the operation's row. The rows of
// entries come after it.
func lock(ctx context.Context, tx pgx.Tx, uid string) (*Operation, error) {
	return lockBy(ctx, tx, uid, lockShared)
}

// lockAlone is lock for a key rotation: no batch of the application runs meanwhile.
func lockAlone(ctx context.Context, tx pgx.Tx, uid string) (*Operation, error) {
	return lockBy(ctx, tx, uid, "pg_advisory_xact_lock")
}

const lockShared = "pg_advisory_xact_lock_shared"

func lockBy(ctx context.Context, tx pgx.Tx, uid, function string) (*Operation, error) {
	b, op := &pgx.Batch{}, &Operation{}
	queueLock(b, uid, function, op)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	return op, nil
}

// queueLock is lock in a batch of statements. The row is read into op once its lock is held.
func queueLock(b *pgx.Batch, uid, function string, op *Operation) {
	b.Queue(`SELECT `+function+`(hashtextextended('playbook.application', application_id))
		FROM playbook.operations WHERE uid = $1`, uid)
	b.Queue(operationSQL+"FOR UPDATE", uid).Query(func(rows pgx.Rows) error {
		read, err := one(rows)
		if err != nil {
			return err
		}
		if *op = *read; op.ClosedAt != nil {
			return ErrClosed
		}
		return nil
	})
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const operationSQL = `SELECT ` + operationColumns + ` FROM playbook.operations WHERE uid = $1 `

func operation(ctx context.Context, q querier, uid, locking string) (*Operation, error) {
	rows, err := q.Query(ctx, operationSQL+locking, uid)
	if err != nil {
		return nil, err
	}
	return one(rows)
}

// one is the operation of rows, or ErrNoOperation.
func one(rows pgx.Rows) (*Operation, error) {
	op, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Operation])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNoOperation
	}
	return op, err
}
