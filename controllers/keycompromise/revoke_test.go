package keycompromise_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// idle is a platform whose dispatcher works when the test says so, and whose JWKS may be kept for a second.
var idle = logi.Config{ManualDispatch: true, JWKSMaxAge: time.Second}

var stepNames = []string{
	v1alpha1.StepRevoked, v1alpha1.StepReSigned, v1alpha1.StepPublished, v1alpha1.StepRelyingPartyNotified,
	v1alpha1.StepVerified, v1alpha1.StepCachesExpired,
}

func TestAnUnknownKidStallsAndListsThoseThatThereAre(t *testing.T) {
	s := newScene(t, "unknown", idle)
	for i, kid := range []string{"whk_nobody", `it's "quoted"`, "%", "*_?", "a\nb",
		"whk'; DROP TABLE webhook_signing_keys; --"} {
		k := s.AwaitStalled(s.apply(fmt.Sprint("kid-", i), kid, "{}"), v1alpha1.ReasonUnknownKid)
		if c := stage.Condition(k, v1alpha1.StepRevoked); !strings.Contains(c.Message, s.kid()) ||
			!strings.Contains(c.Message, fmt.Sprintf("%q", kid)) {
			t.Errorf("%q: %s", kid, c.Message)
		}
		if k.Status.RevokedAt != nil {
			t.Errorf("%q: something was revoked", kid)
		}
	}
}

func TestASecondOneForTheSameKeyWaitsAndPointsToTheFirst(t *testing.T) {
	s := newScene(t, "twin", idle)
	kid := s.kid()
	first := s.apply("first", kid, "{}")
	s.AwaitReason(first, v1alpha1.ReasonNotifying)
	second := s.apply("second", kid, "{}")
	s.AwaitReason(second, v1alpha1.ReasonWaitingForTwin)
	if n := stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_signing_keys WHERE oauth_application_id = $1`,
		acme); n != 2 {
		t.Errorf("there are %d keys", n)
	}
	s.deliver()
	s.AwaitReady(first)
	k := s.AwaitReady(second)
	if c := stage.Condition(k, v1alpha1.ConditionReady); c.Reason != v1alpha1.ReasonAlreadyDone ||
		!strings.Contains(c.Message, first) {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
	// Pruned and applied again, as by Git.
	if err := shared.Kube.Delete(s.Ctx, s.Get(first)); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, "the first is gone", func() bool {
		return client.IgnoreNotFound(shared.Kube.Get(s.Ctx, client.ObjectKey{Namespace: world.Namespace, Name: first},
			&v1alpha1.KeyCompromise{})) == nil &&
			shared.Kube.Get(s.Ctx, client.ObjectKey{Namespace: world.Namespace, Name: first}, &v1alpha1.KeyCompromise{}) != nil
	})
	k = s.AwaitReady(s.apply("first", kid, "{}"))
	if c := stage.Condition(k, v1alpha1.ConditionReady); c.Reason != v1alpha1.ReasonAlreadyDone {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
}

// deliver lets the dispatcher deliver what is due, and dispatches again what is requeued, until everything was
// delivered.
func (s *scene) deliver() {
	s.Helper()
	stage.Eventually(s.T, "everything was delivered", func() bool {
		if _, err := s.DispatchOnce(s.Ctx); err != nil {
			s.Fatal(err)
		}
		return stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_outbox_entries
			WHERE delivered_at IS NULL AND event_type = 'webhook_key.compromised'`) == 0
	})
}

func TestTheSampleEndsReady(t *testing.T) {
	s := newScene(t, "sample", logi.Config{JWKSMaxAge: time.Second})
	s.Exec(`UPDATE webhook_signing_keys SET kid = 'whk_2026_08'`)
	if out, err := shared.Kubectl(s.Ctx, "apply", "-f", "../../config/samples/playbooks/keycompromise.yaml"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	k := s.AwaitReady("acme-leak")
	for _, step := range stepNames {
		if c := stage.Condition(k, step); c.Status != metav1.ConditionTrue {
			t.Errorf("%s is %s, %s: %s", step, c.Status, c.Reason, c.Message)
		}
	}
}

func TestAnEmergencyWaitsForNobodyUnlessThePlatformAsks(t *testing.T) {
	s := newScene(t, "approval", idle)
	kid := s.kid()
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"requireApproval":[{"kind":"KeyCompromise","step":"Revoked"}]}}`)
	name := s.apply("key", kid, "{}")
	k := s.AwaitReason(name, v1alpha1.ReasonWaitingForApproval)
	message := stage.Condition(k, v1alpha1.StepRevoked).Message
	patch := message[strings.Index(message, "{") : strings.LastIndex(message, "}")+1]
	if s.kid() != kid {
		t.Fatal("the key was revoked before the approval")
	}
	s.Patch(&v1alpha1.KeyCompromise{}, name, strings.Replace(patch, "sha256:", "sha256:0000",
		1)[:strings.Index(patch, "sha256:")+7+64]+patch[strings.Index(patch, "sha256:")+7+64:])
	k = s.Await(name, "the wrong digest is named", func(k *v1alpha1.KeyCompromise) bool {
		return strings.Contains(stage.Condition(k, v1alpha1.StepRevoked).Message, "another digest")
	})
	if s.kid() != kid {
		t.Fatal("the key was revoked under an approval of something else")
	}
	message = stage.Condition(k, v1alpha1.StepRevoked).Message
	s.Patch(&v1alpha1.KeyCompromise{}, name, message[strings.Index(message, "{"):strings.LastIndex(message, "}")+1])
	s.Await(name, "revoked", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepRevoked).Status == metav1.ConditionTrue
	})
}

func TestTheRedButtonStopsARevocation(t *testing.T) {
	s := newScene(t, "button", idle)
	kid := s.kid()
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"automation":"ObserveOnly"}}`)
	name := s.apply("key", kid, "{}")
	s.AwaitReason(name, v1alpha1.ReasonAutomationOff)
	if s.kid() != kid {
		t.Fatal("the key was revoked")
	}
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"automation":"Enabled"}}`)
	s.Await(name, "revoked", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepRevoked).Status == metav1.ConditionTrue
	})
}
