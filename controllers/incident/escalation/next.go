package escalation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// due is a page that is due now, or a tier whose page will be.
type due struct {
	key     string
	tier    string
	channel *v1alpha1.Channel // nil where nothing is due now
	at      time.Time         // when it was or will be due; zero where nothing will be
}

// round is what the next page is found by. It holds the pages of one severity: a rise begins anew.
type round struct {
	severity v1alpha1.Severity
	tiers    []v1alpha1.OncallTier
	repeat   time.Duration
	policy   v1alpha1.EscalationPolicy
	pages    []v1alpha1.PageStatus
	opened   time.Time // or when the severity rose
}

// next finds what is to be paged next. All that it needs is in the status, so that a restart neither loses nor repeats
// a page.
func (r round) next(now time.Time) due {
	begin := r.opened
	switch {
	case len(r.pages) > 0:
		begin = r.pages[0].BegunAt.Time
	case now.Before(r.opened):
		begin = now // a clock that is behind the API server's delays no first page
	}
	for n := firstRound(r.pages); ; n++ {
		found, last, dueAt := r.once(n, begin, now)
		if found != nil {
			return *found
		}
		anybody := slices.ContainsFunc(r.pages, func(p v1alpha1.PageStatus) bool { return p.State != v1alpha1.PageFailed })
		switch {
		case !anybody:
			begin = later(last, dueAt).Add(unheardRetry)
		case r.policy == v1alpha1.EscalateFirstTier:
			return due{}
		default:
			begin = last.Add(r.repeat)
		}
	}
}

// once goes through all tiers once. It returns what is due, or when the last page was begun and when the last channel
// was given up.
func (r round) once(n int, begin, now time.Time) (found *due, last, dueAt time.Time) {
	first, heard := time.Time{}, false
	last, dueAt = begin, begin
	for i, tier := range r.tiers {
		if i > 0 && heard {
			after := defaultTierAfter
			if tier.AfterSeconds != nil {
				after = time.Duration(*tier.AfterSeconds) * time.Second
			}
			dueAt = later(first.Add(after), dueAt)
		}
		accepted := false
		for j := range tier.Notify {
			key := r.key(n, i+1, j+1)
			k := slices.IndexFunc(r.pages, func(p v1alpha1.PageStatus) bool { return p.Key == key })
			switch {
			case k < 0 && dueAt.After(now):
				return &due{tier: tier.Name, at: dueAt}, last, dueAt
			case k < 0, r.pages[k].State == v1alpha1.PageSending:
				return &due{key: key, tier: tier.Name, channel: &tier.Notify[j], at: dueAt}, last, dueAt
			}
			if first.IsZero() {
				first = r.pages[k].BegunAt.Time
			}
			last = r.pages[k].BegunAt.Time
			if r.pages[k].State != v1alpha1.PageFailed {
				accepted = true
				break
			}
			dueAt = later(dueAt, r.pages[k].SettledAt.Time)
		}
		// The tier after one that nobody could reach is not waited for.
		heard = accepted
	}
	return nil, last, dueAt
}

// key of a page. A round that the release before this one began has keys without a severity, and goes on with those.
func (r round) key(n, tier, channel int) string {
	key := fmt.Sprintf("%d-%d-%d", n, tier, channel)
	if len(r.pages) > 0 && unmarked(r.pages[0]) {
		return key
	}
	return string(r.severity) + "-" + key
}

// unmarked says that the key of a page has no severity, as in the release before this one.
func unmarked(p v1alpha1.PageStatus) bool { return !strings.HasPrefix(p.Key, "sev") }

// firstRound is the round of the oldest page that the status still has.
func firstRound(pages []v1alpha1.PageStatus) int {
	n := 1
	if len(pages) > 0 {
		key := pages[0].Key
		if !unmarked(pages[0]) {
			_, key, _ = strings.Cut(key, "-")
		}
		_, _ = fmt.Sscanf(key, "%d-", &n) // our own key
	}
	return n
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
