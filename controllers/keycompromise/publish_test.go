package keycompromise_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// deliverAfterRevocation dispatches until the relying party accepted webhook_key.compromised.
func (s *scene) deliverAfterRevocation() {
	s.Helper()
	stage.Eventually(s.T, "the key is revoked", func() bool {
		return stage.Query[int64](s.Scene,
			`SELECT count(*) FROM playbook.key_revocations`) == 1
	})
	s.deliver()
}

// threeReplicas is idle with three replicas, the second of which keeps its answers for two seconds.
func threeReplicas() logi.Config {
	config := idle
	config.JWKSReplicas = []time.Duration{0, 2 * time.Second, 0}
	return config
}

func TestAReplicaThatIsStaleForEverStallsAndIsMended(t *testing.T) {
	s := newScene(t, "stale", threeReplicas())
	kid := s.kid()
	if err := s.StaleReplica(s.Ctx, 1); err != nil {
		t.Fatal(err)
	}
	name := s.apply("key", kid, "publishTimeoutSeconds: 8")
	k := s.AwaitStalled(name, v1alpha1.ReasonStillPublished)
	message := stage.Condition(k, v1alpha1.StepPublished).Message
	if !strings.Contains(message, "still ha") || !strings.Contains(message, kid) || k.Status.JWKS.OldKidSeenAt == nil {
		t.Errorf("%s: %s", message, stage.JSON(k.Status.JWKS))
	}
	if c := stage.Condition(k, v1alpha1.StepRevoked); c.Status != metav1.ConditionTrue {
		t.Errorf("Revoked is %s: %s", c.Status, c.Message)
	}
	s.MendReplica(1)
	s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"publishTimeoutSeconds":600}}`)
	s.request(name, "again")
	s.deliver()
	k = s.AwaitReady(name)
	if k.Status.ExposedUntil.Before(k.Status.JWKS.OldKidSeenAt) {
		t.Errorf("exposed until %s, and an answer had the old kid at %s", k.Status.ExposedUntil, k.Status.JWKS.OldKidSeenAt)
	}
	s.revokedOnce()
}

func TestAReplicaThatLagsOnlyDelays(t *testing.T) {
	s := newScene(t, "lags", threeReplicas())
	kid := s.kid()
	if err := s.StaleReplica(s.Ctx, 1); err != nil {
		t.Fatal(err)
	}
	name := s.apply("key", kid, "{}")
	k := s.Await(name, "an answer with the old kid is seen", func(k *v1alpha1.KeyCompromise) bool {
		return k.Status.JWKS != nil && k.Status.JWKS.OldKidSeenAt != nil
	})
	if c := stage.Condition(k, v1alpha1.StepPublished); c.Status == metav1.ConditionTrue {
		t.Errorf("Published is True while a replica has the old kid: %s", c.Message)
	}
	s.MendReplica(1)
	s.deliver()
	k = s.AwaitReady(name)
	if k.Status.ExposedUntil.Before(k.Status.JWKS.OldKidSeenAt) {
		t.Errorf("exposed until %s, and an answer had the old kid at %s", k.Status.ExposedUntil, k.Status.JWKS.OldKidSeenAt)
	}
	s.revokedOnce()
}

func TestJWKSThatFailsIsNamedAndMendedAndDoesNotHoldUpTheReSigning(t *testing.T) {
	for fault, saw := range map[logi.JWKSFault]string{
		logi.JWKSHangs: "no answer in time", logi.JWKSHangsMidBody: "broke off", logi.JWKSHuge: "longer " +
			"than", logi.JWKSRedirect: "HTTP 302",
	} {
		t.Run(string(fault), func(t *testing.T) {
			s := newScene(t, "jwks-"+strings.ToLower(string(fault)), idle)
			if _, err := s.SeedDead(s.Ctx, acme, 10, "HTTP 503: Service Unavailable", 7); err != nil {
				t.Fatal(err)
			}
			s.SetJWKSFault(fault)
			name := s.apply("key", s.kid(), "publishTimeoutSeconds: 1")
			k := s.AwaitStalled(name, v1alpha1.ReasonStillPublished)
			if message := stage.Condition(k, v1alpha1.StepPublished).Message; !strings.Contains(message, saw) {
				t.Error(message)
			}
			if c := stage.Condition(k, v1alpha1.StepReSigned); c.Status != metav1.ConditionTrue {
				t.Errorf("ReSigned is %s: %s", c.Status, c.Message)
			}
			s.SetJWKSFault("")
			s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"publishTimeoutSeconds":600}}`)
			s.request(name, "again")
			s.deliver()
			s.AwaitReady(name)
		})
	}
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
