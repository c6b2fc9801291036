package playbook

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// itsTurn is what a step says that has not begun.
const itsTurn = "waits for its turn"

// Begin writes the steps on the first visit. The object keeps this set of steps for its whole life.
func Begin[S any](obj Object, lanes Lanes[S]) {
	if condition(obj, v1alpha1.ConditionReady) != nil {
		return
	}
	proceed(obj, v1alpha1.ReasonPending, "accepted")
	for _, step := range slices.Concat(lanes...) {
		set(obj, step.Condition, metav1.ConditionUnknown, v1alpha1.ReasonPending, itsTurn)
	}
}

// Finished says whether the playbook is complete. A finished object never runs a step again.
func Finished(obj Object) bool {
	return meta.IsStatusConditionTrue(*obj.GetConditions(), v1alpha1.ConditionReady)
}

// Stalled says whether the playbook waits for a person.
func Stalled(obj Object) bool {
	return meta.IsStatusConditionTrue(*obj.GetConditions(), v1alpha1.ConditionStalled)
}

// Resume lets a stalled playbook go on where it stopped: the step that stalled is pending again, and settled steps stay
// settled.
func Resume(obj Object) {
	meta.RemoveStatusCondition(obj.GetConditions(), v1alpha1.ConditionStalled)
	for _, c := range *obj.GetConditions() {
		if c.Type != v1alpha1.ConditionReady && c.Status == metav1.ConditionFalse && c.Reason != v1alpha1.ReasonNotNeeded {
			set(obj, c.Type, metav1.ConditionUnknown, v1alpha1.ReasonPending, "asked to go on")
		}
	}
}

// Reopen makes a settled step unknown again, because its condition no longer holds.
func Reopen(obj Object, step, reason, message string) {
	setStep(obj, step, metav1.ConditionUnknown, reason, message)
}

// Stop reports that a person is needed.
func Stop(obj Object, reason, message string) {
	meta.RemoveStatusCondition(obj.GetConditions(), v1alpha1.ConditionReconciling)
	set(obj, v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message)
	set(obj, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
}

// Announce reports what a step is about to do, for a status that is written before the effect.
func Announce(obj Object, step, reason, message string) {
	setStep(obj, step, metav1.ConditionUnknown, reason, message)
	proceed(obj, reason, message)
}

// Happened settles a step before its turn, because it happened although earlier steps are not settled.
func Happened(obj Object, step, format string, args ...any) {
	setStep(obj, step, metav1.ConditionTrue, v1alpha1.ReasonSucceeded, fmt.Sprintf(format, args...))
}

// Fail reports an error that is retried, before any step ran. A stalled object stays so until it goes on, or the next
// pass would not know that it was asked to.
func Fail(obj Object, err error) {
	switch reason, message := reasonOf(err), Normalise(err.Error()); {
	case Asked(obj):
		Stop(obj, reason, "asked to go on, which can't be done yet: "+message)
	case Stalled(obj):
		Stop(obj, reason, message)
	default:
		proceed(obj, reason, message)
	}
}

func settled(c *metav1.Condition) bool {
	return c.Status == metav1.ConditionTrue || c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonNotNeeded
}

// proceed reports work in progress. Ready is False rather than Unknown: kstatus takes both for progress, and people
// understand False.
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

// setStep changes a step that the object has. It never adds one.
func setStep(obj Object, step string, status metav1.ConditionStatus, reason, message string) {
	if condition(obj, step) != nil {
		set(obj, step, status, reason, message)
	}
}

func set(obj Object, condition string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(obj.GetConditions(), metav1.Condition{
		Type: condition, Status: status, Reason: reason, Message: message, ObservedGeneration: obj.GetGeneration(),
	})
}
