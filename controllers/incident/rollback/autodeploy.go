package rollback

import (
	"context"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// autoDeploy is one call that switches auto-deploy on or off.
type autoDeploy struct {
	service, id string
	on          bool
	why         string
}

// setAutoDeploy makes the call. It is idempotent, and goes on beside the passes where Render takes its time.
func (r *Rollback) setAutoDeploy(ctx context.Context, api *render.Client, to autoDeploy) error {
	_, err := playbook.Change(context.WithoutCancel(ctx), r.Aside, r.key("auto-deploy"), "switching auto-deploy",
		askTimeout, func(ctx context.Context) (autoDeploy, error) { return to, api.SetAutoDeploy(ctx, to.id, to.on) },
		playbook.Readable)
	return r.wasSwitched(ctx, to, err)
}

// switched takes over the answer of a call that an earlier pass began. Until it is there nothing else is decided: two
// calls at once might arrive in any order.
func (r *Rollback) switched(ctx context.Context) error {
	to, asked, err := playbook.Answer[autoDeploy](ctx, r.Aside, r.key("auto-deploy"))
	if !asked {
		return nil
	}
	return r.wasSwitched(ctx, to, err)
}

// wasSwitched writes down what Render answered.
func (r *Rollback) wasSwitched(ctx context.Context, to autoDeploy, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("switching auto-deploy of %s: %w", to.service, err)
	case !to.on:
		r.Record(v1alpha1.ReasonSwitchedOff, "auto-deploy of %s was switched off, %s", to.service, to.why)
		return nil
	}
	if err := r.amend(ctx, to.service,
		func(c *v1alpha1.ServiceRollback) { c.AutoDeploy = v1alpha1.AutoDeployRestored }); err != nil {
		return err
	}
	r.Record(v1alpha1.StepAutoDeployRestored, "auto-deploy of %s is on again: %s", to.service, to.why)
	return nil
}

// RestoreAutoDeploy switches auto-deploy on again where the Incident switched it off. The next push may still bring the
// bad commit back. So it takes a person's word, or a new commit that is live, with which the signals stayed good.
func (r *Rollback) RestoreAutoDeploy(ctx context.Context) (playbook.Outcome, error) {
	if err := r.read(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	if err := r.switched(ctx); err != nil {
		return journal.Patient("Render", err)
	}
	ours := r.ours()
	switch {
	case ours == nil || ours.AutoDeploy == v1alpha1.AutoDeployWasOff:
		return playbook.NotNeeded("auto-deploy was not switched off for this incident"), nil
	case ours.AutoDeploy == v1alpha1.AutoDeployRestored:
		return playbook.Done("auto-deploy of %s is on again", ours.Service), nil
	}
	if other := claims.RollbackOf(&r.Platform.Status, ours.Service); other != nil &&
		other.IncidentUID != string(r.Incident.UID) && !before(other, ours) {
		return leaveTo(ours, other), nil
	}
	r.show(ours)
	if err := r.remind(ctx, ours); err != nil {
		return playbook.Outcome{}, err
	}
	api, err := r.Access.Render(ctx, r.Platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	why, wait, err := r.mayRestore(ctx, api, ours)
	if err != nil {
		return journal.Patient("Render", err)
	}
	if wait != nil {
		if r.isOn(ctx, api) {
			return r.switchedByHand(ctx, ours)
		}
		return *wait, nil
	}
	if outcome, ok := r.MayAct(); !ok {
		return outcome, nil
	}
	held, err := r.elsewhere(ctx, r.Claims.APIReader, ours.Service)
	switch {
	case err != nil:
		return playbook.Outcome{}, err
	case held != nil && r.ByHand():
		return playbook.NotNeeded("resolved by %s; auto-deploy of %s is left as it is, since an older Platform holds the "+
			"service. Switch it on at Render", r.Incident.Spec.Resolution.By, ours.Service), nil
	case held != nil:
		return *held, nil
	}
	if err := r.setAutoDeploy(ctx, api, autoDeploy{service: ours.Service, id: r.Incident.Status.Rollback.ServiceID,
		on: true, why: why}); err != nil {
		return journal.Patient("Render", err)
	}
	return playbook.Done("auto-deploy of %s is on again: %s", ours.Service, why), nil
}

// isOn says that Render shows auto-deploy as on. It was switched off before Render was asked to roll back, so somebody
// switched it on since. What can't be read changes nothing.
func (r *Rollback) isOn(ctx context.Context, api *render.Client) bool {
	id := r.Incident.Status.Rollback.ServiceID
	service, err := playbook.Ask(ctx, r.Aside, r.key("service"), "Render's service "+id, lookTimeout,
		func(ctx context.Context) (*render.Service, error) { return api.Service(ctx, id) })
	return err == nil && service.AutoDeploy
}

// switchedByHand takes over what a person did at Render. Whether the next push brings the bad commit back is theirs to
// know.
func (r *Rollback) switchedByHand(ctx context.Context, ours *v1alpha1.ServiceRollback) (playbook.Outcome, error) {
	if err := r.wasSwitched(ctx, autoDeploy{service: ours.Service, on: true,
		why: "somebody switched it on at Render"}, nil); err != nil {
		return playbook.Outcome{}, err
	}
	return playbook.Done("auto-deploy of %s is on again: somebody switched it on at Render", ours.Service), nil
}

// leaveTo another Incident what it rolled back since: of several the last one puts auto-deploy back.
func leaveTo(ours, other *v1alpha1.ServiceRollback) playbook.Outcome {
	if other.AutoDeploy == v1alpha1.AutoDeployRestored {
		return playbook.Done("auto-deploy of %s is on again, by Incident %s", ours.Service, other.Incident)
	}
	return playbook.NotNeeded("Incident %s rolled %s back since, and puts auto-deploy back", other.Incident, ours.Service)
}

// remind a Platform that was deleted and applied again of the rollback, so that it says that auto-deploy is off.
func (r *Rollback) remind(ctx context.Context, ours *v1alpha1.ServiceRollback) error {
	if known := claims.RollbackOf(&r.Platform.Status, ours.Service); known != nil && !before(known, ours) {
		return nil
	}
	return r.insist(ctx, func(p *v1alpha1.PlatformStatus) {
		switch known := claims.RollbackOf(p, ours.Service); {
		case known == nil:
			p.Rollbacks = append(p.Rollbacks, *ours.DeepCopy())
		case before(known, ours):
			*known = *ours.DeepCopy()
		}
	})
}

// before says that another Incident rolled back earlier than this one. The Platform forgot ours, and the other one
// reminded it first.
func before(other, ours *v1alpha1.ServiceRollback) bool {
	return other.IncidentUID != ours.IncidentUID && other.At.Before(ours.At)
}

// mayRestore says why auto-deploy may be put back now, or what is waited for.
func (r *Rollback) mayRestore(ctx context.Context, api *render.Client, ours *v1alpha1.ServiceRollback) (string,
	*playbook.Outcome, error) {
	switch {
	case !asked(ours):
		return "nothing was rolled back", nil, nil
	case r.ByHand():
		return "resolved by " + r.Incident.Spec.Resolution.By, nil, nil
	}
	fix, err := r.fix(ctx, api, ours)
	if err != nil {
		return "", nil, err
	}
	why, waits, after := r.restorable(ours, fix)
	if waits != "" {
		return "", new(playbook.Wait(after, v1alpha1.ReasonAwaitingFix, "%s. To switch it on now: %s", waits,
			r.ResolveCommand())), nil
	}
	return why, nil, nil
}

// restorable says why auto-deploy may be put back with what is live now, or what is waited for, and for how long. fix
// is nil where nothing new is live.
func (r *Rollback) restorable(ours *v1alpha1.ServiceRollback, fix *render.Deploy) (why, waits string,
	after time.Duration) {
	wait := func(after time.Duration, format string, args ...any) (string, string, time.Duration) {
		return "", fmt.Sprintf(format, args...), after
	}
	switch {
	case fix == nil:
		return wait(fixInterval, "auto-deploy of %s stays off: the next push may bring %s back. Deploy its fix by "+
			"hand. When it is live and the signals stay good, auto-deploy is switched on again", ours.Service, ours.FromCommit)
	case r.Evidence.ClearSince.IsZero():
		return wait(fixInterval, "%s is live with %s; auto-deploy of %s stays off until the signals are good", fix.ID,
			fix.Commit, ours.Service)
	}
	since := r.Evidence.ClearSince
	if fix.FinishedAt.After(since) {
		since = fix.FinishedAt
	}
	if clear := since.Add(r.clearFor()); r.Now.Before(clear) {
		return wait(min(r.Until(clear), fixInterval), "%s is live with %s; auto-deploy of %s is switched on again at %s "+
			"if the signals stay good",
			fix.ID, fix.Commit, ours.Service, clear.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s is live with %s, and the signals stayed good", fix.ID, fix.Commit), "", 0
}

func (r *Rollback) clearFor() time.Duration {
	if r.Platform.Spec.Probes == nil {
		return 0 // nothing is clear then
	}
	return time.Duration(r.Platform.Spec.Probes.ClearSeconds) * time.Second
}

// fix finds a live deploy of a commit that was not live before the rollback: after an older one that somebody deployed,
// the next push may bring the bad one back.
func (r *Rollback) fix(ctx context.Context, api *render.Client, ours *v1alpha1.ServiceRollback) (*render.Deploy,
	error) {
	deploys, err := r.history(ctx, api)
	if err != nil {
		return nil, err
	}
	before := ours.RequestedAt
	if before == nil {
		before = journal.Seconds(ours.At.Time)
	}
	known := map[string]bool{ours.FromCommit: true, ours.ToCommit: true}
	for _, d := range deploys {
		// To seconds, as the status keeps them.
		if (d.Status == render.StatusLive || d.Status == render.StatusDeactivated) && d.CreatedAt.Before(before.Time) {
			known[d.Commit] = true
		}
	}
	if live := render.Live(deploys); live != nil && !known[live.Commit] {
		return live, nil
	}
	return nil, nil
}
