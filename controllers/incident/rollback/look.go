package rollback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

const (
	// lookTimeout bounds what is read of Render.
	lookTimeout = 15 * time.Second
	// schemaTimeout bounds the look at the database, which may be what is down: the rollback does not depend on it. A
	// database that is merely slow, as after a migration, is waited for.
	schemaTimeout = 8 * time.Second
)

// view is what Render shows of the service that would be rolled back, and of the Platform's other services.
type view struct {
	api     *render.Client
	service *render.Service
	deploys []render.Deploy
	others  map[string][]render.Deploy
	schema  schema
}

// schema is what the database says of migrations that are newer than a commit.
type schema struct {
	commit string
	count  int32
	newest string
	err    error
}

// look reads beside the pass what Render shows. Where a rollback would follow, it reads the database's migrations as
// well.
func (r *Rollback) look(ctx context.Context) (*view, error) {
	p, known := r.Platform, r.regression()
	return playbook.Ask(ctx, r.Aside, r.key("look"), "Render's deploys", lookTimeout+schemaTimeout,
		func(ctx context.Context) (*view, error) {
			v, err := read(ctx, r.Access, p)
			if err != nil {
				return nil, err
			}
			if target := v.choose(known).Target; target != nil {
				v.schema = migrationsSince(ctx, r.Access, p, *target)
			}
			return v, nil
		})
}

// key of what is read of this Incident.
func (r *Rollback) key(what string) string { return string(r.Incident.UID) + "/rollback/" + what }

func read(ctx context.Context, connections *access.Connections, p *v1alpha1.Platform) (*view, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	api, err := connections.Render(ctx, p)
	if err != nil {
		return nil, err
	}
	v := &view{api: api, others: map[string][]render.Deploy{}}
	id := access.RenderServiceID(p, p.Spec.Rollback.Service)
	if v.service, err = api.Service(ctx, id); err != nil {
		return nil, err
	}
	if v.deploys, err = api.History(ctx, id); err != nil {
		return nil, err
	}
	for _, other := range p.Spec.Render.Services {
		if other.ServiceID == id {
			continue
		}
		if v.others[other.Name], err = api.History(ctx, other.ServiceID); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// regression is what is known now of the outage, but for what Render shows.
func (r *Rollback) regression() render.Regression {
	rule := r.Platform.Spec.Rollback
	known := render.Regression{
		Onset: r.Evidence.Onset, Window: time.Duration(rule.WindowSeconds) * time.Second, Detection: r.Evidence.Detection,
		EnoughFrom: r.Evidence.EnoughFrom, Unfit: map[string]string{},
	}
	for _, s := range r.Platform.Status.Suspects {
		if s.Service == rule.Service {
			known.Unfit[s.Commit] = "suspected by Incident " + s.Incident
		}
	}
	if triage := r.Incident.Status.Triage; triage != nil {
		for _, d := range triage.Deploys {
			if d.Status == render.StatusPreDeploy || d.Status == render.StatusUpdate {
				known.SeenDeploying = append(known.SeenDeploying, d.ID)
			}
		}
	}
	if plan := r.Incident.Status.Rollback; plan != nil {
		known.Gone = slices.Clone(plan.Refused)
	}
	return known
}

// choose the pair by what is known and what Render shows.
func (v *view) choose(known render.Regression) render.Choice {
	known.Others = v.others
	return render.Choose(v.service, v.deploys, known)
}

// weigh writes into the plan whether the database was migrated since the commit that is gone back to was made, where
// that was seen.
func (r *Rollback) weigh(plan *v1alpha1.IncidentRollback, seen schema) {
	before := r.Incident.Status.Rollback
	if before == nil || before.Digest != plan.Digest {
		before = &v1alpha1.IncidentRollback{}
	}
	switch {
	case before.Schema == v1alpha1.SchemaMigrated:
		// A database that went down since does not take back what a person was asked.
		plan.Schema, plan.Migrations, plan.NewestMigration = before.Schema, before.Migrations, before.NewestMigration
	case seen.err != nil && before.Schema == v1alpha1.SchemaUnchanged:
		plan.Schema = before.Schema
	case seen.err != nil:
		plan.Schema = v1alpha1.SchemaUnknown
		if before.Schema != plan.Schema {
			r.Record(v1alpha1.ReasonRollingBack, "whether migrations newer than %s have run could not be looked at: %s",
				plan.ToCommit, playbook.Normalise(seen.err.Error()))
		}
	case seen.count > 0:
		plan.Schema, plan.Migrations, plan.NewestMigration = v1alpha1.SchemaMigrated, &seen.count, seen.newest
	default:
		plan.Schema = v1alpha1.SchemaUnchanged
	}
}

// migrationsSince reads by the read-only role: a replica that lags is seconds behind, and a deploy takes longer.
func migrationsSince(ctx context.Context, connections *access.Connections, p *v1alpha1.Platform,
	target render.Deploy) schema {
	seen := schema{commit: target.Commit}
	if target.CommittedAt.IsZero() {
		seen.err = errors.New("when the commit was made is not known")
		return seen
	}
	ctx, cancel := context.WithTimeout(ctx, schemaTimeout)
	defer cancel()
	db, err := connections.Monitor(ctx, p)
	if err != nil {
		seen.err = err
		return seen
	}
	seen.count, seen.newest, seen.err = db.MigrationsSince(ctx, target.CommittedAt)
	return seen
}

// skippedText says which commits are not gone back to, and why, as the end of a sentence.
func skippedText(plan *v1alpha1.IncidentRollback) string {
	if len(plan.Skipped) == 0 {
		return ""
	}
	return "; " + strings.Join(plan.Skipped, "; ")
}

// schemaText says what is known of the schema, as the end of a sentence.
func schemaText(plan *v1alpha1.IncidentRollback) string {
	switch plan.Schema {
	case v1alpha1.SchemaMigrated:
		return fmt.Sprintf("; migrations newer than %s have run: %d, the newest %s", plan.ToCommit, *plan.Migrations,
			plan.NewestMigration)
	case v1alpha1.SchemaUnknown:
		return fmt.Sprintf("; whether migrations newer than %s have run could not be looked at", plan.ToCommit)
	case v1alpha1.SchemaUnchanged:
	}
	return ""
}
