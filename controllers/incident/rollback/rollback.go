// Package rollback goes back to the last good deploy where a regression is suspected, and puts auto-deploy back
// afterwards.
package rollback

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

const (
	// oneRollbackPer is how often a service is rolled back at most without a person.
	oneRollbackPer = time.Hour
	// deployInterval is how often a deploy that is under way is looked at.
	deployInterval = 5 * time.Second
	// looksInterval is how soon it is decided again where too few looks came after the deploy went live.
	looksInterval = time.Second
	// fixInterval is how often it is looked whether something was deployed since.
	fixInterval = 10 * time.Second
	// maxSkipped is v1alpha1's.
	maxSkipped = 8
)

// Evidence is what the signals say of an outage, as far as a rollback depends on it.
type Evidence struct {
	// Ground says that a sev1 signal is bad now by HTTP 404, a 5xx, a time-out or a refused connection.
	Ground bool
	// Onset of the present bad episode. Where no signal is bad, it is the Incident's.
	Onset time.Time
	// EnoughFrom is the oldest of the newest looks that suffice to call the signal bad; zero where none is bad.
	EnoughFrom time.Time
	// Detection is how long it takes until a signal that is bad is called so.
	Detection time.Duration
	// ClearSince is since when the signals that were bad are good; zero where that is not so.
	ClearSince time.Time
	// Over says why nothing needs to be rolled back any more; empty while the outage lasts.
	Over string
	// Because says what is bad, in a few words.
	Because string
}

// Rollback is the rollback of one Incident.
type Rollback struct {
	*journal.Journal
	Claims   claims.Claims
	Access   *access.Connections
	Aside    *playbook.Aside
	Evidence Evidence
	// First is the Incident that has the slot, where this one only pages; empty otherwise.
	First string

	// alone is the service that no older Platform holds, as this pass saw it past the cache.
	alone string
}

// Run goes back where the evidence and the policy allow it. Render is asked once: what came of it is read from Render.
func (r *Rollback) Run(ctx context.Context) (playbook.Outcome, error) {
	// Past the cache: another Incident may have begun meanwhile.
	if err := r.read(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	if err := r.switched(ctx); err != nil {
		return journal.Patient("Render", err)
	}
	if ours := r.ours(); ours != nil && asked(ours) {
		if err := r.remind(ctx, ours); err != nil {
			return playbook.Outcome{}, err
		}
		return r.follow(ctx, r.ours())
	}
	switch {
	case r.ByHand():
		return playbook.NotNeeded("resolved by %s", r.Incident.Spec.Resolution.By), nil
	case r.Incident.Spec.Category != v1alpha1.CategoryOutage:
		return playbook.NotNeeded("only an Outage is rolled back"), nil
	case r.Evidence.Over != "":
		r.clearSuspect(ctx)
		return playbook.NotNeeded("nothing was rolled back: %s", r.Evidence.Over), nil
	}
	if withheld := r.withheld(); withheld != nil {
		return *withheld, nil
	}
	if Policy(&r.Incident.Spec) == v1alpha1.RollbackNever {
		return r.never(ctx)
	}
	if held, err := r.elsewhere(ctx, r.Claims.Client, r.Platform.Spec.Rollback.Service); err != nil || held != nil {
		return ptr.Deref(held, playbook.Outcome{}), err
	}
	view, err := r.look(ctx)
	if err != nil {
		return journal.Patient("Render", err)
	}
	return r.decide(ctx, view)
}

// withheld says why nothing may be rolled back, whatever is seen; nil where it may.
func (r *Rollback) withheld() *playbook.Outcome {
	wait := func(reason, why string) *playbook.Outcome {
		return new(playbook.Wait(0, reason, "%s. Nothing is rolled back: %s", r.because(), why))
	}
	switch {
	case r.First != "":
		return new(wait(v1alpha1.ReasonWaitingForOther, fmt.Sprintf("Incident %s of the same category is open, and acts; "+
			"this one does no more than page, as its severity asks", r.First)).Loud())
	case r.Platform.Spec.Rollback == nil:
		return wait(v1alpha1.ReasonRollbackWithheld, fmt.Sprintf("Platform %q has no spec.rollback", r.Platform.Name))
	}
	return nil
}

// blocked makes a wait loud where a rollback would go ahead by itself, but for what a person set: nobody else mends it.
func (r *Rollback) blocked(outcome playbook.Outcome) *playbook.Outcome {
	if r.Evidence.Ground {
		outcome = outcome.Loud()
	}
	return &outcome
}

// because is what is bad, in a few words.
func (r *Rollback) because() string { return cmp.Or(r.Evidence.Because, "no signal is bad") }

// elsewhere says that an older Platform holds the service, where that is so: then this Incident changes nothing there.
func (r *Rollback) elsewhere(ctx context.Context, reader client.Reader, service string) (*playbook.Outcome, error) {
	why, err := r.Claims.HeldElsewhere(ctx, reader, r.Platform, claims.Service(r.Platform, service))
	if err != nil || why == "" {
		return nil, err
	}
	// The timeline has it once, and a Warning says it once.
	if !slices.ContainsFunc(r.Incident.Status.Timeline,
		func(e v1alpha1.TimelineEntry) bool { return strings.HasPrefix(e.Text, "nothing is changed at Render") }) {
		r.Warn(v1alpha1.ReasonHeldByOther, "nothing is changed at Render: %s", why)
	}
	return new(playbook.Wait(fixInterval, v1alpha1.ReasonHeldByOther, "%snothing is changed at Render: %s", r.prefix(),
		why)), nil
}

// Policy of an Incident. spec.rollback of the release before this one wins: a stored Never must not become Automatic.
func Policy(spec *v1alpha1.IncidentSpec) v1alpha1.RollbackPolicy {
	switch {
	case spec.Rollback != "":
		return spec.Rollback
	case spec.Outage != nil && spec.Outage.Rollback != "":
		return spec.Outage.Rollback
	}
	return v1alpha1.RollbackAutomatic
}

// decide what to do with what Render shows now.
func (r *Rollback) decide(ctx context.Context, view *view) (playbook.Outcome, error) {
	choice := view.choose(r.regression())
	switch choice.Verdict {
	case render.DeployInProgress:
		return playbook.Wait(deployInterval, v1alpha1.ReasonWaitingForDeploy, "%s%s", r.prefix(), choice.Why).Loud(), nil
	case render.NotEnoughLooks:
		return playbook.Wait(looksInterval, v1alpha1.ReasonNoSuspect, "%s%s", r.prefix(), choice.Why), nil
	case render.NoSuspect:
		outcome := playbook.Wait(fixInterval, v1alpha1.ReasonNoSuspect, "%sno deploy is suspected: %s", r.prefix(),
			choice.Why)
		return r.unused(outcome, choice.Why), nil
	case render.NoTarget, render.Pair:
	}
	if choice.Target == nil {
		return r.noTarget(choice), r.suspect(ctx, choice.Suspect.Commit)
	}
	plan, err := r.plan(view, choice)
	if err != nil {
		return playbook.Outcome{}, err
	}
	if view.schema.commit != choice.Target.Commit {
		// The evidence changed while Render was read.
		return playbook.Wait(time.Millisecond, v1alpha1.ReasonRollingBack, "%sanother deploy is the target now",
			r.prefix()), nil
	}
	r.weigh(plan, view.schema)
	r.Incident.Status.Rollback = plan
	if wait := r.approved(plan, choice); wait != nil {
		return *wait, r.suspect(ctx, choice.Suspect.Commit)
	}
	if _, ok := r.MayAct(); !ok {
		return *r.blocked(playbook.Wait(0, v1alpha1.ReasonAutomationOff, "%s; %s is held back: Platform %q is ObserveOnly. "+
			"Set its spec.automation to Enabled, or roll back by hand", r.because(), pairText(plan),
			r.Platform.Name)), r.suspect(ctx, choice.Suspect.Commit)
	}
	return r.begin(ctx, view, plan)
}

func (r *Rollback) prefix() string {
	if r.Evidence.Because == "" {
		return ""
	}
	return r.Evidence.Because + "; "
}

// noTarget is where a person has to find a way. Once Render refused each target, it waits for their word.
func (r *Rollback) noTarget(choice render.Choice) playbook.Outcome {
	if known := r.Incident.Status.Rollback; known != nil && len(known.Refused) > 0 {
		return playbook.Stall(v1alpha1.ReasonRefused, "Render refused to roll %s back to %s, and %s. Roll back by hand; "+
			"it closes when the signals stay good. To try again: %s",
			known.Service, strings.Join(known.Refused, " and "), choice.Why, r.ResumeCommand())
	}
	return playbook.Wait(fixInterval, v1alpha1.ReasonNoTarget, "%s%s. Roll back by hand, or deploy a fix", r.prefix(),
		choice.Why).Loud()
}

// plan is the exact pair, with what is known of an earlier try.
func (r *Rollback) plan(view *view, choice render.Choice) (*v1alpha1.IncidentRollback, error) {
	digest, err := playbook.Digest([]string{view.service.ID, choice.Suspect.ID, choice.Target.ID})
	if err != nil {
		return nil, err
	}
	plan := &v1alpha1.IncidentRollback{
		Service: r.Platform.Spec.Rollback.Service, From: choice.Suspect.ID, FromCommit: choice.Suspect.Commit,
		To: choice.Target.ID, ToCommit: choice.Target.Commit, Digest: digest,
	}
	for _, text := range choice.Skipped[:min(len(choice.Skipped), maxSkipped)] {
		plan.Skipped = append(plan.Skipped, fmt.Sprintf("%.250s", text))
	}
	if known := r.Incident.Status.Rollback; known != nil {
		plan.Claim, plan.ServiceID, plan.Refused = known.Claim, known.ServiceID, known.Refused
	}
	return plan, nil
}

// suspect keeps the commit as unfit to go back to, where the signals confirmed the outage.
func (r *Rollback) suspect(ctx context.Context, commit string) error {
	service := r.Platform.Spec.Rollback.Service
	known := slices.ContainsFunc(r.Platform.Status.Suspects,
		func(s v1alpha1.SuspectCommit) bool { return s.Service == service && s.Commit == commit })
	if known || r.Incident.Status.ConfirmedAt == nil {
		return nil
	}
	return r.insist(ctx, func(p *v1alpha1.PlatformStatus) {
		claims.Suspect(p, service, commit, r.Incident.Name, journal.Seconds(r.Now))
	})
}

// clearSuspect takes the suspicion back where the signals stayed good with that commit live: something else was wrong.
// Where Render can't be asked, the commit stays unfit.
func (r *Rollback) clearSuspect(ctx context.Context) {
	mine := func(s v1alpha1.SuspectCommit) bool { return s.Incident == r.Incident.Name }
	if r.Platform.Spec.Rollback == nil || !slices.ContainsFunc(r.Platform.Status.Suspects, mine) {
		return
	}
	view, err := r.look(ctx)
	if err != nil {
		return
	}
	live := render.Live(view.deploys)
	if live == nil {
		return
	}
	_ = r.insist(ctx, func(p *v1alpha1.PlatformStatus) {
		p.Suspects = slices.DeleteFunc(p.Suspects, func(s v1alpha1.SuspectCommit) bool {
			return mine(s) &&
				s.Commit == live.Commit
		})
	})
}
