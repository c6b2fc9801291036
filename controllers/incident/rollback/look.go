package rollback

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

const (
	// lookTimeout bounds what is read of Render in a pass, so that the next page is not late.
	lookTimeout = 15 * time.Second
	// schemaTimeout bounds the look at the database, which may be what is down: the rollback does not depend on it. A database that
	// is merely slow, as after a migration, is waited for.
	schemaTimeout = 8 * time.Second
)

// view is what Render shows of the service that would be rolled back, and of the Platform's other services.
type view struct {
	api     *render.Client
	service *render.Service
	deploys []render.Deploy
	others  map[string][]render.Deploy
}

func (r *Rollback) look(ctx context.Context) (*view, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	api, err := r.Access.Render(ctx, r.Platform)
	if err != nil {
		return nil, err
	}
	v := &view{api: api, others: map[string][]render.Deploy{}}
	id := access.RenderServiceID(r.Platform, r.Platform.Spec.Rollback.Service)
	if v.service, err = api.Service(ctx, id); err != nil {
		return nil, err
	}
	if v.deploys, err = api.History(ctx, id); err != nil {
		return nil, err
	}
	for _, other := range r.Platform.Spec.Render.Services {
		if other.ServiceID == id {
			continue
		}
		if v.others[other.Name], err = api.History(ctx, other.ServiceID); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// choose the pair by what the signals say now.
func (r *Rollback) choose(v *view) render.Choice {
	rule := r.Platform.Spec.Rollback
	unfit := map[string]string{}
	for _, s := range r.Platform.Status.Suspects {
		if s.Service == rule.Service {
			unfit[s.Commit] = "suspected by Incident " + s.Incident
		}
	}
	regression := render.Regression{
		Onset: r.Evidence.Onset, Window: time.Duration(rule.WindowSeconds) * time.Second, Detection: r.Evidence.Detection,
		EnoughFrom: r.Evidence.EnoughFrom, Unfit: unfit, Others: v.others,
	}
	if triage := r.Incident.Status.Triage; triage != nil {
		for _, d := range triage.Deploys {
			if d.Status == render.StatusPreDeploy || d.Status == render.StatusUpdate {
				regression.SeenDeploying = append(regression.SeenDeploying, d.ID)
			}
		}
	}
	if known := r.Incident.Status.Rollback; known != nil {
		regression.Gone = known.Refused
	}
	return render.Choose(v.service, v.deploys, regression)
}

// lookAtSchema finds out whether the database was migrated since the commit that is gone back to was made, where that can be seen.
// By the read-only role: a replica that lags is seconds behind, and a deploy takes longer.
func (r *Rollback) lookAtSchema(ctx context.Context, plan *v1alpha1.IncidentRollback, committed time.Time) {
	before := r.Incident.Status.Rollback
	if before == nil || before.Digest != plan.Digest {
		before = &v1alpha1.IncidentRollback{}
	}
	if before.Schema == v1alpha1.SchemaMigrated {
		// A database that went down since does not take back what a person was asked.
		plan.Schema, plan.Migrations, plan.NewestMigration = before.Schema, before.Migrations, before.NewestMigration
		return
	}
	count, newest, err := r.migrationsSince(ctx, committed)
	switch {
	case err != nil && before.Schema == v1alpha1.SchemaUnchanged:
		plan.Schema = before.Schema
	case err != nil:
		plan.Schema = v1alpha1.SchemaUnknown
		if before.Schema != plan.Schema {
			r.Record(v1alpha1.ReasonRollingBack, "whether migrations newer than %s have run could not be looked at: %s",
				plan.ToCommit, playbook.Normalise(err.Error()))
		}
	case count > 0:
		plan.Schema, plan.Migrations, plan.NewestMigration = v1alpha1.SchemaMigrated, &count, newest
	default:
		plan.Schema = v1alpha1.SchemaUnchanged
	}
}

func (r *Rollback) migrationsSince(ctx context.Context, committed time.Time) (count int32, newest string, err error) {
	if committed.IsZero() {
		return 0, "", errors.New("when the commit was made is not known")
	}
	ctx, cancel := context.WithTimeout(ctx, schemaTimeout)
	defer cancel()
	db, err := r.Access.Monitor(ctx, r.Platform)
	if err != nil {
		return 0, "", err
	}
	return db.MigrationsSince(ctx, committed)
}

// schemaText says what is known of the schema, as the end of a sentence.
func schemaText(plan *v1alpha1.IncidentRollback) string {
	switch plan.Schema {
	case v1alpha1.SchemaMigrated:
		return fmt.Sprintf("; migrations newer than %s have run: %d, the newest %s", plan.ToCommit, *plan.Migrations, plan.NewestMigration)
	case v1alpha1.SchemaUnknown:
		return fmt.Sprintf("; whether migrations newer than %s have run could not be looked at", plan.ToCommit)
	case v1alpha1.SchemaUnchanged:
	}
	return ""
}
