package keycompromise_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

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

// A server that says Expires and no Cache-Control is believed for as long.
func TestTheExposureReckonsWithExpires(t *testing.T) {
	s := newScene(t, "expires", idle)
	kid := s.kid()
	s.jwks(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Expires", time.Now().AddDate(0, 0, 7).UTC().Format(http.TimeFormat))
		_, _ = fmt.Fprintf(w, `{"keys": [{"kid": 7}, {"kid": %q}]}`, s.kid())
	})
	k := s.Await(s.apply("key", kid, "{}"), "published", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepPublished).Status == metav1.ConditionTrue
	})
	const week = 7 * 24 * time.Hour
	if got := k.Status.ExposedUntil.Sub(k.Status.RevokedAt.Time); got < week-time.Second || got > week+2*time.Second {
		t.Errorf("exposed for %s after the revocation", got)
	}
}
