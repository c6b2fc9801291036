package dlqreplay

import (
	"fmt"
	"strings"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// approved asks the Platform's approval rules. All of them are asked before the first effect, and a canary is one: what a person
// has not approved must not be tried on ten entries either.
func (s *replay) approved() playbook.Outcome {
	var required []string
	for _, rule := range s.platform.Spec.RequireApproval {
		if rule.Kind == "DLQReplay" && (rule.AboveEntries == nil || s.op.Total > *rule.AboveEntries) {
			required = append(required, rule.Step)
		}
	}
	digest := *s.op.PlanDigest
	missing, other := playbook.Unapproved(s.obj.Spec.Approvals, required, digest)
	if len(missing) == 0 {
		return playbook.Outcome{}
	}
	note := ""
	if len(other) > 0 {
		note = fmt.Sprintf(" (the approval given for %s is for another digest)", strings.Join(other, ", "))
	}
	return playbook.Wait(s.idle(), v1alpha1.ReasonWaitingForApproval, "%s waits for approval of %d entries, cutoff %s, %s%s. To approve: %s",
		strings.Join(missing, " and "), s.op.Total, s.op.Cutoff.Format("2006-01-02T15:04:05.000000Z"), digest, note,
		playbook.ApproveCommand(s.obj, "dlqreplay", s.obj.Spec.Approvals, missing, digest))
}
