package rollback

import (
	"context"
	"errors"
	"fmt"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// never rolls nothing back, and says which deploy is suspected, and what a person could go back to by hand. What can't
// be read of Render holds up nothing.
func (r *Rollback) never(ctx context.Context) (playbook.Outcome, error) {
	wait := func(text string) playbook.Outcome {
		outcome := playbook.Wait(fixInterval, v1alpha1.ReasonRollbackWithheld, "%s", text)
		return *r.blocked(outcome)
	}
	text := r.because() + ". Nothing is rolled back: spec.outage.rollback is Never"
	if r.Evidence.Because == "" {
		return *r.blocked(playbook.Wait(0, v1alpha1.ReasonRollbackWithheld, "%s", text)), nil
	}
	view, err := r.look(ctx)
	under := (*playbook.UnderWay)(nil)
	switch {
	case errors.As(err, &under):
		return *r.blocked(under.Wait(v1alpha1.ReasonRollbackWithheld, "%s", text)), nil
	case err != nil:
		return wait(text + ". Which deploy is suspected could not be read: " + playbook.Normalise(err.Error())), nil
	}
	choice := view.choose(r.regression())
	if choice.Suspect == nil {
		return wait(fmt.Sprintf("%s. No deploy is suspected: %s", text, choice.Why)), nil
	}
	if err := r.suspect(ctx, choice.Suspect.Commit); err != nil {
		return playbook.Outcome{}, err
	}
	if choice.Verdict == render.NoTarget {
		return wait(text + "; " + choice.Why), nil
	}
	plan, err := r.plan(view, choice)
	if err != nil {
		return playbook.Outcome{}, err
	}
	r.weigh(plan, view.schema)
	r.Incident.Status.Rollback = plan
	return wait(fmt.Sprintf("%s; %s is left to a person: spec.outage.rollback is Never%s%s", r.because(), pairText(plan),
		schemaText(plan), skippedText(plan))), nil
}
