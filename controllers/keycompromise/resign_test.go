package keycompromise_test

import (
	"context"
	"fmt"
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
	if message := stage.Condition(k, v1alpha1.StepReSigned).Message; !strings.Contains(message, "1 transactions") ||
		!strings.Contains(message, "pg_locks") {
		t.Error(message)
	}
	if _, err := straggler.Exec(s.Ctx, fmt.Sprintf(`INSERT INTO webhook_outbox_entries (oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
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

func TestARefusedReSigningChangesNothingAndIsTriedAgain(t *testing.T) {
	s := newScene(t, "trigger", idle)
	kid := s.kid()
	if _, err := s.SeedDead(s.Ctx, acme, 10, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	s.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no signing today'; END $$`)
	s.Exec(`CREATE TRIGGER refuse BEFORE UPDATE OF signature ON webhook_outbox_entries FOR EACH ROW EXECUTE FUNCTION refuse()`)
	name := s.apply("key", kid, "{}")
	k := s.AwaitReason(name, v1alpha1.ReasonRetrying)
	if !strings.Contains(stage.Condition(k, v1alpha1.StepRevoked).Message, "no signing today") || s.kid() != kid ||
		k.Status.RevokedAt != nil {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.Exec(`DROP TRIGGER refuse ON webhook_outbox_entries`)
	s.Await(name, "revoked", func(k *v1alpha1.KeyCompromise) bool { return k.Status.SuccessorKid != "" })
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
		"the next step signs them") {
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
		!strings.Contains(c.Message, "1 entries were being delivered under the old kid, and can't be recalled") {
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
	if _, err := straggler.Exec(s.Ctx, fmt.Sprintf(`INSERT INTO webhook_outbox_entries (oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
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
