package playbook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// Run takes an object that was begun through its playbook. Each lane goes on until its next step waits, stalls or
// fails. That holds up this lane only. Run writes what happened into the conditions, and the caller writes the status.
// Run returns how long to wait until the next pass, and zero if only a change brings the object back.
//
// Run returns no error of a step. controller-runtime ignores RequeueAfter if a pass returns an error, so one lane that
// fails would keep the others from coming back in time. The error is logged, and its lane is retried after ever longer
// waits.
//
// A settled step is not run again, and a finished object runs nothing. If a step is not among the object's conditions,
// a later release added it. It is not run, not counted, and not in any message.
func Run[S any](ctx context.Context, obj Object, lanes Lanes[S], s S, memory *Memory) time.Duration {
	if Finished(obj) {
		return 0
	}
	lanes = begun(obj, lanes)
	key := client.ObjectKeyFromObject(obj)
	woken := memory.woken(key)
	var after time.Duration
	var stalled, waiting, loud *Outcome
	for i, lane := range lanes {
		outcome := runLane(ctx, obj, lane, s, attempts{memory, key, i, woken})
		switch outcome.verdict {
		case unsaid:
			continue // the lane is through
		case finish, moot:
			endAll(obj, lanes, outcome)
			return 0
		case stall:
			if stalled == nil {
				stalled = &outcome
			}
		default:
			waiting = &outcome // the last lane's message is shown
			after = Soonest(after, outcome.after)
		}
		if outcome.loud && loud == nil {
			loud = &outcome
		}
	}
	memory.comesBack(key, after)
	if stalled == nil && waiting == nil {
		finishAll(obj, lanes)
		return 0
	}
	report(obj, stalled, waiting, loud)
	return after
}

// begun leaves out the steps that the object did not begin with.
func begun[S any](obj Object, lanes Lanes[S]) Lanes[S] {
	known := make(Lanes[S], len(lanes))
	for i, lane := range lanes {
		known[i] = slices.DeleteFunc(slices.Clone(lane), func(step Step[S]) bool {
			return condition(obj,
				step.Condition) == nil
		})
	}
	return known
}

// runLane runs a lane's steps in their order. It returns what the lane has come to, or the zero Outcome once it is
// through.
func runLane[S any](ctx context.Context, obj Object, lane []Step[S], s S, tries attempts) Outcome {
	for i, step := range lane {
		c := condition(obj, step.Condition)
		if settled(c) {
			continue
		}
		at := ""
		if len(lane) > 1 {
			at = fmt.Sprintf("step %d/%d: ", i+1, len(lane))
		}
		if c.Status == metav1.ConditionFalse {
			return Stall(c.Reason, "%s%s", at, c.Message)
		}
		if rest := tries.rest(); rest > 0 {
			return Wait(rest, c.Reason, "%s%s", at, c.Message)
		}
		outcome := runStep(ctx, obj, step, s, tries)
		switch outcome.verdict {
		case done:
			set(obj, step.Condition, metav1.ConditionTrue, outcome.reason, outcome.message)
			continue
		case notNeeded:
			set(obj, step.Condition, metav1.ConditionFalse, outcome.reason, outcome.message)
			continue
		case stall:
			set(obj, step.Condition, metav1.ConditionFalse, outcome.reason, outcome.message)
		case finish:
			set(obj, step.Condition, metav1.ConditionTrue, v1alpha1.ReasonSucceeded, outcome.message)
			return outcome
		case moot:
			return outcome
		default:
			set(obj, step.Condition, metav1.ConditionUnknown, outcome.reason, outcome.message)
		}
		outcome.message = at + outcome.message
		return outcome
	}
	return Outcome{}
}

// runStep runs one step. An error becomes a wait until the step is retried. After a conflict that wait is short.
func runStep[S any](ctx context.Context, obj Object, step Step[S], s S, tries attempts) Outcome {
	outcome, err := step.Run(ctx, s)
	if err == nil && !outcome.Stops() {
		err = fmt.Errorf("a mistake in this program: the step %s ended without an outcome", step.Condition)
	}
	if err == nil {
		tries.succeeded()
		return outcome
	}
	if apierrors.IsConflict(err) {
		// The next pass reads the object again. What was done is in the ledger, or was written before.
		c := condition(obj, step.Condition)
		return Wait(conflictRetry, c.Reason, "%s", c.Message)
	}
	if under := (*UnderWay)(nil); errors.As(err, &under) {
		if c := condition(obj, step.Condition); c.Reason != v1alpha1.ReasonPending {
			// A far side that is slow each time does not make the row go back and forth.
			return under.Wait(c.Reason, "%s", c.Message)
		}
		return under.Wait(v1alpha1.ReasonLooking, "%s", under.What)
	}
	ctrl.LoggerFrom(ctx).Error(err, "running a step", "step", step.Condition)
	outcome = Wait(tries.failed(), reasonOf(err), "%s", Normalise(err.Error()))
	if waiting := (*Waiting)(nil); errors.As(err, &waiting) && waiting.Urgent {
		return outcome.Loud()
	}
	return outcome
}

// report writes Ready while lanes wait. Its message is that of a loud lane, else of a stalled one, else of the last
// one.
func report(obj Object, stalled, waiting, loud *Outcome) {
	voice := waiting
	switch {
	case loud != nil:
		voice = loud
	case stalled != nil:
		voice = stalled
	}
	if stalled == nil {
		proceed(obj, voice.reason, voice.message)
		return
	}
	Stop(obj, stalled.reason, stalled.message)
	set(obj, v1alpha1.ConditionReady, metav1.ConditionFalse, voice.reason, voice.message)
}

// endAll ends the playbook for all lanes: a step that is not settled is not needed any more.
func endAll[S any](obj Object, lanes Lanes[S], outcome Outcome) {
	for _, step := range slices.Concat(lanes...) {
		if !settled(condition(obj, step.Condition)) {
			set(obj, step.Condition, metav1.ConditionFalse, v1alpha1.ReasonNotNeeded, outcome.message)
		}
	}
	complete(obj, outcome.reason, outcome.message)
}

// finishAll completes a playbook whose lanes are all through. The finished row says how it ended, not what the last
// step didn't do.
func finishAll[S any](obj Object, lanes Lanes[S]) {
	steps := slices.Concat(lanes...)
	if len(steps) == 0 {
		Stop(obj, v1alpha1.ReasonSpecInvalid, "this release knows none of the object's steps: delete it, and apply one "+
			"with a new name")
		return
	}
	last := condition(obj, steps[len(steps)-1].Condition)
	for i := len(steps) - 1; i >= 0; i-- {
		c := condition(obj, steps[i].Condition)
		if c.Status != metav1.ConditionTrue {
			continue
		}
		if steps[i].Ends {
			last = c
			break
		}
		if last.Status != metav1.ConditionTrue {
			last = c
		}
	}
	complete(obj, v1alpha1.ReasonSucceeded, last.Message)
}

// Soonest is the shorter of two waits. Zero stands for no wait.
func Soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

func condition(obj Object, name string) *metav1.Condition {
	return meta.FindStatusCondition(*obj.GetConditions(), name)
}
