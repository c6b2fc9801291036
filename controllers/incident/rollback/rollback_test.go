package rollback

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

var night = time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)

// suspected is an Outage with a ground for a rollback by itself.
func suspected() *Rollback {
	return &Rollback{
		Evidence: Evidence{Ground: true, Because: "/up answers HTTP 502"},
		Journal: &journal.Journal{
			Now: night, Platform: &v1alpha1.Platform{Spec: v1alpha1.PlatformSpec{
				Rollback: &v1alpha1.PlatformRollback{Service: "web"},
			}},
			Incident: &v1alpha1.Incident{
				ObjectMeta: metav1.ObjectMeta{Name: "ours", UID: types.UID("ours")},
				Spec:       v1alpha1.IncidentSpec{Category: v1alpha1.CategoryOutage},
			},
		},
	}
}

func of(incident string, state v1alpha1.RollbackState, ago time.Duration) v1alpha1.ServiceRollback {
	return v1alpha1.ServiceRollback{Service: "web", Incident: incident, IncidentUID: incident, State: state,
		At: journal.Seconds(night.Add(-ago))}
}

func TestWhatARollbackNeedsAPersonFor(t *testing.T) {
	plan := func() *v1alpha1.IncidentRollback { return &v1alpha1.IncidentRollback{Service: "web"} }
	for name, c := range map[string]struct {
		change func(*Rollback, *v1alpha1.IncidentRollback, *render.Choice)
		why    string // empty: it goes ahead by itself
	}{
		"nothing": {change: func(*Rollback, *v1alpha1.IncidentRollback, *render.Choice) {}},
		"no ground": {
			change: func(r *Rollback, _ *v1alpha1.IncidentRollback, _ *render.Choice) { r.Evidence.Ground = false },
			why:    "no sev1 signal is bad by HTTP 404",
		},
		"the policy": {
			change: func(r *Rollback, _ *v1alpha1.IncidentRollback, _ *render.Choice) {
				r.Incident.Spec.Outage = &v1alpha1.IncidentOutage{Rollback: v1alpha1.RollbackApproval}
			},
			why: "spec.outage.rollback is Approval",
		},
		"the Platform's rule": {
			change: func(r *Rollback, _ *v1alpha1.IncidentRollback, _ *render.Choice) {
				r.Platform.Spec.RequireApproval = []v1alpha1.ApprovalRule{{Kind: "Incident", Step: v1alpha1.StepRolledBack}}
			},
			why: "the Platform's spec.requireApproval asks for it",
		},
		"a migration": {
			change: func(_ *Rollback, plan *v1alpha1.IncidentRollback, _ *render.Choice) {
				plan.Schema = v1alpha1.SchemaMigrated
			},
			why: "the database was migrated since",
		},
		"a schema that nobody could look at": {
			change: func(_ *Rollback, plan *v1alpha1.IncidentRollback, _ *render.Choice) {
				plan.Schema = v1alpha1.SchemaUnknown
			},
		},
		"another service": {
			change: func(_ *Rollback, _ *v1alpha1.IncidentRollback, choice *render.Choice) {
				choice.NeedsApproval = []string{"worker went live later"}
			},
			why: "worker went live later",
		},
		"another Incident's within the hour": {
			change: func(r *Rollback, _ *v1alpha1.IncidentRollback, _ *render.Choice) {
				r.Platform.Status.Rollbacks = []v1alpha1.ServiceRollback{of("theirs", v1alpha1.RollbackLive, 59*time.Minute)}
			},
			why: "Incident theirs rolled web back",
		},
		"another Incident's an hour ago": {
			change: func(r *Rollback, _ *v1alpha1.IncidentRollback, _ *render.Choice) {
				r.Platform.Status.Rollbacks = []v1alpha1.ServiceRollback{of("theirs", v1alpha1.RollbackLive, time.Hour)}
			},
		},
		"another Incident's, which Render refused": {
			change: func(r *Rollback, _ *v1alpha1.IncidentRollback, _ *render.Choice) {
				r.Platform.Status.Rollbacks = []v1alpha1.ServiceRollback{of("theirs", v1alpha1.RollbackRefused, time.Minute)}
			},
		},
	} {
		r, p, choice := suspected(), plan(), &render.Choice{}
		c.change(r, p, choice)
		why := strings.Join(r.grounds(p, *choice), "; ")
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s: a person is needed since %q, want %q", name, why, c.why)
		}
	}
}

func TestTheOldFieldOfThePolicyWins(t *testing.T) {
	all := []v1alpha1.RollbackPolicy{v1alpha1.RollbackAutomatic, v1alpha1.RollbackApproval, v1alpha1.RollbackNever}
	for _, old := range append([]v1alpha1.RollbackPolicy{""}, all...) {
		for _, now := range append([]v1alpha1.RollbackPolicy{""}, all...) {
			spec := &v1alpha1.IncidentSpec{Rollback: old}
			if now != "" {
				spec.Outage = &v1alpha1.IncidentOutage{Rollback: now}
			}
			want := slices.DeleteFunc([]v1alpha1.RollbackPolicy{old, now, v1alpha1.RollbackAutomatic},
				func(p v1alpha1.RollbackPolicy) bool { return p == "" })[0]
			if got := Policy(spec); got != want {
				t.Errorf("rollback %q and outage.rollback %q are %s", old, now, got)
			}
		}
	}
}

func TestWhoHasAService(t *testing.T) {
	for name, c := range map[string]struct {
		known  *v1alpha1.ServiceRollback
		holder string
	}{
		"nobody":                   {},
		"ours, prepared":           {known: new(of("ours", v1alpha1.RollbackPreparing, time.Second))},
		"ours, refused":            {known: new(of("ours", v1alpha1.RollbackRefused, time.Second))},
		"ours, by another manager": {known: new(of("ours", v1alpha1.RollbackRequested, time.Second)), holder: "ours"},
		"theirs, prepared": {known: new(of("theirs", v1alpha1.RollbackPreparing, time.Second)),
			holder: "theirs"},
		"theirs, prepared long ago": {known: new(of("theirs", v1alpha1.RollbackPreparing, 2*time.Minute))},
		"theirs, refused":           {known: new(of("theirs", v1alpha1.RollbackRefused, time.Second))},
		"theirs, asked for": {known: new(of("theirs", v1alpha1.RollbackRequested, time.Minute)),
			holder: "theirs"},
		"theirs, under way": {known: new(of("theirs", v1alpha1.RollbackDeploying, time.Minute)),
			holder: "theirs"},
		"theirs, under way for an hour": {known: new(of("theirs", v1alpha1.RollbackDeploying, 2*time.Hour))},
		"theirs, live":                  {known: new(of("theirs", v1alpha1.RollbackLive, time.Minute))},
		"theirs, failed":                {known: new(of("theirs", v1alpha1.RollbackFailed, time.Minute))},
	} {
		if got := suspected().holder(c.known); got != c.holder {
			t.Errorf("%s: %q has it", name, got)
		}
	}
}

func TestTheDeployThatARollbackMadeIsKnownByWhatWasThereBefore(t *testing.T) {
	deploy := func(id, trigger, commit string, minute int) render.Deploy {
		return render.Deploy{ID: id, Trigger: trigger, Commit: commit,
			CreatedAt: night.Add(time.Duration(minute) * time.Minute)}
	}
	ours := &v1alpha1.ServiceRollback{SawDeploy: "saw", ToCommit: "good"}
	older, saw := deploy("older", render.TriggerRollback, "good", 0), deploy("saw", "new_commit", "bad", 1)
	for name, c := range map[string]struct {
		after render.Deploy
		made  bool
	}{
		"ours":               {deploy("made", render.TriggerRollback, "good", 2), true},
		"to another commit":  {deploy("made", render.TriggerRollback, "other", 2), false},
		"somebody's deploy":  {deploy("made", "manual", "good", 2), false},
		"at the same moment": {deploy("made", render.TriggerRollback, "good", 1), true},
	} {
		made := madeBy(ours, []render.Deploy{c.after, older, saw})
		if (made != nil) != c.made || made != nil && made.ID != "made" {
			t.Errorf("%s: %+v", name, made)
		}
	}
	if made := madeBy(ours, []render.Deploy{older, deploy("made", render.TriggerRollback, "good", 2)}); made != nil {
		t.Errorf("without what was there before: %+v", made)
	}
}
