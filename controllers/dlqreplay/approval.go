package dlqreplay

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// approved asks the Platform's approval rules. All of them are asked before the first effect, and a canary is one: what a person
// has not approved must not be tried on ten entries either.
func (s *replay) approved() (playbook.Outcome, bool) {
	digest := *s.op.PlanDigest
	given := s.obj.Spec.Approvals
	var missing, other []string
	for _, rule := range s.platform.Spec.RequireApproval {
		if rule.Kind != "DLQReplay" || rule.AboveEntries != nil && s.op.Total <= *rule.AboveEntries {
			continue
		}
		i := slices.IndexFunc(given, func(a v1alpha1.Approval) bool { return a.Step == rule.Step })
		switch {
		case i < 0:
			missing = append(missing, rule.Step)
		case given[i].Digest != digest:
			missing = append(missing, rule.Step)
			other = append(other, rule.Step)
		}
	}
	if len(missing) == 0 {
		return playbook.Outcome{}, true
	}
	note := ""
	if len(other) > 0 {
		note = fmt.Sprintf(" (the approval given for %s is for another digest)", strings.Join(other, ", "))
	}
	return playbook.Wait(s.idle(), v1alpha1.ReasonWaitingForApproval, "%s waits for approval of %d entries, cutoff %s, %s%s. To approve: %s",
		strings.Join(missing, " and "), s.op.Total, s.op.Cutoff.Format("2006-01-02T15:04:05.000000Z"), digest, note, s.approveCommand(digest, missing)), false
}

// approveCommand is what to type. A merge patch replaces the list, so it repeats the approvals that stay.
func (s *replay) approveCommand(digest string, missing []string) string {
	approvals := slices.DeleteFunc(slices.Clone(s.obj.Spec.Approvals), func(a v1alpha1.Approval) bool { return slices.Contains(missing, a.Step) })
	for _, step := range missing {
		approvals = append(approvals, v1alpha1.Approval{Step: step, Digest: digest, By: "YOUR-NAME"})
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"approvals": approvals}})
	if err != nil {
		panic(err) // strings and slices of them always marshal
	}
	return fmt.Sprintf("kubectl -n %s patch dlqreplay %s --type=merge -p '%s'", s.obj.Namespace, s.obj.Name, patch)
}
