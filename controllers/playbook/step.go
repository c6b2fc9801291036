// Package playbook runs the steps of a playbook and reports each as a status condition. It knows no system.
package playbook

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// A Step is one line of a playbook: the condition that reports it and the work that makes it true.
type Step[S any] struct {
	Condition string
	Run       func(ctx context.Context, s S) (Outcome, error)
}

// Object is what a playbook reports on.
type Object interface {
	client.Object
	GetConditions() *[]metav1.Condition
	// PlatformName is the name of the Platform that it is about.
	PlatformName() string
}

type verdict int

const (
	done verdict = iota
	notNeeded
	wait
	stall
	finish
	moot
)

// An Outcome is what a step came to. An error is not an outcome: it is retried.
type Outcome struct {
	verdict verdict
	reason  string
	message string
	after   time.Duration
}

// Done settles a step: what its condition names happened.
func Done(format string, args ...any) Outcome {
	return Outcome{verdict: done, reason: v1alpha1.ReasonSucceeded, message: fmt.Sprintf(format, args...)}
}

// NotNeeded settles a step that had nothing to do.
func NotNeeded(format string, args ...any) Outcome {
	return Outcome{verdict: notNeeded, reason: v1alpha1.ReasonNotNeeded, message: fmt.Sprintf(format, args...)}
}

// Wait reports what the step is doing, and comes back after d.
func Wait(d time.Duration, reason, format string, args ...any) Outcome {
	return Outcome{verdict: wait, reason: reason, message: fmt.Sprintf(format, args...), after: d}
}

// Stall stops the playbook: a person is needed, and the message says what to do.
func Stall(reason, format string, args ...any) Outcome {
	return Outcome{verdict: stall, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Finish settles a step and the whole playbook with it: the steps after it are not needed, and Ready has this reason.
func Finish(reason, format string, args ...any) Outcome {
	return Outcome{verdict: finish, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Moot settles the whole playbook without this step: neither it nor those after it are needed, and Ready has this reason.
func Moot(reason, format string, args ...any) Outcome {
	return Outcome{verdict: moot, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Waiting is an error with a reason of its own: the operation can't go on until something outside changes, and says which.
// It is retried like any other.
type Waiting struct {
	Reason string
	Err    error
}

func (w *Waiting) Error() string { return w.Err.Error() }
func (w *Waiting) Unwrap() error { return w.Err }

// Run takes an object that was begun through its steps until one waits, stalls or fails, and writes what happened into its conditions. The
// caller writes the status. It returns how long to wait until the next pass; zero when nothing is left to do.
//
// A finished or stalled object runs nothing. A step that is not among the object's conditions was added by a later release than
// the one that began it, and is not run.
func Run[S any](ctx context.Context, obj Object, steps []Step[S], s S) (time.Duration, error) {
	conditions := obj.GetConditions()
	if Finished(obj) || Stalled(obj) {
		return 0, nil
	}
	steps = slices.DeleteFunc(slices.Clone(steps), func(step Step[S]) bool {
		return meta.FindStatusCondition(*conditions, step.Condition) == nil
	})
	for i, step := range steps {
		if settled(*conditions, step.Condition) {
			continue
		}
		outcome, err := step.Run(ctx, s)
		at := fmt.Sprintf("step %d/%d: ", i+1, len(steps))
		if err != nil {
			fail(obj, step.Condition, at, err)
			return 0, err
		}
		switch outcome.verdict {
		case done:
			set(obj, step.Condition, metav1.ConditionTrue, outcome.reason, outcome.message)
		case notNeeded:
			set(obj, step.Condition, metav1.ConditionFalse, outcome.reason, outcome.message)
		case wait:
			set(obj, step.Condition, metav1.ConditionUnknown, outcome.reason, outcome.message)
			proceed(obj, outcome.reason, at+outcome.message)
			return outcome.after, nil
		case stall:
			set(obj, step.Condition, metav1.ConditionFalse, outcome.reason, outcome.message)
			Stop(obj, outcome.reason, at+outcome.message)
			return 0, nil
		case finish, moot:
			rest := steps[i:]
			if outcome.verdict == finish {
				set(obj, step.Condition, metav1.ConditionTrue, v1alpha1.ReasonSucceeded, outcome.message)
				rest = rest[1:]
			}
			for _, step := range rest {
				set(obj, step.Condition, metav1.ConditionFalse, v1alpha1.ReasonNotNeeded, outcome.message)
			}
			complete(obj, outcome.reason, outcome.message)
			return 0, nil
		}
	}
	last := meta.FindStatusCondition(*conditions, steps[len(steps)-1].Condition)
	complete(obj, v1alpha1.ReasonSucceeded, last.Message)
	return 0, nil
}

// Finished says whether the playbook is complete. A finished object runs nothing, ever.
func Finished(obj Object) bool {
	return meta.IsStatusConditionTrue(*obj.GetConditions(), v1alpha1.ConditionReady)
}

// Stalled says whether the playbook waits for a person.
func Stalled(obj Object) bool {
	return meta.IsStatusConditionTrue(*obj.GetConditions(), v1alpha1.ConditionStalled)
}

// Resume lets a stalled playbook go on where it stopped: the step that stalled is pending again, and what is settled stays so.
func Resume(obj Object) {
	meta.RemoveStatusCondition(obj.GetConditions(), v1alpha1.ConditionStalled)
	for _, c := range *obj.GetConditions() {
		if c.Type != v1alpha1.ConditionReady && c.Status == metav1.ConditionFalse && c.Reason != v1alpha1.ReasonNotNeeded {
			set(obj, c.Type, metav1.ConditionUnknown, v1alpha1.ReasonPending, "asked to go on")
		}
	}
}

// Stop reports that a person is needed.
func Stop(obj Object, reason, message string) {
	meta.RemoveStatusCondition(obj.GetConditions(), v1alpha1.ConditionReconciling)
	set(obj, v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message)
	set(obj, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
}

// Announce reports what a step is about to do, for a status that is written before the effect.
func Announce(obj Object, step, reason, message string) {
	set(obj, step, metav1.ConditionUnknown, reason, message)
	proceed(obj, reason, message)
}

// Happened settles a step before its turn: what its condition names does not depend on the steps that hold it up.
func Happened(obj Object, step, format string, args ...any) {
	set(obj, step, metav1.ConditionTrue, v1alpha1.ReasonSucceeded, fmt.Sprintf(format, args...))
}

// Begin writes the set of steps on the first visit: it is the object's playbook for life.
func Begin[S any](obj Object, steps []Step[S]) {
	if meta.FindStatusCondition(*obj.GetConditions(), v1alpha1.ConditionReady) != nil {
		return
	}
	proceed(obj, v1alpha1.ReasonPending, "accepted")
	for _, step := range steps {
		set(obj, step.Condition, metav1.ConditionUnknown, v1alpha1.ReasonPending, "waits for its turn")
	}
}

func settled(conditions []metav1.Condition, step string) bool {
	c := meta.FindStatusCondition(conditions, step)
	return c.Status == metav1.ConditionTrue || c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonNotNeeded
}

// proceed reports work in progress. Ready is False rather than Unknown, since kstatus reads both as in progress and people read
// False.
func proceed(obj Object, reason, message string) {
	meta.RemoveStatusCondition(obj.GetConditions(), v1alpha1.ConditionStalled)
	set(obj, v1alpha1.ConditionReconciling, metav1.ConditionTrue, reason, message)
	set(obj, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
}

func complete(obj Object, reason, message string) {
	meta.RemoveStatusCondition(obj.GetConditions(), v1alpha1.ConditionReconciling)
	meta.RemoveStatusCondition(obj.GetConditions(), v1alpha1.ConditionStalled)
	set(obj, v1alpha1.ConditionReady, metav1.ConditionTrue, reason, message)
}

func set(obj Object, condition string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(obj.GetConditions(), metav1.Condition{
		Type: condition, Status: status, Reason: reason, Message: message, ObservedGeneration: obj.GetGeneration(),
	})
}
