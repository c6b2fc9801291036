package platformdb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

func (k *keyring) rake(kid string) {
	k.Helper()
	if printed, ok := k.server.Rake(k.Context(), "/", []string{"exec", "rails",
		fmt.Sprintf("webhooks:compromise[%d,%s]", application, kid), "RAILS_ENV=production"}, 0); !ok {
		k.Fatal(printed)
	}
}

func TestACommandIsBegunAtMostOnce(t *testing.T) {
	k := newKeyring(t)
	ctx, kid := t.Context(), k.kid()
	at := time.Now().Truncate(time.Microsecond)
	command := func(n int) platformdb.Command {
		return platformdb.Command{StartedAt: at.Add(time.Duration(n) * time.Second), Kid: kid, Target: "ssh", Text: "rake"}
	}
	begin := func(id platformdb.Identity, n int) error { return k.operator.BeginCommand(ctx, id.UID, command(n)) }
	end := func(id platformdb.Identity, n int, outcome string) {
		t.Helper()
		if err := k.operator.EndCommand(ctx, id.UID, command(n).StartedAt, platformdb.CommandEnd{Outcome: outcome,
			ExitStatus: new(int32(7))}, "printed"); err != nil {
			t.Fatal(err)
		}
	}
	abandon := func(id platformdb.Identity, n int) platformdb.CommandEnd {
		t.Helper()
		end, err := k.operator.AbandonCommand(ctx, id.UID, command(n))
		if err != nil {
			t.Fatal(err)
		}
		return end
	}
	ran := func(err error) {
		t.Helper()
		if !errors.Is(err, platformdb.ErrCommandRan) {
			t.Errorf("begun again: %v", err)
		}
	}
	first := k.open("first")
	// One that was given up stays so; the next one may be begun, and that once.
	if got := abandon(first, 1); got.Outcome != platformdb.CommandNotSent {
		t.Errorf("%+v", got)
	}
	if err := begin(first, 1); !errors.Is(err, platformdb.ErrGivenUp) {
		t.Errorf("%v", err)
	}
	if err := begin(first, 2); err != nil {
		t.Fatal(err)
	}
	ran(begin(first, 2))
	ran(begin(first, 3))
	if got := abandon(first, 2); got.Outcome != "" {
		t.Errorf("%+v", got)
	}
	// Another one for the same key waits, and one for another key does not.
	second := k.open("second")
	taken := (*platformdb.Taken)(nil)
	if err := begin(second, 1); !errors.As(err, &taken) || taken.Operation.Name != "first" {
		t.Errorf("%v", err)
	}
	if _, err := k.operator.AdoptRevocation(ctx, second.UID, kid, "leaked"); !errors.As(err, &taken) {
		t.Errorf("%v", err)
	}
	other := command(1)
	other.Kid = "other"
	if err := k.operator.BeginCommand(ctx, k.open("other").UID, other); err != nil {
		t.Error(err)
	}
	// What ended without doing anything may be begun again; what did something, or may have, not.
	for i, outcome := range []string{platformdb.CommandFailed, platformdb.CommandNotSent} {
		end(first, 2+i, outcome)
		if got := abandon(first, 2+i); got.Outcome != outcome || *got.ExitStatus != 7 {
			t.Errorf("%+v", got)
		}
		if err := begin(first, 3+i); err != nil {
			t.Fatal(err)
		}
	}
	for _, outcome := range []string{platformdb.CommandSucceeded, platformdb.CommandLost} {
		end(first, 4, outcome)
		ran(begin(first, 5))
	}
	// An operation that was deleted begins none, and holds up none.
	if err := k.operator.CloseOperation(ctx, first, platformdb.OutcomeDeleted); err != nil {
		t.Fatal(err)
	}
	if err := begin(first, 6); !errors.Is(err, platformdb.ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := begin(second, 1); err != nil {
		t.Error(err)
	}
	// Evidence is entered all the same, and purged like any other.
	end(first, 4, platformdb.CommandLost)
	if n, err := k.operator.Purge(ctx, time.Now().Add(time.Hour)); err != nil || n == 0 {
		t.Errorf("%d, %v", n, err)
	}
	if got := k.text(`SELECT coalesce(string_agg(output, ''), '') FROM playbook.command_runs`); got != "" {
		t.Errorf("%q is left", got)
	}
}

func TestWhatThePlatformEndedIsAdoptedAsItIs(t *testing.T) {
	k := newKeyring(t)
	ctx, kid := t.Context(), k.kid()
	if err := k.server.EncryptKeys(ctx); err != nil {
		t.Fatal(err)
	}
	k.dead(7)
	id := k.open("first")
	if _, err := k.operator.AdoptRevocation(ctx, id.UID, kid, "leaked"); !errors.Is(err, platformdb.ErrNotRevoked) {
		t.Errorf("%v", err)
	}
	if _, err := k.operator.AdoptRevocation(ctx, id.UID, "nobody", "leaked"); !errors.As(err,
		new(*platformdb.UnknownKid)) {
		t.Errorf("%v", err)
	}
	// Revoked by other means, bit by bit.
	unfinished := (*platformdb.Unfinished)(nil)
	k.exec(`UPDATE webhook_signing_keys SET status = 'revoked', revoked_at = clock_timestamp()`)
	if _, err := k.operator.AdoptRevocation(ctx, id.UID, kid, "leaked"); !errors.As(err, &unfinished) ||
		!strings.Contains(err.Error(), "no active key") {
		t.Errorf("%v", err)
	}
	k.exec(`INSERT INTO webhook_signing_keys
			(oauth_application_id, kid, algorithm, public_key, private_key, activated_at)
		VALUES ($1, 'other', 'EdDSA', '', '', clock_timestamp())`, application)
	if _, err := k.operator.AdoptRevocation(ctx, id.UID, kid, "leaked"); !errors.As(err, &unfinished) ||
		!strings.Contains(err.Error(), "no event") {
		t.Errorf("%v", err)
	}
	k.rake(kid)
	r, err := k.operator.AdoptRevocation(ctx, id.UID, kid, "leaked")
	if err != nil {
		t.Fatal(err)
	}
	if r.SuccessorKid != k.kid() || r.Resigned != 7 || r.Claimed != 0 || r.Deferred ||
		fmt.Sprint(r.EventEntryID) != k.text(`SELECT id::text FROM webhook_outbox_entries
			WHERE event_type = 'webhook_key.compromised'`) ||
		r.RevokedAt.Format("15:04:05.000000") != k.text(`SELECT to_char(revoked_at, 'HH24:MI:SS.US')
			FROM webhook_signing_keys WHERE kid = $1`, kid) {
		t.Errorf("%+v", r)
	}
	again, err := k.operator.AdoptRevocation(ctx, id.UID, kid, "leaked")
	if err != nil || again.RevokedAt != r.RevokedAt || again.EventEntryID != r.EventEntryID {
		t.Errorf("%+v, %v", again, err)
	}
	taken := (*platformdb.Taken)(nil)
	if _, err := k.operator.AdoptRevocation(ctx, k.open("second").UID, kid, "leaked"); !errors.As(err, &taken) ||
		taken.Operation.Name != "first" {
		t.Errorf("%v", err)
	}
	// The successor's own end has an event of its own, also where the first one was given back to the dispatcher since.
	next := k.open("next")
	k.rake(r.SuccessorKid)
	k.exec(`UPDATE webhook_outbox_entries SET enqueued_at = clock_timestamp() WHERE id = $1`, r.EventEntryID)
	successor, err := k.operator.AdoptRevocation(ctx, next.UID, r.SuccessorKid, "leaked")
	if err != nil || successor.EventEntryID == r.EventEntryID || successor.SuccessorKid != k.kid() {
		t.Errorf("%+v, %v", successor, err)
	}
}

func TestWhatTheRakeLeftIsWatchedAndNotSigned(t *testing.T) {
	k := newKeyring(t)
	ctx, kid := t.Context(), k.kid()
	id := k.open("first")
	straggler, err := k.owner.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer straggler.Rollback(ctx)
	k.rake(kid)
	if _, err := k.operator.AdoptRevocation(ctx, id.UID, kid, "leaked"); err != nil {
		t.Fatal(err)
	}
	if _, err := straggler.Exec(ctx, `INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
		VALUES ($1, 'user.updated', '{}', 'late', $2, 'old', clock_timestamp())`, application, kid); err != nil {
		t.Fatal(err)
	}
	watch := func(left int64, open int, done bool) {
		t.Helper()
		p, err := k.operator.AwaitReSigned(ctx, id.UID)
		if err != nil {
			t.Fatal(err)
		}
		if p.Left != left || len(p.Open) != open || (p.ReSignedAt != nil) != done {
			t.Errorf("%d left, open %q, done at %v; want %d, %d, %t", p.Left, p.Open, p.ReSignedAt, left, open, done)
		}
	}
	watch(0, 1, false)
	if err := straggler.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	watch(1, 0, false)
	if got := k.text(`SELECT kid FROM webhook_outbox_entries WHERE idempotency_key = 'late'`); got != kid {
		t.Errorf("the late entry is under %s", got)
	}
	k.exec(`UPDATE webhook_outbox_entries SET delivered_at = clock_timestamp() WHERE idempotency_key = 'late'`)
	watch(0, 0, true)
}
