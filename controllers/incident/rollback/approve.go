package rollback

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// grounds lists why a rollback needs a person. Without any, it goes ahead by itself.
func (r *Rollback) grounds(plan *v1alpha1.IncidentRollback, choice render.Choice) []string {
	var why []string
	if Policy(&r.Incident.Spec) == v1alpha1.RollbackApproval {
		why = append(why, "spec.outage.rollback is Approval")
	}
	if slices.Contains(playbook.Required(r.Platform, "Incident", 0), v1alpha1.StepRolledBack) {
		why = append(why, "the Platform's spec.requireApproval asks for it")
	}
	if r.StatusLost() {
		why = append(why, "the incident's status was lost, and nobody knows what it did before")
	}
	if !r.Evidence.Ground {
		why = append(why, "no sev1 signal is bad by HTTP 404, a 5xx, a time-out or a refused connection")
	}
	if plan.Schema == v1alpha1.SchemaMigrated {
		// Old code on a newer schema is for a person to decide.
		why = append(why, "the database was migrated since")
	}
	if other := claims.RollbackOf(&r.Platform.Status, plan.Service); other != nil &&
		other.IncidentUID != string(r.Incident.UID) &&
		asked(other) && r.Now.Sub(other.At.Time) < oneRollbackPer {
		why = append(why, fmt.Sprintf("Incident %s rolled %s back at %s, and a service is rolled back by itself once an "+
			"hour at most",
			other.Incident, other.Service, other.At.UTC().Format(time.RFC3339)))
	}
	return append(why, choice.NeedsApproval...)
}

// approved returns what is waited for; nil where the rollback may go ahead. An approval is for an exact pair, whose
// first is what is live now: a pair that changed has another digest.
func (r *Rollback) approved(plan *v1alpha1.IncidentRollback, choice render.Choice) *playbook.Outcome {
	why := r.grounds(plan, choice)
	if len(why) == 0 {
		return nil
	}
	missing, other := playbook.Unapproved(r.Incident.Spec.Approvals, []string{v1alpha1.StepRolledBack}, plan.Digest)
	if len(missing) == 0 {
		return nil
	}
	note := ""
	if len(other) > 0 {
		note = " The approval given is for another pair."
	}
	if _, ok := r.MayAct(); !ok {
		note += fmt.Sprintf(" Platform %q is ObserveOnly, too: its spec.automation must be Enabled.", r.Platform.Name)
	}
	pair := pairText(plan)
	because := strings.Join(why, "; ")
	// A new pair is told once: nobody reads conditions all night.
	text := fmt.Sprintf("%s; %s waits for an approval: %s", r.because(), pair, because)
	if !slices.ContainsFunc(r.Incident.Status.Timeline,
		func(e v1alpha1.TimelineEntry) bool { return strings.Contains(e.Text, pair) }) {
		r.Warn(v1alpha1.ReasonWaitingForApproval, "%s", text)
	}
	wait := playbook.Wait(fixInterval, v1alpha1.ReasonWaitingForApproval, "%s%s%s.%s To approve %s: %s", text,
		schemaText(plan), skippedText(plan), note, plan.Digest,
		playbook.ApproveCommand(r.Incident, "incident", r.Incident.Spec.Approvals, missing, plan.Digest)).Loud()
	return &wait
}

// unused makes a wait loud where a person gave an approval: nothing comes of it. The timeline says so once.
func (r *Rollback) unused(outcome playbook.Outcome, why string) playbook.Outcome {
	i := slices.IndexFunc(r.Incident.Spec.Approvals,
		func(a v1alpha1.Approval) bool { return a.Step == v1alpha1.StepRolledBack })
	if i < 0 {
		return outcome
	}
	approval := r.Incident.Spec.Approvals[i]
	text := fmt.Sprintf("the approval of %s by %s is not used", approval.Digest, approval.By)
	if !slices.ContainsFunc(r.Incident.Status.Timeline,
		func(e v1alpha1.TimelineEntry) bool { return strings.HasPrefix(e.Text, text) }) {
		r.Warn(v1alpha1.ReasonWaitingForApproval, "%s: no deploy is suspected now: %s", text, why)
	}
	return outcome.Loud()
}

// pairText says what would be done.
func pairText(plan *v1alpha1.IncidentRollback) string {
	return fmt.Sprintf("rolling %s back from %s (%s) to %s (%s)", plan.Service, plan.From, plan.FromCommit, plan.To,
		plan.ToCommit)
}
