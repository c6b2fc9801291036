package keycompromise_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// jwks answers in the platform's place, with the Platform's URL pointing to it.
func (s *scene) jwks(answer http.HandlerFunc) {
	s.Helper()
	server := httptest.NewServer(answer)
	s.Cleanup(server.Close)
	s.Patch(&v1alpha1.Platform{}, s.Name, fmt.Sprintf(`{"spec":{"url":%q}}`, server.URL))
}

func TestJWKSThatNeverComesCleanStallsAndSaysWhatItSaw(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		saw    string
	}{
		"old-set": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w,
				`{"keys": [{"kid": "KID"}]}`)
		}, "still has"},
		"html": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>secret-words</html>") },
			"no JSON"},
		"error": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret-words", http.StatusBadGateway) },
			"HTTP 502"},
		"no-heirs": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w,
				`{"keys": [{"kid": "other"}]}`)
		}, "does not have the successor"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "jwks-"+name, idle)
			kid := s.kid()
			s.jwks(func(w http.ResponseWriter, r *http.Request) {
				recorder := httptest.NewRecorder()
				c.answer(recorder, r)
				w.WriteHeader(recorder.Code)
				_, _ = io.WriteString(w, strings.ReplaceAll(recorder.Body.String(), "KID", kid))
			})
			object := s.apply("key", kid, "publishTimeoutSeconds: 2")
			k := s.AwaitStalled(object, v1alpha1.ReasonStillPublished)
			message := stage.Condition(k, v1alpha1.StepPublished).Message
			if !strings.Contains(message, c.saw) || strings.Contains(message, "secret-words") {
				t.Error(message)
			}
			// Without a max-age an hour counts. What could not be read tells nothing.
			if usable := strings.Contains(name, "-"); usable != (k.Status.ExposedUntil != nil) || usable &&
				k.Status.ExposedUntil.Time.Before(k.Status.RevokedAt.Add(time.Hour)) {
				t.Errorf("exposed until %s, revoked at %s", k.Status.ExposedUntil, k.Status.RevokedAt)
			}
			s.Patch(&v1alpha1.Platform{}, s.Name, fmt.Sprintf(`{"spec":{"url":%q}}`, s.URL()))
			s.Patch(&v1alpha1.KeyCompromise{}, object, `{"spec":{"publishTimeoutSeconds":600}}`)
			s.request(object, "again")
			s.Await(object, "published", func(k *v1alpha1.KeyCompromise) bool {
				return stage.Condition(k, v1alpha1.StepPublished).Status == metav1.ConditionTrue
			})
		})
	}
}

func TestTheExposureLastsAsLongAsACacheMayBelieveTheOldKey(t *testing.T) {
	s := newScene(t, "exposure", idle)
	kid := s.kid()
	var seen int
	var last time.Time
	s.jwks(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=1000, stale-if-error=500")
		w.Header().Set("Age", "100")
		if seen++; seen <= 3 {
			last = time.Now()
			_, _ = fmt.Fprintf(w, `{"keys": [{"kid": %q}]}`, kid)
			return
		}
		_, _ = fmt.Fprintf(w, `{"keys": [{"kid": %q}]}`, s.kid())
	})
	name := s.apply("key", kid, "{}")
	k := s.Await(name, "published", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepPublished).Status == metav1.ConditionTrue
	})
	if got := k.Status.ExposedUntil.Sub(k.Status.RevokedAt.Time); got < 1500*time.Second || got > 1502*time.Second {
		t.Errorf("exposed for %s after the revocation, and the last old answer came %s after it", got,
			last.Sub(k.Status.RevokedAt.Time))
	}
	s.deliver()
	s.AwaitReason(name, v1alpha1.ReasonWaitingForCaches)
}

// A replica that is stale hands the old kid out after the revocation, and who got it then keeps it from then on.
func TestTheExposureReckonsWithARelyingPartyThatKeepsJWKSForItsOwnTime(t *testing.T) {
	s := newScene(t, "own-cache", idle)
	s.Patch(&v1alpha1.Platform{}, s.Name,
		`{"spec":{"relyingParties":[{"applicationID":"42","name":"acme","jwksCacheSeconds":3000}]}}`)
	kid := s.kid()
	var seen int
	var last time.Time
	s.jwks(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=10")
		if seen++; seen <= 8 {
			last = time.Now()
			_, _ = fmt.Fprintf(w, `{"keys": [{"kid": %q}]}`, kid)
			return
		}
		_, _ = fmt.Fprintf(w, `{"keys": [{"kid": %q}]}`, s.kid())
	})
	k := s.Await(s.apply("key", kid, "{}"), "published", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepPublished).Status == metav1.ConditionTrue
	})
	if got := k.Status.ExposedUntil.Sub(last); got < 3000*time.Second || got >= 3010*time.Second {
		t.Errorf("exposed for %s after the last answer with the old kid, %s after the revocation", got,
			last.Sub(k.Status.RevokedAt.Time))
	}
}

func TestARelyingPartyThatRefusesTheEventIsNamedAndHoldsUpNothingElse(t *testing.T) {
	s := newScene(t, "refuses", logi.Config{JWKSMaxAge: time.Second, Backoff: []time.Duration{time.Hour}})
	kid := s.kid()
	s.SetFault(acme, logi.Fault{Status: http.StatusUnauthorized, Body: "secret-words"})
	name := s.apply("key", kid, "notifyTimeoutSeconds: 5")
	s.Await(name, "revoked", func(k *v1alpha1.KeyCompromise) bool { return k.Status.SuccessorKid != "" })
	if _, err := s.Enqueue(s.Ctx, acme, 3); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitStalled(name, v1alpha1.ReasonNotNotified)
	message := stage.Condition(k, v1alpha1.StepRelyingPartyNotified).Message
	if !strings.Contains(message, "acme") || !strings.Contains(message, "+1 555 0100") ||
		!strings.Contains(message, "401") || strings.Contains(message, "secret-words") {
		t.Error(message)
	}
	for _, step := range []string{v1alpha1.StepPublished, v1alpha1.StepCachesExpired} {
		if c := stage.Condition(k, step); c.Status != metav1.ConditionTrue {
			t.Errorf("%s is %s: %s", step, c.Status, c.Message)
		}
	}
	if c := stage.Condition(k, v1alpha1.StepVerified); c.Status != metav1.ConditionUnknown {
		t.Errorf("Verified is %s: %s", c.Status, c.Message)
	}
	requeues := stage.Query[int64](s.Scene, `SELECT count(*) FROM playbook.event_requeues`)
	revived := stage.Query[int64](s.Scene, `SELECT count(*) FROM logi_test.requeues WHERE entry_id = $1::bigint`,
		k.Status.EventEntryID)
	if requeues == 0 || requeues != revived {
		t.Errorf("%d requeues in the ledger, %d in fact", requeues, revived)
	}
	s.SetFault(acme, logi.Fault{})
	s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"notifyTimeoutSeconds":600}}`)
	s.request(name, "again")
	k = s.AwaitReady(name)
	if outcome := stage.Query[string](s.Scene,
		`SELECT outcome FROM playbook.operations WHERE kind = 'KeyCompromise'`); outcome != "complete" {
		t.Errorf("the operation is %s", outcome)
	}
	if k.Status.ReplayRef == nil {
		t.Fatal("the refused webhooks got no replay")
	}
	stage.Eventually(t, "the refused webhooks are delivered", func() bool {
		return stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_outbox_entries WHERE delivered_at IS NULL`) == 0
	})
	for key, n := range s.ReceivedKeys(acme) {
		if n != 1 {
			t.Errorf("%s was accepted %d times", key, n)
		}
	}
}

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

func TestTooManyBytesAndWhatIsFixedAreRefusedAtApply(t *testing.T) {
	s := newScene(t, "refused", idle)
	manifest := func(kid, more string) string {
		return fmt.Sprintf(`{"apiVersion": "playbook.1pass.dev/v1alpha1", "kind": "KeyCompromise", "metadata": {"name": "refused-key", "namespace": %q},
			"spec": {"platformRef": {"name": %q}, "applicationID": "42", "kid": %q, "reason": "r"%s}}`, world.Namespace, s.Name, kid, more)
	}
	for want, text := range map[string]string{
		"Too long": manifest(strings.Repeat("x", 10_000), ""), "spec.kid": manifest("", ""), "unknown field": manifest("a",
			`, "kids": "b"`),
	} {
		if out, err := shared.KubectlInput(s.Ctx, text, "apply", "-f", "-"); err == nil || !strings.Contains(out, want) {
			t.Errorf("want %q: %v\n%s", want, err, out)
		}
	}
	name := s.apply("key", "whk_nobody", "{}")
	for _, field := range []string{"kid", "reason", "applicationID"} {
		out, err := shared.Kubectl(s.Ctx, "-n", world.Namespace, "patch", "keyc", name, "--type=merge", "-p",
			fmt.Sprintf(`{"spec":{%q:"7"}}`, field))
		if err == nil || !strings.Contains(out, "is fixed once the key compromise exists") {
			t.Errorf("%s: %v\n%s", field, err, out)
		}
	}
}

func TestAStalledKeyCompromiseThatCanNotGoOnYetSaysSo(t *testing.T) {
	s := newScene(t, "resume-later", idle)
	name := s.apply("leak", "whk_unheard_of", "{}")
	s.AwaitStalled(name, v1alpha1.ReasonUnknownKid)
	s.Exec(`ALTER SCHEMA playbook RENAME TO elsewhere`)
	s.Change(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:"now"}}}`, v1alpha1.AnnotationRequestedAt))
	k := s.AwaitStalled(name, v1alpha1.ReasonLedgerNotReady)
	message := stage.Condition(k, v1alpha1.ConditionReady).Message
	if !strings.Contains(message, "asked to go on, which can't be done yet: ") || k.Status.LastHandledRequestedAt != "" {
		t.Errorf("with lastHandledRequestedAt %q the message is %q", k.Status.LastHandledRequestedAt, message)
	}
	s.Exec(`ALTER SCHEMA elsewhere RENAME TO playbook`)
	s.Await(name, "the request is handled",
		func(k *v1alpha1.KeyCompromise) bool { return k.Status.LastHandledRequestedAt == "now" })
	s.AwaitStalled(name, v1alpha1.ReasonUnknownKid)
}
