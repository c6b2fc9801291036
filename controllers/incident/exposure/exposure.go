// Package exposure ends a signing key that leaked, by a KeyCompromise that outlives the Incident, and follows it.
package exposure

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// lookInterval is how often is looked at what nothing tells of, or in case that nothing told of a change.
const lookInterval = 30 * time.Second

// Exposure is the leaked key of one Incident.
type Exposure struct {
	*journal.Journal
}

// Run ends the key by a KeyCompromise, and is through when the key is revoked. One that exists already for the key is
// taken on: that changes nothing, so nobody is asked. Another Incident holds nothing up: of two KeyCompromises of one
// key the ledger lets one act, and another kid is another leak.
func (e *Exposure) Run(ctx context.Context) (playbook.Outcome, error) {
	if outcome := e.lacking(); outcome.Stops() {
		return outcome, nil
	}
	child, err := e.find(ctx)
	switch {
	case err != nil:
		return playbook.Outcome{}, err
	case child != nil:
		return e.follow(child), nil
	case e.ByHand():
		return playbook.NotNeeded("resolved by %s. Kid %q was NOT ended by this incident", e.Incident.Spec.Resolution.By,
			e.Incident.Spec.Affected.Kid), nil
	case e.wasDeleted():
		return e.deleted(), nil
	}
	return e.begin(ctx)
}

// Over says how the Incident ended, once its KeyCompromise has proven that nobody has to believe the key any more.
// Before that, the Outcome says what it waits for.
func (e *Exposure) Over(ctx context.Context) (string, playbook.Outcome, error) {
	if !meta.IsStatusConditionTrue(e.Incident.Status.Conditions, v1alpha1.StepKeyCompromised) {
		return "", playbook.Wait(0, v1alpha1.ReasonEndingKey, "the key is not ended yet. The incident closes when no cache "+
			"may hold it any more"), nil
	}
	child, err := e.find(ctx)
	if err != nil {
		return "", playbook.Outcome{}, err
	}
	if child == nil {
		return "", e.deleted(), nil
	}
	until := child.Status.ExposedUntil
	switch {
	case !playbook.Finished(child) && e.deaf(child):
		return "", playbook.Wait(lookInterval, v1alpha1.ReasonCachesClear, "%s is ended, and caches clear since %s. Only "+
			"its relying party holds this up: KeyCompromise %s is %s. To close it without them: %s", child.Spec.Kid,
			until.UTC().Format(time.RFC3339), child.Name, said(child), e.ResolveCommand()), nil
	case !playbook.Finished(child):
		return "", e.progress(child), nil
	case until != nil && e.Now.Before(until.Time):
		return "", playbook.Wait(e.Until(until.Time), v1alpha1.ReasonWaitingForCaches, "KeyCompromise %s is Ready. Caches "+
			"may hold %s until %s", child.Name, child.Spec.Kid, until.UTC().Format(time.RFC3339)), nil
	}
	return fmt.Sprintf("KeyCompromise %s is Ready: %s", child.Name, message(child)), playbook.Outcome{}, nil
}

// lacking stalls where the facts are not there. CEL asks for them, and an object of an earlier release may lack them.
func (e *Exposure) lacking() playbook.Outcome {
	if a := e.Incident.Spec.Affected; a != nil && len(a.ApplicationIDs) == 1 && a.Kid != "" {
		return playbook.Outcome{}
	}
	if e.ByHand() {
		return playbook.NotNeeded("resolved by %s", e.Incident.Spec.Resolution.By)
	}
	return playbook.Stall(v1alpha1.ReasonSpecInvalid, "no key is ended: spec.affected does not name exactly one "+
		"application and a kid, and can't be changed. Apply one with a new name that has both, and close this one: %s",
		e.ResolveCommand()).Loud()
}

// follow the KeyCompromise until the key is revoked.
func (e *Exposure) follow(child *v1alpha1.KeyCompromise) playbook.Outcome {
	switch at := child.Status.RevokedAt; {
	case at != nil && child.Status.SuccessorKid != "":
		return playbook.Done("KeyCompromise %s revoked %s at %s, successor %s", child.Name, child.Spec.Kid,
			at.UTC().Format(time.RFC3339), child.Status.SuccessorKid)
	case at != nil:
		return playbook.Done("KeyCompromise %s revoked %s at %s", child.Name, child.Spec.Kid, at.UTC().Format(time.RFC3339))
	case playbook.Finished(child):
		return playbook.Done("KeyCompromise %s is Ready: %s", child.Name, message(child))
	case e.ByHand():
		return playbook.NotNeeded("resolved by %s. KeyCompromise %s goes on by itself", e.Incident.Spec.Resolution.By,
			child.Name)
	}
	return e.progress(child).Loud()
}

// progress is where an unfinished KeyCompromise stands, in its own words: they end with the command that it waits for.
func (e *Exposure) progress(child *v1alpha1.KeyCompromise) playbook.Outcome {
	switch waits := reason(child); {
	case playbook.Stalled(child):
		another := ""
		if reason(child) == v1alpha1.ReasonUnknownKid {
			// An Incident is about one kid for life.
			another = fmt.Sprintf(". This incident is about that kid, too: resolve it, and apply one with the right kid: %s",
				e.ResolveCommand())
		}
		return playbook.Wait(lookInterval, v1alpha1.ReasonKeyCompromiseStalled, "KeyCompromise %s is stalled, %s%s",
			child.Name, said(child), another).Loud()
	case waits == v1alpha1.ReasonWaitingForApproval, waits == v1alpha1.ReasonAutomationOff:
		return playbook.Wait(lookInterval, waits, "KeyCompromise %s waits: %s", child.Name, message(child)).Loud()
	}
	return playbook.Wait(lookInterval, v1alpha1.ReasonEndingKey, "KeyCompromise %s is %s", child.Name, said(child))
}

// said is a KeyCompromise's own reason and message.
func said(child *v1alpha1.KeyCompromise) string { return reason(child) + ": " + message(child) }

func reason(child *v1alpha1.KeyCompromise) string {
	if ready := meta.FindStatusCondition(child.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		return ready.Reason
	}
	return v1alpha1.ReasonPending
}

func message(child *v1alpha1.KeyCompromise) string {
	if ready := meta.FindStatusCondition(child.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		return ready.Message
	}
	return "no manager has looked at it yet"
}

// deaf says that nothing is left but what its relying party has to do, and that no cache may hold the key.
func (e *Exposure) deaf(child *v1alpha1.KeyCompromise) bool {
	if until := child.Status.ExposedUntil; until == nil || e.Now.Before(until.Time) {
		return false
	}
	theirs := []string{v1alpha1.StepRelyingPartyNotified, v1alpha1.StepVerified}
	for _, step := range []string{v1alpha1.StepRevoked, v1alpha1.StepReSigned, v1alpha1.StepPublished} {
		if !meta.IsStatusConditionTrue(child.Status.Conditions, step) {
			return false
		}
	}
	return slices.ContainsFunc(theirs, func(step string) bool {
		c := meta.FindStatusCondition(child.Status.Conditions, step)
		return c != nil && c.Status != metav1.ConditionTrue && c.Reason != v1alpha1.ReasonNotNeeded
	})
}

// wasDeleted says that the KeyCompromise was there, and find did not find it.
func (e *Exposure) wasDeleted() bool {
	known := e.Incident.Status.KeyCompromise
	return known != nil && known.UID != ""
}

// deleted reports a KeyCompromise that somebody deleted. Whoever did that may have had a reason, so it is not made
// again.
func (e *Exposure) deleted() playbook.Outcome {
	known, affected := e.Incident.Status.KeyCompromise, e.Incident.Spec.Affected
	text := fmt.Sprintf("somebody deleted KeyCompromise %s", known.Name)
	e.warnOnce(v1alpha1.ReasonChildDeleted, text)
	state := "whether the key is revoked is not known here"
	if meta.IsStatusConditionTrue(e.Incident.Status.Conditions, v1alpha1.StepKeyCompromised) {
		state = "the key is revoked, and nobody proves that no relying party believes it"
	}
	return playbook.Wait(lookInterval, v1alpha1.ReasonChildDeleted, "%s. It is not made again; %s. Apply a KeyCompromise "+
		"of application %s and kid %q, and this incident takes it on. Or close it: %s", text, state,
		affected.ApplicationIDs[0], affected.Kid, e.ResolveCommand()).Loud()
}

// warnOnce is Warn for what is so in each pass: nobody reads conditions all night.
func (e *Exposure) warnOnce(reason, text string) {
	told := func(t v1alpha1.TimelineEntry) bool {
		begins, cut := strings.CutSuffix(t.Text, "…") // the timeline keeps no long texts
		return t.Text == text || cut && strings.HasPrefix(text, begins)
	}
	if !slices.ContainsFunc(e.Incident.Status.Timeline, told) {
		e.Warn(reason, "%s", text)
	}
}
