package rollback

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// askTimeout bounds the call. It is shorter than journal.Settle.
const askTimeout = 15 * time.Second

// request is the one call that makes a rollback. It goes on beside the passes where Render takes its time. What came of
// it is read from Render's deploys, unless it answers.
type request struct {
	*Rollback
	api  *render.Client
	plan *v1alpha1.IncidentRollback
	saw  string // the newest deploy before the call
	// held is what is waited for, where this Incident may not ask.
	held *playbook.Outcome
}

// ask Render once, or look for what came of an earlier call.
func (r *Rollback) ask(ctx context.Context, api *render.Client, plan *v1alpha1.IncidentRollback,
	saw string) (playbook.Outcome, error) {
	q := &request{Rollback: r, api: api, plan: plan, saw: saw}
	effect := playbook.Effect{
		Class: playbook.AtMostOnce, Settle: journal.Settle, Now: r.Now, Intend: q.intend, Act: q.act, Look: q.look,
		Withdraw: q.withdraw,
	}
	if ours := r.ours(); ours != nil && ours.State == v1alpha1.RollbackRequested {
		effect.Intended = ours.RequestedAt.Time
	}
	fate, err := effect.Do(ctx)
	refusal, under := (*outbound.Refused)(nil), (*playbook.UnderWay)(nil)
	switch {
	case fate == playbook.Made:
		return r.follow(ctx, r.ours())
	case fate == playbook.Open && errors.As(err, &under):
		return under.Wait(v1alpha1.ReasonRollingBack, "Render was asked to roll %s back to %s (%s), and takes its time",
			plan.Service, plan.To, plan.ToCommit).Loud(), nil
	case fate == playbook.Lost, fate == playbook.Open:
		return q.awaited(), nil
	case fate == playbook.Withdrawn && errors.As(err, &refusal):
		return r.refused(plan, refusal), nil
	case fate == playbook.Withdrawn:
		return journal.Patient("Render", err)
	case fate == playbook.Untold:
		return r.unsettled(v1alpha1.ReasonOutcomeUnknown, fmt.Sprintf(
			"Render was asked once to roll %s back to %s (%s), and shows no such deploy. "+
				"It is not asked again: see its dashboard, and roll back by hand if need "+
				"be", plan.Service, plan.To, plan.ToCommit)), nil
	case q.held != nil:
		return *q.held, nil
	}
	return playbook.Outcome{}, err
}

// awaited is the wait for a deploy that shows what came of the call.
func (q *request) awaited() playbook.Outcome {
	return playbook.Wait(q.Until(q.Now.Add(deployInterval)), v1alpha1.ReasonRollingBack,
		"Render was asked to roll %s back to %s (%s), and its answer was lost; what came of it is read from its deploys",
		q.plan.Service, q.plan.To, q.plan.ToCommit).Loud()
}

// intend writes in both places that Render is asked.
func (q *request) intend(ctx context.Context) (may bool, err error) {
	q.held, err = q.take(ctx, q.plan, func(c *v1alpha1.ServiceRollback) {
		c.State, c.SawDeploy, c.RequestedAt = v1alpha1.RollbackRequested, q.saw, journal.Seconds(q.Now)
	})
	if err != nil || q.held != nil {
		return false, err
	}
	if err := q.keep(ctx, q.plan); err != nil {
		// Nothing was asked yet.
		return false, errors.Join(err, q.amend(ctx, q.plan.Service, withdrawn(v1alpha1.RollbackPreparing)))
	}
	return true, nil
}

func (q *request) act(ctx context.Context) error {
	api, service, to := q.api, q.plan.ServiceID, q.plan.To
	made, err := playbook.Change(ctx, q.Aside, q.key("ask"), "asking Render to roll back", askTimeout,
		func(ctx context.Context) (*render.Deploy, error) { return api.Rollback(ctx, service, to) }, q.untaken())
	return q.heard(ctx, made, err)
}

// untaken writes down that Render did nothing, where the manager stops and no pass does. Render's deploys don't show a
// refusal: to the next manager nobody could tell whether Render was asked. It shares nothing with the pass.
func (q *request) untaken() func(*render.Deploy, error) {
	ctx, service, uid := context.Background(), q.plan.Service, string(q.Incident.UID)
	platforms, platform := q.Claims, q.PlatformKey()
	return func(_ *render.Deploy, err error) {
		if !outbound.NoEffect(err) {
			return
		}
		// Where this fails, too, the next manager stalls, and says that the outcome is unknown.
		_, _ = platforms.Insist(ctx, platform, func(p *v1alpha1.PlatformStatus) {
			c := claims.RollbackOf(p, service)
			if c != nil && c.IncidentUID == uid && c.State == v1alpha1.RollbackRequested {
				withdrawn(answered(err))(c)
			}
		})
	}
}

// heard takes over what Render answered.
func (q *request) heard(ctx context.Context, made *render.Deploy, err error) error {
	under := (*playbook.UnderWay)(nil)
	switch {
	case err == nil:
		return q.adopt(ctx, made.ID)
	case outbound.NoEffect(err):
		return &playbook.NoEffect{Err: err}
	case !errors.As(err, &under):
		q.Record(v1alpha1.ReasonRollingBack, "Render was asked to roll %s back to %s, and its answer was lost",
			q.plan.Service, q.plan.To)
	}
	return err
}

// look for the deploy that the call made.
func (q *request) look(ctx context.Context) (bool, error) {
	ours := q.ours()
	if ours.State != v1alpha1.RollbackRequested {
		return true, nil // its answer named the deploy
	}
	nothing, under := (*playbook.NoEffect)(nil), (*playbook.UnderWay)(nil)
	if answer, asked, err := playbook.Answer[*render.Deploy](ctx, q.Aside, q.key("ask")); asked {
		if err = q.heard(ctx, answer, err); err == nil || errors.As(err, &nothing) || errors.As(err, &under) {
			return err == nil, err
		}
	}
	deploys, err := q.history(ctx, q.api)
	if err != nil {
		return false, err
	}
	made := madeBy(ours, deploys)
	if made == nil {
		return false, nil
	}
	return true, q.adopt(ctx, made.ID)
}

// adopt the deploy that the call made.
func (q *request) adopt(ctx context.Context, deployID string) error {
	q.Record(v1alpha1.ReasonRollingBack, "%s is rolled back from %s to %s, by %s%s", q.plan.Service, q.plan.FromCommit,
		q.plan.ToCommit, deployID, skippedText(q.plan))
	return q.amend(ctx, q.plan.Service, func(c *v1alpha1.ServiceRollback) {
		c.State, c.DeployID = v1alpha1.RollbackDeploying, deployID
	})
}

// withdraw what Render certainly did not do.
func (q *request) withdraw(ctx context.Context, answer error) error {
	return q.amend(ctx, q.plan.Service, withdrawn(answered(answer)))
}

// answered is the state of a rollback that Render certainly did not do.
func answered(answer error) v1alpha1.RollbackState {
	if refusal := (*outbound.Refused)(nil); errors.As(answer, &refusal) {
		return v1alpha1.RollbackRefused
	}
	return v1alpha1.RollbackPreparing
}

func withdrawn(to v1alpha1.RollbackState) func(*v1alpha1.ServiceRollback) {
	return func(c *v1alpha1.ServiceRollback) { c.State, c.RequestedAt = to, nil }
}

// refused is where Render certainly did nothing. Where the target's artifact is gone, the next older one is the target.
// Where the account is refused, or nothing could be sent, no other target helps.
func (r *Rollback) refused(plan *v1alpha1.IncidentRollback, refusal *outbound.Refused) playbook.Outcome {
	said := playbook.Normalise(refusal.Error())
	r.Warn(v1alpha1.ReasonRefused, "Render refused to roll %s back to %s (%s): %s", plan.Service, plan.To, plan.ToCommit,
		said)
	if slices.Contains([]int{0, http.StatusUnauthorized, http.StatusForbidden}, refusal.Status) {
		return playbook.Stall(v1alpha1.ReasonRefused,
			"Render refused to roll %s back to %s: %s. Mend spec.render of Platform %q, or roll back by hand. To try again: %s",
			plan.Service, plan.To, said, r.Platform.Name, r.ResumeCommand())
	}
	plan.Refused = append(plan.Refused, plan.To)
	return playbook.Wait(time.Millisecond, v1alpha1.ReasonRollingBack,
		"Render refused to roll %s back to %s: %s. The next older deploy is looked for", plan.Service, plan.To, said)
}

// madeBy finds the deploy that a rollback made: one by a rollback, of its commit, newer than what was there before
// Render was asked.
func madeBy(ours *v1alpha1.ServiceRollback, deploys []render.Deploy) *render.Deploy {
	i := slices.IndexFunc(deploys, func(d render.Deploy) bool { return d.ID == ours.SawDeploy })
	if i < 0 {
		return nil
	}
	saw := deploys[i].CreatedAt
	for _, d := range deploys {
		if d.ID != ours.SawDeploy && d.Trigger == render.TriggerRollback && d.Commit == ours.ToCommit &&
			!d.CreatedAt.Before(saw) {
			return &d
		}
	}
	return nil
}
