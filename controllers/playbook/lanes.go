package playbook

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// laneRetry is how soon a step of a lane that failed is tried again.
const laneRetry = 5 * time.Second

// RunLanes takes an object through lanes of steps that don't wait for each other: each goes on until its next step waits, stalls or
// fails. What stalls or fails holds up its own lane only, so an error is not the pass's, whose backoff would delay the others. The
// root condition speaks for the last lane until that is through. It returns how long to wait until the next pass.
func RunLanes[S any](ctx context.Context, obj Object, lanes [][]Step[S], s S) time.Duration {
	conditions := obj.GetConditions()
	if Finished(obj) {
		return 0
	}
	var after time.Duration
	var stalled, waiting []Outcome
	for _, lane := range lanes {
		outcome, through := runLane(ctx, obj, lane, s)
		switch {
		case through:
			continue
		case outcome.verdict == stall:
			stalled = append(stalled, outcome)
		default:
			waiting = append(waiting, outcome)
		}
		if outcome.after > 0 && (after == 0 || outcome.after < after) {
			after = outcome.after
		}
	}
	switch {
	case len(stalled) > 0:
		Stop(obj, stalled[0].reason, stalled[0].message)
	case len(waiting) > 0:
		speaker := waiting[len(waiting)-1]
		proceed(obj, speaker.reason, speaker.message)
	default:
		lane := lanes[len(lanes)-1]
		complete(obj, v1alpha1.ReasonSucceeded, meta.FindStatusCondition(*conditions, lane[len(lane)-1].Condition).Message)
	}
	return after
}

// runLane runs a lane's steps in their order. It returns what the lane has come to, unless it is through.
func runLane[S any](ctx context.Context, obj Object, lane []Step[S], s S) (Outcome, bool) {
	conditions := obj.GetConditions()
	for i, step := range lane {
		c := meta.FindStatusCondition(*conditions, step.Condition)
		if c == nil || settled(*conditions, step.Condition) {
			continue
		}
		at := ""
		if len(lane) > 1 {
			at = fmt.Sprintf("step %d/%d: ", i+1, len(lane))
		}
		if c.Status == metav1.ConditionFalse {
			return Stall(c.Reason, "%s%s", at, c.Message), false
		}
		outcome, err := step.Run(ctx, s)
		if apierrors.IsConflict(err) {
			// Somebody changed an object meanwhile; the next pass reads it.
			outcome, err = Wait(time.Millisecond, c.Reason, "%s", c.Message), nil
		}
		if err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "running a step", "step", step.Condition)
			outcome = Wait(laneRetry, reasonOf(err), "%s", Normalise(err.Error()))
		}
		switch outcome.verdict {
		case done:
			set(obj, step.Condition, metav1.ConditionTrue, outcome.reason, outcome.message)
			continue
		case notNeeded:
			set(obj, step.Condition, metav1.ConditionFalse, outcome.reason, outcome.message)
			continue
		case stall:
			set(obj, step.Condition, metav1.ConditionFalse, outcome.reason, outcome.message)
		case wait:
			set(obj, step.Condition, metav1.ConditionUnknown, outcome.reason, outcome.message)
		default:
			panic("a lane can't end the whole playbook")
		}
		outcome.message = at + outcome.message
		return outcome, false
	}
	return Outcome{}, true
}
