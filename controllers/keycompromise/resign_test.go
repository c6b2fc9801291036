package keycompromise_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestATransactionFromBeforeTheRevocationIsWaitedForAndNamed(t *testing.T) {
	s := newScene(t, "straggler", idle)
	kid := s.kid()
	straggler, err := pgx.Connect(s.Ctx, s.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer straggler.Close(context.Background())
	if _, err := straggler.Exec(s.Ctx, `BEGIN; SELECT FROM webhook_signing_keys`); err != nil {
		t.Fatal(err)
	}
	name := s.apply("key", kid, "reSignTimeoutSeconds: 2")
	k := s.AwaitStalled(name, v1alpha1.ReasonStillSigning)
	if message := stage.Condition(k, v1alpha1.StepReSigned).Message; !strings.Contains(message, "1 transaction is") ||
		!strings.Contains(message, "pg_locks") {
		t.Error(message)
	}
	if _, err := straggler.Exec(s.Ctx, fmt.Sprintf(`INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
		VALUES (%d, 'user.updated', '{}', 'late', '%s', 'old', clock_timestamp()); COMMIT`, acme, kid)); err != nil {
		t.Fatal(err)
	}
	s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"reSignTimeoutSeconds":600}}`)
	s.request(name, "again")
	s.Await(name, "signed anew", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepReSigned).Status == metav1.ConditionTrue
	})
	if got := stage.Query[string](s.Scene,
		`SELECT kid FROM webhook_outbox_entries WHERE idempotency_key = 'late'`); got != k.Status.SuccessorKid {
		t.Errorf("the late entry is under %s", got)
	}
}

// An entry that the database refuses to have changed keeps no key alive, and no other entry under it.
func TestAnEntryThatTheDatabaseRefusesDoesNotHoldUpTheRevocation(t *testing.T) {
	for kind, c := range map[string]struct{ state, sql string }{
		"trigger": {"P0001",
			`CREATE TRIGGER refuse BEFORE UPDATE OF signature ON webhook_outbox_entries FOR EACH ROW EXECUTE FUNCTION refuse()`},
		"at-commit": {"P0001", `CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE OF signature ON webhook_outbox_entries
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`},
		"check": {"23514", `ALTER TABLE webhook_outbox_entries ADD CONSTRAINT refuse CHECK (event_type <> 'old') NOT VALID`},
	} {
		t.Run(kind, func(t *testing.T) {
			s := newScene(t, "refused-"+kind, idle)
			kid := s.kid()
			ids, err := s.SeedDead(s.Ctx, acme, 1100, "HTTP 503: Service Unavailable", 7) // more than a page
			if err != nil {
				t.Fatal(err)
			}
			bad := []int64{ids[0], ids[500], ids[1099]}
			s.Exec(`UPDATE webhook_outbox_entries SET event_type = 'old' WHERE id = ANY ($1)`, bad)
			s.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.event_type = 'old' THEN RAISE 'the secret words'; END IF; RETURN NEW; END $$`)
			s.Exec(c.sql)
			name := s.apply("key", kid, "reSignTimeoutSeconds: 6")
			k := s.AwaitStalled(name, v1alpha1.ReasonStillSigning)
			if k.Status.SuccessorKid == "" || s.kid() != k.Status.SuccessorKid || *k.Status.ResignedEntries != 1097 {
				t.Errorf("%s", stage.JSON(k.Status))
			}
			want := fmt.Sprintf("the database refuses to change 3 entries (SQLSTATE %s, such as entry %d)", c.state,
				bad[0])
			if m := stage.Condition(k, v1alpha1.StepReSigned).Message; !strings.Contains(m, want) ||
				strings.Contains(m, "the platform still signs with it") {
				t.Errorf("the message lacks %q: %s", want, m)
			}
			if strings.Contains(stage.JSON(k), "secret words") {
				t.Error("the status has the words of a trigger")
			}
			old := `SELECT array_agg(id ORDER BY id) FROM webhook_outbox_entries WHERE kid = $1`
			if got := stage.Query[[]int64](s.Scene, old, kid); !slices.Equal(got, bad) {
				t.Errorf("%v are under the old kid, and it should be %v", got, bad)
			}
			s.Exec(`UPDATE webhook_outbox_entries SET event_type = 'new' WHERE id = ANY ($1)`, bad)
			s.request(name, "mended")
			k = s.Await(name, "signed anew", func(k *v1alpha1.KeyCompromise) bool {
				return stage.Condition(k, v1alpha1.StepReSigned).Status == metav1.ConditionTrue
			})
			if *k.Status.ResignedEntries != 1100 {
				t.Errorf("%d are counted as signed anew", *k.Status.ResignedEntries)
			}
		})
	}
}

func TestVolumeAboveTheLimitFollowsAfterTheRevocation(t *testing.T) {
	s := newScene(t, "volume", idle)
	kid := s.kid()
	if _, err := s.SeedDead(s.Ctx, acme, 3000, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"signingKeys":{"resignLimit":2999}}}`)
	name := s.apply("key", kid, "{}")
	k := s.Await(name, "signed anew", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepReSigned).Status == metav1.ConditionTrue
	})
	if *k.Status.ResignedEntries != 3000 || !strings.Contains(stage.Condition(k, v1alpha1.StepRevoked).Message,
		"The next step signs them") {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	if n := stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_outbox_entries WHERE kid <> $1`,
		k.Status.SuccessorKid); n != 0 {
		t.Errorf("%d entries are not under the successor", n)
	}
}

func TestWhatTheDispatcherHoldsIsCountedAndSignedAnewWhenThatIsAllowed(t *testing.T) {
	s := newScene(t, "claimed", idle)
	ids, err := s.SeedDead(s.Ctx, acme, 10, "HTTP 503: Service Unavailable", 7)
	if err != nil {
		t.Fatal(err)
	}
	claim, err := s.DB.Begin(s.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Rollback(context.Background())
	if _, err := claim.Exec(s.Ctx, `SELECT FROM webhook_outbox_entries WHERE id = $1 FOR UPDATE`, ids[3]); err != nil {
		t.Fatal(err)
	}
	kid := s.kid()
	name := s.apply("key", kid, "{}")
	k := s.AwaitReason(name, v1alpha1.ReasonReSigning)
	if c := stage.Condition(k, v1alpha1.StepRevoked); *k.Status.ClaimedEntries != 1 || *k.Status.ResignedEntries != 9 ||
		!strings.Contains(c.Message, "1 entry was being delivered under the old kid, and can't be recalled") {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	under := func() string {
		return stage.Query[string](s.Scene, `SELECT kid FROM webhook_outbox_entries WHERE id = $1`, ids[3])
	}
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"automation":"ObserveOnly"}}`)
	s.AwaitReason(name, v1alpha1.ReasonAutomationOff)
	if err := claim.Rollback(s.Ctx); err != nil {
		t.Fatal(err)
	}
	// It looks once more, and leaves it.
	generation := s.patched(name, `{"spec":{"reSignTimeoutSeconds":601}}`)
	s.Await(name, "another look",
		func(k *v1alpha1.KeyCompromise) bool { return k.Status.ObservedGeneration == generation })
	if got := under(); got != kid {
		t.Errorf("the entry is under %s, and the Platform is ObserveOnly", got)
	}
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"automation":"Enabled"}}`)
	k = s.Await(name, "signed anew", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepReSigned).Status == metav1.ConditionTrue
	})
	if got := under(); got != k.Status.SuccessorKid || *k.Status.ResignedEntries != 10 {
		t.Errorf("the entry is under %s: %s", got, stage.JSON(k.Status))
	}
}

func TestWhatTheRakeLeftUnderTheOldKidIsWaitedFor(t *testing.T) {
	s := newShell(t, "rake-straggler", idle)
	kid := s.kid()
	straggler, err := pgx.Connect(s.Ctx, s.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer straggler.Close(context.Background())
	if _, err := straggler.Exec(s.Ctx, `BEGIN; SELECT FROM webhook_signing_keys`); err != nil {
		t.Fatal(err)
	}
	name := s.apply("key", kid, viaCommand+"\nreSignTimeoutSeconds: 3")
	s.Await(name, "revoked", func(k *v1alpha1.KeyCompromise) bool { return k.Status.SuccessorKid != "" })
	if _, err := straggler.Exec(s.Ctx, fmt.Sprintf(`INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
		VALUES (%d, 'user.updated', '{}', 'late', '%s', 'old', clock_timestamp()); COMMIT`, acme, kid)); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitStalled(name, v1alpha1.ReasonStillSigning)
	if c := stage.Condition(k, v1alpha1.StepReSigned); !strings.Contains(c.Message, "1 undelivered") ||
		!strings.Contains(c.Message, "the operator can't") {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
	s.Exec(`UPDATE webhook_outbox_entries SET delivered_at = clock_timestamp() WHERE idempotency_key = 'late'`)
	s.request(name, "again")
	s.Await(name, "signed anew", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepReSigned).Status == metav1.ConditionTrue
	})
}
