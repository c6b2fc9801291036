package platformdb

import (
	"context"
	"errors"
	"time"
)

// Revocation is what the ledger says of a compromised key. Times are UTC and the database's.
type Revocation struct {
	// OperationID of the operation that it belongs to.
	OperationID   int64     `db:"operation_id"`
	ApplicationID int64     `db:"application_id"`
	Kid           string    `db:"kid"`
	SuccessorKid  string    `db:"successor_kid"`
	RevokedAt     time.Time `db:"revoked_at"`
	// EventEntryID is the outbox entry of webhook_key.compromised; nil where the platform's rake revoked the key and enqueued none.
	EventEntryID *int64 `db:"event_entry_id"`
	// Resigned entries, in the transaction and after it.
	Resigned int64 `db:"resigned"`
	// Claimed entries were locked by the dispatcher when the revocation committed.
	Claimed int64 `db:"claimed"`
	// Deferred says that there were too many entries to sign anew in the transaction.
	Deferred bool `db:"deferred"`
	// ReSignedAt is when no undelivered entry was under the old kid, and no transaction from before the revocation was open.
	ReSignedAt *time.Time `db:"resigned_at"`
	// Now is the database's clock when the row was read.
	Now time.Time `db:"now"`
}

// ErrNotRevoked says that the ledger has no revocation for the operation.
var ErrNotRevoked = errors.New("the ledger has no revocation for this operation")

// UnknownKid says that the application has no key of that kid.
type UnknownKid struct {
	// Kids that it has: those that are published first, then the newest first; at most 20.
	Kids []string
}

func (e *UnknownKid) Error() string { panic("TODO") }

// Taken says that another operation, which is not closed as deleted, revoked the key.
type Taken struct{ Operation *Operation }

func (e *Taken) Error() string { panic("TODO") }

// Revoke ends a key in one transaction ...
func (db *DB) Revoke(ctx context.Context, uid, kid, reason string, limit int64) (*Revocation, error) {
	panic("TODO")
}

// Revocation reads what an operation revoked, or returns ErrNotRevoked.
func (db *DB) Revocation(ctx context.Context, uid string) (*Revocation, error) { panic("TODO") }

// ReSigning is how far ReSign is.
type ReSigning struct {
	*Revocation
	// Left undelivered entries are under the old kid; the count stops at 100,000.
	Left int64
	// Open transactions began before the revocation committed: their virtual transaction ids, or the names of prepared ones.
	Open []string
}

// ReSign signs up to so many of an application's undelivered entries anew that are still under the old kid ...
func (db *DB) ReSign(ctx context.Context, uid string) (*ReSigning, error) { panic("TODO") }

// Event is the outbox entry of webhook_key.compromised.
type Event struct {
	DeliveredAt *time.Time `db:"delivered_at"`
	DeadAt      *time.Time `db:"dlq_at"`
	Attempts    int32      `db:"attempts"`
	// Answer to the last failed attempt: a status code or a cause; empty where there was none.
	Answer string `db:"answer"`
	// Requeued is how often the operation requeued it, and RequeuedAt when last.
	Requeued   int32      `db:"requeued"`
	RequeuedAt *time.Time `db:"requeued_at"`
	Now        time.Time  `db:"now"`
}

// CompromiseEvent reads how far the relying party was told. ErrNoEntry where the entry is gone.
func (db *DB) CompromiseEvent(ctx context.Context, uid string) (*Event, error) { panic("TODO") }

// RequeueEvent gives a dead webhook_key.compromised back to the dispatcher under its idempotency key, and enters that into the
// ledger as an attempt of its own. One that is not dead, or was requeued since the caller saw attempt number seen, is left alone.
func (db *DB) RequeueEvent(ctx context.Context, uid string, seen int32) error { panic("TODO") }

// DiedUnderSuccessor counts entries of the application that died since the revocation because the relying party refused their
// signature, the event left out.
func (db *DB) DiedUnderSuccessor(ctx context.Context, uid string) (int64, error) { panic("TODO") }

// DeliveredUnderSuccessor returns a webhook signed by the successor that was delivered after the revocation: the first one, or
// ErrNoEntry.
func (db *DB) DeliveredUnderSuccessor(ctx context.Context, uid string) (id int64, at time.Time, err error) {
	panic("TODO")
}

// RecordCommand enters the output of the platform's own rake into the ledger, as evidence: at most 64 KiB of it.
func (db *DB) RecordCommand(ctx context.Context, uid, command, output string, exitStatus *int) error {
	panic("TODO")
}

// AdoptRevocation enters a revocation that the platform's own rake made: the key's row is revoked, the successor is the
// application's newest active key, and the event the entry of webhook_key.compromised that was enqueued since. ErrNotRevoked where
// the key is not revoked.
func (db *DB) AdoptRevocation(ctx context.Context, uid, kid, reason string) (*Revocation, error) {
	panic("TODO")
}

// CheckSigning verifies that the platform's columns that a rotation needs are there, and that this role may use them.
func (db *DB) CheckSigning(ctx context.Context) error { panic("TODO") }
