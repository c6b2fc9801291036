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

// histories draws what a service may have been through: few commits, so that they come back. Mostly the
// last that went live still is.
func histories(t *rapid.T) []render.Deploy {
	statuses := []string{"was", "was", "was", "was", "build_failed", "canceled", "half_live", `""`}
	if rapid.IntRange(0, 3).Draw(t, "progress") == 0 {
		statuses = append(statuses, "queued", "update_in_progress", "live")
	}
	triggers := []string{"new_commit", "new_commit", "rollback", "service_updated", "manual", "teleport"}
	made := map[string]int{"A": 0, "B": 0, "C": 0, "D": 0} // 0 is not known
	for _, commit := range []string{"A", "B", "C", "D"} {
		made[commit] = rapid.SampledFrom([]int{0, -300, -1, 1}).Draw(t, "made")
	}
	var lines []string
	last := "0 0 0 0 -9999"
	for i, at := range rapid.SliceOfNDistinct(rapid.IntRange(-200, 8), 0, 14, rapid.ID).Draw(t, "minutes") {
		line := fmt.Sprintf("d%d %s %s %s %d", i, rapid.SampledFrom([]string{"A", "B", "C", "D"}).Draw(t, "commit"),
			rapid.SampledFrom(statuses).Draw(t, "status"), rapid.SampledFrom(triggers).Draw(t, "trigger"), at)
		lines = append(lines, line)
		d := history(t, line)[0]
		if d.Status == render.StatusDeactivated && d.CreatedAt.After(history(t, last)[0].CreatedAt) {
			last = line
		}
	}
	if i := slices.Index(lines, last); i >= 0 && rapid.IntRange(0, 9).Draw(t, "none live") > 0 {
		lines[i] = strings.Replace(last, "was", "live", 1)
	}
	all := history(t, strings.Join(lines, ", "))
	for i, d := range all {
		all[i].Status = strings.Trim(d.Status, `"`)
		if m := made[d.Commit]; m != 0 {
			all[i].CommittedAt = minutes(float64(m))
		}
	}
	return all
}

// regressions draws what may be known when a service has been through that.
func regressions(t *rapid.T, deploys []render.Deploy) render.Regression {
	r := regression()
	r.Detection = time.Duration(rapid.IntRange(-1, 9).Draw(t, "detection")) * time.Minute
	r.EnoughFrom = minutes(float64(rapid.IntRange(-10, 20).Draw(t, "looks")))
	if rapid.IntRange(0, 4).Draw(t, "no signal") == 0 {
		r.EnoughFrom = time.Time{}
	}
	r.Unfit = map[string]string{}
	for _, commit := range rapid.SliceOfN(rapid.SampledFrom([]string{"A", "B", "C", "D"}), 0, 2).Draw(t, "unfit") {
		r.Unfit[commit] = "suspected by Incident x"
	}
	if len(deploys) > 0 {
		r.Gone = rapid.SliceOfN(rapid.SampledFrom(ids(deploys)), 0, 2).Draw(t, "gone")
		r.SeenDeploying = rapid.SliceOfN(rapid.SampledFrom(ids(deploys)), 0, 2).Draw(t, "seen")
	}
	if rapid.Bool().Draw(t, "worker") {
		r.Others = map[string][]render.Deploy{"worker": histories(t)}
	}
	return r
}

func ids(deploys []render.Deploy) (ids []string) {
	for _, d := range deploys {
		ids = append(ids, d.ID)
	}
	return ids
}

// lifetimes are the deploys that went live, the first first.
func lifetimes(deploys []render.Deploy) []render.Deploy {
	lived := slices.DeleteFunc(slices.Clone(deploys), func(d render.Deploy) bool { return d.FinishedAt.IsZero() })
	slices.SortFunc(lived, func(a, b render.Deploy) int { return a.FinishedAt.Compare(b.FinishedAt) })
	return lived
}

func TestEveryChoiceKeepsTheRules(t *testing.T) {
	t.Parallel()
	seen := map[render.Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		deploys := histories(t)
		r := regressions(t, deploys)
		got := render.Choose(running, deploys, r)
		seen[got.Verdict]++

		again := slices.Concat(deploys, deploys)
		shuffled := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "order")))
		shuffled.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if other := render.Choose(running, again, r); !reflect.DeepEqual(got, other) {
			t.Fatalf("in another order, and twice: %+v, not %+v", other, got)
		}
		checkShape(t, got)
		inProgress := slices.ContainsFunc(deploys, func(d render.Deploy) bool { return d.InProgress() })
		if inProgress != (got.InProgress != nil) {
			t.Fatalf("in progress: %v, and %+v", inProgress, got)
		}
		lived := lifetimes(deploys)
		if got.InProgress == nil {
			if other := render.Choose(running, lived, r); !reflect.DeepEqual(got, other) {
				t.Fatalf("without those that were never live: %+v, not %+v", other, got)
			}
		}
		if got.Suspect != nil {
			checkSuspect(t, *got.Suspect, lived, r)
		}
		if got.Target != nil {
			checkTarget(t, got, lived, r)
			checkNothingGoesForwardAgain(t, deploys, got, r)
		}
	})
	for v := range shapes {
		if seen[v] == 0 && !t.Failed() {
			t.Errorf("no history came to %s: %v", v, seen)
		}
	}
}

// shapes say whether InProgress, Suspect, Target and Why are set.
var shapes = map[render.Verdict]string{
	render.DeployInProgress: "true false false true",
	render.NotEnoughLooks:   "false false false true",
	render.NoSuspect:        "false false false true",
	render.NoTarget:         "false true false true",
	render.Pair:             "false true true false",
}

// checkShape holds a verdict to what comes with it.
func checkShape(t *rapid.T, c render.Choice) {
	shape := fmt.Sprint(c.InProgress != nil, c.Suspect != nil, c.Target != nil, c.Why != "")
	needless := c.Target == nil && len(c.NeedsApproval) > 0 || c.Suspect == nil && len(c.Skipped) > 0
	if shape != shapes[c.Verdict] || needless {
		t.Fatalf("%s: %+v", shape, c)
	}
}

// checkSuspect holds it to each rule by itself.
func checkSuspect(t *rapid.T, suspect render.Deploy, lived []render.Deploy, r render.Regression) {
	if suspect != lived[len(lived)-1] || suspect.Status != render.StatusLive {
		t.Fatalf("the suspect %+v is not live", suspect)
	}
	if suspect.CommittedAt.After(onset) {
		t.Fatalf("the suspect %+v was made after the onset", suspect)
	}
	if !r.EnoughFrom.IsZero() && r.EnoughFrom.Before(suspect.FinishedAt) {
		t.Fatalf("the suspect %+v is judged by looks from %s on", suspect, r.EnoughFrom)
	}
	others, first := 0, suspect
	for _, d := range slices.Backward(lived) {
		if d.Commit != suspect.Commit {
			others++
			continue
		}
		if others > 0 {
			// It ran before: that takes somebody who found it bad.
			_, unfit := r.Unfit[d.Commit]
			if next := lived[slices.Index(lived, d)+1]; !unfit && next.Trigger != render.TriggerRollback {
				t.Fatalf("the suspect %+v ran before, by %+v", suspect, d)
			}
			break
		}
		if d.Trigger == render.TriggerRollback {
			t.Fatalf("the suspect %+v was put there by the rollback %s", suspect, d.ID)
		}
		first = d
	}
	if first.FinishedAt.Before(onset.Add(-window)) {
		t.Fatalf("the suspect %+v is live since %s", suspect, first.FinishedAt)
	}
	if first.FinishedAt.After(minutes(6)) && !slices.Contains(r.SeenDeploying, first.ID) {
		t.Fatalf("the suspect %+v went live long after the onset", suspect)
	}
}

func checkTarget(t *rapid.T, got render.Choice, lived []render.Deploy, r render.Regression) {
	suspect, target := *got.Suspect, *got.Target
	index := slices.Index(lived, target)
	if _, unfit := r.Unfit[target.Commit]; unfit || slices.Contains(r.Gone, target.ID) {
		t.Fatalf("the target %+v is unfit or gone", target)
	}
	if index < 0 || !target.FinishedAt.Before(suspect.FinishedAt) || target.Commit == suspect.Commit {
		t.Fatalf("the target is %+v, the suspect %+v", target, suspect)
	}
	first := func(commit string) int {
		return slices.IndexFunc(lived, func(d render.Deploy) bool { return d.Commit == commit })
	}
	if first(target.Commit) > first(suspect.Commit) {
		t.Fatalf("the target %+v is newer than the suspect %+v", target, suspect)
	}
	if next := lived[index+1]; next.Trigger == render.TriggerRollback && next.Commit != target.Commit {
		t.Fatalf("the rollback %+v left the target %+v", next, target)
	}
	// Each commit between them was skipped, and the message names it.
	for _, d := range lived[index+1:] {
		if d.Commit != suspect.Commit && d.Commit != target.Commit &&
			!slices.ContainsFunc(got.Skipped, func(s string) bool {
				return strings.HasPrefix(s, "skipped "+d.Commit+": ") || strings.HasPrefix(s, "skipped "+d.ID+" (")
			}) {
			t.Fatalf("nothing says why %+v was skipped: %q", d, got.Skipped)
		}
	}
	if r.EnoughFrom.IsZero() && len(got.NeedsApproval) == 0 {
		t.Fatalf("no signal is bad, and nobody is asked: %+v", got)
	}
	for _, d := range lifetimes(r.Others["worker"]) {
		if d.FinishedAt.After(suspect.FinishedAt) && !d.FinishedAt.After(minutes(1)) && len(got.NeedsApproval) == 0 {
			t.Fatalf("another service was deployed later, by %+v, and nobody is asked: %+v", d, got)
		}
	}
}

// checkNothingGoesForwardAgain rolls back, and lets another incident begin after that.
func checkNothingGoesForwardAgain(t *rapid.T, deploys []render.Deploy, got render.Choice, r render.Regression) {
	back := history(t, "back "+got.Target.Commit+" live rollback 120")[0]
	config := history(t, "config "+got.Target.Commit+" live config 121")[0]
	r.Onset, r.EnoughFrom = minutes(122), minutes(122)
	for _, followed := range [][]render.Deploy{{back}, {back, config}} {
		if second := render.Choose(running, slices.Concat(deploys, followed), r); second.Verdict != render.NoSuspect {
			t.Fatalf("after the rollback to %s, %+v", got.Target.ID, second)
		}
	}
}
