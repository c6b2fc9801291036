package platformdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// CountLimit is where counts of entries under the old kid stop.
const CountLimit = 100_000

// reSignPages is how many pages one ReSign signs at most.
const reSignPages = 10

// ReSigning is how far ReSign is.
type ReSigning struct {
	*Revocation
	// Swept says that the sweep over undelivered entries has come to its end, and Left is known.
	Swept bool
	// Left undelivered entries are under the old kid; the count stops at CountLimit.
	Left int64
	// Open transactions that may have read the key before it was revoked: virtual transaction ids, as in pg_locks, and
	// names of prepared transactions.
	Open []string
	// Refusals of the entries that the database refused to have signed anew in this look, and that stay under the old kid.
	Refusals []Refusal
}

// ReSign signs some of an application's undelivered entries anew that are still under the old kid, by the key that is
// active now. It is done when every transaction that was open when the revocation committed has ended, and no entry is
// left. It needs the role playbook_signer.
func (db *DB) ReSign(ctx context.Context, uid string) (*ReSigning, error) {
	return db.watchEntries(ctx, uid, db.reSignPage)
}

// AwaitReSigned is ReSign without signing: the platform signed anew what was undelivered, and what its dispatcher held
// is delivered or dies. It is done under the same condition, and needs the everyday role only.
func (db *DB) AwaitReSigned(ctx context.Context, uid string) (*ReSigning, error) {
	return db.watchEntries(ctx, uid, func(context.Context, string, *ReSigning) (more bool, err error) {
		return false,
			nil
	})
}

func (db *DB) watchEntries(ctx context.Context, uid string, page func(context.Context, string, *ReSigning) (more bool,
	err error)) (*ReSigning, error) {
	fail := func(doing string, err error) (*ReSigning, error) {
		return nil, fmt.Errorf("%s: %w", doing, describe(err))
	}
	r, err := db.Revocation(ctx, uid)
	if err != nil || r.ReSignedAt != nil {
		return &ReSigning{Revocation: r}, err
	}
	// In a statement of its own after the revocation committed: what begins later reads the successor.
	if r.OpenTransactions == nil {
		if _, err := db.alone.Exec(ctx, `UPDATE playbook.key_revocations SET open_transactions = (`+openSQL+`)
			WHERE application_id = $1 AND kid = $2 AND open_transactions IS NULL`, r.ApplicationID, r.Kid); err != nil {
			return fail("collecting the transactions that are open", err)
		}
		if r, err = db.Revocation(ctx, uid); err != nil {
			return nil, err
		}
	}
	progress := &ReSigning{Revocation: r}
	// Before the sweep: what the last of them inserted is then seen by it.
	if err := db.alone.QueryRow(ctx, `SELECT coalesce(array_agg(t), '{}') FROM unnest((`+openSQL+`)) t
		WHERE t = ANY ($1) OR t LIKE 'prepared %'`, r.OpenTransactions).Scan(&progress.Open); err != nil {
		return fail("looking for transactions from before the revocation", err)
	}
	for pages := 0; !progress.Swept; pages++ {
		if pages == reSignPages {
			return progress, nil
		}
		more, err := page(ctx, uid, progress)
		if err != nil {
			return nil, err
		}
		progress.Swept = !more
	}
	if err := db.alone.QueryRow(ctx, `SELECT count(*) FROM (
			SELECT FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND delivered_at IS NULL AND dlq_at IS NOT NULL AND kid = $2
			UNION ALL
			SELECT FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND delivered_at IS NULL AND dlq_at IS NULL AND kid = $2
			LIMIT $3) u`, r.ApplicationID, r.Kid, CountLimit).Scan(&progress.Left); err != nil {
		return fail("counting entries under the old kid", err)
	}
	if progress.Left > 0 || len(progress.Open) > 0 {
		return progress, nil
	}
	if _, err := db.alone.Exec(ctx, `UPDATE playbook.key_revocations
		SET resigned_at = coalesce(resigned_at, clock_timestamp())
		WHERE application_id = $1 AND kid = $2`, r.ApplicationID, r.Kid); err != nil {
		return fail("entering the end of re-signing into the ledger", err)
	}
	progress.Revocation, err = db.Revocation(ctx, uid)
	return progress, err
}

// openSQL lists the transactions that are open in this database: those of other client backends, by the virtual id that
// each transaction has from its beginning, and the prepared ones. A backend that has no user is not a client's. A
// transaction that was open at the revocation may have been prepared since, under another id: so prepared ones count
// whenever they were prepared.
const openSQL = `SELECT coalesce(array_agg(t), '{}') FROM (
		SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'virtualxid' AND l.granted AND a.datname = current_database()
			AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
		UNION ALL SELECT 'prepared ' || quote_literal(gid) FROM pg_prepared_xacts WHERE database = current_database()) o(t)`

// reSignPage signs one page anew, and reports whether the sweep goes on. A sweep goes through the dead entries and then
// through the others, each in the order of the platform's indexes, and the ledger keeps where it is: beginning anew
// with each page would read what is done again and again.
//
// Entries that the database refuses to have changed are left: they must not keep the others under the old kid.
func (db *DB) reSignPage(ctx context.Context, uid string, progress *ReSigning) (more bool, err error) {
	more, err = db.reSignPageBy(ctx, uid, progress, reSignAll)
	if refusedBy(err) != "" {
		return db.reSignPageBy(ctx, uid, progress, reSignCarefully)
	}
	return more, err
}

func (db *DB) reSignPageBy(ctx context.Context, uid string, progress *ReSigning, reSign func(context.Context, pgx.Tx,
	string, []int64, []string) ([]Refusal, error)) (more bool, err error) {
	var refusals []Refusal
	err = db.transact(ctx, "signing entries anew", pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := lock(ctx, tx, uid); err != nil {
			return err
		}
		now, err := revocation(ctx, tx, uid)
		if err != nil {
			return err
		}
		signer, err := activeKey(ctx, tx, now.ApplicationID)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("application %d has no active key to sign with", now.ApplicationID)
		}
		if err != nil {
			return err
		}
		defer signer.wipe()
		ids, bodies, id, at, err := pageToSign(ctx, tx, now)
		if err != nil {
			return err
		}
		signatures, err := signer.signAll(bodies)
		if err != nil {
			return err
		}
		if refusals, err = reSign(ctx, tx, signer.kid, ids, signatures); err != nil {
			return err
		}
		sweptDead, sweptAt, sweptID := now.SweptDead, &at, &id
		if len(ids) < pageSize {
			sweptDead, sweptAt, sweptID = !now.SweptDead, nil, nil
		}
		more = sweptDead || sweptAt != nil
		if _, err := tx.Exec(ctx, `UPDATE playbook.key_revocations
			SET resigned = resigned + $3, swept_dead = $4, swept_enqueued_at = $5, swept_id = $6
			WHERE application_id = $1 AND kid = $2`,
			now.ApplicationID, now.Kid, int64(len(ids))-refused(refusals), sweptDead, sweptAt, sweptID); err != nil {
			return err
		}
		progress.Revocation, err = revocation(ctx, tx, uid)
		return err
	})
	if err == nil {
		progress.Refusals = addRefusals(progress.Refusals, refusals)
	}
	return more, err
}

// pageToSign reads and locks the next page of a sweep, and says where it ends.
func pageToSign(ctx context.Context, tx pgx.Tx, now *Revocation) (ids []int64, bodies []string, id int64, at time.Time,
	err error) {
	dead := "IS NOT NULL"
	if now.SweptDead {
		dead = "IS NULL"
	}
	rows, err := tx.Query(ctx, `SELECT id, enqueued_at, payload::text FROM webhook_outbox_entries
		WHERE oauth_application_id = $1 AND delivered_at IS NULL AND dlq_at `+dead+` AND kid = $2
			AND ($3::timestamp IS NULL OR (enqueued_at, id) > ($3, $4))
		ORDER BY enqueued_at, id LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED`,
		now.ApplicationID, now.Kid, now.SweptEnqueuedAt, now.SweptID, pageSize)
	if err != nil {
		return nil, nil, 0, at, err
	}
	var body string
	_, err = pgx.ForEachRow(rows, []any{&id, &at, &body}, func() error {
		ids, bodies = append(ids, id), append(bodies, body)
		return nil
	})
	return ids, bodies, id, at, err
}

func reSignAll(ctx context.Context, tx pgx.Tx, kid string, ids []int64, signatures []string) ([]Refusal, error) {
	_, err := tx.Exec(ctx, reSignSQL, kid, ids, signatures)
	return nil, err
}

// reSignCarefully is reSignAll for entries of which some were refused: it halves them until each of those is found.
func reSignCarefully(ctx context.Context, tx pgx.Tx, kid string, ids []int64, signatures []string) ([]Refusal, error) {
	err := pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
		if _, err := savepoint.Exec(ctx, reSignSQL, kid, ids, signatures); err != nil {
			return err
		}
		return checkNow(ctx, savepoint)
	})
	state := refusedBy(err)
	switch {
	case state == "":
		return nil, err
	case len(ids) == 1:
		return []Refusal{{State: state, Entries: 1, Entry: ids[0]}}, nil
	}
	half := len(ids) / 2
	first, err := reSignCarefully(ctx, tx, kid, ids[:half], signatures[:half])
	if err != nil {
		return nil, err
	}
	second, err := reSignCarefully(ctx, tx, kid, ids[half:], signatures[half:])
	return addRefusals(first, second), err
}

func quoteLiteral(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
