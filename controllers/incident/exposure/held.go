package exposure

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// held says what the effect waits for; the zero Outcome lets it happen. Where a person opened the Incident, they said
// by that what is to be done, and a key that leaked is abused meanwhile: neither an open Outage, which they can see,
// nor anybody's approval holds it up. An alert is no person, and its labels must not revoke a production key.
func (e *Exposure) held(ctx context.Context, child *v1alpha1.KeyCompromise) (playbook.Outcome, error) {
	why := e.grounds()
	digest, err := playbook.Digest(child.Spec)
	if err != nil {
		return playbook.Outcome{}, err
	}
	act := playbook.Act{
		Object: e.Incident, Resource: "incident", Platform: e.Platform, Approvals: e.Incident.Spec.Approvals,
		Digest: digest,
		What: fmt.Sprintf("the end of kid %q of application %s, by a KeyCompromise via: %s (%s)", child.Spec.Kid,
			child.Spec.ApplicationID, child.Spec.Via, strings.Join(why, "; ")),
	}
	if len(why) > 0 {
		act.Required = []string{v1alpha1.StepKeyCompromised}
	}
	if missing, _ := playbook.Unapproved(act.Approvals, act.Required, digest); len(missing) > 0 {
		e.warnOnce(v1alpha1.ReasonWaitingForApproval, act.What+" waits for an approval")
	}
	if outcome := act.MayAct(); outcome.Stops() || !e.ByAlert() {
		return outcome, nil
	}
	outage, err := e.OpenOutage(ctx)
	if err != nil || outage == "" {
		return playbook.Outcome{}, err
	}
	return playbook.Wait(lookInterval, v1alpha1.ReasonWaitingForOutage, "kid %q of application %s is ended when Incident "+
		"%s, an Outage, is over: an alert opened this incident. Where that can't wait, apply a KeyCompromise. This incident "+
		"takes it on", child.Spec.Kid, child.Spec.ApplicationID, outage), nil
}

// grounds are why it needs an approval.
func (e *Exposure) grounds() []string {
	var why []string
	if e.ByAlert() {
		why = append(why, "an alert opened this incident, and no alert revokes a key by itself")
	}
	if e.StatusLost() {
		why = append(why, "the incident's status was lost, and nobody knows what it did before")
	}
	if slices.Contains(playbook.Required(e.Platform, "Incident", 0), v1alpha1.StepKeyCompromised) {
		why = append(why, "the Platform's spec.requireApproval asks for it")
	}
	return why
}
