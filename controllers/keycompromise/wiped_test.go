package keycompromise_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func (s *scene) wipe(name string) {
	s.Helper()
	if err := shared.Kube.Status().Patch(s.Ctx, s.Get(name), client.RawPatch(types.MergePatchType,
		[]byte(`{"status":null}`))); err != nil {
		s.Fatal(err)
	}
}

// A finished KeyCompromise whose status was wiped says again what the ledger knows, at once, and ends no other key. The
// platform does not have to answer for that.
func TestAFinishedKeyCompromiseWhoseStatusWasWipedSaysSoAgain(t *testing.T) {
	s := newScene(t, "wiped", logi.Config{ManualDispatch: true, JWKSMaxAge: time.Second})
	kid := s.kid()
	first := s.apply("first", kid, "{}")
	s.AwaitReason(first, v1alpha1.ReasonNotifying)
	second := s.apply("second", kid, "{}")
	s.AwaitReason(second, v1alpha1.ReasonWaitingForTwin)
	s.deliver()
	before := s.AwaitReady(first)
	s.AwaitReady(second)
	successor := s.kid()
	for name, says := range map[string]string{first: "this KeyCompromise revoked the key at ",
		second: "another KeyCompromise ended this key"} {
		s.wipe(name)
		k := s.AwaitReady(name)
		c := stage.Condition(k, v1alpha1.ConditionReady)
		if c.Reason != v1alpha1.ReasonAlreadyDone || !strings.Contains(c.Message, says) {
			t.Errorf("%s: %s: %s", name, c.Reason, c.Message)
		}
		s.Await(name, "it keeps no finalizer", func(k *v1alpha1.KeyCompromise) bool { return len(k.Finalizers) == 0 })
		if name == first && (!k.Status.RevokedAt.Equal(before.Status.RevokedAt) ||
			k.Status.SuccessorKid != before.Status.SuccessorKid) {
			t.Errorf("%s", stage.JSON(k.Status))
		}
	}
	if got := s.kid(); got != successor {
		t.Errorf("%s signs now, and %s did", got, successor)
	}
}

// Without a database the status is all that remembers the rake. Where it is lost, the rake is not run again by itself,
// though the key is still published.
func TestARakeThatNobodyRemembersIsNotRunAgain(t *testing.T) {
	s := newBareShell(t, "bare-wiped", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.SetRakeFault(logi.RakeFault{Hang: 5 * time.Second})
	name := s.apply("key", kid, viaCommand)
	stage.Eventually(t, "the rake runs", func() bool { return len(s.RakeRuns()) == 1 })
	s.wipe(name)
	k := s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	if c := stage.Condition(k, v1alpha1.StepRevoked); !strings.Contains(c.Message, "its status was lost") {
		t.Errorf("%s", c.Message)
	}
	stage.Eventually(t, "the rake has ended the key", func() bool { return s.kid() != kid })
	s.runs(1)
}
