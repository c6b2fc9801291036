package rollback

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// neverInterval is how often it is looked again for what a person could roll back. Nothing is done about it here.
const neverInterval = 30 * time.Second

// never rolls nothing back, and says which deploy is suspected, and what a person could go back to by hand. What can't
// be read of Render holds up nothing.
func (r *Rollback) never(ctx context.Context) (playbook.Outcome, error) {
	wait := func(after time.Duration, text string) (playbook.Outcome, error) {
		return *r.blocked(playbook.Wait(after, v1alpha1.ReasonRollbackWithheld, "%s", text)), nil
	}
	text := r.because() + ". Nothing is rolled back: spec.outage.rollback is Never"
	if r.Evidence.Because == "" {
		return wait(0, text)
	}
	view, err := r.look(ctx)
	under := (*playbook.UnderWay)(nil)
	switch {
	case errors.As(err, &under):
		return *r.blocked(under.Wait(v1alpha1.ReasonRollbackWithheld, "%s", text)), nil
	case err != nil:
		return wait(neverInterval, text+". Which deploy is suspected could not be read: "+playbook.Normalise(err.Error()))
	}
	choice := view.choose(r.regression())
	if choice.Suspect == nil {
		after := neverInterval
		if choice.Verdict != render.NoSuspect {
			after = fixInterval
		}
		return wait(after, fmt.Sprintf("%s. No deploy is suspected: %s", text, choice.Why))
	}
	if err := r.suspect(ctx, choice.Suspect.Commit); err != nil {
		return playbook.Outcome{}, err
	}
	if choice.Verdict == render.NoTarget {
		return wait(neverInterval, text+"; "+choice.Why)
	}
	plan, err := r.plan(view, choice)
	if err != nil {
		return playbook.Outcome{}, err
	}
	r.weigh(plan, view.schema)
	r.Incident.Status.Rollback = plan
	return wait(neverInterval, fmt.Sprintf("%s; %s is left to a person: spec.outage.rollback is Never%s%s", r.because(),
		pairText(plan), schemaText(plan), skippedText(plan)))
}
