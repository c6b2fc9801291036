package keycompromise_test

import (
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
