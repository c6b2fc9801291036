package platformdb

import (
	"time"

	"github.com/jackc/pgx/v5"
)

// Selector narrows the dead entries of an application. A nil field does not narrow.
type Selector struct {
	EventTypes []string
	DeadAfter  *time.Time // inclusive
	DeadBefore *time.Time // exclusive
	Causes     []string
	EntryIDs   []int64
	ExcludeIDs []int64
}

// Selection is which entries an operation is about, and what becomes of those that are not plainly requeued.
type Selection struct {
	ApplicationID int64
	Selector
	Conflicts   string // Settle, Replay or Leave
	MaxReplays  int32  // over all operations
	Unpublished Unpublished
}

// Unpublished is what becomes of an entry that is signed under a kid that is no longer published.
type Unpublished int

const (
	// LeaveUnpublished counts it, and leaves it.
	LeaveUnpublished Unpublished = iota
	// HandUnpublishedOver undoes its batch, which returns ErrUnpublished, so that the role that can sign runs it again.
	HandUnpublishedOver
	// ReSignUnpublished signs it anew in its batch, by the key that is active then. It needs the role playbook_signer.
	ReSignUnpublished
)

// requeuedBefore says whether a replay requeued the outbox row o earlier. The row of this operation is not there yet
// when its batch asks. OFFSET 0 keeps Postgres from reading the whole ledger into a hash table, which it likes while
// the ledger is small, in a plan that a session then keeps.
const requeuedBefore = `EXISTS (SELECT FROM playbook.replay_entries e
	WHERE e.entry_id = o.id AND e.action = 'requeued' OFFSET 0)`

// selected is the one predicate over an outbox row o that both the plan and each batch use, so that they can't differ.
var selected = `o.oauth_application_id = @application
	AND o.dlq_at IS NOT NULL AND o.delivered_at IS NULL AND o.dlq_at <= @cutoff
	AND (@event_types::text[] IS NULL OR o.event_type = ANY (@event_types))
	AND (@dead_after::timestamp IS NULL OR o.dlq_at >= @dead_after)
	AND (@dead_before::timestamp IS NULL OR o.dlq_at < @dead_before)
	AND (@entry_ids::bigint[] IS NULL OR o.id = ANY (@entry_ids))
	AND (@exclude_ids::bigint[] IS NULL OR o.id <> ALL (@exclude_ids))
	AND (@causes::text[] IS NULL OR ` + causeSQL(requeuedBefore) + ` = ANY (@causes))`

func (s Selection) args(cutoff time.Time) pgx.NamedArgs {
	return pgx.NamedArgs{
		"application": s.ApplicationID,
		"cutoff":      cutoff,
		"event_types": s.EventTypes,
		"dead_after":  s.DeadAfter,
		"dead_before": s.DeadBefore,
		"causes":      s.Causes,
		"entry_ids":   s.EntryIDs,
		"exclude_ids": s.ExcludeIDs,
		"conflicts":   s.Conflicts,
		"max_replays": s.MaxReplays,
		// Whether entries under an unpublished kid wait for their signature.
		"re_sign": s.Unpublished != LeaveUnpublished,
	}
}
