package rollback

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// A rollback is held in two places. The Platform's status says whose it is, so that two Incidents don't do it twice.
// The Incident's status repeats that, so that a Platform that was deleted and applied again loses nothing. Both are
// written before Render is asked.

// read the Platform past the cache.
func (r *Rollback) read(ctx context.Context) error {
	p, err := r.Claims.Read(ctx, r.PlatformKey())
	if err == nil {
		r.Platform = p
	}
	return err
}

// ours is this Incident's rollback; nil where it has none.
func (r *Rollback) ours() *v1alpha1.ServiceRollback {
	uid := string(r.Incident.UID)
	i := slices.IndexFunc(r.Platform.Status.Rollbacks,
		func(c v1alpha1.ServiceRollback) bool { return c.IncidentUID == uid })
	if i >= 0 {
		return &r.Platform.Status.Rollbacks[i]
	}
	if known := r.Incident.Status.Rollback; known != nil {
		return known.Claim
	}
	return nil
}

// asked says whether Render was asked for the rollback, and did not certainly refuse.
func asked(c *v1alpha1.ServiceRollback) bool {
	return c.State != v1alpha1.RollbackPreparing && c.State != v1alpha1.RollbackRefused
}

// Asked says whether a rollback of this Incident was asked for.
func (r *Rollback) Asked() bool {
	ours := r.ours()
	return ours != nil && asked(ours)
}

// keep writes this Incident's rollback into its own status.
func (r *Rollback) keep(ctx context.Context, plan *v1alpha1.IncidentRollback) error {
	ours := claims.RollbackOf(&r.Platform.Status, plan.Service)
	plan.Claim, plan.ServiceID = ours.DeepCopy(), access.RenderServiceID(r.Platform, plan.Service)
	r.Incident.Status.Rollback = plan
	if err := r.Save(ctx); err != nil {
		return fmt.Errorf("writing down the rollback before it is asked for: %w", err)
	}
	return nil
}

// take writes this Incident's rollback into the Platform's status, and the commit that is left as unfit. Or it returns
// what is waited for, where another Incident has the service, or another Platform holds it. The Platform was read past
// the cache in this pass, and so are the others: what follows is an effect.
func (r *Rollback) take(ctx context.Context, plan *v1alpha1.IncidentRollback,
	change func(*v1alpha1.ServiceRollback)) (*playbook.Outcome, error) {
	// Once for both effects of this pass, which come one right after the other.
	if r.alone != plan.Service {
		if held, err := r.elsewhere(ctx, r.Claims.APIReader, plan.Service); err != nil || held != nil {
			return held, err
		}
		r.alone = plan.Service
	}
	holder := ""
	decide := func(p *v1alpha1.PlatformStatus) bool {
		known := claims.RollbackOf(p, plan.Service)
		if holder = r.holder(known); holder != "" {
			return false
		}
		if known == nil {
			p.Rollbacks = append(p.Rollbacks, v1alpha1.ServiceRollback{Service: plan.Service,
				AutoDeploy: v1alpha1.AutoDeployWasOff})
			known = &p.Rollbacks[len(p.Rollbacks)-1]
		}
		// Auto-deploy that an earlier Incident switched off, and nobody restored, was on.
		autoDeploy := known.AutoDeploy
		if autoDeploy == v1alpha1.AutoDeployRestored {
			autoDeploy = v1alpha1.AutoDeployWasOff
		}
		*known = v1alpha1.ServiceRollback{
			Service: plan.Service, Incident: r.Incident.Name, IncidentUID: string(r.Incident.UID), At: journal.Seconds(r.Now),
			From: plan.From, FromCommit: plan.FromCommit, To: plan.To, ToCommit: plan.ToCommit,
			State: v1alpha1.RollbackPreparing, AutoDeploy: autoDeploy,
		}
		change(known)
		if r.Incident.Status.ConfirmedAt != nil {
			claims.Suspect(p, plan.Service, plan.FromCommit, r.Incident.Name, journal.Seconds(r.Now))
		}
		return true
	}
	p, err := r.Claims.DecideOn(ctx, r.Platform, decide)
	if apierrors.IsConflict(err) {
		// Most others write what the signals say. Who has the service is decided again on what is there now.
		p, err = r.Claims.Decide(ctx, r.PlatformKey(), decide)
	}
	if err != nil {
		return nil, err
	}
	r.Platform = p
	if holder != "" {
		return new(playbook.Wait(deployInterval, v1alpha1.ReasonRollingBack, "%s is rolled back by Incident %s already",
			plan.Service, holder)), nil
	}
	return nil, nil
}

// holder is the Incident that has the service now, so that this one can't; empty where it can. What Render refused was
// never done, and what ended an hour ago, or with a person's approval, is over.
func (r *Rollback) holder(known *v1alpha1.ServiceRollback) string {
	switch {
	case known == nil, known.State == v1alpha1.RollbackRefused:
		return ""
	case known.IncidentUID == string(r.Incident.UID):
		if known.State == v1alpha1.RollbackPreparing {
			return ""
		}
		// Another manager of this Incident asked since it was looked at.
		return known.Incident
	case known.State == v1alpha1.RollbackPreparing && r.Now.Sub(known.At.Time) > 2*journal.Settle:
		return ""
	case known.State == v1alpha1.RollbackLive, known.State == v1alpha1.RollbackFailed:
		return ""
	}
	if r.Now.Sub(known.At.Time) > oneRollbackPer {
		return ""
	}
	return known.Incident
}

// begin switches auto-deploy off, since the next push would bring the bad commit back, and then asks Render once.
func (r *Rollback) begin(ctx context.Context, v *view, plan *v1alpha1.IncidentRollback) (playbook.Outcome, error) {
	if v.service.AutoDeploy {
		// Before it is done: whoever finds it off later must know by whom.
		held, err := r.take(ctx, plan, func(c *v1alpha1.ServiceRollback) { c.AutoDeploy = v1alpha1.AutoDeployOff })
		if err != nil || held != nil {
			return ptr.Deref(held, playbook.Outcome{}), err
		}
		if err := r.keep(ctx, plan); err != nil {
			return playbook.Outcome{}, err
		}
		if err := r.setAutoDeploy(ctx, v.api, autoDeploy{service: plan.Service, id: v.service.ID,
			why: fmt.Sprintf("so that the next push does not bring %s back", plan.FromCommit)}); err != nil {
			return journal.Patient("Render", err)
		}
	}
	return r.ask(ctx, v.api, plan, slices.MaxFunc(v.deploys, func(a,
		b render.Deploy) int {
		return a.CreatedAt.Compare(b.CreatedAt)
	}).ID)
}

// amend changes what is known of this Incident's rollback, in both places. The Incident's own is written with the pass.
func (r *Rollback) amend(ctx context.Context, service string, change func(*v1alpha1.ServiceRollback)) error {
	err := r.insist(ctx, func(p *v1alpha1.PlatformStatus) {
		if c := claims.RollbackOf(p, service); c != nil && c.IncidentUID == string(r.Incident.UID) {
			change(c)
		}
	})
	if err != nil {
		return err
	}
	if known := r.Incident.Status.Rollback; known != nil && known.Claim != nil {
		change(known.Claim)
	}
	return nil
}

func (r *Rollback) insist(ctx context.Context, change func(*v1alpha1.PlatformStatus)) error {
	p, err := r.Claims.Insist(ctx, r.PlatformKey(), change)
	if err == nil {
		r.Platform = p
	}
	return err
}
