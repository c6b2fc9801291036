package render

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Regression is what is known when it is asked which deploy broke the service.
type Regression struct {
	// Onset is when the signals turned bad, in whole seconds, as a status keeps it.
	Onset time.Time
	// Window before Onset in which a new commit is suspected.
	Window time.Duration
	// Onsets of other incidents. Code that was live at one of them, from Window before Onset on, is nothing to go back to.
	Onsets []time.Time
	// Tried are ids of deploys that may have been rolled back to already.
	Tried []string
}

// Choice is what Choose comes to.
type Choice struct {
	// Suspect is the deploy that was live at the onset, where its commit is suspected. Target is what to roll back to.
	Suspect, Target *Deploy
	// InProgress is the newest deploy that may still become live, whatever else was chosen: what is decided now may be wrong then.
	InProgress *Deploy
	// NotNeeded is the reason why there is no Target, for people.
	NotNeeded string
}

// Choose finds the deploy that is suspected of a regression, and the one to roll back to, among a service's deploys in any order.
//
// The suspect is the deploy live at the onset, also when another followed, if its commit became live within the window. A new
// deploy of a commit that ran before is a change of configuration, which a rollback of code doesn't mend. What a rollback put
// there is never a suspect, or a second incident would roll forward to the bad commit.
//
// The target is the newest deploy that was live before the suspect with another commit, except code that was live at an onset,
// that a rollback left, that is newer than what is left now, or that was tried. Deploys that were never live don't count.
func Choose(service *Service, deploys []Deploy, r Regression) Choice {
	c := Choice{}
	for i, d := range deploys {
		if d.InProgress() && (c.InProgress == nil || byTime(d.CreatedAt, d, c.InProgress.CreatedAt, *c.InProgress) > 0) {
			c.InProgress = &deploys[i]
		}
	}
	if service.Suspended {
		return c.not("the service is suspended (by %s): another commit would not run either", cmp.Or(strings.Join(service.Suspenders, ", "), "unknown"))
	}
	var lived []Deploy
	for _, d := range deploys {
		switch {
		case d.Status != StatusLive && d.Status != StatusDeactivated:
		case !d.FinishedAt.IsZero():
			lived = append(lived, d)
		case d.Status == StatusLive:
			return c.not("Render does not say since when %s is live", d.ID)
		}
	}
	slices.SortFunc(lived, func(a, b Deploy) int { return byTime(a.FinishedAt, a, b.FinishedAt, b) })
	lived = slices.CompactFunc(lived, func(a, b Deploy) bool { return a.ID == b.ID }) // a list may change between two pages

	at := liveAt(lived, r.Onset)
	if at < 0 {
		return c.not("no deploy is known that was live at the onset")
	}
	suspect, now := lived[at], lived[len(lived)-1]
	if suspect.Commit == "" {
		return c.not("%s was live at the onset, and Render does not say of which commit", suspect.ID)
	}
	// The same commit may have been deployed several times in a row.
	since := at
	for since > 0 && lived[since-1].Commit == suspect.Commit {
		since--
	}
	if lived[since].FinishedAt.Before(r.Onset.Add(-r.Window)) {
		return c.not("%s was live at the onset, and its commit %s since before the window", suspect.ID, suspect.Commit)
	}
	if i := slices.IndexFunc(lived[since:at+1], func(d Deploy) bool { return d.Trigger == TriggerRollback }); i >= 0 {
		return c.not("commit %s was live at the onset, and was put there by the rollback %s", suspect.Commit, lived[since+i].ID)
	}
	c.Suspect = &suspect
	before := lived[:since]
	if now.Commit != suspect.Commit && (now.Trigger == TriggerRollback || first(before, now.Commit) >= 0) {
		return c.not("commit %s is suspected, and %s went back to commit %s already", suspect.Commit, now.ID, now.Commit)
	}

	out := map[string]bool{"": true}
	for _, onset := range append([]time.Time{r.Onset}, r.Onsets...) {
		if i := liveAt(lived, onset); i >= 0 && !onset.Before(r.Onset.Add(-r.Window)) {
			out[lived[i].Commit] = true
		}
	}
	for _, d := range lived {
		if slices.Contains(r.Tried, d.ID) {
			out[d.Commit] = true
		}
	}
	for i, d := range slices.Backward(before) {
		if out[d.Commit] || leftByRollback(lived, i) || newer(lived, d.Commit, suspect.Commit) {
			continue
		}
		c.Target = &d
		return c
	}
	return c.not("commit %s is suspected, and no earlier deploy is known with another commit that is fit to go back to", suspect.Commit)
}

func (c Choice) not(format string, args ...any) Choice {
	c.NotNeeded = fmt.Sprintf(format, args...)
	return c
}

// liveAt is the index of the deploy that was live at an instant of whole seconds; -1 where none is known.
func liveAt(lived []Deploy, instant time.Time) int {
	for i, d := range slices.Backward(lived) {
		if !d.FinishedAt.Truncate(time.Second).After(instant) {
			return i
		}
	}
	return -1
}

func first(lived []Deploy, commit string) int {
	return slices.IndexFunc(lived, func(d Deploy) bool { return d.Commit == commit })
}

// newer says whether a commit went live for the first time after another had.
func newer(lived []Deploy, commit, than string) bool {
	return first(lived, commit) > first(lived, than)
}

// leftByRollback says whether a rollback went back from this deploy, or from a later one of the same commit: somebody found it
// bad. A deploy of that commit after the rollback says that they no longer do.
func leftByRollback(lived []Deploy, i int) bool {
	for j := i + 1; j < len(lived); j++ {
		if lived[j].Trigger == TriggerRollback && lived[j-1].Commit == lived[i].Commit {
			return true
		}
	}
	return false
}

// byTime orders deploys by an instant, and those of the same one by their ids: any order will do that is always the same.
func byTime(at time.Time, a Deploy, bt time.Time, b Deploy) int {
	return cmp.Or(at.Compare(bt), strings.Compare(a.ID, b.ID))
}
