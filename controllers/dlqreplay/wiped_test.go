package dlqreplay_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// A finished replay whose status was wiped has it again from the ledger, at once, and does nothing again. So has one
// that was done already under its name.
func TestAFinishedReplayWhoseStatusWasWipedHasItAgain(t *testing.T) {
	s := newScene(t, "wiped", quick)
	s.seed(20, "HTTP 503: down", 7)
	name := s.apply("r", "{canary: {entries: 2}}")
	for _, want := range []string{v1alpha1.ReasonSucceeded, v1alpha1.ReasonAlreadyDone} {
		before := s.AwaitReady(name)
		if reason(before) != want {
			t.Fatalf("%s: %s", reason(before), message(before))
		}
		// A replay that is ObserveOnly by now has nothing to do for it.
		s.automation(v1alpha1.AutomationObserveOnly)
		if err := shared.Kube.Status().Patch(s.Ctx, s.Get(name), client.RawPatch(types.MergePatchType,
			[]byte(`{"status":null}`))); err != nil {
			t.Fatal(err)
		}
		after := s.AwaitReady(name)
		if reason(after) != want || message(after) != message(before) || after.UID != before.UID {
			t.Errorf("before: %s: %s\nafter: %s: %s", reason(before), message(before), reason(after), message(after))
		}
		for _, c := range before.Status.Conditions {
			if got := stage.Condition(after, c.Type); got.Status != c.Status || got.Reason != c.Reason {
				t.Errorf("%s was %s/%s and is %s/%s", c.Type, c.Status, c.Reason, got.Status, got.Reason)
			}
		}
		if want == v1alpha1.ReasonSucceeded {
			s.progress(after, map[string]int64{"requeued": 20, "delivered": 20})
		}
		s.Await(name, "it keeps no finalizer", func(r *v1alpha1.DLQReplay) bool { return len(r.Finalizers) == 0 })
		s.automation(v1alpha1.AutomationEnabled)
		s.Delete(name)
		s.apply("r", "{canary: {entries: 2}}")
	}
	s.eachOnce(20)
}
