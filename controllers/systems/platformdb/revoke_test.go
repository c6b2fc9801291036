package platformdb_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

const application = 42

// keyring is a platform's database with the application acme, connected to as its owner and by the operator's roles.
type keyring struct {
	*testing.T
	server            *logi.Server
	postgres          *servers.Postgres
	owner             *pgxpool.Pool
	operator, signing *platformdb.DB
	url               string
}

func newKeyring(t *testing.T) *keyring {
	t.Helper()
	ctx := t.Context()
	postgres := startPostgres(t, map[string]string{"max_prepared_transactions": "5"})
	k := &keyring{T: t, postgres: postgres, url: postgres.URL("postgres")}
	var err error
	if k.owner, err = pgxpool.New(ctx, k.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.owner.Close)
	if k.server, err = logi.Start(ctx, logi.Config{DatabaseURL: k.url, ManualDispatch: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.server.Close(); err != nil {
			t.Error(err)
		}
	})
	k.operator, k.signing = openAs(t, postgres, "playbook_operator"), openAs(t, postgres, "playbook_signer")
	if err := k.server.CreateApplication(ctx, application, "acme"); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keyring) exec(sql string, args ...any) {
	k.Helper()
	if _, err := k.owner.Exec(k.Context(), sql, args...); err != nil {
		k.Fatalf("%s: %v", sql, err)
	}
}

func (k *keyring) text(sql string, args ...any) (text string) {
	k.Helper()
	if err := k.owner.QueryRow(k.Context(), sql, args...).Scan(&text); err != nil {
		k.Fatalf("%s: %v", sql, err)
	}
	return text
}

func (k *keyring) kid() string {
	k.Helper()
	return k.text(`SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1 AND status = 'active'
		ORDER BY id DESC LIMIT 1`, application)
}

// open opens an operation and returns its UID.
func (k *keyring) open(name string) platformdb.Identity {
	k.Helper()
	id := platformdb.Identity{UID: uuid.NewString(), Kind: "KeyCompromise", Namespace: "n", Name: name, SpecDigest: name,
		ApplicationID: application}
	if _, err := k.operator.OpenOperation(k.Context(), id); err != nil {
		k.Fatal(err)
	}
	return id
}

func (k *keyring) dead(n int) []int64 {
	k.Helper()
	ids, err := k.server.SeedDead(k.Context(), application, n, "HTTP 503: Service Unavailable", 7)
	if err != nil {
		k.Fatal(err)
	}
	return ids
}

// verify checks each undelivered entry's signature, as a relying party does, and returns how many there are by kid.
func (k *keyring) verify() map[string]int {
	k.Helper()
	rows, err := k.owner.Query(k.Context(), `SELECT e.kid, e.signature, e.payload::text, s.public_key
		FROM webhook_outbox_entries e JOIN webhook_signing_keys s USING (kid)
		WHERE e.delivered_at IS NULL`)
	if err != nil {
		k.Fatal(err)
	}
	byKid := map[string]int{}
	var kid, signature, body, public string
	if _, err := pgx.ForEachRow(rows, []any{&kid, &signature, &body, &public}, func() error {
		block, _ := pem.Decode([]byte(public))
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return err
		}
		signed, err := jose.ParseDetached(signature, []byte(body), []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256,
			jose.RS256})
		if err != nil {
			return err
		}
		if signed.Signatures[0].Header.KeyID != kid {
			return fmt.Errorf("an entry under %s is signed by %s", kid, signed.Signatures[0].Header.KeyID)
		}
		byKid[kid]++
		_, err = signed.Verify(crypto.PublicKey(key))
		return err
	}); err != nil {
		k.Fatal(err)
	}
	return byKid
}

func TestARevocationHappensOnceAndWhole(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	ctx := t.Context()
	k.dead(2345)
	if _, err := k.server.Enqueue(ctx, application, 20); err != nil {
		t.Fatal(err)
	}
	kid := k.kid()
	id := k.open("leak")

	// A reader sees all of it or nothing.
	reading, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	readers.Go(func() {
		for reading.Err() == nil {
			var state string
			if err := k.owner.QueryRow(reading, `SELECT concat_ws(' ', (SELECT status FROM webhook_signing_keys WHERE kid = $1),
					(SELECT count(*) FROM webhook_signing_keys), (SELECT count(*) FROM webhook_outbox_entries WHERE kid = $1),
					(SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'),
					(SELECT count(*) FROM playbook.key_revocations))`, kid).Scan(&state); err != nil {
				continue
			}
			if state != "active 1 2365 0 0" && state != "revoked 2 0 1 1" {
				t.Errorf("a reader saw %s", state)
			}
		}
	})
	var together sync.WaitGroup
	got := make([]*platformdb.Revocation, 3)
	for i := range got {
		together.Go(func() {
			var err error
			if got[i], err = k.signing.Revoke(ctx, id.UID, kid, "leaked", 100_000); err != nil {
				t.Error(err)
			}
		})
	}
	together.Wait()
	stop()
	readers.Wait()
	if t.Failed() {
		return
	}
	r := got[0]
	for _, other := range got[1:] {
		if other.SuccessorKid != r.SuccessorKid || !other.RevokedAt.Equal(r.RevokedAt) {
			t.Errorf("%+v and %+v", r, other)
		}
	}
	if byKid := k.verify(); byKid[r.SuccessorKid] != 2366 || len(byKid) != 1 || r.Resigned != 2365 || r.Claimed != 0 ||
		r.Deferred {
		t.Errorf("%v, %+v", byKid, r)
	}
	if text := k.text(`SELECT payload::text FROM webhook_outbox_entries WHERE id = $1`,
		r.EventEntryID); !strings.Contains(text, kid) || strings.Contains(text, "leaked") {
		t.Error(text)
	}
	progress, err := k.signing.ReSign(ctx, id.UID)
	if err != nil || progress.ReSignedAt == nil {
		t.Errorf("%+v, %v", progress, err)
	}
}

func TestAKeyIsEndedOnceWhoeverAsks(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	ctx := t.Context()
	kid := k.kid()
	first, second, third := k.open("first"), k.open("second"), k.open("third")
	r, err := k.signing.Revoke(ctx, first.UID, kid, "leaked", 10)
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.signing.Revoke(ctx, second.UID, kid, "leaked", 10)
	if taken := (*platformdb.Taken)(nil); !errors.As(err, &taken) || taken.Operation.Name != "first" {
		t.Errorf("%v", err)
	}
	if err := k.operator.CloseOperation(ctx, first, platformdb.OutcomeDeleted); err != nil {
		t.Fatal(err)
	}
	over, err := k.signing.Revoke(ctx, third.UID, kid, "leaked", 10)
	if err != nil || over.SuccessorKid != r.SuccessorKid {
		t.Errorf("%+v, %v", over, err)
	}
	if n := k.text(`SELECT count(*)::text FROM webhook_signing_keys`); n != "2" {
		t.Errorf("there are %s keys", n)
	}
	for _, kid := range []string{"nobody", "%", `"`, "'; --", strings.Repeat("x", 10_000)} {
		_, err := k.signing.Revoke(ctx, second.UID, kid, "leaked", 10)
		if unknown := (*platformdb.UnknownKid)(nil); !errors.As(err, &unknown) ||
			!slices.Contains(unknown.Kids, r.SuccessorKid) {
			t.Errorf("%.20q: %v", kid, err)
		}
	}
}

func TestWhatARevocationLeavesIsSignedAnewAfterIt(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	ctx := t.Context()
	ids := k.dead(2500)
	kid := k.kid()

	// Five transactions have read the old key and commit after the revocation, one of them prepared.
	foreign := make([]*pgx.Conn, 5)
	for i := range foreign {
		var err error
		if foreign[i], err = pgx.Connect(ctx, k.url); err != nil {
			t.Fatal(err)
		}
		defer foreign[i].Close(ctx)
		if _, err := foreign[i].Exec(ctx, `BEGIN; SELECT kid FROM webhook_signing_keys WHERE status = 'active'`); err != nil {
			t.Fatal(err)
		}
	}
	// The dispatcher holds an entry.
	claim, err := k.owner.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim.Exec(ctx, `SELECT FROM webhook_outbox_entries WHERE id = $1 FOR UPDATE`, ids[7]); err != nil {
		t.Fatal(err)
	}
	id := k.open("leak")
	r, err := k.signing.Revoke(ctx, id.UID, kid, "leaked", 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if r.Claimed != 1 || r.Resigned != 2499 {
		t.Errorf("%+v", r)
	}
	progress := func() *platformdb.ReSigning {
		t.Helper()
		p, err := k.signing.ReSign(ctx, id.UID)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := progress(); len(p.Open) != 6 || p.Left != 1 || p.ReSignedAt != nil {
		t.Errorf("%+v", p)
	}
	if err := claim.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	for i, conn := range foreign {
		if _, err := conn.Exec(ctx, fmt.Sprintf(`INSERT INTO webhook_outbox_entries
				(oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
			SELECT oauth_application_id, event_type, payload, 'late %d', kid, signature, clock_timestamp()
			FROM webhook_outbox_entries WHERE false
			UNION ALL
			SELECT %d, 'user.updated', '{"late": true}'::jsonb, 'late %d', '%s', 'forged', clock_timestamp()`,
			i, application, i, kid)); err != nil {
			t.Fatal(err)
		}
		end := "COMMIT"
		if i == 4 {
			end = "PREPARE TRANSACTION 'it''s late'"
		}
		if _, err := conn.Exec(ctx, end); err != nil {
			t.Fatal(err)
		}
		if p := progress(); p.ReSignedAt != nil || i < 4 && len(p.Open) != 4-i {
			t.Errorf("after %d: %+v", i, p)
		}
	}
	if p := progress(); len(p.Open) != 1 || !strings.Contains(p.Open[0], "late") {
		t.Errorf("%+v", p)
	}
	k.exec(`COMMIT PREPARED 'it''s late'`)
	for end := time.Now().Add(time.Minute); progress().ReSignedAt == nil; {
		if time.Now().After(end) {
			t.Fatalf("%+v", progress())
		}
	}
	if byKid := k.verify(); byKid[r.SuccessorKid] != 2506 || len(byKid) != 1 {
		t.Errorf("%v", byKid)
	}
	if p := progress(); p.Resigned != 2505 {
		t.Errorf("%+v", p)
	}
}

func TestVolumeDoesNotDelayARevocation(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	ctx := t.Context()
	k.dead(12_345)
	kid := k.kid()
	id := k.open("leak")
	r, err := k.signing.Revoke(ctx, id.UID, kid, "leaked", 12_344)
	if err != nil || !r.Deferred || r.Resigned != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	passes := 0
	for end := time.Now().Add(time.Minute); ; passes++ {
		p, err := k.signing.ReSign(ctx, id.UID)
		if err != nil {
			t.Fatal(err)
		}
		if p.ReSignedAt != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", p)
		}
	}
	if byKid := k.verify(); byKid[r.SuccessorKid] != 12_346 || len(byKid) != 1 || passes == 0 {
		t.Errorf("%v after %d passes", byKid, passes)
	}
}

func TestARefusedSignatureHoldsUpNothingElse(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	ctx := t.Context()
	ids := k.dead(1500)
	kid := k.kid()
	k.exec(fmt.Sprintf(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON webhook_outbox_entries FOR EACH ROW WHEN (OLD.id = %d)
			EXECUTE FUNCTION refuse()`, ids[1400]))
	id := k.open("leak")
	r, err := k.signing.Revoke(ctx, id.UID, kid, "leaked", 100_000)
	if err != nil || !r.Deferred || r.Resigned != 0 || k.kid() != r.SuccessorKid {
		t.Fatalf("%+v, %v", r, err)
	}
	want := []platformdb.Refusal{{State: "P0001", Entries: 1, Entry: ids[1400]}}
	p, err := k.signing.ReSign(ctx, id.UID)
	if err != nil || !p.Swept || p.Left != 1 || p.Resigned != 1499 || !reflect.DeepEqual(p.Refusals, want) {
		t.Errorf("%+v, %v", p, err)
	}
	if byKid := k.verify(); byKid[kid] != 1 || byKid[r.SuccessorKid] != 1500 {
		t.Errorf("%v", byKid)
	}
	k.exec(`DROP TRIGGER refuse ON webhook_outbox_entries`)
	if p, err := k.signing.ReSign(ctx, id.UID); err != nil || p.ReSignedAt == nil || p.Resigned != 1500 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestAKeyThatSomebodyElseRevokedIsFollowedToItsEnd(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	ctx := t.Context()
	k.dead(10)
	kid := k.kid()
	k.exec(`UPDATE webhook_signing_keys SET status = 'revoked', revoked_at = '2026-11-23 03:00:00' WHERE kid = $1`, kid)
	id := k.open("leak")
	r, err := k.signing.Revoke(ctx, id.UID, kid, "leaked", 100)
	if err != nil {
		t.Fatal(err)
	}
	if byKid := k.verify(); r.RevokedAt.Format(time.DateTime) != "2026-11-23 03:00:00" || byKid[r.SuccessorKid] != 11 {
		t.Errorf("%v, %+v", byKid, r)
	}
}

func TestAnEncryptedKeyColumnIsToldFromAKey(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	kid := k.kid()
	k.exec(`UPDATE webhook_signing_keys SET private_key = '{"p":"c2VjcmV0","h":{"iv":"aXY=","at":"YXQ="}}'`)
	_, err := k.signing.Revoke(t.Context(), k.open("leak").UID, kid, "leaked", 100)
	if unsignable := (*platformdb.Unsignable)(nil); !errors.As(err, &unsignable) ||
		strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("%v", err)
	}
	if k.kid() != kid {
		t.Error("the key was revoked")
	}
}
