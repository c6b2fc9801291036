package platformdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CompromisedEvent is the event_type by which a relying party is told that a key leaked.
const CompromisedEvent = "webhook_key.compromised"

const (
	// claimTimeout is how long a revocation waits for entries that the dispatcher holds: it keeps its row lock during the
	// HTTP call.
	claimTimeout = 2 * time.Second
	// claimInterval is how often it looks whether they were let go.
	claimInterval = 100 * time.Millisecond
	// conflictTries is how often a transaction runs that Postgres undid because of another one.
	conflictTries = 4
	// leaveAll, as a limit, leaves all entries to ReSign.
	leaveAll = -1
	// maxKids bounds the list of an application's kids.
	maxKids = 20
)

// Revocation is what the ledger says of a key that was ended. Times are UTC and the database's.
type Revocation struct {
	ApplicationID int64     `db:"application_id"`
	Kid           string    `db:"kid"`
	SuccessorKid  string    `db:"successor_kid"`
	RevokedAt     time.Time `db:"revoked_at"`
	// EventEntryID is the outbox entry of webhook_key.compromised.
	EventEntryID int64 `db:"event_entry_id"`
	// Resigned entries, in the transaction and after it.
	Resigned int64 `db:"resigned"`
	// Claimed entries were locked by the dispatcher when the revocation committed.
	Claimed int64 `db:"claimed"`
	// Deferred says that there were too many entries to sign anew in the transaction, or that one was refused.
	Deferred bool `db:"deferred"`
	// ReSignedAt is when nothing was under the old kid any more, and no transaction from before the revocation was open.
	ReSignedAt *time.Time `db:"resigned_at"`

	OpenTransactions []string   `db:"open_transactions"` // nil until they are collected
	SweptDead        bool       `db:"swept_dead"`
	SweptEnqueuedAt  *time.Time `db:"swept_enqueued_at"`
	SweptID          *int64     `db:"swept_id"`
}

const revocationColumns = `application_id, kid, successor_kid, revoked_at, event_entry_id, resigned, claimed, deferred,
	resigned_at, open_transactions, swept_dead, swept_enqueued_at, swept_id`

// ErrNotRevoked says that the key is not revoked, or the ledger does not know of it.
var ErrNotRevoked = errors.New("the key is not revoked")

// UnknownKid says that the application has no key of that kid.
type UnknownKid struct {
	// Kids that it has, those that sign first, then the newest; at most 20.
	Kids []string
}

func (e *UnknownKid) Error() string { return fmt.Sprintf("no key of that kid; there are %q", e.Kids) }

// Taken says that another operation ended the key.
type Taken struct{ Operation *Operation }

func (e *Taken) Error() string {
	return fmt.Sprintf("%s/%s ended this key", e.Operation.Namespace, e.Operation.Name)
}

// Revocation reads what an operation revoked, or returns ErrNotRevoked.
func (db *DB) Revocation(ctx context.Context, uid string) (*Revocation, error) {
	r, err := revocation(ctx, db.alone, uid)
	if err != nil && !errors.Is(err, ErrNotRevoked) {
		return nil, fmt.Errorf("reading the revocation from the ledger: %w", describe(err))
	}
	return r, err
}

func revocation(ctx context.Context, q querier, uid string) (*Revocation, error) {
	rows, err := q.Query(ctx, `SELECT `+revocationColumns+` FROM playbook.key_revocations
		WHERE operation_id = (SELECT id FROM playbook.operations WHERE uid = $1)`, uid)
	if err != nil {
		return nil, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Revocation])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotRevoked
	}
	return r, err
}

// Revoke ends a key in one transaction: the key is revoked, its successor issued, the application's undelivered entries
// are signed anew, and webhook_key.compromised is enqueued, signed by the successor. Where more than limit entries are
// undelivered, or the database refuses to have one changed, it leaves them to ReSign: a key is ended whatever its
// webhooks hold. Revoking again returns the first revocation. It needs the role playbook_signer.
//
// It returns UnknownKid, Taken or Unsignable where it can't; nothing was changed then.
func (db *DB) Revoke(ctx context.Context, uid, kid, reason string, limit int64) (*Revocation, error) {
	for try := 1; ; try++ {
		r, err := db.revoke(ctx, uid, kid, reason, limit)
		var said *pgconn.PgError
		// serialization_failure, deadlock_detected
		if errors.As(err, &said) && (said.Code == "40001" || said.Code == "40P01") && try < conflictTries {
			continue
		}
		if refusedBy(err) != "" && limit >= 0 {
			limit = leaveAll
			continue
		}
		return r, err
	}
}

func (db *DB) revoke(ctx context.Context, uid, kid, reason string, limit int64) (*Revocation, error) {
	// Before any lock: a key of RSA takes long to make, and a large outbox to count.
	successor, deferred, err := db.prepare(ctx, uid, kid, limit)
	if err != nil {
		return nil, err
	}
	if successor != nil {
		defer successor.wipe()
	}
	var r *Revocation
	err = db.transactFor(ctx, "revoking the key", planTimeout, pgx.TxOptions{}, func(tx pgx.Tx) error {
		op, err := lockAlone(ctx, tx, uid)
		if err != nil {
			return err
		}
		if r, err = known(ctx, tx, op, kid); err != nil || r != nil {
			return err
		}
		r = &Revocation{ApplicationID: op.ApplicationID, Kid: kid, Deferred: deferred}
		signer, err := replaceKey(ctx, tx, r, successor)
		if err != nil {
			return err
		}
		defer signer.wipe()
		if !deferred {
			if err := reSignNow(ctx, tx, r, signer); err != nil {
				return err
			}
		}
		if err := enqueueEvent(ctx, tx, r, signer); err != nil {
			return err
		}
		return record(ctx, tx, op, r, reason)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// prepare makes the successor's key, and counts. The successor is nil where there is no such key.
func (db *DB) prepare(ctx context.Context, uid, kid string, limit int64) (successor *issued, deferred bool, err error) {
	fail := func(err error) (*issued, bool, error) {
		return nil, false, fmt.Errorf("reading the key to revoke: %w", describe(err))
	}
	var application int64
	if err := db.alone.QueryRow(ctx, `SELECT application_id FROM playbook.operations WHERE uid = $1`,
		uid).Scan(&application); errors.Is(err, pgx.ErrNoRows) {
		return fail(ErrNoOperation)
	} else if err != nil {
		return fail(err)
	}
	var algorithm, public string
	var private []byte
	err = db.alone.QueryRow(ctx,
		`SELECT algorithm, public_key, private_key FROM webhook_signing_keys WHERE oauth_application_id = $1 AND kid = $2`,
		application, kid).Scan(&algorithm, &public, &private)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return fail(err)
	}
	// Where the platform encrypts its keys it could not read the successor's.
	leaked, err := parseKey(kid, algorithm, private)
	if err != nil {
		return nil, false, err
	}
	leaked.wipe()
	var undelivered int64
	if err := db.alone.QueryRow(ctx, `SELECT count(*) FROM (
			SELECT FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND delivered_at IS NULL AND dlq_at IS NOT NULL
			UNION ALL
			SELECT FROM webhook_outbox_entries
			WHERE oauth_application_id = $1 AND delivered_at IS NULL AND dlq_at IS NULL
			LIMIT $2) u`, application, limit+1).Scan(&undelivered); err != nil {
		return nil, false, fmt.Errorf("counting undelivered entries: %w", describe(err))
	}
	successor, err = issueKey(application, kid, algorithm, public)
	return successor, undelivered > limit, err
}

// known returns the key's revocation where the ledger has one. That of an operation that was deleted before its end is
// taken over.
func known(ctx context.Context, tx pgx.Tx, op *Operation, kid string) (*Revocation, error) {
	var owner int64
	err := tx.QueryRow(ctx, `SELECT operation_id
		FROM playbook.key_revocations WHERE application_id = $1 AND kid = $2 FOR UPDATE`,
		op.ApplicationID, kid).Scan(&owner)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if owner != op.ID {
		rows, err := tx.Query(ctx, `SELECT `+operationColumns+` FROM playbook.operations WHERE id = $1`, owner)
		if err != nil {
			return nil, err
		}
		first, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Operation])
		if err != nil {
			return nil, err
		}
		if first.Outcome == nil || *first.Outcome != OutcomeDeleted {
			return nil, &Taken{first}
		}
		if _, err := tx.Exec(ctx, `UPDATE playbook.key_revocations SET operation_id = $3
			WHERE application_id = $1 AND kid = $2`, op.ApplicationID, kid, op.ID); err != nil {
			return nil, err
		}
	}
	return revocation(ctx, tx, op.UID)
}

// replaceKey revokes the key and returns its successor. A key that somebody else revoked has one already, if any is
// active.
func replaceKey(ctx context.Context, tx pgx.Tx, r *Revocation, successor *issued) (*signingKey, error) {
	var status string
	var algorithm string
	err := tx.QueryRow(ctx,
		`SELECT status, algorithm FROM webhook_signing_keys WHERE oauth_application_id = $1 AND kid = $2 FOR NO KEY UPDATE`,
		r.ApplicationID, r.Kid).Scan(&status, &algorithm)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && successor == nil {
		return nil, unknownKid(ctx, tx, r.ApplicationID)
	}
	if err != nil {
		return nil, err
	}
	if err := tx.QueryRow(ctx, `UPDATE webhook_signing_keys SET
			revoked_at = CASE WHEN status = 'revoked' AND revoked_at IS NOT NULL THEN revoked_at ELSE clock_timestamp() END,
			status = 'revoked', grace_until = NULL, updated_at = clock_timestamp()
		WHERE oauth_application_id = $1 AND kid = $2
		RETURNING revoked_at`, r.ApplicationID, r.Kid).Scan(&r.RevokedAt); err != nil {
		return nil, err
	}
	if status == "revoked" {
		signer, err := activeKey(ctx, tx, r.ApplicationID)
		if err == nil {
			r.SuccessorKid = signer.kid
			return signer, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
	}
	r.SuccessorKid = successor.kid
	_, err = tx.Exec(ctx, `INSERT INTO webhook_signing_keys
		(oauth_application_id, kid, algorithm, public_key, private_key, status, activated_at, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5::text, 'active', clock_timestamp(), clock_timestamp(), clock_timestamp())`,
		r.ApplicationID, successor.kid, successor.algorithm, successor.public, string(successor.private))
	return successor.signingKey, err
}

// activeKey reads the key that the platform signs with, and keeps it from being revoked meanwhile.
func activeKey(ctx context.Context, tx pgx.Tx, application int64) (*signingKey, error) {
	var kid, algorithm string
	var private []byte
	if err := tx.QueryRow(ctx, `SELECT kid, algorithm, private_key FROM webhook_signing_keys
		WHERE oauth_application_id = $1 AND status = 'active'
		ORDER BY activated_at DESC NULLS LAST, id DESC LIMIT 1 FOR SHARE`,
		application).Scan(&kid, &algorithm, &private); err != nil {
		return nil, err
	}
	return parseKey(kid, algorithm, private)
}

func unknownKid(ctx context.Context, tx pgx.Tx, application int64) error {
	rows, err := tx.Query(ctx, `SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1
		ORDER BY status = 'active' DESC, id DESC LIMIT $2`, application, maxKids)
	if err != nil {
		return err
	}
	kids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	return &UnknownKid{kids}
}

// enqueueEvent tells the relying party, once per key: the idempotency key is the platform's unique index.
func enqueueEvent(ctx context.Context, tx pgx.Tx, r *Revocation, signer *signingKey) error {
	payload, err := json.Marshal(map[string]any{
		"id": fmt.Sprintf("evt_compromised_%d_%s", r.ApplicationID, r.Kid), "type": CompromisedEvent,
		"data": map[string]string{"kid": r.Kid, "successor_kid": r.SuccessorKid,
			"revoked_at": r.RevokedAt.UTC().Format(time.RFC3339Nano)},
	})
	if err != nil {
		return err
	}
	// What is sent, and so what is signed, is the payload as Postgres prints it.
	var body string
	if err := tx.QueryRow(ctx, `SELECT $1::jsonb::text`, string(payload)).Scan(&body); err != nil {
		return err
	}
	signature, err := signer.sign(body)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("%s:%d:%s", CompromisedEvent, r.ApplicationID, r.Kid)
	if _, err := tx.Exec(ctx, `INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, payload, idempotency_key, kid, signature, attempts,
			enqueued_at, created_at, updated_at)
		VALUES ($1, $2, $3::jsonb, $4, $5, $6, 0,
			clock_timestamp(), clock_timestamp(), clock_timestamp()) ON CONFLICT DO NOTHING`,
		r.ApplicationID, CompromisedEvent, body, key, signer.kid, signature); err != nil {
		return err
	}
	return tx.QueryRow(ctx, `SELECT id FROM webhook_outbox_entries WHERE idempotency_key = $1`, key).Scan(&r.EventEntryID)
}

func record(ctx context.Context, tx pgx.Tx, op *Operation, r *Revocation, reason string) error {
	_, err := tx.Exec(ctx, `INSERT INTO playbook.key_revocations
		(application_id, kid, operation_id, reason, successor_kid, revoked_at, event_entry_id, deferred, resigned, claimed)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		r.ApplicationID, r.Kid, op.ID, reason, r.SuccessorKid, r.RevokedAt, r.EventEntryID, r.Deferred, r.Resigned, r.Claimed)
	return err
}

// reSignNow signs the application's undelivered entries anew within the revocation. Those that the dispatcher holds are
// waited for a little, and then left.
func reSignNow(ctx context.Context, tx pgx.Tx, r *Revocation, signer *signingKey) error {
	for end := time.Now().Add(claimTimeout); ; {
		r.Claimed = 0
		for _, dead := range []string{"IS NOT NULL", "IS NULL"} {
			signed, left, err := reSignCursor(ctx, tx, r, signer, dead)
			if err != nil {
				return err
			}
			r.Resigned += signed
			r.Claimed += left
		}
		if r.Claimed == 0 || time.Now().After(end) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(claimInterval):
		}
	}
}

const (
	undeliveredSQL = `FROM webhook_outbox_entries
		WHERE oauth_application_id = %[1]d AND delivered_at IS NULL AND dlq_at %[2]s`
	// The count is taken in the cursor's own snapshot, once, and from the index alone where the table was vacuumed.
	declareSQL = `DECLARE unsigned NO SCROLL CURSOR FOR SELECT id, payload::text, (SELECT count(*) ` + undeliveredSQL + `)
		` + undeliveredSQL + ` AND kid <> %[3]s FOR NO KEY UPDATE SKIP LOCKED`
	fetchSQL  = `FETCH %d FROM unsigned`
	reSignSQL = `UPDATE webhook_outbox_entries w
		SET kid = $1, signature = s.signature, updated_at = clock_timestamp()
		FROM unnest($2::bigint[], $3::text[]) AS s(id, signature) WHERE w.id = s.id`
	closeSQL = `CLOSE unsigned`
)

const (
	// pagesAhead are read and signed while the server writes the one before them, so that a page that takes longer on
	// either side holds up neither.
	pagesAhead = 2
	// firstPage is how many entries are read before it is known how large they are, pageBytes what the bodies of a later
	// page have together: memory must grow neither with the entries nor with what they hold.
	firstPage = 128
	pageBytes = 4 << 20
)

// reSignCursor goes through a kind of undelivered entries once. It returns how many it signed, and how many are left
// under another kid.
func reSignCursor(ctx context.Context, tx pgx.Tx, r *Revocation, signer *signingKey, dead string) (signed, left int64,
	err error) {
	// DECLARE takes no parameters; our own kids need no more quoting than this.
	if _, err := tx.Exec(ctx, fmt.Sprintf(declareSQL, r.ApplicationID, dead, quoteLiteral(signer.kid))); err != nil {
		return 0, 0, err
	}
	var pages []*unsigned
	fetch, last := fmt.Sprintf(fetchSQL, firstPage), (*signatures)(nil)
	add := func(page *unsigned) {
		page.signatures = signer.begin(page.bodies, last)
		pages, last = append(pages, page), page.signatures
		fetch = fmt.Sprintf(fetchSQL, pageAfter(page.bodies, signer.page()))
	}
	for range 1 + pagesAhead {
		rows, err := tx.Query(ctx, fetch)
		if err != nil {
			return 0, 0, err
		}
		page, err := collect(rows)
		if err != nil {
			return 0, 0, err
		}
		add(page)
	}
	undelivered := pages[0].undelivered
	for len(pages[0].ids) > 0 {
		made, err := pages[0].signatures.all()
		if err != nil {
			return 0, 0, err
		}
		batch := &pgx.Batch{}
		batch.Queue(reSignSQL, signer.kid, pages[0].ids, made)
		batch.Queue(fetch)
		results := tx.SendBatch(ctx, batch)
		tag, err := results.Exec()
		next := &unsigned{}
		if err == nil {
			var rows pgx.Rows
			if rows, err = results.Query(); err == nil {
				next, err = collect(rows)
			}
		}
		if err = errors.Join(err, results.Close()); err != nil {
			return 0, 0, err
		}
		signed += tag.RowsAffected()
		// Not by a slice of it, which would keep the bodies.
		pages = slices.Delete(pages, 0, 1)
		add(next)
	}
	if _, err := tx.Exec(ctx, closeSQL); err != nil || signed == undelivered && signed > 0 {
		return signed, 0, err
	}
	// Some were skipped. They may also have been delivered meanwhile, or be under this kid already: to look costs as much
	// as to read each entry once more.
	err = tx.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) `+undeliveredSQL+` AND kid <> %[3]s`, r.ApplicationID, dead,
		quoteLiteral(signer.kid))).Scan(&left)
	return signed, left, err
}

// unsigned is a page of entries to sign.
type unsigned struct {
	ids        []int64
	bodies     []string
	signatures *signatures
	// undelivered entries of the kind when the cursor was declared, whoever held them and whatever their kid.
	undelivered int64
}

// pageAfter is how many entries to read after a page with such bodies: as many as have pageBytes, and no more than
// most. It halves most, so that few statements are prepared.
func pageAfter(bodies []string, most int) int {
	bytes := 0
	for _, body := range bodies {
		bytes += len(body)
	}
	for most > 1 && most*bytes > pageBytes*len(bodies) {
		most /= 2
	}
	return most
}

func collect(rows pgx.Rows) (*unsigned, error) {
	page := &unsigned{}
	var id int64
	var body string
	_, err := pgx.ForEachRow(rows, []any{&id, &body, &page.undelivered}, func() error {
		page.ids, page.bodies = append(page.ids, id), append(page.bodies, body)
		return nil
	})
	return page, err
}
