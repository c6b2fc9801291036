package incident

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

const (
	// oneRollbackPer is how often a service is rolled back at most without a person.
	oneRollbackPer = time.Hour
	// deployInterval is how often a deploy that is under way is looked at.
	deployInterval = 5 * time.Second
	// schemaTimeout bounds the look at the database, which may be what is down: the rollback does not depend on it. A database that is
	// merely slow, as after a migration, is waited for.
	schemaTimeout = 8 * time.Second
	// fixInterval is how often it is looked whether the bad commit was followed by another one.
	fixInterval = 10 * time.Second
)

// claimOf is the last rollback of a service; nil where there was none.
func claimOf(p *v1alpha1.PlatformStatus, service string) *v1alpha1.ServiceRollback {
	i := slices.IndexFunc(p.Rollbacks, func(r v1alpha1.ServiceRollback) bool { return r.Service == service })
	if i < 0 {
		return nil
	}
	return &p.Rollbacks[i]
}

// ours is this incident's rollback; nil where it has none.
func (s *response) ours() *v1alpha1.ServiceRollback {
	i := slices.IndexFunc(s.platform.Status.Rollbacks, func(r v1alpha1.ServiceRollback) bool { return r.IncidentUID == string(s.obj.UID) })
	if i < 0 {
		return nil
	}
	return &s.platform.Status.Rollbacks[i]
}

// rolling says whether a rollback of this incident was asked for.
func (s *response) rolling() bool {
	r := s.ours()
	return r != nil && r.State != v1alpha1.RollbackPreparing
}

func (s *response) platformKey() client.ObjectKey {
	return client.ObjectKey{Namespace: s.obj.Namespace, Name: s.obj.Spec.PlatformRef.Name}
}

// rollBack goes back to the last good deploy where a regression is suspected. Render is asked once: what came of it is read from
// Render.
func rollBack(ctx context.Context, s *response) (playbook.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, responseTimeout)
	defer cancel()
	rule := s.platform.Spec.Rollback
	// Past the cache: another incident may have begun meanwhile.
	if err := s.claim(ctx, func(*v1alpha1.PlatformStatus) bool { return false }); err != nil {
		return playbook.Outcome{}, err
	}
	r := s.ours()
	if outcome, ok := s.byHand(); ok && (r == nil || r.State != v1alpha1.RollbackLive) {
		return outcome, nil
	}
	if r != nil && r.State != v1alpha1.RollbackPreparing {
		return s.follow(ctx, r)
	}
	switch {
	case rule == nil:
		return playbook.NotNeeded("Platform %q has no spec.rollback", s.platform.Name), nil
	case s.obj.Spec.Rollback == v1alpha1.RollbackNever:
		return playbook.NotNeeded("spec.rollback is Never"), nil
	case !s.signals.ClearSince.IsZero():
		return playbook.NotNeeded("all signals are good since %s: there is nothing to mend", s.signals.ClearSince.UTC().Format(time.RFC3339)), nil
	}
	if other := claimOf(&s.platform.Status, rule.Service); other != nil && other.IncidentUID != string(s.obj.UID) && s.now.Sub(other.At.Time) < oneRollbackPer {
		return playbook.NotNeeded("Incident %s rolled %s back at %s, to %s (%s); a service is rolled back once an hour at most",
			other.Incident, other.Service, other.At.UTC().Format(time.RFC3339), other.To, other.ToCommit), nil
	}
	api, err := s.Connections.Render(ctx, s.platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	id := access.RenderServiceID(s.platform, rule.Service)
	service, err := api.Service(ctx, id)
	if err != nil {
		return patient(err)
	}
	deploys, err := api.History(ctx, id)
	if err != nil {
		return patient(err)
	}
	choice := render.Choose(service, deploys, s.regression(rule))
	switch choice.Verdict {
	case render.DeployInProgress:
		return playbook.Wait(deployInterval, v1alpha1.ReasonWaitingForDeploy, "%s", choice.Why), nil
	case render.NotEnoughLooks:
		return playbook.Wait(deployInterval, v1alpha1.ReasonNoSuspect, "%s", choice.Why), nil
	case render.NoSuspect, render.NoTarget:
		return playbook.NotNeeded("%s", choice.Why), nil
	case render.Pair:
	}
	digest, err := playbook.Digest([]string{id, choice.Suspect.ID, choice.Target.ID})
	if err != nil {
		return playbook.Outcome{}, err
	}
	plan := &v1alpha1.IncidentRollback{
		Service: rule.Service, From: choice.Suspect.ID, FromCommit: choice.Suspect.Commit, To: choice.Target.ID, ToCommit: choice.Target.Commit, Digest: digest,
	}
	s.lookAtSchema(ctx, plan, choice.Target.CommittedAt)
	s.obj.Status.Rollback = plan
	if outcome, ok := s.approved(plan, choice); !ok {
		return outcome, nil
	}
	if outcome, ok := s.mayAct(); !ok {
		return outcome, nil
	}
	return s.begin(ctx, api, service, deploys, plan)
}

// regression is what the incident knows of it.
func (s *response) regression(rule *v1alpha1.PlatformRollback) render.Regression {
	r := render.Regression{
		Onset: s.obj.Status.Onset.Time, Window: time.Duration(rule.WindowSeconds) * time.Second,
		// All looks since then are bad; which of them suffice is not known here.
		EnoughFrom: s.signals.BadSince,
		Unfit:      map[string]string{},
	}
	if probes := s.platform.Spec.Probes; probes != nil {
		r.Detection = time.Duration(probes.IntervalSeconds) * time.Duration(probes.Failures) * time.Second
	}
	for _, suspect := range s.platform.Status.Suspects {
		if suspect.Service == rule.Service {
			r.Unfit[suspect.Commit] = "suspected by Incident " + suspect.Incident
		}
	}
	return r
}

// lookAtSchema finds out whether the database was migrated since the commit that is gone back to was made, where that can be seen. By
// the read-only role: a replica that lags is seconds behind, and a deploy takes longer.
func (s *response) lookAtSchema(ctx context.Context, plan *v1alpha1.IncidentRollback, committed time.Time) {
	before := s.obj.Status.Rollback
	if before == nil || before.Digest != plan.Digest {
		before = &v1alpha1.IncidentRollback{}
	}
	if before.Schema == v1alpha1.SchemaMigrated {
		// A database that went down since does not take back what a person was asked.
		plan.Schema, plan.Migrations, plan.NewestMigration = before.Schema, before.Migrations, before.NewestMigration
		return
	}
	count, newest, err := s.migrationsSince(ctx, committed)
	switch {
	case err != nil && before.Schema == v1alpha1.SchemaUnchanged:
		plan.Schema = before.Schema
	case err != nil:
		plan.Schema = v1alpha1.SchemaUnknown
		if before.Schema != plan.Schema {
			s.note(v1alpha1.ReasonRollingBack, "whether migrations newer than %s have run could not be looked at: %s", plan.ToCommit, playbook.Normalise(err.Error()))
		}
	case count > 0:
		plan.Schema, plan.Migrations, plan.NewestMigration = v1alpha1.SchemaMigrated, &count, newest
	default:
		plan.Schema = v1alpha1.SchemaUnchanged
	}
}

func (s *response) migrationsSince(ctx context.Context, committed time.Time) (count int32, newest string, err error) {
	if committed.IsZero() {
		return 0, "", errors.New("when the commit was made is not known")
	}
	ctx, cancel := context.WithTimeout(ctx, schemaTimeout)
	defer cancel()
	db, err := s.Connections.Monitor(ctx, s.platform)
	if err != nil {
		return 0, "", err
	}
	return db.MigrationsSince(ctx, committed)
}

// schemaText says what is known of the schema, as the end of a sentence.
func schemaText(r *v1alpha1.IncidentRollback) string {
	switch r.Schema {
	case v1alpha1.SchemaMigrated:
		return fmt.Sprintf("; migrations newer than %s have run: %d, the newest %s", r.ToCommit, *r.Migrations, r.NewestMigration)
	case v1alpha1.SchemaUnknown:
		return fmt.Sprintf("; whether migrations newer than %s have run could not be looked at", r.ToCommit)
	case v1alpha1.SchemaUnchanged:
	}
	return ""
}

// approved asks the incident's policy and the Platform's approval rules. Old code on a newer schema is for a person to
// decide, and so is a choice in doubt.
func (s *response) approved(plan *v1alpha1.IncidentRollback, choice render.Choice) (playbook.Outcome, bool) {
	var required []string
	if s.obj.Spec.Rollback == v1alpha1.RollbackApproval || plan.Schema == v1alpha1.SchemaMigrated ||
		len(choice.NeedsApproval) > 0 ||
		slices.ContainsFunc(s.platform.Spec.RequireApproval, func(r v1alpha1.ApprovalRule) bool { return r.Kind == "Incident" }) {
		required = []string{v1alpha1.StepRolledBack}
	}
	missing, other := playbook.Unapproved(s.obj.Spec.Approvals, required, plan.Digest)
	if len(missing) == 0 {
		return playbook.Outcome{}, true
	}
	note := ""
	if len(other) > 0 {
		note = " (the approval given is for another pair)"
	}
	for _, why := range slices.Concat(choice.NeedsApproval, choice.Skipped) {
		note += "; " + why
	}
	return playbook.Wait(fixInterval, v1alpha1.ReasonWaitingForApproval, "rolling %s back from %s (%s) to %s (%s) waits for approval, %s%s%s. To approve: %s",
		plan.Service, plan.From, plan.FromCommit, plan.To, plan.ToCommit, plan.Digest, note, schemaText(plan),
		playbook.ApproveCommand(s.obj, "incident", s.obj.Spec.Approvals, missing, plan.Digest)), false
}

// begin switches auto-deploy off, since the next push would bring the bad commit back, and then asks Render once.
func (s *response) begin(ctx context.Context, api *render.Client, service *render.Service, deploys []render.Deploy, plan *v1alpha1.IncidentRollback) (playbook.Outcome, error) {
	taken := false
	write := func(change func(*v1alpha1.ServiceRollback)) error {
		return s.claim(ctx, func(p *v1alpha1.PlatformStatus) bool {
			r := claimOf(p, plan.Service)
			switch {
			case r == nil:
			case r.IncidentUID != string(s.obj.UID):
				taken = s.now.Sub(r.At.Time) < oneRollbackPer
			default:
				// Another manager of this incident may have asked since it was looked at.
				taken = r.State != v1alpha1.RollbackPreparing
			}
			if taken {
				return false
			}
			if r == nil {
				p.Rollbacks = append(p.Rollbacks, v1alpha1.ServiceRollback{Service: plan.Service, AutoDeploy: v1alpha1.AutoDeployWasOff})
				r = &p.Rollbacks[len(p.Rollbacks)-1]
			}
			// Auto-deploy that an earlier incident switched off, and nobody restored, was on.
			autoDeploy := r.AutoDeploy
			if autoDeploy == v1alpha1.AutoDeployRestored {
				autoDeploy = v1alpha1.AutoDeployWasOff
			}
			*r = v1alpha1.ServiceRollback{
				Service: plan.Service, Incident: s.obj.Name, IncidentUID: string(s.obj.UID), At: seconds(s.now),
				From: plan.From, FromCommit: plan.FromCommit, To: plan.To, ToCommit: plan.ToCommit,
				State: v1alpha1.RollbackPreparing, AutoDeploy: autoDeploy,
			}
			change(r)
			return true
		})
	}
	if service.AutoDeploy {
		// Before it is done: whoever finds it off later must know by whom.
		if err := write(func(r *v1alpha1.ServiceRollback) { r.AutoDeploy = v1alpha1.AutoDeployOff }); err != nil || taken {
			return playbook.Wait(time.Millisecond, v1alpha1.ReasonRollingBack, "%s is rolled back by another one already", plan.Service), err
		}
		if err := api.SetAutoDeploy(ctx, service.ID, false); err != nil {
			return patient(fmt.Errorf("switching auto-deploy of %s off: %w", plan.Service, err))
		}
		s.note(v1alpha1.ReasonSwitchedOff, "auto-deploy of %s was switched off, so that the next push does not bring %s back", plan.Service, plan.FromCommit)
	}
	saw := slices.MaxFunc(deploys, func(a, b render.Deploy) int { return a.CreatedAt.Compare(b.CreatedAt) })
	if err := write(func(r *v1alpha1.ServiceRollback) {
		r.State, r.SawDeploy, r.RequestedAt = v1alpha1.RollbackRequested, saw.ID, seconds(s.now)
	}); err != nil || taken {
		return playbook.Wait(time.Millisecond, v1alpha1.ReasonRollingBack, "%s is rolled back by another one already", plan.Service), err
	}
	// From here on Render is never asked again, unless it certainly did nothing. A manager that is being stopped waits for the answer.
	made, err := api.Rollback(context.WithoutCancel(ctx), service.ID, plan.To)
	switch {
	case err != nil && render.NoEffect(err):
		if err := s.amend(ctx, plan.Service, func(r *v1alpha1.ServiceRollback) { r.State, r.RequestedAt = v1alpha1.RollbackPreparing, nil }); err != nil {
			return playbook.Outcome{}, err
		}
		if refused(err) {
			return playbook.Stall(v1alpha1.ReasonRefused, "Render refused to roll %s back to %s: %s. Roll back by hand, and set spec.resolution when it is over; or, to try again: %s",
				plan.Service, plan.To, playbook.Normalise(err.Error()), s.resumeCommand()), nil
		}
		return patient(err)
	case err != nil:
		s.note(v1alpha1.ReasonRollingBack, "Render was asked to roll %s back to %s, and its answer was lost", plan.Service, plan.To)
		return playbook.Wait(settle, v1alpha1.ReasonRollingBack, "Render was asked to roll %s back to %s (%s), and its answer was lost; what came of it is read from its deploys", plan.Service, plan.To, plan.ToCommit), nil
	}
	s.note(v1alpha1.ReasonRollingBack, "%s is rolled back from %s to %s, by %s", plan.Service, plan.FromCommit, plan.ToCommit, made.ID)
	if err := s.adopt(ctx, plan.Service, made.ID); err != nil {
		return playbook.Outcome{}, err
	}
	return s.follow(ctx, s.ours())
}

// amend changes what is known of this incident's rollback.
func (s *response) amend(ctx context.Context, service string, change func(*v1alpha1.ServiceRollback)) error {
	return s.insist(ctx, func(p *v1alpha1.PlatformStatus) {
		if r := claimOf(p, service); r != nil && r.IncidentUID == string(s.obj.UID) {
			change(r)
		}
	})
}

func (s *response) adopt(ctx context.Context, service, deployID string) error {
	return s.amend(ctx, service, func(r *v1alpha1.ServiceRollback) { r.State, r.DeployID = v1alpha1.RollbackDeploying, deployID })
}

// follow watches what became of a rollback that was asked for. It asks for nothing.
func (s *response) follow(ctx context.Context, r *v1alpha1.ServiceRollback) (playbook.Outcome, error) {
	known := &v1alpha1.IncidentRollback{
		Service: r.Service, From: r.From, FromCommit: r.FromCommit, To: r.To, ToCommit: r.ToCommit, DeployID: r.DeployID, Digest: s.digestOf(r),
	}
	if before := s.obj.Status.Rollback; before != nil && before.Digest == known.Digest {
		known.Schema, known.Migrations, known.NewestMigration = before.Schema, before.Migrations, before.NewestMigration
	}
	s.obj.Status.Rollback = known
	api, err := s.Connections.Render(ctx, s.platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	id := access.RenderServiceID(s.platform, r.Service)
	if r.State == v1alpha1.RollbackRequested {
		deploys, err := api.History(ctx, id)
		if err != nil {
			return patient(err)
		}
		if made := madeBy(r, deploys); made != nil {
			s.note(v1alpha1.ReasonRollingBack, "%s is rolled back from %s to %s, by %s", r.Service, r.FromCommit, r.ToCommit, made.ID)
			if err := s.adopt(ctx, r.Service, made.ID); err != nil {
				return playbook.Outcome{}, err
			}
			r = s.ours()
			s.obj.Status.Rollback.DeployID = r.DeployID
		} else if late := r.RequestedAt.Add(settle); s.now.Before(late) {
			return playbook.Wait(s.until(late), v1alpha1.ReasonRollingBack, "Render was asked to roll %s back to %s (%s), and its answer was lost; what came of it is read from its deploys", r.Service, r.To, r.ToCommit), nil
		} else {
			return playbook.Stall(v1alpha1.ReasonOutcomeUnknown, "Render was asked once to roll %s back to %s (%s), and shows no such deploy. It is not asked again: see its dashboard, roll back by hand if need be, and set spec.resolution when it is over; or, to look again: %s",
				r.Service, r.To, r.ToCommit, s.resumeCommand()), nil
		}
	}
	if r.State == v1alpha1.RollbackDeploying {
		deploy, err := api.Deploy(ctx, id, r.DeployID)
		if err != nil {
			return patient(err)
		}
		if deploy.InProgress() {
			return playbook.Wait(deployInterval, v1alpha1.ReasonRollingBack, "waiting for %s (%s) live", r.DeployID, r.ToCommit), nil
		}
		state, liveAt := v1alpha1.RollbackFailed, deploy.FinishedAt
		if deploy.Status == render.StatusLive || deploy.Status == render.StatusDeactivated {
			state = v1alpha1.RollbackLive
			if liveAt.IsZero() {
				liveAt = s.now
			}
		}
		if err := s.amend(ctx, r.Service, func(r *v1alpha1.ServiceRollback) {
			r.State = state
			if state == v1alpha1.RollbackLive {
				r.LiveAt = seconds(liveAt)
			}
		}); err != nil {
			return playbook.Outcome{}, err
		}
		r = s.ours()
	}
	if r.State == v1alpha1.RollbackFailed {
		return playbook.Stall(v1alpha1.ReasonRollbackFailed, "the deploy %s, which rolls %s back to %s, did not become live. It is not done twice: see Render's dashboard, roll back by hand, and set spec.resolution when it is over",
			r.DeployID, r.Service, r.ToCommit), nil
	}
	if s.obj.Status.RolledBackAt == nil {
		s.obj.Status.RolledBackAt = r.LiveAt
		secondsToRollBack.Observe(s.now.Sub(s.obj.CreationTimestamp.Time).Seconds())
		s.note(v1alpha1.StepRolledBack, "%s is live with %s again, by %s", r.Service, r.ToCommit, r.DeployID)
	}
	return playbook.Done("%s is live with %s again, by %s%s. Suspected: commit %s; to investigate: git log %s..%s",
		r.Service, r.ToCommit, r.DeployID, schemaText(known), r.FromCommit, r.ToCommit, r.FromCommit), nil
}

func (s *response) digestOf(r *v1alpha1.ServiceRollback) string {
	digest, err := playbook.Digest([]string{access.RenderServiceID(s.platform, r.Service), r.From, r.To})
	if err != nil {
		panic(err) // strings always marshal
	}
	return digest
}

// madeBy finds the deploy that a rollback made: one by a rollback, of its commit, newer than what was there before Render was asked.
func madeBy(r *v1alpha1.ServiceRollback, deploys []render.Deploy) *render.Deploy {
	i := slices.IndexFunc(deploys, func(d render.Deploy) bool { return d.ID == r.SawDeploy })
	if i < 0 {
		return nil
	}
	saw := deploys[i].CreatedAt
	for _, d := range deploys {
		if d.ID != r.SawDeploy && d.Trigger == render.TriggerRollback && d.Commit == r.ToCommit && !d.CreatedAt.Before(saw) {
			return &d
		}
	}
	return nil
}

// restoreAutoDeploy switches auto-deploy on again where the incident switched it off. The bad commit is still at the branch's head, so
// that takes a person's word, or a live deploy of another commit.
func restoreAutoDeploy(ctx context.Context, s *response) (playbook.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, responseTimeout)
	defer cancel()
	if err := s.claim(ctx, func(*v1alpha1.PlatformStatus) bool { return false }); err != nil {
		return playbook.Outcome{}, err
	}
	r := s.ours()
	switch {
	case r == nil || r.AutoDeploy == v1alpha1.AutoDeployWasOff:
		return playbook.NotNeeded("auto-deploy was not switched off for this incident"), nil
	case r.AutoDeploy == v1alpha1.AutoDeployRestored:
		return playbook.Done("auto-deploy of %s is on again", r.Service), nil
	}
	api, err := s.Connections.Render(ctx, s.platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	id := access.RenderServiceID(s.platform, r.Service)
	why := "resolved by hand"
	switch {
	case r.State == v1alpha1.RollbackPreparing:
		why = "nothing was rolled back"
	case s.obj.Spec.Resolution == nil:
		fix, err := s.fix(ctx, api, id, r)
		if err != nil {
			return patient(err)
		}
		if fix == nil {
			return playbook.Wait(fixInterval, v1alpha1.ReasonAwaitingFix, "auto-deploy of %s stays off, since %s is still at the branch's head: deploy its fix by hand, or set spec.resolution", r.Service, r.FromCommit), nil
		}
		why = fmt.Sprintf("%s is live with %s", fix.ID, fix.Commit)
	}
	if outcome, ok := s.mayAct(); !ok {
		return outcome, nil
	}
	if err := api.SetAutoDeploy(ctx, id, true); err != nil {
		return patient(fmt.Errorf("switching auto-deploy of %s on: %w", r.Service, err))
	}
	if err := s.amend(ctx, r.Service, func(r *v1alpha1.ServiceRollback) { r.AutoDeploy = v1alpha1.AutoDeployRestored }); err != nil {
		return playbook.Outcome{}, err
	}
	s.note(v1alpha1.StepAutoDeployRestored, "auto-deploy of %s is on again: %s", r.Service, why)
	return playbook.Done("auto-deploy of %s is on again: %s", r.Service, why), nil
}

// fix finds a live deploy of a commit that was not live before the rollback, while the signals are good: an older one that somebody
// deployed leaves the bad one at the branch's head.
func (s *response) fix(ctx context.Context, api *render.Client, id string, r *v1alpha1.ServiceRollback) (*render.Deploy, error) {
	if s.signals.ClearSince.IsZero() {
		return nil, nil
	}
	deploys, err := api.History(ctx, id)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{r.FromCommit: true, r.ToCommit: true}
	for _, d := range deploys {
		// To seconds, as the status keeps them.
		if (d.Status == render.StatusLive || d.Status == render.StatusDeactivated) && d.CreatedAt.Before(r.RequestedAt.Time) {
			known[d.Commit] = true
		}
	}
	if i := slices.IndexFunc(deploys, func(d render.Deploy) bool { return d.Status == render.StatusLive && !known[d.Commit] }); i >= 0 {
		return &deploys[i], nil
	}
	return nil, nil
}
