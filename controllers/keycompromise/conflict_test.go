package keycompromise_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// points of a revocation's transaction, in their order, by the trigger that fires there. The last fires within COMMIT.
var points = []struct{ name, when string }{
	{"revoked", "AFTER UPDATE OF status ON webhook_signing_keys"},
	{"issued", "AFTER INSERT ON webhook_signing_keys"},
	{"event", "AFTER INSERT ON webhook_outbox_entries"},
	{"resigned", "AFTER UPDATE OF signature ON webhook_outbox_entries"},
	{"recorded", "AFTER INSERT ON playbook.key_revocations"},
	{"committing", ""},
}

// trouble makes what happens at a point of the transaction fail the first n times, by SQL that PL/pgSQL runs. Sequences
// are not rolled back, so tries counts those that were undone too.
func (s *scene) trouble(when string, n int, sql string) {
	s.Helper()
	s.Exec(`CREATE SEQUENCE logi_test.tries`)
	s.Exec(fmt.Sprintf(`CREATE FUNCTION logi_test.trouble() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		IF nextval('logi_test.tries') <= %d THEN %s; END IF; RETURN NULL; END $$`, n, sql))
	if when == "" {
		s.Exec(`CREATE CONSTRAINT TRIGGER trouble AFTER INSERT ON playbook.key_revocations
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION logi_test.trouble()`)
		return
	}
	s.Exec(`CREATE TRIGGER trouble ` + when + ` FOR EACH STATEMENT EXECUTE FUNCTION logi_test.trouble()`)
}

// tries of the statement that trouble was made for.
func (s *scene) tries() int64 {
	return stage.Query[int64](s.Scene, `SELECT last_value FROM logi_test.tries WHERE is_called`)
}

func TestATransactionThatPostgresUndoesForAnotherIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		when, code string
	}{
		"serialization": {points[3].when, "40001"},
		"deadlock":      {points[4].when, "40P01"},
		"commit":        {"", "40001"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "conflict-"+name, idle)
			if _, err := s.SeedDead(s.Ctx, acme, 10, "HTTP 503: Service Unavailable", 7); err != nil {
				t.Fatal(err)
			}
			// More often than one pass tries.
			s.trouble(c.when, 5, fmt.Sprintf("RAISE 'undone' USING ERRCODE = '%s'", c.code))
			name := s.apply("key", s.kid(), "{}")
			s.deliverAfterRevocation()
			s.AwaitReady(name)
			if tries := s.tries(); tries < 6 {
				t.Errorf("%d tries", tries)
			}
			s.revokedOnce()
		})
	}
}

func TestARealDeadlockIsTriedAgain(t *testing.T) {
	s := newScene(t, "deadlock", idle)
	kid := s.kid()
	other, err := pgx.Connect(s.Ctx, s.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	// The one that waited first looks for a deadlock first, and gives up.
	if _, err := other.Exec(s.Ctx,
		`SET deadlock_timeout = '20s'; BEGIN; LOCK TABLE webhook_outbox_entries IN SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	name := s.apply("key", kid, "{}")
	stage.Eventually(t, "the revocation waits for the outbox", func() bool {
		return stage.Query[bool](s.Scene, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND usename = 'playbook_signer' AND wait_event_type = 'Lock')`)
	})
	before := stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_signing_keys`)
	if _, err := other.Exec(s.Ctx, `UPDATE webhook_signing_keys SET updated_at = clock_timestamp()`); err != nil {
		t.Fatalf("Postgres chose the other transaction: %v", err)
	}
	// What was undone is not there; and the next try waits for the key's row now.
	if after := stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_signing_keys`); before != 1 || after != 1 {
		t.Errorf("there were %d keys, and then %d", before, after)
	}
	if _, err := other.Exec(s.Ctx, `COMMIT`); err != nil {
		t.Fatal(err)
	}
	s.deliverAfterRevocation()
	s.AwaitReady(name)
	if n := stage.Query[int64](s.Scene,
		`SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n == 0 {
		t.Error("Postgres saw no deadlock")
	}
	s.revokedOnce()
}

// The backend is stage.Ended after each of them in turn, and a reader looks all the time.
func TestTheFourPromisesAreAtomic(t *testing.T) {
	for _, point := range points {
		t.Run(point.name, func(t *testing.T) {
			s := newScene(t, "atomic-"+point.name, idle)
			if _, err := s.SeedDead(s.Ctx, acme, 20, "HTTP 503: Service Unavailable", 7); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Enqueue(s.Ctx, acme, 3); err != nil {
				t.Fatal(err)
			}
			kid := s.kid()
			state := func() string {
				return stage.Query[string](s.Scene, `SELECT concat_ws(' ',
					(SELECT status FROM webhook_signing_keys WHERE kid = $1),
					(SELECT count(*) FROM webhook_signing_keys),
					(SELECT count(*) FROM webhook_outbox_entries WHERE kid = $1),
					(SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'),
					(SELECT count(*) FROM playbook.key_revocations))`, kid)
			}
			const nothing, all = "active 1 23 0 0", "revoked 2 0 1 1"
			if got := state(); got != nothing {
				t.Fatalf("before the revocation a reader sees %s", got)
			}
			s.trouble(point.when, 2, "PERFORM pg_terminate_backend(pg_backend_pid())")
			s.apply("key", kid, "{}")
			var seen []string
			stage.Eventually(t, "the key is revoked", func() bool {
				for range 20 {
					if got := state(); len(seen) == 0 || seen[len(seen)-1] != got {
						seen = append(seen, got)
					}
				}
				return seen[len(seen)-1] != nothing
			})
			if len(seen) > 2 || seen[len(seen)-1] != all {
				t.Errorf("a reader saw %q", seen)
			}
			if tries := s.tries(); tries < 3 {
				t.Errorf("%d tries", tries)
			}
			s.deliver()
			s.everyWebhookOnce(4)
			s.revokedOnce()
		})
	}
}

func TestADatabaseThatIsRestartedInTheMiddleCostsNothing(t *testing.T) {
	t.Parallel()
	own, err := shared.WithPostgres(t.Context(), "restarted", servers.PostgresOptions{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s := newSceneIn(t, own, "restarted", logi.Config{JWKSMaxAge: time.Nanosecond}, jose.ES256)
	if _, err := s.SeedDead(s.Ctx, acme, 50, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	// Once within the transaction, when all but the ledger's row is written, and once between the steps.
	held, err := pgx.Connect(s.Ctx, s.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close(context.Background())
	if _, err := held.Exec(s.Ctx, `BEGIN; LOCK TABLE playbook.key_revocations IN SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	kid := s.kid()
	s.SetFault(acme, logi.Fault{Status: 503})
	name := s.apply("key", kid, "{}")
	stage.Eventually(t, "the revocation waits for the ledger", func() bool {
		return stage.Query[bool](s.Scene, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND usename = 'playbook_signer' AND wait_event_type = 'Lock'
			AND query LIKE 'INSERT INTO playbook.key_revocations%')`)
	})
	if err := own.Postgres.Restart(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.Await(name, "revoked", func(k *v1alpha1.KeyCompromise) bool { return k.Status.SuccessorKid != "" })
	if err := own.Postgres.Stop(s.Ctx); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitReason(name, v1alpha1.ReasonDatabaseUnreachable)
	for _, password := range []string{own.OperatorPassword, own.SignerPassword} {
		if strings.Contains(stage.JSON(k), password) {
			t.Error("the object shows a password")
		}
	}
	if err := own.Postgres.Start(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.SetFault(acme, logi.Fault{})
	stage.Eventually(t, "the event is due at once", func() bool {
		s.Exec(`UPDATE webhook_outbox_entries SET next_retry_at = NULL`)
		return stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_outbox_entries WHERE delivered_at IS NOT NULL`) == 1
	})
	s.AwaitReady(name)
	s.everyWebhookOnce(1)
	s.revokedOnce()
}

func TestOneThatIsDeletedInTheMiddleDoesNothingMore(t *testing.T) {
	s := newScene(t, "deleted", logi.Config{ManualDispatch: true, JWKSMaxAge: time.Nanosecond})
	kid := s.kid()
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"requireApproval":[{"kind":"KeyCompromise","step":"Revoked"}]}}`)
	early := s.apply("early", kid, "{}")
	s.AwaitReason(early, v1alpha1.ReasonWaitingForApproval)
	s.Delete(early)
	if s.kid() != kid {
		t.Error("one that was deleted before its approval revoked the key")
	}
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"requireApproval":null}}`)

	s.SetFault(acme, logi.Fault{Status: 401})
	middle := s.apply("middle", kid, "{}")
	s.AwaitReason(middle, v1alpha1.ReasonNotifying)
	if _, err := s.DispatchOnce(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.Delete(middle)
	if got := stage.Query[string](s.Scene,
		`SELECT string_agg(coalesce(outcome, 'open'), ' ') FROM playbook.operations`); got != "deleted deleted" {
		t.Errorf("the operations are %s", got)
	}
	revivals := stage.Query[int64](s.Scene, `SELECT count(*) FROM logi_test.requeues`)

	// Another one takes over what was revoked, and brings it to its end.
	s.SetFault(acme, logi.Fault{})
	last := s.apply("last", kid, "{}")
	s.deliverAfterRevocation()
	s.AwaitReady(last)
	if n := stage.Query[int64](s.Scene, `SELECT count(*) FROM logi_test.requeues`); n > revivals+1 {
		t.Errorf("the event was revived %d times by the first, and %d times in all", revivals, n)
	}
	s.everyWebhookOnce(1)
	s.revokedOnce()
}

func TestALedgerRestoredFromBeforeTheRevocationStopsIt(t *testing.T) {
	s := newScene(t, "behind", idle)
	kid := s.kid()
	name := s.apply("key", kid, "{}")
	s.AwaitReason(name, v1alpha1.ReasonNotifying)
	s.Exec(`BEGIN; DELETE FROM playbook.key_revocations; DELETE FROM webhook_outbox_entries;
		DELETE FROM webhook_signing_keys WHERE status = 'active';
		UPDATE webhook_signing_keys SET status = 'active', revoked_at = NULL; COMMIT`)
	s.AwaitStalled(name, v1alpha1.ReasonLedgerBehind)
	// Asking it to go on does not change what the ledger does not know.
	s.request(name, "please")
	s.Await(name, "stalled again", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Ended(k) && stage.Condition(k, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonLedgerBehind
	})
	if s.kid() != kid {
		t.Error("the key was revoked again under the same object")
	}
	s.Delete(name)
	s.apply("again", kid, "{}")
	s.deliverAfterRevocation()
	k := s.AwaitReady(s.Name + "-again")
	if k.Status.SuccessorKid != s.kid() {
		t.Errorf("the successor is %s, and %s signs", k.Status.SuccessorKid, s.kid())
	}
	s.revokedOnce()
}
