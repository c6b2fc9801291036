package keycompromise_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// deleteWhileItRuns deletes an object whose rake is under way, and applies another one for the same key.
func (s *shell) deleteWhileItRuns(kid string) (second string) {
	s.Helper()
	s.SetRakeFault(logi.RakeFault{Hang: 8 * time.Second})
	first := s.apply("first", kid, viaCommand)
	stage.Eventually(s.T, "the rake runs", func() bool { return len(s.RakeRuns()) == 1 })
	k := s.Get(first)
	if err := shared.Kube.Delete(s.Ctx, k); err != nil {
		s.Fatal(err)
	}
	second = s.apply("second", kid, viaCommand)
	s.AwaitReason(second, v1alpha1.ReasonWaitingForTwin)
	// It waits for an object that is there.
	if err := shared.Kube.Get(s.Ctx, client.ObjectKeyFromObject(k), k); err != nil {
		s.Error(err)
	}
	return second
}

func TestADeletedObjectStaysUntilItsRakeEnded(t *testing.T) {
	s := newShell(t, "rake-deleted", logi.Config{JWKSMaxAge: time.Second})
	k := s.AwaitReady(s.deleteWhileItRuns(s.kid()))
	if k.Status.SuccessorKid != s.kid() || k.Status.Command != nil {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(1)
	if n := stage.Query[int64](s.Scene, `SELECT count(*) FROM playbook.command_runs WHERE outcome = 'succeeded'`); n != 1 {
		t.Errorf("the ledger has %d runs", n)
	}
}

func TestWithoutADatabaseADeletedObjectStaysUntilItsRakeEnded(t *testing.T) {
	s := newBareShell(t, "bare-deleted", logi.Config{JWKSMaxAge: time.Second})
	// JWKS is the only witness, and the object that saw it before is gone.
	s.AwaitStalled(s.deleteWhileItRuns(s.kid()), v1alpha1.ReasonUnknownKid)
	s.runs(1)
}

func TestARakeThatTakesLongIsUnderWay(t *testing.T) {
	s := newShell(t, "rake-long", logi.Config{JWKSMaxAge: time.Second})
	s.SetRakeFault(logi.RakeFault{Hang: 5 * time.Second})
	name := s.apply("key", s.kid(), viaCommand)
	underWay := func(k *v1alpha1.KeyCompromise) bool {
		return strings.Contains(stage.Condition(k, v1alpha1.StepRevoked).Message, "rake is under way on ssh ")
	}
	s.Await(name, "the rake is under way", underWay)
	// The red button can't call it back, and does not run it twice.
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"automation":"ObserveOnly"}}`)
	k := s.Await(name, "the key is revoked", func(k *v1alpha1.KeyCompromise) bool {
		return stage.Condition(k, v1alpha1.StepRevoked).Status == metav1.ConditionTrue
	})
	if k.Status.Command.Outcome != v1alpha1.CommandSucceeded || k.Status.SuccessorKid != s.kid() {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"automation":"Enabled"}}`)
	s.AwaitReady(name)
	s.runs(1)
}
