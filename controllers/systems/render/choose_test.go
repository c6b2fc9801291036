package render_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

var (
	onset   = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	running = &render.Service{ID: "srv-web"}
)

const window = time.Hour

// minutes after the onset.
func minutes(m float64) time.Time { return onset.Add(time.Duration(m * float64(time.Minute))) }

var words = map[string]string{"was": render.StatusDeactivated, "push": "new_commit", "config": "service_updated"}

// history writes deploys down as "id commit status trigger minutes", with a comma between two. It became live so many
// minutes after the onset. One that was never live was created then. The commit - is none.
func history(t interface{ Fatalf(string, ...any) }, text string) []render.Deploy {
	var all []render.Deploy
	for line := range strings.SplitSeq(text, ", ") {
		if line == "" {
			continue
		}
		var d render.Deploy
		var at float64
		if _, err := fmt.Sscan(line, &d.ID, &d.Commit, &d.Status, &d.Trigger, &at); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		d.Status, d.Trigger = cmp.Or(words[d.Status], d.Status), cmp.Or(words[d.Trigger], d.Trigger)
		d.Commit = strings.TrimPrefix(d.Commit, "-")
		d.CreatedAt = minutes(at)
		if d.Status == render.StatusLive || d.Status == render.StatusDeactivated {
			d.FinishedAt = d.CreatedAt
		}
		all = append(all, d)
	}
	return all
}

// regression is one of which enough is known: looks are bad long after the onset.
func regression() render.Regression {
	return render.Regression{Onset: onset, Window: window, Detection: 30 * time.Second, EnoughFrom: minutes(100)}
}

// choice is a case of a table.
type choice struct {
	deploys   string
	service   *render.Service
	committed map[string]float64 // when commits were made, in minutes
	know      func(*render.Regression)
	want      string // suspect target
	verdict   render.Verdict
	because   string   // within Why
	skipped   []string // "commit: why", all of them
	doubts    []string // within NeedsApproval, one by one
}

func (c choice) check(t *testing.T) {
	t.Parallel()
	r := regression()
	if c.know != nil {
		c.know(&r)
	}
	if c.service == nil {
		c.service = running
	}
	if c.verdict == "" {
		c.verdict = map[string]render.Verdict{"- -": render.NoSuspect}[c.want]
	}
	if c.verdict == "" {
		c.verdict = render.Pair
		if strings.HasSuffix(c.want, " -") {
			c.verdict = render.NoTarget
		}
	}
	deploys := history(t, c.deploys)
	for i, d := range deploys {
		if at, ok := c.committed[d.Commit]; ok {
			deploys[i].CommittedAt = minutes(at)
		}
	}
	got := render.Choose(c.service, deploys, r)
	pair := id(got.Suspect) + " " + id(got.Target)
	if pair != c.want || got.Verdict != c.verdict || !strings.Contains(got.Why, c.because) {
		t.Errorf("%s, suspect and target %s (%s), want %s, %s (%s)", got.Verdict, pair, got.Why, c.verdict, c.want, c.because)
	}
	if (got.Why == "") != (got.Verdict == render.Pair) {
		t.Errorf("%s because %q", got.Verdict, got.Why)
	}
	var skipped []string
	for _, s := range got.Skipped {
		skipped = append(skipped, strings.TrimPrefix(s, "skipped "))
		if got.Target == nil && !strings.Contains(got.Why, s) {
			t.Errorf("%q does not say %q", got.Why, s)
		}
	}
	if !slices.Equal(skipped, c.skipped) {
		t.Errorf("skipped %q, want %q", skipped, c.skipped)
	}
	if !slices.EqualFunc(got.NeedsApproval, c.doubts, strings.Contains) {
		t.Errorf("in doubt: %q, want %q", got.NeedsApproval, c.doubts)
	}
}

func id(d *render.Deploy) string {
	if d == nil {
		return "-"
	}
	return d.ID
}

func TestWhatIsSuspected(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]choice{
		"empty":                     {want: "- -", because: "no deploy is known"},
		"a bad commit after a good": {deploys: "d1 A was push -900, d2 B live push -10", want: "d2 d1"},
		"unordered": {
			deploys: "d2 B was push -500, d3 C live push -10, d1 A was push -900", want: "d3 d2",
		},
		"the onset is the second in which it became live": {
			deploys: "d1 A was push -900, d2 B live push 0.01", want: "d2 d1",
		},
		"it became live just within the window": {
			deploys: "d1 A was push -900, d2 B live push -60", want: "d2 d1",
		},
		"it became live before the window": {
			deploys: "d1 A was push -900, d2 B live push -60.1", want: "- -",
			because: "commit B is live since 2026-11-23T01:59:54Z, from before the window, which begins at 2026-11-23T02:00:00Z",
		},
		"it became live too long after the onset": {
			deploys: "d1 A was push -900, d2 B live push 1.6", want: "- -", because: "too long after the onset",
		},
		"a detection time above five minutes": {
			deploys: "d1 A was push -900, d2 B live push 6.1", want: "- -",
			know:    func(r *render.Regression) { r.Detection = time.Hour },
			because: "deploys are suspected until 2026-11-23T03:06:00Z",
		},
		"when it began is not known": {
			deploys: "d1 A was push -900, d2 B live push -10", want: "- -",
			know: func(r *render.Regression) { r.Onset = time.Time{} }, because: "too long after",
		},
		"the one that was live at the onset is live no longer": {
			deploys: "d1 A was push -900, d2 B was push -10, d3 C live push 20", want: "- -",
			because: "commit C went live at 2026-11-23T03:20:00Z, too long after the onset",
		},
		"unknown statuses": {
			deploys: "d1 A was push -900, d2 X half_live push -300, d3 B live teleport -10, d4 Y melted push -5",
			want:    "d3 d1",
		},
		"only unknown statuses": {
			deploys: "d1 A half_live push -900, d2 B melted push -10", want: "- -", because: "no deploy is known",
		},
		"never became live": {
			deploys: "d1 A was push -900, d2 X build_failed push -300, d3 Y canceled push -200, d4 Z update_failed push -100, " +
				"d5 W pre_deploy_failed push -90, d6 B live push -10, d7 V build_failed push -5",
			want: "d6 d1",
		},
		"no deploy is live": {
			deploys: "d1 A was push -900, d2 B was push -10",
			want:    "- -", because: "d2 (B) went live last, and is live no longer",
		},
		"two went live in the same instant": {
			deploys: "d1 A live push -10, d2 B was push -10", want: "d1 d2",
		},
		"its commit is not known": {
			deploys: "a A was push -20, b - live push -10", want: "- -", because: "Render does not say which commit b is of",
		},
		"same commit redeployed": {
			deploys: "d1 A was push -900, d2 B was push -20, d3 B live manual -10", want: "d3 d1",
		},
		"same commit redeployed, which ran since before the window": {
			deploys: "d1 A was push -9000, d2 B was push -900, d3 B live config -10", want: "- -",
			because: "commit B is live since 2026-11-22T12:00:00Z, from before the window",
		},
		"same commit redeployed, seen in update at the onset": {
			deploys: "d1 A was push -9000, d2 B was push -900, d3 B live config 0.2", want: "- -",
			know: func(r *render.Regression) { r.SeenDeploying = []string{"d3"} }, because: "from before the window",
		},
		"a commit that ran before came back": {
			deploys: "a A was push -900, b B was push -30, a2 A live api -20", want: "- -",
			because: "commit A is not new: it was live by a before it came back by a2",
		},
		"live by a rollback": {
			deploys: "a A was push -900, b B was push -30, r A live rollback -20", want: "- -",
			because: "commit A was put there by the rollback r",
		},
		"live by a rollback, and unfit": {
			deploys: "a A was push -900, b B was push -30, r A live rollback -20", want: "- -",
			know:    func(r *render.Regression) { r.Unfit = map[string]string{"A": "suspected by Incident x"} },
			because: "put there by the rollback r",
		},
		"live by a rollback, and deployed again": {
			deploys: "a A was push -900, b B was push -30, r A was rollback -20, u A live config -5", want: "- -",
			because: "commit A was put there by the rollback r",
		},
		"live by a rollback to what is not listed any more": {
			deploys: "b B was push -30, r A live rollback -20", want: "- -", because: "put there by the rollback r",
		},
		"a commit that a rollback left came back": {
			deploys: "a A was push -900, b B was push -300, r A was rollback -290, b2 B live manual -5", want: "b2 r",
		},
		"a commit that an Incident suspected came back": {
			deploys: "a A was push -900, b B was push -300, a2 A was manual -290, b2 B live manual -5", want: "b2 a2",
			know: func(r *render.Regression) { r.Unfit = map[string]string{"B": "suspected by Incident x"} },
		},
		"a deploy in progress": {
			deploys: "a A was push -900, b B live push -10, c C queued push 1, d D build_in_progress push 2",
			want:    "- -", verdict: render.DeployInProgress, because: "d (D) is build_in_progress: what to do depends on it",
		},
		"a deploy in progress of a service that is suspended": {
			deploys: "a A live push -900, b B update_in_progress push -1", service: &render.Service{Suspended: true},
			want: "- -", verdict: render.DeployInProgress, because: "b (B) is update_in_progress",
		},
		"suspended by billing": {
			deploys: "a A was push -900, b B live push -10",
			service: &render.Service{Suspended: true, Suspenders: []string{"billing"}},
			want:    "- -", because: "the service is suspended (by billing)",
		},
	} {
		t.Run(name, c.check)
	}
}

func TestADeployThatBeginsBeforeTheOnsetAndEndsAfterIt(t *testing.T) {
	t.Parallel()
	seen := func(ids ...string) func(*render.Regression) {
		return func(r *render.Regression) { r.SeenDeploying = ids }
	}
	for name, c := range map[string]choice{
		"finished 4 s after the first bad look": {
			deploys: "a A was push -900, c C live push 0.067", want: "c a",
			know: func(r *render.Regression) { r.EnoughFrom = onset.Add(5 * time.Second) },
		},
		"finished 4 s after the first bad look, and no look was made since": {
			deploys: "a A was push -900, c C live push 0.067", want: "- -",
			know:    func(r *render.Regression) { r.EnoughFrom = onset },
			verdict: render.NotEnoughLooks,
			because: "c (C) went live at 2026-11-23T03:00:04Z, and too few looks since 2026-11-23T03:00:04Z are bad",
		},
		"the first bad look falls into the update": {
			deploys: "a A was push -900, c C update_in_progress push -1", want: "- -", know: seen("c"),
			verdict: render.DeployInProgress, because: "c (C) is update_in_progress",
		},
		"the first bad look fell into a long update": {
			deploys: "a A was push -900, c C live push 12", want: "c a",
			know: func(r *render.Regression) { r.SeenDeploying, r.EnoughFrom = []string{"c"}, minutes(12) },
		},
		"the first bad look fell into a long update that nobody saw": {
			deploys: "a A was push -900, c C live push 12", want: "- -", know: seen("b"), because: "too long after the onset",
		},
		"a short flap came before the deploy that breaks it": {
			deploys: "a A was push -900, c C live push 4", committed: map[string]float64{"C": -20}, want: "c a",
			know: func(r *render.Regression) { r.Detection, r.EnoughFrom = 5*time.Minute, minutes(5) },
		},
		"a short flap came before the deploy, and looks of before may count by Render's clock": {
			deploys: "a A was push -900, c C live push 4", committed: map[string]float64{"C": -20}, want: "- -",
			know:    func(r *render.Regression) { r.Detection, r.EnoughFrom = 5*time.Minute, minutes(4.9) },
			verdict: render.NotEnoughLooks, because: "too few looks since 2026-11-23T03:05:00Z are bad",
		},
		"another one that is as new was live at the onset": {
			deploys: "a A was push -900, b B was push -10, c C live push 4", committed: map[string]float64{"C": -20},
			know:   func(r *render.Regression) { r.Detection = 5 * time.Minute },
			want:   "c b",
			doubts: []string{"c (C) went live after the onset, and b (B) shortly before it: either may be the cause"},
		},
		"another one that is as new was live at the onset, and is suspected": {
			deploys: "a A was push -900, b B was push -10, c C live push 4", committed: map[string]float64{"C": -20},
			know: func(r *render.Regression) {
				r.Detection, r.Unfit = 5*time.Minute, map[string]string{"B": "suspected by Incident x"}
			},
			want: "c a", skipped: []string{"B: suspected by Incident x"},
		},
		"made after the onset: the fix": {
			deploys: "a A was push -900, b B was push -10, f F live push 4", committed: map[string]float64{"F": 1},
			know: func(r *render.Regression) { r.Detection = 5 * time.Minute },
			want: "- -", because: "commit F was made at 2026-11-23T03:01:00Z, after the onset: it may be the fix",
		},
		"made after the onset, and seen in update at it": {
			deploys: "a A was push -900, f F live push 0.5", committed: map[string]float64{"F": 0.1}, know: seen("f"),
			want: "- -", because: "it may be the fix",
		},
		"made in the second of the onset": {
			deploys: "a A was push -900, b B live push 0.01", committed: map[string]float64{"B": 0.005}, want: "b a",
		},
		"when it was made is not known": {
			deploys: "a A was push -900, f F live push 4", know: func(r *render.Regression) { r.Detection = 5 * time.Minute },
			want: "f a", doubts: []string{"Render does not say when its commit was made: it may be the fix"},
		},
		"configuration that changed after the onset may be the fix": {
			deploys: "a A was push -900, b B was push -10, b2 B live config 20", want: "- -",
			know:    func(r *render.Regression) { r.EnoughFrom = minutes(20.5) },
			verdict: render.NotEnoughLooks,
			because: "b2 (B) went live at 2026-11-23T03:20:00Z, and too few looks since 2026-11-23T03:21:00Z are bad",
		},
		"configuration that changed after the onset, and mended nothing": {
			deploys: "a A was push -900, b B was push -10, b2 B live config 20", want: "b2 a",
			know: func(r *render.Regression) { r.EnoughFrom = minutes(21) },
		},
		"no signal is bad": {
			deploys: "a A was push -900, b B live push -10", know: func(r *render.Regression) { r.EnoughFrom = time.Time{} },
			want: "b a", doubts: []string{"no signal is bad now"},
		},
	} {
		t.Run(name, c.check)
	}
}

func TestWhatToGoBackTo(t *testing.T) {
	t.Parallel()
	unfit := func(commits ...string) func(*render.Regression) {
		return func(r *render.Regression) {
			r.Unfit = map[string]string{}
			for _, c := range commits {
				r.Unfit[c] = "suspected by Incident x"
			}
		}
	}
	gone := func(ids ...string) func(*render.Regression) {
		return func(r *render.Regression) { r.Gone = ids }
	}
	for name, c := range map[string]choice{
		"the first deploy of all": {
			deploys: "d1 A live push -5", want: "d1 -", because: "commit A is suspected, and no earlier deploy",
		},
		"same commit redeployed before the suspect": {
			deploys: "d1 A was push -900, d2 A was config -500, d3 B live push -10", want: "d3 d2",
		},
		"good A, bad B, rollback to A, config A, nine failed builds, bad C": {
			deploys: "a A was push -900, b B was push -300, r A was rollback -290, u A was config -200, c C live push -5" +
				repeat(9, ", f%d F%d build_failed push -%d"),
			want: "c u",
		},
		// A sev3 ticket about one user was open at -3: that says nothing of B, which was live then.
		"the last good one, which was live at another Incident's onset": {
			deploys: "a A was push -900, b B was push -50, c C live push -1", want: "c b",
		},
		"a second bad deploy within the hour": {
			deploys: "a A was push -900, b B was push -50, r A was rollback -45, c C live push -5",
			want:    "c r", know: unfit("B"),
		},
		"a second bad deploy that somebody had fixed by hand before": {
			deploys: "a A was push -900, b B was push -50, c C live push -5", want: "c a",
			know: unfit("B"), skipped: []string{"B: suspected by Incident x"},
		},
		"unfit, and deployed again": {
			deploys: "a A was push -900, b B was push -50, b2 B was config -30, c C live push -10", want: "c a",
			know: unfit("B"), skipped: []string{"B: suspected by Incident x"},
		},
		"unfit, and nobody says why": {
			deploys: "a A was push -900, b B was push -50, c C live push -10", want: "c a",
			know:    func(r *render.Regression) { r.Unfit = map[string]string{"B": ""} },
			skipped: []string{"B: not fit to go back to"},
		},
		"all unfit": {
			deploys: "a A was push -900, b B was push -50, c C live push -10", want: "c -",
			know:    unfit("A", "B"),
			because: "fit to go back to", skipped: []string{"B: suspected by Incident x", "A: suspected by Incident x"},
		},
		"what a rollback left": {
			deploys: "z Z was push -900, b B was push -300, r Z was rollback -290, c C live push -5", want: "c r",
		},
		"what a rollback left, also where the rollback's own commit is unfit": {
			deploys: "y Y was push -999, z Z was push -900, b B was push -50, r Z was rollback -40, c C live push -5",
			want:    "c y", know: unfit("Z"),
			skipped: []string{"Z: suspected by Incident x", "B: the rollback r went back from it"},
		},
		"what a rollback left and somebody deployed again": {
			deploys: "a A was push -900, b B was push -300, r A was rollback -290, b2 B was manual -200, c C live push -5",
			want:    "c b2",
		},
		"what a rollback left was deployed twice": {
			deploys: "a A was push -900, b B was push -300, b2 B was manual -295, r A was rollback -290, c C live push -5",
			know:    unfit("A"), want: "c -",
			because: "fit to go back to", skipped: []string{"A: suspected by Incident x", "B: the rollback r went back from it"},
		},
		"a rollback from a commit to itself leaves nothing": {
			deploys: "a A was push -900, a2 A was config -300, r A was rollback -290, c C live push -5", want: "c a2",
			know: gone("r"), skipped: []string{"r (A): Render refused to go back to it"},
		},
		"never one that is newer": {
			deploys: "y Y was push -999, a A was push -900, b B was push -300, a2 A live manual -5",
			know:    unfit("A"), want: "a2 y", skipped: []string{"B: it is newer than A"},
		},
		"an earlier commit is not known": {
			deploys: "a A was push -900, x - was push -100, b B live push -10", want: "b a",
			skipped: []string{"x: Render does not say which commit it is of"},
		},
		"refused": {
			deploys: "a A was push -900, b B was push -500, c C live push -10", know: gone("b"), want: "c a",
			skipped: []string{"b (B): Render refused to go back to it"},
		},
		"refused, and the same commit was deployed before": {
			deploys: "a A was push -900, b B was push -500, b2 B was manual -400, c C live push -10", know: gone("b2"),
			want: "c b", skipped: []string{"b2 (B): Render refused to go back to it"},
		},
		"all refused": {
			deploys: "a A was push -900, c C live push -10", know: gone("a"), want: "c -", because: "fit to go back to",
			skipped: []string{"a (A): Render refused to go back to it"},
		},
	} {
		t.Run(name, c.check)
	}
}

func TestAnotherServiceThatWasDeployedLaterIsForAPersonToJudge(t *testing.T) {
	t.Parallel()
	deploys := "a A was push -900, b B was push -20, b2 B live config -10"
	others := func(worker string) func(*render.Regression) {
		return func(r *render.Regression) {
			old := history(t, "o O live push -21")
			r.Others = map[string][]render.Deploy{"worker": history(t, worker), "idle": nil, "old": old}
		}
	}
	later := "w (W) of the service worker went live later than the suspect: it may be the cause"
	for name, c := range map[string]choice{
		"earlier":                    {know: others("w W live push -20.1")},
		"in the same instant":        {know: others("w W live push -20"), doubts: []string{later}},
		"since the suspect's commit": {know: others("w W live push -15"), doubts: []string{later}},
		"about the onset":            {know: others("w W live push 1"), doubts: []string{later}},
		"long after the onset":       {know: others("w W live push 10")},
		"once more long after the onset": {
			know: others("v V was push -18, x X live push 10, w W was push -5"), doubts: []string{later},
		},
		"not live": {know: others("w W build_failed push -5, x X queued push -4")},
		"nobody knows since when": {
			know: func(r *render.Regression) {
				r.Others = map[string][]render.Deploy{"worker": {{ID: "w", Status: render.StatusLive}}}
			},
			doubts: []string{"Render does not say since when w of the service worker is live"},
		},
		"two": {
			know: func(r *render.Regression) {
				w, p := history(t, "w W live push -5"), history(t, "p P live push -5")
				r.Others = map[string][]render.Deploy{"worker": w, "api": p}
			},
			doubts: []string{"p (P) of the service api", "w (W) of the service worker"},
		},
	} {
		c.deploys, c.want = deploys, "b2 a"
		t.Run(name, c.check)
	}
}

func TestADeployThatIsLiveSinceNobodyKnowsWhenIsNoSuspect(t *testing.T) {
	t.Parallel()
	deploys := history(t, "a A was push -900, b B was push -10, c C live push -5, d D was push -4")
	deploys[3].FinishedAt = time.Time{}
	if got := render.Choose(running, deploys, regression()); id(got.Suspect) != "c" || id(got.Target) != "b" {
		t.Errorf("a was one: %+v", got)
	}
	deploys[2].FinishedAt = time.Time{}
	const why = "Render does not say since when c (C) is live"
	if got := render.Choose(running, deploys, regression()); got.Verdict != render.NoSuspect || got.Why != why {
		t.Errorf("a live one: %+v", got)
	}
}

func TestAListThatChangedBetweenTwoPages(t *testing.T) {
	t.Parallel()
	for name, deploys := range map[string][]render.Deploy{
		"it went live":     history(t, "a A was push -900, b B update_in_progress push -10, b B live push -10"),
		"it was followed":  history(t, "a A live push -900, b B live push -10, a A was push -900"),
		"two say live":     history(t, "a A live push -900, b B live push -10"),
		"it is only twice": history(t, "a A was push -900, b B live push -10, b B live push -10, a A was push -900"),
	} {
		if got := render.Choose(running, deploys, regression()); id(got.Suspect) != "b" || id(got.Target) != "a" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	gone := history(t, "a A was push -900, b B live push -10, b B was push -10")
	if got := render.Choose(running, gone, regression()); got.Verdict != render.NoSuspect {
		t.Errorf("what followed it is on no page: %+v", got)
	}
}

func repeat(n int, format string) (text string) {
	for i := range n {
		text += fmt.Sprintf(format, i, i, 100-i)
	}
	return text
}
