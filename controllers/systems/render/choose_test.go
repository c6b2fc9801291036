package render_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

var (
	onset   = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	running = &render.Service{ID: "srv-web"}
)

const window = time.Hour

// history writes deploys down as "id commit status trigger minutes", minutes being when it became live, from the onset on. One that
// was never live was created then. The commit - is none.
func history(t interface{ Fatalf(string, ...any) }, lines ...string) []render.Deploy {
	var all []render.Deploy
	for _, line := range lines {
		var d render.Deploy
		var minutes float64
		if _, err := fmt.Sscan(line, &d.ID, &d.Commit, &d.Status, &d.Trigger, &minutes); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		d.Commit = strings.TrimPrefix(d.Commit, "-")
		d.CreatedAt = onset.Add(time.Duration(minutes * float64(time.Minute)))
		if d.Status == render.StatusLive || d.Status == render.StatusDeactivated {
			d.FinishedAt = d.CreatedAt
		}
		all = append(all, d)
	}
	return all
}

func TestWhatIsSuspectedAndWhereToGoBackTo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deploys  []string
		service  *render.Service
		onsets   []float64 // of other incidents, in minutes
		tried    []string
		want     string // suspect target
		because  string
		progress string
	}{
		"empty": {want: "- -", because: "no deploy is known"},
		"a bad commit after a good one": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 B live new_commit -10"}, want: "d2 d1",
		},
		"unordered": {
			deploys: []string{"d2 B deactivated new_commit -500", "d3 C live new_commit -10", "d1 A deactivated new_commit -900"}, want: "d3 d2",
		},
		"the onset is the second in which it became live": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 B live new_commit 0.01"}, want: "d2 d1",
		},
		"it became live just within the window": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 B live new_commit -60"}, want: "d2 d1",
		},
		"it became live before the window": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 B live new_commit -60.1"}, want: "- -", because: "d2 was live at the onset, and its commit B since before the window",
		},
		"all became live after the onset": {
			deploys: []string{"d1 A live new_commit 5"}, want: "- -", because: "no deploy is known",
		},
		"the first deploy of all": {
			deploys: []string{"d1 A live new_commit -5"}, want: "d1 -", because: "commit A is suspected, and no earlier deploy",
		},
		"another followed": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 B deactivated new_commit -10", "d3 C live new_commit 5"}, want: "d2 d1",
		},
		"unknown statuses": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 X half_live new_commit -300", "d3 B live teleport -10", "d4 Y melted new_commit -5"}, want: "d3 d1",
		},
		"only unknown statuses": {
			deploys: []string{"d1 A half_live new_commit -900", "d2 B melted new_commit -10"}, want: "- -", because: "no deploy is known",
		},
		"never became live": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 X build_failed new_commit -300", "d3 Y canceled new_commit -200", "d4 Z update_failed new_commit -100",
				"d5 W pre_deploy_failed new_commit -90", "d6 B live new_commit -10", "d7 V build_failed new_commit -5"},
			want: "d6 d1",
		},
		"same commit redeployed": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 B deactivated new_commit -20", "d3 B live manual -10"}, want: "d3 d1",
		},
		"same commit redeployed, which ran since before the window": {
			deploys: []string{"d1 A deactivated new_commit -9000", "d2 B deactivated new_commit -900", "d3 B live service_updated -10"}, want: "- -",
			because: "d3 was live at the onset, and its commit B since before the window",
		},
		"same commit redeployed before the suspect": {
			deploys: []string{"d1 A deactivated new_commit -900", "d2 A deactivated service_updated -500", "d3 B live new_commit -10"}, want: "d3 d2",
		},
		"good A, bad B, rollback to A, service_updated A, nine failed builds, bad C": {
			deploys: append([]string{"a A deactivated new_commit -900", "b B deactivated new_commit -300", "r A deactivated rollback -290", "u A deactivated service_updated -200", "c C live new_commit -5"},
				repeat(9, "f%d F%d build_failed new_commit -%d")...),
			want: "c u",
		},
		"good A, bad B, rollback to A, service_updated A": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -30", "r A deactivated rollback -20", "u A live service_updated -5"}, want: "- -",
			because: "commit A was live at the onset, and was put there by the rollback r",
		},
		"live by a rollback": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -30", "r A live rollback -20"}, want: "- -",
			because: "commit A was live at the onset, and was put there by the rollback r",
		},
		"live by a rollback to what is not listed any more": {
			deploys: []string{"b B deactivated new_commit -30", "r A live rollback -20"}, want: "- -", because: "put there by the rollback r",
		},
		"the bad commit came back": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -300", "r A deactivated rollback -290", "b2 B live manual -5"}, want: "b2 r",
		},
		"what a rollback left is no target": {
			deploys: []string{"z Z deactivated new_commit -900", "b B deactivated new_commit -300", "r Z deactivated rollback -290", "c C live new_commit -5"}, want: "c r",
		},
		"what a rollback left is no target, also where the rollback's own commit is out": {
			deploys: []string{"y Y deactivated new_commit -999", "z Z deactivated new_commit -900", "b B deactivated new_commit -50", "r Z deactivated rollback -40", "c C live new_commit -5"},
			onsets:  []float64{-30}, want: "c y",
		},
		"what a rollback left and somebody deployed again is one": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -300", "r A deactivated rollback -290", "b2 B deactivated manual -200", "c C live new_commit -5"}, want: "c b2",
		},
		"somebody put the earlier commit back by hand, and that is suspected": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -30", "a2 A live api -20"}, want: "a2 -", because: "commit A is suspected, and no earlier deploy",
		},
		"somebody rolled back already": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -10", "r A live rollback 2"}, want: "b -", because: "r went back to commit A already",
		},
		"somebody put an earlier commit back already": {
			deploys: []string{"z Z deactivated new_commit -990", "a A deactivated new_commit -900", "b B deactivated new_commit -10", "z2 Z live manual 2"}, want: "b -", because: "z2 went back to commit Z already",
		},
		"somebody rolled back already, to what is not listed any more": {
			deploys: []string{"b B deactivated new_commit -10", "r A live rollback 2"}, want: "b -", because: "r went back to commit A already",
		},
		"what a rollback left was deployed twice": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -300", "b2 B deactivated manual -295", "r A deactivated rollback -290", "c C live new_commit -5"},
			tried:   []string{"a"}, want: "c -", because: "fit to go back to",
		},
		"the commit live at the onset is not known": {
			deploys: []string{"a A deactivated new_commit -20", "b - live new_commit -10"}, want: "- -", because: "b was live at the onset, and Render does not say of which commit",
		},
		"an earlier commit is not known": {
			deploys: []string{"a A deactivated new_commit -900", "x - deactivated new_commit -100", "b B live new_commit -10"}, want: "b a",
		},
		"live at another incident's onset": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -50", "c C live new_commit -10"}, onsets: []float64{-40}, want: "c a",
		},
		"live at an onset before the window": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -500", "c C live new_commit -10"}, onsets: []float64{-400}, want: "c b",
		},
		"code that was live at another onset, deployed again": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -50", "b2 B deactivated service_updated -30", "c C live new_commit -10"}, onsets: []float64{-40}, want: "c a",
		},
		"tried": {
			deploys: []string{"a A deactivated new_commit -900", "b B deactivated new_commit -500", "c C live new_commit -10"}, tried: []string{"b"}, want: "c a",
		},
		"all tried": {
			deploys: []string{"a A deactivated new_commit -900", "c C live new_commit -10"}, tried: []string{"a"}, want: "c -", because: "fit to go back to",
		},
		"a deploy in progress": {
			deploys: []string{"a A deactivated new_commit -900", "b B live new_commit -10", "c C queued new_commit 1", "d D build_in_progress new_commit 2"}, want: "b a", progress: "d",
		},
		"a deploy in progress, and nothing suspicious": {
			deploys: []string{"a A live new_commit -900", "b B update_in_progress new_commit -1"}, want: "- -", because: "since before the window", progress: "b",
		},
		"suspended by billing": {
			deploys: []string{"a A deactivated new_commit -900", "b B live new_commit -10"}, service: &render.Service{Suspended: true, Suspenders: []string{"billing"}}, want: "- -",
			because: "the service is suspended (by billing)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := render.Regression{Onset: onset, Window: window, Tried: c.tried}
			for _, minutes := range c.onsets {
				r.Onsets = append(r.Onsets, onset.Add(time.Duration(minutes*float64(time.Minute))))
			}
			if c.service == nil {
				c.service = running
			}
			got := render.Choose(c.service, history(t, c.deploys...), r)
			if ids := id(got.Suspect) + " " + id(got.Target); ids != c.want || (got.NotNeeded == "") != (got.Target != nil) || !strings.Contains(got.NotNeeded, c.because) {
				t.Errorf("suspect and target: %s (%s), want %s (%s)", ids, got.NotNeeded, c.want, c.because)
			}
			if c.progress != "" && id(got.InProgress) != c.progress || c.progress == "" && got.InProgress != nil {
				t.Errorf("in progress: %s, want %s", id(got.InProgress), c.progress)
			}
		})
	}
}

func TestADeployThatIsLiveSinceNobodyKnowsWhenSuspectsNothing(t *testing.T) {
	t.Parallel()
	deploys := history(t, "a A deactivated new_commit -900", "b B deactivated new_commit -10", "c C live new_commit -5", "d D deactivated new_commit -4")
	deploys[3].FinishedAt = time.Time{}
	regression := render.Regression{Onset: onset, Window: window}
	if got := render.Choose(running, deploys, regression); id(got.Suspect) != "c" || id(got.Target) != "b" {
		t.Errorf("a deactivated one: %+v", got)
	}
	deploys[2].FinishedAt = time.Time{}
	if got := render.Choose(running, deploys, regression); got.Suspect != nil || got.NotNeeded != "Render does not say since when c is live" {
		t.Errorf("a live one: %+v", got)
	}
}

func repeat(n int, format string) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(format, i, i, 100-i))
	}
	return lines
}

func id(d *render.Deploy) string {
	if d == nil {
		return "-"
	}
	return d.ID
}

// histories draws what a service may have been through: few commits, so that they come back.
func histories(t *rapid.T) []render.Deploy {
	statuses := []string{"live", "deactivated", "deactivated", "deactivated", "build_failed", "canceled", "queued", "half_live", ""}
	triggers := []string{"new_commit", "rollback", "service_updated", "manual", "teleport"}
	minutes := rapid.SliceOfNDistinct(rapid.IntRange(-200, 60), 0, 14, rapid.ID).Draw(t, "minutes")
	var lines []string
	for i, m := range minutes {
		lines = append(lines, fmt.Sprintf("d%d %s %q %s %d", i, rapid.SampledFrom([]string{"A", "B", "C", "D"}).Draw(t, "commit"),
			rapid.SampledFrom(statuses).Draw(t, "status"), rapid.SampledFrom(triggers).Draw(t, "trigger"), m))
	}
	all := history(t, lines...)
	for i := range all {
		all[i].Status = strings.Trim(all[i].Status, `"`)
		if s := all[i].Status; s == render.StatusLive || s == render.StatusDeactivated {
			all[i].FinishedAt = all[i].CreatedAt
		}
	}
	return all
}

func TestEveryChoiceKeepsTheRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		deploys := histories(t)
		r := render.Regression{Onset: onset, Window: window}
		for _, m := range rapid.SliceOfN(rapid.IntRange(-200, 60), 0, 3).Draw(t, "onsets") {
			r.Onsets = append(r.Onsets, onset.Add(time.Duration(m)*time.Minute))
		}
		if len(deploys) > 0 && rapid.Bool().Draw(t, "tried") {
			r.Tried = []string{deploys[0].ID}
		}
		got := render.Choose(running, deploys, r)

		again := slices.Concat(deploys, deploys)
		shuffled := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "order")))
		shuffled.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if other := render.Choose(running, again, r); !reflect.DeepEqual(got, other) {
			t.Fatalf("in another order, and twice: %v, not %v", other, got)
		}
		noise := slices.DeleteFunc(slices.Clone(deploys), func(d render.Deploy) bool { return d.FinishedAt.IsZero() })
		if other := render.Choose(running, noise, r); id(other.Suspect) != id(got.Suspect) || id(other.Target) != id(got.Target) {
			t.Fatalf("without those that were never live: %v, not %v", other, got)
		}
		if (got.Target == nil) == (got.NotNeeded == "") || got.Target != nil && got.Suspect == nil {
			t.Fatalf("%+v", got)
		}
		liveAt := func(instant time.Time) (live render.Deploy) {
			for _, d := range noise {
				if !d.FinishedAt.After(instant) && !d.FinishedAt.Before(live.FinishedAt) {
					live = d
				}
			}
			return live
		}
		suspect, target := got.Suspect, got.Target
		if suspect != nil && (*suspect != liveAt(onset) || suspect.Trigger == render.TriggerRollback || suspect.FinishedAt.Before(onset.Add(-window))) {
			t.Fatalf("the suspect is %+v", suspect)
		}
		if target == nil {
			return
		}
		if target.FinishedAt.IsZero() || !target.FinishedAt.Before(suspect.FinishedAt) || target.Commit == suspect.Commit || slices.Contains(r.Tried, target.ID) {
			t.Fatalf("the target is %+v, the suspect %+v", target, suspect)
		}
		for _, other := range r.Onsets {
			if !other.Before(onset.Add(-window)) && liveAt(other).Commit == target.Commit {
				t.Fatalf("the target %+v was live at the onset %s", target, other)
			}
		}
		// Whatever it went back to: an incident that begins after that does not go forward again.
		back := render.Deploy{ID: "back", Commit: target.Commit, Status: render.StatusLive, Trigger: render.TriggerRollback, FinishedAt: onset.Add(2 * window)}
		config := render.Deploy{ID: "config", Commit: target.Commit, Status: render.StatusLive, Trigger: "service_updated", FinishedAt: onset.Add(2*window + time.Minute)}
		for _, followed := range [][]render.Deploy{{back}, {back, config}} {
			second := render.Choose(running, slices.Concat(deploys, followed), render.Regression{Onset: onset.Add(2*window + 2*time.Minute), Window: window})
			if second.Target != nil {
				t.Fatalf("after the rollback to %s, %+v", target.ID, second)
			}
		}
	})
}
