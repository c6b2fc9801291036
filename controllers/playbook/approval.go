package playbook

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// An Act is a change of the platform that a playbook is about to make.
type Act struct {
	Object client.Object
	// Resource is the object's kind in kubectl's words.
	Resource string
	Platform *v1alpha1.Platform
	// Required are the steps that wait for an approval. Without one the act needs none.
	Required []string
	// Approvals are those in the object's spec.
	Approvals []v1alpha1.Approval
	// Digest stands for exactly what would be done, and What describes it for people.
	Digest, What string
	// Again is how soon to look again while the act waits. Zero means: when the object or its Platform changes.
	Again time.Duration
}

// Required lists the steps of a kind that wait for an approval by the Platform's rules. entries is how many entries the
// act is about.
func Required(p *v1alpha1.Platform, kind string, entries int64) []string {
	var steps []string
	for _, rule := range p.Spec.RequireApproval {
		if rule.Kind == kind && (rule.AboveEntries == nil || entries > *rule.AboveEntries) {
			steps = append(steps, rule.Step)
		}
	}
	return steps
}

// MayAct returns the zero Outcome if the object and its Platform allow the act now. Otherwise it returns what the step
// waits for. A step calls it before its first effect.
func (a Act) MayAct() Outcome {
	if a.Platform.Spec.Automation == v1alpha1.AutomationObserveOnly {
		return Wait(a.Again, v1alpha1.ReasonAutomationOff, "Platform %q is ObserveOnly: nothing is changed until its "+
			"spec.automation is Enabled",
			a.Platform.Name)
	}
	missing, other := Unapproved(a.Approvals, a.Required, a.Digest)
	if len(missing) == 0 {
		return Outcome{}
	}
	note := ""
	if len(other) > 0 {
		note = fmt.Sprintf(" (the approval given for %s is for another digest)", strings.Join(other, ", "))
	}
	return Wait(a.Again, v1alpha1.ReasonWaitingForApproval, "%s waits for approval of %s, %s%s. To approve: %s",
		strings.Join(missing, " and "), a.What, a.Digest, note,
		ApproveCommand(a.Object, a.Resource, a.Approvals, missing, a.Digest))
}

// ShowApproval shows what waits for an approval on the steps to be approved whose turn has not come: a gate is asked
// before the first effect, which may be an earlier step's. Approved, they wait for their turn again.
func ShowApproval(obj Object, steps []string, o Outcome) {
	for _, step := range steps {
		c := condition(obj, step)
		switch {
		case c == nil || settled(c):
		case o.reason == v1alpha1.ReasonWaitingForApproval:
			setStep(obj, step, metav1.ConditionUnknown, o.reason, o.message)
		case c.Reason == v1alpha1.ReasonWaitingForApproval:
			setStep(obj, step, metav1.ConditionUnknown, v1alpha1.ReasonPending, itsTurn)
		}
	}
}

// Unapproved lists the required steps that have no approval of this digest. other lists those among them that have an
// approval of another digest.
func Unapproved(given []v1alpha1.Approval, required []string, digest string) (missing, other []string) {
	for _, step := range required {
		i := slices.IndexFunc(given, func(a v1alpha1.Approval) bool { return a.Step == step })
		if i >= 0 && given[i].Digest == digest {
			continue
		}
		missing = append(missing, step)
		if i >= 0 {
			other = append(other, step)
		}
	}
	return missing, other
}

// ApproveCommand is the command that approves missing steps. A merge patch replaces the list, so the command repeats
// the approvals that stay.
func ApproveCommand(obj client.Object, resource string, given []v1alpha1.Approval, missing []string,
	digest string) string {
	approvals := slices.DeleteFunc(slices.Clone(given), func(a v1alpha1.Approval) bool {
		return slices.Contains(missing,
			a.Step)
	})
	for _, step := range missing {
		approvals = append(approvals, v1alpha1.Approval{Step: step, Digest: digest, By: "YOUR-NAME"})
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"approvals": approvals}})
	if err != nil {
		panic(err) // strings and slices of them always marshal
	}
	return fmt.Sprintf("kubectl -n %s patch %s %s --type=merge -p '%s'", obj.GetNamespace(), resource, obj.GetName(),
		patch)
}
