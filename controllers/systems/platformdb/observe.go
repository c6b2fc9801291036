package platformdb

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// observeLimit bounds one look at unsettled entries, so that its cost does not grow with the replay; the next look goes
// on where it ended. It exceeds a batch, or a look could not get past one.
const observeLimit = 5 * pageSize

// observeSQL follows requeued entries to what became of them. An entry that was attempted and is not delivered is
// failing, although the dispatcher will try again: a 5xx answer kills an entry only after hours.
var observeSQL = `WITH looked AS (
		SELECT r.entry_id, r.batch, r.outcome, r.answer, o.id IS NULL AS gone,
			CASE WHEN o.delivered_at IS NOT NULL THEN 'delivered' WHEN o.dlq_at IS NOT NULL THEN 'died'
				WHEN o.attempts > 0 OR r.outcome = 'failing' THEN 'failing' ELSE 'waiting' END::playbook.entry_outcome AS now,
			CASE WHEN o.delivered_at IS NULL AND o.attempts > 0 THEN ` + answerSQL + ` END AS answered
		FROM (SELECT * FROM playbook.replay_entries
			WHERE operation_id = @operation AND outcome IN ('waiting', 'failing') AND batch >= @from
			ORDER BY batch, entry_id LIMIT @limit) r
		LEFT JOIN webhook_outbox_entries o ON o.id = r.entry_id
	), vanished AS (
		UPDATE playbook.replay_entries r SET action = 'gone', outcome = NULL
		FROM looked l WHERE r.operation_id = @operation AND r.entry_id = l.entry_id AND l.gone RETURNING l.outcome
	), moved AS (
		UPDATE playbook.replay_entries r SET outcome = l.now, answer = coalesce(l.answered, r.answer),
			attempted_at = coalesce(r.attempted_at, clock_timestamp())
		FROM looked l WHERE r.operation_id = @operation AND r.entry_id = l.entry_id AND NOT l.gone
			AND (l.now <> l.outcome OR l.answered IS DISTINCT FROM l.answer AND l.answered IS NOT NULL)
		RETURNING l.outcome AS before, l.now AS after
	), deltas AS (
		SELECT (SELECT count(*) FROM vanished) AS d_gone,
			(SELECT count(*) FROM vanished WHERE outcome = 'waiting') AS d_gone_waiting,
			(SELECT count(*) FROM vanished WHERE outcome = 'failing') AS d_gone_failing,
			count(*) FILTER (WHERE after = 'delivered') AS d_delivered, count(*) FILTER (WHERE after = 'died') AS d_died,
			count(*) FILTER (WHERE after = 'failing') - count(*) FILTER (WHERE before = 'failing') AS d_failing,
			count(*) FILTER (WHERE before = 'waiting' AND after <> 'waiting') AS d_begun
		FROM moved
	)
	UPDATE playbook.operations SET
		delivered = delivered + d_delivered, died = died + d_died,
		failing = failing + d_failing - d_gone_failing, waiting = waiting - d_begun - d_gone_waiting,
		gone = gone + d_gone, requeued = requeued - d_gone,
		observed_batch = CASE WHEN (SELECT count(*) FROM looked) < @limit THEN 0 ELSE (SELECT max(batch) FROM looked) END
	FROM deltas WHERE id = @operation RETURNING ` + operationColumns

// Observe brings the counters of requeued entries up to date.
func (db *DB) Observe(ctx context.Context, uid string) (*Operation, error) {
	var op *Operation
	err := db.transactLocked(ctx, "observing requeued entries", uid, nil, func(tx pgx.Tx, locked *Operation) error {
		if op = locked; op.Waiting+op.Failing == 0 {
			return nil
		}
		last := &pgx.Batch{}
		last.Queue(observeSQL, pgx.NamedArgs{"operation": op.ID, "limit": observeLimit,
			"from": op.ObservedBatch}).Query(func(rows pgx.Rows) (err error) {
			op, err = one(rows)
			return err
		})
		return sendLast(ctx, tx, last)
	})
	return op, err
}

// ObserveAll brings the counters of all requeued entries up to date, however many looks that takes.
func (db *DB) ObserveAll(ctx context.Context, uid string) error {
	// The first round ends the one that was under way, which may have begun long ago.
	for rounds := 0; rounds < 2; {
		op, err := db.Observe(ctx, uid)
		if err != nil {
			return err
		}
		if op.ObservedBatch == 0 || op.Waiting+op.Failing == 0 {
			rounds++
		}
	}
	return nil
}

// refusedAnswer begins what stands for an answer where the database refused the entry.
const refusedAnswer = "SQLSTATE "

// AnswerCount counts entries by what the relying party answered: a status code, or a cause where there was none. Of
// those that the database refused it has the SQLSTATE.
type AnswerCount struct {
	Answer  string `db:"answer"`
	Entries int64  `db:"entries"`
}

// Attempts is what became of some requeued entries.
type Attempts struct {
	Waiting, Attempted, Failed int64
	// Refused by the database, of those that failed.
	Refused int64
	// Locked by another session, and so not dealt with yet; of a canary.
	Locked int64
	// Answers to those that failed, the most frequent first.
	Answers []AnswerCount
}

// RecentAttempts judges the last n entries that were attempted since the operation was last resumed. An entry that
// failed and was delivered by a later attempt has not failed.
func (db *DB) RecentAttempts(ctx context.Context, op *Operation, n int) (*Attempts, error) {
	return db.attempts(ctx, `SELECT outcome, answer FROM playbook.replay_entries r
		WHERE operation_id = $1
			AND attempted_at > coalesce((SELECT judged_from FROM playbook.operations WHERE id = $1), '-infinity')
			AND outcome IS NOT NULL
		ORDER BY attempted_at DESC LIMIT $2`, op.ID, n)
}

const (
	// paceWindow and paceAttempts bound what the pace of a relying party is reckoned from.
	paceWindow   = time.Minute
	paceAttempts = 2000
)

// Pace is how many entries a second were attempted lately; 0 where none was.
func (db *DB) Pace(ctx context.Context, op *Operation) (perSecond float64, err error) {
	var n int64
	var seconds float64
	if err := db.pool.QueryRow(ctx, `SELECT count(*),
			coalesce(extract(epoch FROM clock_timestamp() - min(attempted_at)), 0)::float8
		FROM (SELECT attempted_at FROM playbook.replay_entries
			WHERE operation_id = $1 AND attempted_at > clock_timestamp() - $2 * interval '1 second'
			ORDER BY attempted_at DESC LIMIT $3) a`, op.ID, paceWindow.Seconds(), paceAttempts).Scan(&n, &seconds); err != nil {
		return 0, fmt.Errorf("reckoning the pace of attempts: %w", describe(err))
	}
	// All may have been seen in one look, a moment ago.
	return float64(n) / max(seconds, 1), nil
}

// CanaryAttempts judges the entries of the current canary. One that the database refused has failed.
func (db *DB) CanaryAttempts(ctx context.Context, op *Operation) (*Attempts, error) {
	a, err := db.attempts(ctx, `SELECT coalesce(outcome, 'died') AS outcome,
			coalesce('`+refusedAnswer+`' || sqlstate, answer) AS answer
		FROM playbook.replay_entries r
		WHERE operation_id = $1 AND entry_id = ANY ($2) AND (outcome IS NOT NULL OR sqlstate IS NOT NULL)`,
		op.ID, op.CanaryEntries)
	if err != nil || a.Waiting+a.Attempted == int64(len(op.CanaryEntries)) {
		return a, err
	}
	var dealtWith int64
	if err := db.pool.QueryRow(ctx,
		`SELECT count(*) FROM playbook.replay_entries WHERE operation_id = $1 AND entry_id = ANY ($2)`,
		op.ID, op.CanaryEntries).Scan(&dealtWith); err != nil {
		return nil, fmt.Errorf("looking for canary entries that are locked: %w", describe(err))
	}
	a.Locked = int64(len(op.CanaryEntries)) - dealtWith
	return a, nil
}

func (db *DB) attempts(ctx context.Context, attempted string, args ...any) (*Attempts, error) {
	rows, err := db.alone.Query(ctx, `SELECT outcome = 'waiting', outcome IN ('failing', 'died'),
			coalesce(answer, 'Unknown') AS answer, count(*) AS entries
		FROM (`+attempted+`) a GROUP BY 1, 2, 3 ORDER BY 4 DESC, 3`, args...)
	if err != nil {
		return nil, fmt.Errorf("judging attempts: %w", describe(err))
	}
	a := &Attempts{}
	var waiting, failed bool
	var c AnswerCount
	_, err = pgx.ForEachRow(rows, []any{&waiting, &failed, &c.Answer, &c.Entries}, func() error {
		if strings.HasPrefix(c.Answer, refusedAnswer) {
			a.Refused += c.Entries
		}
		if waiting {
			a.Waiting += c.Entries
			return nil
		}
		a.Attempted += c.Entries
		if failed {
			a.Failed += c.Entries
			a.Answers = append(a.Answers, c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("judging attempts: %w", describe(err))
	}
	return a, nil
}
