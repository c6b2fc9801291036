package platformdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pace limits a batch. Zero values do not.
type Pace struct {
	RatePerSecond int32
	MaxInFlight   int32
}

// Batch says what one transaction did.
type Batch struct {
	// Operation is the ledger's row after the batch.
	*Operation
	// Looked is how many planned entries the batch was about; zero when the pace allowed none.
	Looked int
	// Locked of them were held by another session, and wait at the end of the plan.
	Locked int
	// Canary says that the entries were the canary's.
	Canary bool
}

// judgeSQL decides what becomes of an outbox row o that is one of ids, a subquery; the order of its cases is the order
// of precedence. The subqueries of its last cases are evaluated once for all rows. The first of them reads no entry
// where no other replay of the application requeued any.
func judgeSQL(ids string) string {
	return `CASE
			WHEN (` + selected + `) IS NOT TRUE THEN 'changed'
			WHEN @conflicts = 'Settle' AND ` + conflictSQL(requeuedBefore) + ` THEN 'settled'
			WHEN @conflicts = 'Leave' AND ` + conflictSQL(requeuedBefore) + ` THEN 'left'
			WHEN o.id IN (SELECT e.entry_id FROM playbook.replay_entries e
				WHERE e.entry_id = ANY (` + ids + `) AND e.action = 'requeued'
					AND EXISTS (SELECT FROM playbook.operations p
						WHERE p.application_id = @application AND p.id <> @operation AND p.requeued > 0)
				GROUP BY e.entry_id HAVING count(*) >= @max_replays) THEN 'parked'
			WHEN o.kid NOT IN (SELECT k.kid FROM webhook_signing_keys k
				WHERE k.oauth_application_id = @application
					AND (k.status = 'active'
						OR k.status = 'grace' AND (k.grace_until IS NULL OR k.grace_until > clock_timestamp())))
				THEN 'unpublished'
			ELSE 'requeued' END::playbook.entry_action`
}

// batchSQL is a batch: lock the rows, judge them as they are now, write the ledger, and change only what the ledger
// took. A row that changed while its lock was taken is judged anew: Postgres computes the select list again from its
// newest version.
//
// The ledger's rows are inserted without ON CONFLICT: under the operation's lock nobody else inserts one, and the
// primary key undoes a batch that would.
//
// A requeue is the platform's own: it clears dlq_at, next_retry_at, attempts and last_error (kept in the ledger: it is
// the only evidence) and sets enqueued_at, strictly increasing in the old order, so that the dispatcher keeps that
// order.
var batchSQL = `WITH judged AS (
		SELECT o.id, o.attempts, o.enqueued_at, o.dlq_at, o.last_error,
			@base::timestamp + page.n * interval '1 microsecond' AS acted_at,
			` + judgeSQL("@ids::bigint[]") + ` AS action
		FROM unnest(@ids::bigint[]) WITH ORDINALITY AS page(id, n) JOIN webhook_outbox_entries o ON o.id = page.id
		WHERE @only::bigint[] IS NULL OR o.id = ANY (@only)
		FOR UPDATE OF o SKIP LOCKED
	), recorded AS (
		INSERT INTO playbook.replay_entries (operation_id, entry_id, batch, action, outcome, acted_at,
			enqueued_at, dlq_at, attempts, last_error)
		SELECT @operation, id, @batch, action, CASE WHEN action = 'requeued' THEN 'waiting'::playbook.entry_outcome END,
			acted_at, enqueued_at, dlq_at, attempts, last_error
		FROM judged WHERE (NOT @hold_requeues OR action <> 'requeued') AND (NOT @re_sign OR action <> 'unpublished')
		RETURNING entry_id, action, acted_at
	), requeued AS (
		UPDATE webhook_outbox_entries w SET dlq_at = NULL, next_retry_at = NULL, attempts = 0, last_error = NULL,
			enqueued_at = r.acted_at, updated_at = clock_timestamp()
		FROM recorded r WHERE w.id = r.entry_id AND r.action = 'requeued'
	), settled AS (
		UPDATE webhook_outbox_entries w SET delivered_at = r.acted_at, dlq_at = NULL, next_retry_at = NULL,
			updated_at = clock_timestamp()
		FROM recorded r WHERE w.id = r.entry_id AND r.action = 'settled'
	)
	SELECT ` + tallySQL + ` FROM recorded`

const tallySQL = `count(*) FILTER (WHERE action = 'requeued'), count(*) FILTER (WHERE action = 'settled'),
	count(*) FILTER (WHERE action = 'left'), count(*) FILTER (WHERE action = 'parked'),
	count(*) FILTER (WHERE action = 'unpublished'), count(*) FILTER (WHERE action = 'gone'),
	count(*) FILTER (WHERE action = 'changed')`

type tally struct {
	requeued, settled, left, parked, unpublished, gone, changed int64
	resigned                                                    int64 // of those requeued
	refusals                                                    []Refusal
}

func (t *tally) targets() []any {
	return []any{&t.requeued, &t.settled, &t.left, &t.parked, &t.unpublished, &t.gone, &t.changed}
}

func (t *tally) sum() int64 {
	return t.requeued + t.settled + t.left + t.parked + t.unpublished + t.gone + t.changed + t.refused()
}

// Requeue runs one batch of an operation: up to a page of its plan, as much of it as the pace allows.
func (db *DB) Requeue(ctx context.Context, uid string, selection Selection, pace Pace) (*Batch, error) {
	return db.batch(ctx, uid, selection, pace, nextPage)
}

// RequeueCanary runs the chosen canary's batch, regardless of pace. Where that was done already, by a manager that was
// faster, it does nothing: the page at the front is then one that waits for the canary's outcome.
func (db *DB) RequeueCanary(ctx context.Context, uid string, selection Selection) (*Batch, error) {
	return db.batch(ctx, uid, selection, Pace{}, canaryPage)
}

// SetAside runs one batch that leaves alone what would be requeued and records the rest, for operations whose requeues
// are made by the admin API.
func (db *DB) SetAside(ctx context.Context, uid string, selection Selection) (*Batch, error) {
	return db.batch(ctx, uid, selection, Pace{}, holdRequeues)
}

type batchKind int

const (
	nextPage batchKind = iota
	canaryPage
	holdRequeues
)

func (db *DB) batch(ctx context.Context, uid string, selection Selection, pace Pace, kind batchKind) (*Batch, error) {
	batch, err := db.batchBy(ctx, uid, selection, pace, kind, (*requeuing).some)
	if refusedBy(err) != "" {
		// Nothing of it happened, whether a statement or the commit was refused.
		return db.batchBy(ctx, uid, selection, pace, kind, (*requeuing).carefully)
	}
	return batch, err
}

func (db *DB) batchBy(ctx context.Context, uid string, selection Selection, pace Pace, kind batchKind,
	requeue func(*requeuing, context.Context, pgx.Tx, []int64, time.Time) (tally, error)) (*Batch, error) {
	batch, front := &Batch{}, &page{}
	err := db.transactLocked(ctx, "requeueing a batch", uid, front.queue(uid), func(tx pgx.Tx, op *Operation) error {
		batch.Operation = op
		pending := op.CanaryEntries != nil && op.CanaryAt == nil
		ids, rest := front.ids, []int64(nil)
		if ids == nil || kind == canaryPage && !pending {
			return nil
		}
		batch.Canary = pending
		if limit := pace.allows(op); !batch.Canary && limit < len(ids) {
			ids, rest = ids[:limit], ids[limit:]
		}
		if batch.Looked = len(ids); batch.Looked == 0 {
			return nil
		}
		r := &requeuing{op: op, selection: selection, hold: kind == holdRequeues}
		if selection.Unpublished == ReSignUnpublished {
			// The key's lock comes before those of entries.
			var err error
			if r.signer, err = signerOf(ctx, tx, op.ApplicationID); err != nil {
				return err
			}
			defer r.signer.wipe()
		}
		base := later(op.Now.UTC(), op.LastEnqueuedAt)
		t, err := requeue(r, ctx, tx, ids, base)
		if err != nil {
			return err
		}
		if t.sum() < int64(len(ids)) {
			if batch.Locked, err = keep(ctx, tx, op, ids, base, &t); err != nil {
				return err
			}
		}
		last := &pgx.Batch{}
		front.turn(last, op.ID, rest)
		batch.Operation = advance(last, op, t, base.Add(time.Duration(len(ids))*time.Microsecond), pace, batch.Canary)
		return sendLast(ctx, tx, last)
	})
	return batch, err
}

// requeuing is a batch under way.
type requeuing struct {
	op        *Operation
	selection Selection
	signer    *signingKey // nil where this role signs nothing
	hold      bool        // leave what would be requeued
}

// some deals with some of a batch's entries, which take their places from base on.
func (r *requeuing) some(ctx context.Context, tx pgx.Tx, ids []int64, base time.Time) (t tally, err error) {
	args := r.selection.args(r.op.Cutoff)
	args["operation"], args["batch"], args["ids"], args["base"] = r.op.ID, r.op.Batches+1, ids, base
	args["hold_requeues"] = r.hold
	args["only"] = []int64(nil)
	if err := tx.QueryRow(ctx, batchSQL, args).Scan(t.targets()...); err != nil {
		return t, err
	}
	if t.sum() < int64(len(ids)) && r.selection.Unpublished != LeaveUnpublished {
		err = reSignHeld(ctx, tx, r.signer, args, &t)
	}
	return t, err
}

// page is the next of an operation's plan; its ids are nil where none is left.
type page struct {
	number int32
	ids    []int64
}

// queue reads it, behind the locks of its operation.
func (p *page) queue(uid string) func(*pgx.Batch) {
	return func(b *pgx.Batch) {
		b.Queue(`SELECT page, entry_ids FROM playbook.replay_pages
			WHERE operation_id = (SELECT id FROM playbook.operations WHERE uid = $1) ORDER BY page LIMIT 1`, uid).QueryRow(
			func(row pgx.Row) error {
				if err := row.Scan(&p.number, &p.ids); !errors.Is(err, pgx.ErrNoRows) {
					return err
				}
				return nil
			})
	}
}

// turn leaves the rest of it, or the next page where that is nothing.
func (p *page) turn(b *pgx.Batch, operation int64, rest []int64) {
	if len(rest) == 0 {
		b.Queue(`DELETE FROM playbook.replay_pages WHERE operation_id = $1 AND page = $2`, operation, p.number)
		return
	}
	b.Queue(`UPDATE playbook.replay_pages SET entry_ids = $3 WHERE operation_id = $1 AND page = $2`, operation, p.number,
		rest)
}

// ErrUnpublished says that a batch has entries under a kid that is no longer published, and was undone: the role that
// can sign runs it.
var ErrUnpublished = errors.New("entries are under a kid that is no longer published, and this role can't sign them " +
	"anew")

// signerOf returns the key that the application's webhooks are signed by.
func signerOf(ctx context.Context, tx pgx.Tx, application int64) (*signingKey, error) {
	signer, err := activeKey(ctx, tx, application)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, &Unsignable{"", "is missing: the application has no active key"}
	}
	return signer, err
}

// heldSQL is the entries of a batch that it did not record because they need a new signature. The batch has their
// locks.
func heldSQL(body string) string {
	return `SELECT o.id, o.kid, ` + body + `
		FROM unnest(@ids::bigint[]) AS page(id) JOIN webhook_outbox_entries o ON o.id = page.id
		WHERE NOT EXISTS (SELECT FROM playbook.replay_entries e WHERE e.entry_id = o.id AND e.operation_id = @operation)
			AND ` + judgeSQL("@ids::bigint[]") + ` = 'unpublished'
		FOR UPDATE OF o SKIP LOCKED`
}

// reSignHeld signs entries anew whose kid is no longer published, and has them judged again: they are then requeued, in
// their place. The ledger keeps the kid that they had.
func reSignHeld(ctx context.Context, tx pgx.Tx, signer *signingKey, args pgx.NamedArgs, t *tally) error {
	body := "o.payload::text"
	if signer == nil {
		body = "''" // this role may not read it
	}
	rows, err := tx.Query(ctx, heldSQL(body), args)
	if err != nil {
		return err
	}
	var ids []int64
	var kids, bodies []string
	var id int64
	var kid, text string
	if _, err := pgx.ForEachRow(rows, []any{&id, &kid, &text}, func() error {
		ids, kids, bodies = append(ids, id), append(kids, kid), append(bodies, text)
		return nil
	}); err != nil || len(ids) == 0 {
		return err
	}
	if signer == nil {
		return ErrUnpublished
	}
	signatures, err := signer.signAll(bodies)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, reSignSQL, signer.kid, ids, signatures); err != nil {
		return err
	}
	args["only"] = ids
	var again tally
	if err := tx.QueryRow(ctx, batchSQL, args).Scan(again.targets()...); err != nil {
		return err
	}
	if again.requeued != int64(len(ids)) {
		return fmt.Errorf("%d would be requeued of the %d that were signed anew", again.requeued, len(ids))
	}
	t.requeued, t.resigned = t.requeued+again.requeued, again.requeued
	_, err = tx.Exec(ctx, `UPDATE playbook.replay_entries e SET former_kid = f.kid
		FROM unnest($2::bigint[], $3::text[]) AS f(id, kid)
		WHERE e.entry_id = f.id AND e.operation_id = $1`, args["operation"], ids, kids)
	return err
}

// keep deals with the entries of a batch that it did not record: rows that no longer exist are gone, and the others,
// held by another session or held back, wait on a page at the end of the plan. It returns how many wait.
func keep(ctx context.Context, tx pgx.Tx, op *Operation, ids []int64, base time.Time, t *tally) (int, error) {
	var left []int64
	err := tx.QueryRow(ctx, `WITH missed AS (
			SELECT id, n FROM unnest($2::bigint[]) WITH ORDINALITY AS p(id, n)
			WHERE NOT EXISTS (SELECT FROM playbook.replay_entries e WHERE e.entry_id = p.id AND e.operation_id = $1)
		), gone AS (
			INSERT INTO playbook.replay_entries (operation_id, entry_id, batch, action, acted_at)
			SELECT $1, id, $3, 'gone', $4 FROM missed
			WHERE NOT EXISTS (SELECT FROM webhook_outbox_entries w WHERE w.id = missed.id)
			ON CONFLICT DO NOTHING RETURNING entry_id
		)
		SELECT (SELECT count(*) FROM gone), array_agg(id ORDER BY n) FROM missed
		WHERE EXISTS (SELECT FROM webhook_outbox_entries w WHERE w.id = missed.id)`,
		op.ID, ids, op.Batches+1, base).Scan(&t.gone, &left)
	if err != nil || len(left) == 0 {
		return 0, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO playbook.replay_pages (operation_id, page, entry_ids)
		SELECT $1, max(page) + 1, $2 FROM playbook.replay_pages WHERE operation_id = $1`, op.ID, left)
	return len(left), err
}

// advance adds a batch to the operation's counters, and moves the clock of its pace. The operation is as it is then,
// once the statements were sent.
func advance(b *pgx.Batch, op *Operation, t tally, lastEnqueued time.Time, pace Pace, canary bool) *Operation {
	after := &Operation{}
	b.Queue(`UPDATE playbook.operations SET
			batches = batches + 1, last_enqueued_at = @last_enqueued, paced_at = @paced,
			canary_at = CASE WHEN @canary THEN clock_timestamp() ELSE canary_at END,
			remaining = remaining - @sum, requeued = requeued + @requeued, waiting = waiting + @requeued,
			settled = settled + @settled, left_alone = left_alone + @left, parked = parked + @parked,
			unpublished = unpublished + @unpublished, gone = gone + @gone, changed = changed + @changed,
			resigned = resigned + @resigned, refused = refused + @refused, refusals = @refusals,
			requeued_at = CASE WHEN remaining = @sum THEN clock_timestamp() ELSE requeued_at END
		WHERE id = @operation RETURNING `+operationColumns, pgx.NamedArgs{
		"operation": op.ID, "last_enqueued": lastEnqueued, "paced": pace.spend(op,
			t.requeued), "canary": canary, "sum": t.sum(),
		"requeued": t.requeued, "settled": t.settled, "left": t.left, "parked": t.parked, "unpublished": t.unpublished,
		"gone": t.gone, "changed": t.changed, "resigned": t.resigned,
		"refused": t.refused(), "refusals": addRefusals(op.Refusals, t.refusals),
	}).Query(func(rows pgx.Rows) error {
		read, err := one(rows)
		if err == nil {
			*after = *read
		}
		return err
	})
	return after
}

// burst is how much unused pace may be made up for, so that a manager that comes back once in a while still reaches the
// rate.
const burst = time.Second

// allows is how many entries may be requeued now.
func (p Pace) allows(op *Operation) int {
	limit := int64(pageSize)
	if p.MaxInFlight > 0 {
		limit = min(limit, int64(p.MaxInFlight)-op.Waiting)
	}
	if p.RatePerSecond > 0 {
		limit = min(limit, int64(op.Now.Sub(p.paidUpTo(op)).Seconds()*float64(p.RatePerSecond)))
	}
	return int(max(limit, 0))
}

// spend is the time up to which the rate is used up after n requeues.
func (p Pace) spend(op *Operation, n int64) time.Time {
	if p.RatePerSecond == 0 {
		return op.Now
	}
	return p.paidUpTo(op).Add(time.Duration(float64(n) / float64(p.RatePerSecond) * float64(time.Second)))
}

func (p Pace) paidUpTo(op *Operation) time.Time {
	return later(op.Now.Add(-burst), op.PacedAt)
}

func later(t time.Time, other *time.Time) time.Time {
	if other != nil && other.After(t) {
		return *other
	}
	return t
}
