package render

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// clockSkew is how far Render's clock may be from ours.
	clockSkew = time.Minute
	// maxDetection is how much of Regression.Detection counts at most.
	maxDetection = 5 * time.Minute
)

// Regression is what is known when it is asked which deploy broke the service.
type Regression struct {
	// Onset is when the present bad episode began, by our clock, in whole seconds, as a status keeps it.
	Onset time.Time
	// Window before Onset in which a new commit is suspected.
	Window time.Duration
	// Detection is how long the signals take to be called bad. What went live so long after Onset, plus a minute of
	// skew, is suspected too: a short failure may have come before the deploy that broke the service. At most five
	// minutes count.
	Detection time.Duration
	// SeenDeploying are ids of deploys that were seen in pre-deploy or update at Onset.
	SeenDeploying []string
	// EnoughFrom is when the oldest look was made of the newest bad ones that suffice to call the signal bad. Zero says
	// that no signal is bad now, so that a person has to decide.
	EnoughFrom time.Time
	// Unfit are commits that nothing goes back to, each with the reason, such as "suspected by Incident x".
	Unfit map[string]string
	// Gone are ids of deploys that Render refused to go back to.
	Gone []string
	// Others are the newest deploys of the platform's other services, by the name of the service.
	Others map[string][]Deploy
}

// Verdict is what Choose comes to.
type Verdict string

const (
	// DeployInProgress says that a deploy may still become live, and that what to do depends on it.
	DeployInProgress Verdict = "DeployInProgress"
	// NotEnoughLooks says that the live deploy would be suspected, and that too few bad looks were made since it went
	// live.
	NotEnoughLooks Verdict = "NotEnoughLooks"
	// NoSuspect says that the live deploy is not suspected.
	NoSuspect Verdict = "NoSuspect"
	// NoTarget says that it is suspected, and that no earlier deploy is fit to go back to.
	NoTarget Verdict = "NoTarget"
	// Pair says that there is a suspect, and a deploy to go back to.
	Pair Verdict = "Pair"
)

// Choice is a Verdict and what it is about.
type Choice struct {
	Verdict Verdict
	// InProgress is the newest deploy that may still become live; only of DeployInProgress.
	InProgress *Deploy
	// Suspect is the live deploy; of NoTarget and Pair. Target is what to roll back to; only of Pair.
	Suspect, Target *Deploy
	// Skipped says of each newer commit why it is no target, the newest first, such as
	// "skipped abc123: suspected by Incident x".
	Skipped []string
	// NeedsApproval are reasons why a person has to decide about the Pair; none where nothing is in doubt.
	NeedsApproval []string
	// Why says for people why there is no Pair, with what was skipped.
	Why string
}

// Choose finds the deploy that is suspected of a regression, and the one to roll back to, among a service's deploys
// in any order. It has no clock and asks nobody.
//
// Only the live deploy is suspected. It counts from when its commit went live: the same commit redeployed is a change
// of configuration, which a rollback of code doesn't mend. What a rollback put there is never a suspect, or a second
// incident would roll forward to the bad commit.
//
// The target is the newest deploy that was live before the suspect with another commit. Code that is unfit, that a
// rollback left, or that is newer than the suspect is none, and neither is a deploy that Render refused.
func Choose(service *Service, deploys []Deploy, r Regression) Choice {
	deploys = unique(deploys)
	if d := newestInProgress(deploys); d != nil {
		why := fmt.Sprintf("%s is %s: what to do depends on it", named(*d), d.Status)
		return Choice{Verdict: DeployInProgress, InProgress: d, Why: why}
	}
	if service.Suspended {
		by := cmp.Or(strings.Join(service.Suspenders, ", "), "unknown")
		why := fmt.Sprintf("the service is suspended (by %s): another commit would not run either", by)
		return Choice{Verdict: NoSuspect, Why: why}
	}
	lived, why := everLive(deploys)
	if why == "" {
		why = r.clears(lived)
	}
	if why != "" {
		return Choice{Verdict: NoSuspect, Why: why}
	}
	suspect := lived[len(lived)-1]
	if from := r.looksFrom(suspect); !r.EnoughFrom.IsZero() && r.EnoughFrom.Before(from) {
		why := fmt.Sprintf("%s went live at %s, and too few looks since %s are bad to suspect it",
			named(suspect), utc(suspect.FinishedAt), utc(from))
		return Choice{Verdict: NotEnoughLooks, Why: why}
	}
	c := Choice{Verdict: NoTarget, Suspect: &suspect}
	target, skipped := r.target(lived)
	c.Skipped = skipped
	if target < 0 {
		why := fmt.Sprintf("commit %s is suspected, and no earlier deploy is known that is fit to go back to", suspect.Commit)
		c.Why = strings.Join(append([]string{why}, skipped...), "; ")
		return c
	}
	c.Verdict, c.Target, c.NeedsApproval = Pair, &lived[target], r.doubts(lived, target)
	return c
}

// unique takes each deploy once, by its id. A list that changes between two pages may say two things of one deploy:
// what it turned to later counts.
func unique(deploys []Deploy) []Deploy {
	later := func(d Deploy) int {
		switch {
		case d.InProgress():
			return 0
		case d.Status == StatusLive:
			return 1
		}
		return 2
	}
	deploys = slices.SortedFunc(slices.Values(deploys), func(a, b Deploy) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), later(b)-later(a), b.FinishedAt.Compare(a.FinishedAt),
			strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	return slices.CompactFunc(deploys, func(a, b Deploy) bool { return a.ID == b.ID })
}

func newestInProgress(deploys []Deploy) *Deploy {
	var newest *Deploy
	for i, d := range deploys {
		if d.InProgress() && (newest == nil || d.CreatedAt.After(newest.CreatedAt)) {
			newest = &deploys[i]
		}
	}
	return newest
}

// everLive are the deploys that are or were live, in the order in which they went live. The last is live now, or why
// says that this is not known.
func everLive(deploys []Deploy) (lived []Deploy, why string) {
	for _, d := range deploys {
		switch {
		case d.Status != StatusLive && d.Status != StatusDeactivated:
		case !d.FinishedAt.IsZero():
			lived = append(lived, d)
		case d.Status == StatusLive:
			return nil, fmt.Sprintf("Render does not say since when %s is live", named(d))
		}
	}
	if len(lived) == 0 {
		return nil, "no deploy is known that is or was live"
	}
	// Of two that went live in the same instant the live one is the later, as its word is in the alphabet.
	slices.SortFunc(lived, func(a, b Deploy) int {
		return cmp.Or(a.FinishedAt.Compare(b.FinishedAt), strings.Compare(a.Status, b.Status), strings.Compare(a.ID, b.ID))
	})
	if last := lived[len(lived)-1]; last.Status != StatusLive {
		return nil, named(last) + " went live last, and is live no longer: Render does not say which deploy is live"
	}
	return lived, ""
}

// clears says why the last of the deploys is not suspected, or nothing where it is.
func (r Regression) clears(lived []Deploy) string {
	last := lived[len(lived)-1]
	since := runOf(lived)
	first := lived[since]
	earliest, latest := r.Onset.Add(-r.Window), r.latest()
	switch {
	case last.Commit == "":
		return fmt.Sprintf("Render does not say which commit %s is of", last.ID)
	case wholeSeconds(last.CommittedAt).After(r.Onset):
		// Zero, as of an image, is never after it: what is not known clears nobody.
		return fmt.Sprintf("commit %s was made at %s, after the onset: it may be the fix", last.Commit, utc(last.CommittedAt))
	case first.FinishedAt.Before(earliest):
		return fmt.Sprintf("commit %s is live since %s, from before the window, which begins at %s",
			last.Commit, utc(first.FinishedAt), utc(earliest))
	case wholeSeconds(first.FinishedAt).After(latest) && !slices.Contains(r.SeenDeploying, first.ID):
		return fmt.Sprintf("commit %s went live at %s, too long after the onset: deploys are suspected until %s",
			last.Commit, utc(first.FinishedAt), utc(latest))
	}
	if i := slices.IndexFunc(lived[since:], func(d Deploy) bool { return d.Trigger == TriggerRollback }); i >= 0 {
		return fmt.Sprintf("commit %s was put there by the rollback %s", last.Commit, lived[since+i].ID)
	}
	for i, d := range slices.Backward(lived[:since]) {
		if d.Commit != last.Commit {
			continue
		}
		_, unfit := r.Unfit[d.Commit]
		if unfit || leftBy(lived, i) != "" {
			break
		}
		return fmt.Sprintf("commit %s is not new: it was live by %s before it came back by %s", last.Commit, d.ID, first.ID)
	}
	return ""
}

// latest is until when a deploy that goes live is suspected.
func (r Regression) latest() time.Time {
	return r.Onset.Add(min(max(r.Detection, 0), maxDetection) + clockSkew)
}

// late says that a deploy went live when the service was bad already: clocks that differ don't explain it, and nobody
// saw the deploy begin before.
func (r Regression) late(d Deploy) bool {
	return wholeSeconds(d.FinishedAt).After(r.Onset.Add(clockSkew)) && !slices.Contains(r.SeenDeploying, d.ID)
}

// looksFrom is since when bad looks count against the suspect. Before a late one, looks were bad. If Render's clock
// is behind ours, they seem to be looks at the suspect: a minute more excludes that. Otherwise the bad looks began
// with the deploy, and nobody waits that minute.
func (r Regression) looksFrom(suspect Deploy) time.Time {
	if r.late(suspect) {
		return suspect.FinishedAt.Add(clockSkew)
	}
	return suspect.FinishedAt
}

// target is the index of what to go back to from the last deploy, or -1, and says which commits were skipped on the
// way.
func (r Regression) target(lived []Deploy) (index int, skipped []string) {
	suspect := lived[len(lived)-1].Commit
	for i, d := range slices.Backward(lived[:runOf(lived)]) {
		if d.Commit == suspect {
			continue
		}
		why, what := "", d.Commit
		reason, unfit := r.Unfit[d.Commit]
		switch rollback := leftBy(lived, i); {
		case d.Commit == "":
			what, why = d.ID, "Render does not say which commit it is of"
		case unfit:
			why = cmp.Or(reason, "not fit to go back to")
		case rollback != "":
			why = "the rollback " + rollback + " went back from it"
		case firstOf(lived, d.Commit) > firstOf(lived, suspect):
			why = "it is newer than " + suspect
		case slices.Contains(r.Gone, d.ID):
			what, why = named(d), "Render refused to go back to it"
		default:
			return i, skipped
		}
		if text := fmt.Sprintf("skipped %s: %s", what, why); !slices.Contains(skipped, text) {
			skipped = append(skipped, text)
		}
	}
	return -1, skipped
}

// doubts are reasons why a person has to decide whether to go back from the last deploy to the target.
func (r Regression) doubts(lived []Deploy, target int) (reasons []string) {
	doubt := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	suspect, first := lived[len(lived)-1], lived[runOf(lived)]
	if r.EnoughFrom.IsZero() {
		doubt("no signal is bad now")
	}
	if r.late(first) && suspect.CommittedAt.IsZero() {
		doubt("%s went live after the onset, and Render does not say when its commit was made: it may be the fix",
			named(suspect))
	}
	if r.late(first) && r.clears(lived[:target+1]) == "" {
		doubt("%s went live after the onset, and %s shortly before it: either may be the cause",
			named(suspect), named(lived[target]))
	}
	return append(reasons, r.elsewhere(first.FinishedAt)...)
}

// elsewhere says which other services went live with something after the suspect did, and not long after the onset.
func (r Regression) elsewhere(since time.Time) (reasons []string) {
	doubt := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(r.Others)) {
		var newest *Deploy
		for _, d := range unique(r.Others[name]) {
			switch {
			case d.Status != StatusLive && d.Status != StatusDeactivated:
			case d.Status == StatusLive && d.FinishedAt.IsZero():
				doubt("Render does not say since when %s of the service %s is live", named(d), name)
			case d.FinishedAt.Before(since) || wholeSeconds(d.FinishedAt).After(r.latest()):
			case newest == nil || d.FinishedAt.After(newest.FinishedAt):
				newest = &d
			}
		}
		if newest != nil {
			doubt("%s of the service %s went live later than the suspect: it may be the cause", named(*newest), name)
		}
	}
	return reasons
}

// runOf is the index of the first of those last deploys that are all of the same commit.
func runOf(lived []Deploy) int {
	since := len(lived) - 1
	for since > 0 && lived[since-1].Commit == lived[since].Commit {
		since--
	}
	return since
}

func firstOf(lived []Deploy, commit string) int {
	return slices.IndexFunc(lived, func(d Deploy) bool { return d.Commit == commit })
}

// leftBy is the rollback that went back from this deploy, or from a later one of the same commit: somebody found it
// bad. A deploy of that commit after the rollback says that they no longer do.
func leftBy(lived []Deploy, i int) string {
	commit := lived[i].Commit
	for j := i + 1; j < len(lived); j++ {
		if d := lived[j]; d.Trigger == TriggerRollback && lived[j-1].Commit == commit && d.Commit != commit {
			return d.ID
		}
	}
	return ""
}

// named is a deploy for people: its id, and its commit where that is known.
func named(d Deploy) string {
	if d.Commit == "" {
		return d.ID
	}
	return fmt.Sprintf("%s (%s)", d.ID, d.Commit)
}

// wholeSeconds are compared with an onset, which has no parts of a second.
func wholeSeconds(t time.Time) time.Time { return t.Truncate(time.Second) }

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }
