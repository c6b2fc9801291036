package rollback

import (
	"context"
	"fmt"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// follow watches what became of a rollback that was asked for, to its end: also where the Incident was resolved
// meanwhile. It asks for nothing.
func (r *Rollback) follow(ctx context.Context, ours *v1alpha1.ServiceRollback) (playbook.Outcome, error) {
	r.show(ours)
	api, err := r.Access.Render(ctx, r.Platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	if ours.State == v1alpha1.RollbackRequested {
		return r.ask(ctx, api, r.Incident.Status.Rollback, ours.SawDeploy)
	}
	if ours.State == v1alpha1.RollbackDeploying {
		wait, err := r.await(ctx, api, ours)
		if err != nil {
			return journal.Patient("Render", err)
		}
		if wait != nil {
			return *wait, nil
		}
		ours = r.ours()
	}
	if ours.State == v1alpha1.RollbackFailed {
		return r.unsettled(v1alpha1.ReasonRollbackFailed, fmt.Sprintf("the deploy %s, which rolls %s back to %s, did not "+
			"become live. It is not done twice: see Render's dashboard, and roll back by hand",
			ours.DeployID, ours.Service, ours.ToCommit)), nil
	}
	if r.Incident.Status.RolledBackAt == nil {
		r.Incident.Status.RolledBackAt = ours.LiveAt
		secondsToRollBack.Observe(r.Now.Sub(r.Incident.CreationTimestamp.Time).Seconds())
		r.Record(v1alpha1.StepRolledBack, "%s is live with %s again, by %s", ours.Service, ours.ToCommit, ours.DeployID)
	}
	plan := r.Incident.Status.Rollback
	return playbook.Done("%s is live with %s again, by %s%s%s. Suspected: commit %s; to investigate: git log %s..%s",
		ours.Service, ours.ToCommit, ours.DeployID, schemaText(plan), skippedText(plan), ours.FromCommit,
		ours.ToCommit, ours.FromCommit), nil
}

// show writes what is rolled back into the Incident's status. The claim may be of a pair that is not the one planned
// last.
func (r *Rollback) show(ours *v1alpha1.ServiceRollback) {
	known := r.Incident.Status.Rollback
	if known == nil || known.From != ours.From || known.To != ours.To || known.Service != ours.Service {
		serviceID := access.RenderServiceID(r.Platform, ours.Service)
		digest, err := playbook.Digest([]string{serviceID, ours.From, ours.To})
		if err != nil {
			panic(err) // strings always marshal
		}
		known = &v1alpha1.IncidentRollback{
			Service: ours.Service, From: ours.From, FromCommit: ours.FromCommit, To: ours.To, ToCommit: ours.ToCommit,
			Digest: digest,
		}
	}
	if known.ServiceID == "" {
		// Begun by the release before this one.
		known.ServiceID = access.RenderServiceID(r.Platform, ours.Service)
	}
	known.DeployID, known.Claim = ours.DeployID, ours.DeepCopy()
	r.Incident.Status.Rollback = known
}

// history of the service that was rolled back.
func (r *Rollback) history(ctx context.Context, api *render.Client) ([]render.Deploy, error) {
	service := r.Incident.Status.Rollback.ServiceID
	return playbook.Ask(ctx, r.Aside, r.key("history"), "Render's deploys", lookTimeout,
		func(ctx context.Context) ([]render.Deploy, error) {
			return api.History(ctx, service)
		})
}

// await the end of the deploy that the rollback made. It returns what is waited for, or nil once it ended.
func (r *Rollback) await(ctx context.Context, api *render.Client, ours *v1alpha1.ServiceRollback) (*playbook.Outcome,
	error) {
	service, id := r.Incident.Status.Rollback.ServiceID, ours.DeployID
	deploy, err := playbook.Ask(ctx, r.Aside, r.key("deploy/"+id), "Render's deploy "+id, lookTimeout,
		func(ctx context.Context) (*render.Deploy, error) {
			return api.Deploy(ctx, service, id)
		})
	if err != nil {
		return nil, err
	}
	if deploy.InProgress() {
		return new(playbook.Wait(deployInterval, v1alpha1.ReasonRollingBack, "waiting for %s (%s) live", ours.DeployID,
			ours.ToCommit).Loud()), nil
	}
	state, liveAt := v1alpha1.RollbackFailed, deploy.FinishedAt
	if deploy.Status == render.StatusLive || deploy.Status == render.StatusDeactivated {
		state = v1alpha1.RollbackLive
		if liveAt.IsZero() {
			liveAt = r.Now
		}
	}
	return nil, r.amend(ctx, ours.Service, func(c *v1alpha1.ServiceRollback) {
		c.State = state
		if state == v1alpha1.RollbackLive {
			c.LiveAt = journal.Seconds(liveAt)
		}
	})
}

// unsettled is a rollback that only a person can bring to its end. Once the outage is over, or a person resolved it,
// nothing is left to do.
func (r *Rollback) unsettled(reason, what string) playbook.Outcome {
	switch {
	case r.ByHand():
		return playbook.NotNeeded("resolved by %s; %s", r.Incident.Spec.Resolution.By, what)
	case r.Evidence.Over != "":
		return playbook.NotNeeded("%s; %s", r.Evidence.Over, what)
	}
	return playbook.Stall(reason, "%s. To look again: %s", what, r.ResumeCommand())
}
