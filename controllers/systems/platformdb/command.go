package platformdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Command is one that is run on the platform to end a key.
type Command struct {
	// StartedAt tells the runs of an operation apart, at microseconds.
	StartedAt         time.Time
	Kid, Target, Text string
}

// Outcomes of a command in the ledger.
const (
	CommandSucceeded = "succeeded" // it reported success
	CommandFailed    = "failed"    // it ended, and reported a failure
	CommandLost      = "lost"      // the connection ended before it did
	CommandNotSent   = "not sent"  // it never began, and never will
)

// CommandEnd is how a command ended, as far as is known.
type CommandEnd struct {
	// Outcome is empty while the command may run.
	Outcome    string
	ExitStatus *int32
}

// ErrCommandRan says that the operation has run its command before.
var ErrCommandRan = errors.New("the ledger knows of an earlier run of this command")

// ErrGivenUp says that AbandonCommand gave the run up.
var ErrGivenUp = errors.New("the run was given up")

// BeginCommand enters a run into the ledger before the command is sent. It is the last door: it stays shut for an
// operation that is closed, for one that has run its command before (ErrCommandRan, unless that did nothing), for a run
// that AbandonCommand gave up (ErrGivenUp), and, as Taken, while another operation that is open runs its own for the
// same key.
func (db *DB) BeginCommand(ctx context.Context, uid string, command Command) error {
	return db.transact(ctx, "entering the command into the ledger", pgx.TxOptions{}, func(tx pgx.Tx) error {
		op, err := lockAlone(ctx, tx, uid)
		if err != nil {
			return err
		}
		if err := begun(ctx, tx, op, command.Kid); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO playbook.command_runs (operation_id, started_at, kid, target, command)
			VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
			op.ID, command.StartedAt, command.Kid, command.Target, command.Text)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrGivenUp
		}
		return err
	})
}

// begun returns ErrCommandRan where the operation has run its command, and Taken where another one that is open has.
func begun(ctx context.Context, tx pgx.Tx, op *Operation, kid string) error {
	rows, err := tx.Query(ctx, `SELECT `+operationColumns+` FROM playbook.operations o
		WHERE application_id = $1 AND (o.id = $2 OR closed_at IS NULL) AND EXISTS (SELECT FROM playbook.command_runs c
			WHERE c.operation_id = o.id AND c.kid = $3 AND (c.outcome IS NULL OR c.outcome IN ('succeeded', 'lost')))
		ORDER BY o.id <> $2 LIMIT 1`, op.ApplicationID, op.ID, kid)
	if err != nil {
		return err
	}
	first, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Operation])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case first.ID == op.ID:
		return ErrCommandRan
	}
	return &Taken{first}
}

// EndCommand enters how a run ended, with what it printed. The caller scrubs and bounds that.
func (db *DB) EndCommand(ctx context.Context, uid string, startedAt time.Time, end CommandEnd, output string) error {
	return db.transact(ctx, "entering the command's end into the ledger", pgx.TxOptions{}, func(tx pgx.Tx) error {
		// Whatever became of the operation: this is evidence. Its row puts this behind a BeginCommand whose reply was lost.
		op, err := operation(ctx, tx, uid, "FOR UPDATE")
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE playbook.command_runs
			SET outcome = $3, exit_status = $4, output = nullif($5, ''), ended_at = clock_timestamp()
			WHERE operation_id = $1 AND started_at = $2`, op.ID, startedAt, end.Outcome, end.ExitStatus, output)
		return err
	})
}

// AbandonCommand reads how a run ended that somebody else was about to begin. One that the ledger does not know is
// given up: whoever was about to begin it finds the door shut, so that it certainly is not sent.
func (db *DB) AbandonCommand(ctx context.Context, uid string, command Command) (end CommandEnd, err error) {
	err = db.transact(ctx, "reading the command's end from the ledger", pgx.TxOptions{}, func(tx pgx.Tx) error {
		op, err := lock(ctx, tx, uid)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO playbook.command_runs
				(operation_id, started_at, kid, target, command, ended_at, outcome)
			VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6) ON CONFLICT DO NOTHING`,
			op.ID, command.StartedAt, command.Kid, command.Target, command.Text, CommandNotSent); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx,
			`SELECT coalesce(outcome, ''), exit_status FROM playbook.command_runs WHERE operation_id = $1 AND started_at = $2`,
			op.ID, command.StartedAt).Scan(&end.Outcome, &end.ExitStatus); err != nil {
			return fmt.Errorf("reading the run: %w", err)
		}
		return nil
	})
	return end, err
}
