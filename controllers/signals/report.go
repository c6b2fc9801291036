package signals

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// Report brings the Platform's conditions, its summary and the endpoints that were good once up to date.
func Report(p *v1alpha1.Platform, s Signals) {
	reasons := map[metav1.ConditionStatus]string{
		metav1.ConditionTrue: v1alpha1.ReasonSignalGood, metav1.ConditionFalse: v1alpha1.ReasonSignalBad,
		metav1.ConditionUnknown: v1alpha1.ReasonSignalUnknown,
	}
	asked := map[string]bool{}
	for _, signal := range s.Each {
		asked[signal.Condition] = true
		reason := reasons[signal.State]
		if signal.Flaky && signal.State == metav1.ConditionFalse {
			reason = v1alpha1.ReasonSignalFlaky
		}
		meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{
			Type: signal.Condition, Status: signal.State, Reason: reason, Message: signal.Message,
			ObservedGeneration: p.Generation,
			// What a Prober that starts in the middle of an outage reads.
			LastTransitionTime: metav1.NewTime(signal.Since.Truncate(time.Second)),
		})
	}
	for condition := range class {
		if !asked[condition] {
			meta.RemoveStatusCondition(&p.Status.Conditions, condition)
		}
	}
	p.Status.Endpoints = s.endpoints
	summary := &v1alpha1.PlatformSignals{Summary: s.Summary(), Severity: s.Severity()}
	switch {
	case s.Severity() != "":
		summary.BadSince = new(metav1.NewTime(s.BadSince().Truncate(time.Second)))
	case s.lingering() && p.Status.Signals != nil:
		summary.BadSince = p.Status.Signals.BadSince
	}
	p.Status.Signals = summary
}

// Forget takes what signals said out of the Platform's status, when nothing is probed any more.
func Forget(p *v1alpha1.Platform) {
	for condition := range class {
		meta.RemoveStatusCondition(&p.Status.Conditions, condition)
	}
	p.Status.Signals, p.Status.Endpoints = nil, nil
}
