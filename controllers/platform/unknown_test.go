package platform

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// A signal that is unknown for ten minutes is told once, and again if it was known in between.
func TestWhatStaysUnknownIsToldOnce(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	one := func(condition string, state metav1.ConditionStatus, since time.Time) signals.Signals {
		return signals.Signals{Each: []signals.Signal{{Condition: condition, State: state, Since: since,
			Message: "HTTP 429"}}}
	}
	const tokens, up = v1alpha1.ConditionTokensIssued, v1alpha1.ConditionUpAnswers
	warning := func(condition string, minutes int) string {
		return fmt.Sprintf("Warning Unknown %s has been unknown for %d min: HTTP 429", condition, minutes)
	}
	u, recorder := &unknowns{}, events.NewFakeRecorder(10)
	for i, step := range []struct {
		signals  signals.Signals
		platform string
		minutes  int
		event    string
		next     time.Duration
	}{
		{one(tokens, metav1.ConditionUnknown, start), "a", 0, "", 10 * time.Minute},
		{one(tokens, metav1.ConditionUnknown, start), "a", 9, "", time.Minute},
		{one(tokens, metav1.ConditionUnknown, start), "a", 10, warning(tokens, 10), 0},
		{one(tokens, metav1.ConditionUnknown, start), "a", 60, "", 0},
		// Another Platform and another signal have Warnings of their own.
		{one(tokens, metav1.ConditionUnknown, start), "b", 60, warning(tokens, 60), 0},
		{one(up, metav1.ConditionUnknown, start), "a", 60, warning(up, 60), 0},
		// A bad signal is not unknown: it ends the episode.
		{one(tokens, metav1.ConditionFalse, start), "a", 61, "", 0},
		{one(tokens, metav1.ConditionUnknown, start.Add(62*time.Minute)), "a", 63, "", 9 * time.Minute},
		{one(tokens, metav1.ConditionUnknown, start.Add(62*time.Minute)), "a", 72, warning(tokens, 10), 0},
		// A signal that is not configured is not among them. A signal that nobody looked at yet has no beginning.
		{signals.Signals{}, "a", 90, "", 0},
		{one(tokens, metav1.ConditionUnknown, time.Time{}), "a", 91, "", 0},
	} {
		p := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: step.platform}}
		next := u.tell(recorder, p, step.signals, start.Add(time.Duration(step.minutes)*time.Minute))
		said := ""
		select {
		case said = <-recorder.Events:
		default:
		}
		if said != step.event || next != step.next {
			t.Errorf("step %d: %q and again after %v, want %q and %v", i, said, next, step.event, step.next)
		}
	}
}
