// Package webhooks says why webhooks do not arrive, and which side has to mend it.
package webhooks

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// databasePatience is how long the database is waited for where the admin API could be asked.
	databasePatience = time.Minute
	// lookTimeout bounds what a diagnosis reads: the database, the admin API's list and JWKS.
	lookTimeout = 2 * time.Minute
	// read is how many groups are read at most, by application, cause, status and kid.
	read = 1000
)

// Webhooks of an Incident.
type Webhooks struct {
	*journal.Journal
	Claims claims.Claims
	Access *access.Connections
	Aside  *playbook.Aside
	// Own are the signals about webhooks.
	Own signals.Signals
	// First is the Incident that has the slot, where this one only pages; empty otherwise.
	First string
}

// Diagnose is the step that says by application and cause what died, and whose fault that is. It changes nothing.
func (w *Webhooks) Diagnose(ctx context.Context) (playbook.Outcome, error) {
	p := w.Platform
	switch {
	case w.ByHand():
		return playbook.NotNeeded("resolved by %s", w.Incident.Spec.Resolution.By), nil
	case p.Spec.Database == nil && p.Spec.AdminAPI == nil:
		return playbook.NotNeeded("nobody can tell why webhooks are dead: Platform %q has neither spec.database nor "+
			"spec.adminAPI. See the admin UI", p.Name), nil
	}
	diagnosis, instead, err := w.Look(ctx)
	if err != nil {
		return journal.Patient("the admin API", err)
	}
	w.Incident.Status.Diagnosis = diagnosis
	return playbook.Done("%s%s", Text(diagnosis), w.advice(diagnosis, instead)), nil
}

// Look reads what is dead now. It runs beside the passes, so that its error may be *playbook.UnderWay. instead is why
// the admin API was asked and not the database; nil where there is no database.
func (w *Webhooks) Look(ctx context.Context) (diagnosis *v1alpha1.IncidentDiagnosis, instead, err error) {
	l, err := w.looker()
	if err != nil {
		return nil, nil, err
	}
	found, err := playbook.Ask(ctx, w.Aside, string(w.Incident.UID)+"/diagnosis", "why webhooks are dead", lookTimeout,
		l.look)
	if err != nil {
		return nil, nil, err
	}
	return found.diagnosis, found.instead, nil
}

// looker for the applications that the incident names, or for all.
func (w *Webhooks) looker() (*looker, error) {
	l := &looker{access: w.Access, platform: w.Platform.DeepCopy(), at: w.Now}
	if affected := w.Incident.Spec.Affected; affected != nil {
		for _, text := range affected.ApplicationIDs {
			id, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, &playbook.Waiting{Reason: v1alpha1.ReasonSpecInvalid, Err: fmt.Errorf("no application has the id %s "+
					"of spec.affected.applicationIDs, which is too large: resolve this, and apply an Incident with an id from "+
					"oauth_applications", text)}
			}
			l.applications = append(l.applications, id)
		}
	}
	l.patient = w.Now.Before(w.Incident.CreationTimestamp.Add(databasePatience))
	return l, nil
}

// looker reads beside the passes, and shares nothing with them.
type looker struct {
	access       *access.Connections
	platform     *v1alpha1.Platform
	applications []int64
	at           time.Time
	// patient says that the admin API is not asked instead of the database yet.
	patient bool
}

type looked struct {
	diagnosis *v1alpha1.IncidentDiagnosis
	instead   error
}

func (l *looker) look(ctx context.Context) (looked, error) {
	if l.platform.Spec.Database == nil {
		diagnosis, err := l.byAdminAPI(ctx)
		return looked{diagnosis, nil}, err
	}
	diagnosis, err := l.byDatabase(ctx)
	if err == nil {
		return looked{diagnosis, nil}, nil
	}
	err = fmt.Errorf("saying why webhooks are dead: %w", access.DatabaseError(err))
	if l.patient || l.platform.Spec.AdminAPI == nil {
		return looked{}, err
	}
	diagnosis, otherErr := l.byAdminAPI(ctx)
	if otherErr != nil {
		return looked{}, fmt.Errorf("%w. The admin API was asked instead: %w", err, otherErr)
	}
	return looked{diagnosis, err}, nil
}

func (l *looker) byDatabase(ctx context.Context) (*v1alpha1.IncidentDiagnosis, error) {
	db, err := l.access.Monitor(ctx, l.platform)
	if err != nil {
		return nil, err
	}
	dead, err := db.Diagnose(ctx, l.applications, read)
	if err != nil {
		return nil, err
	}
	return l.assembled(ctx, db, dead), nil
}

func (l *looker) assembled(ctx context.Context, db *platformdb.DB,
	dead *platformdb.Diagnosis) *v1alpha1.IncidentDiagnosis {
	groups := merge(dead.Dead)
	diagnosis := assemble(groups, l.kids(ctx, groups, db), dead.Groups-len(dead.Dead))
	diagnosis.At, diagnosis.Source = journal.Seconds(l.at), v1alpha1.DiagnosedByDatabase
	diagnosis.Counted, diagnosis.Entries = v1alpha1.CountExact, &dead.Entries
	return diagnosis
}

func (l *looker) byAdminAPI(ctx context.Context) (*v1alpha1.IncidentDiagnosis, error) {
	api, err := l.access.AdminAPI(ctx, l.platform)
	if err != nil {
		return nil, err
	}
	list, err := api.DeadEntries(ctx, platformdb.Cause)
	if err != nil {
		return nil, fmt.Errorf("reading the admin API's list of dead entries: %w", err)
	}
	dead := group(list.Entries, l.applications)
	groups := merge(dead)
	diagnosis := assemble(groups, l.kids(ctx, groups, nil), 0)
	diagnosis.At, diagnosis.Source = journal.Seconds(l.at), v1alpha1.DiagnosedByAdminAPI
	diagnosis.Counted, diagnosis.Entries = v1alpha1.CountAtLeast, new(int64)
	if list.All {
		diagnosis.Counted = v1alpha1.CountExact
	}
	for _, g := range dead {
		*diagnosis.Entries += g.Entries
	}
	return diagnosis, nil
}

// keys is what is known about kids.
type keys struct {
	// published is what JWKS shows; nil where it could not be read.
	published map[string]bool
	// rows are the platform's; nil where they could not be read.
	rows map[string]platformdb.Key
}

// kids looks for the kids of refused signatures in JWKS, and in the table of keys where there is a database. What can't
// be read is unknown, and keeps nothing else from being said.
func (l *looker) kids(ctx context.Context, groups []platformdb.Dead, db *platformdb.DB) keys {
	var known keys
	var kids []string
	for _, g := range groups {
		if g.Cause == string(v1alpha1.CauseSignatureRejected) {
			kids = append(kids, g.Kid)
		}
	}
	if len(kids) == 0 {
		return known
	}
	jwks, err := platformapi.FetchJWKS(ctx, l.platform.Spec.URL, l.access.Transport)
	if err == nil {
		known.published = map[string]bool{}
		for _, kid := range jwks.Kids {
			known.published[kid] = true
		}
	}
	if db == nil {
		return known
	}
	rows, err := db.Keys(ctx, kids)
	if err == nil {
		known.rows = map[string]platformdb.Key{}
		for _, row := range rows {
			known.rows[row.Kid] = row
		}
	}
	return known
}
