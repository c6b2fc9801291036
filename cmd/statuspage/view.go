package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// past is how long a resolved notice is shown.
const past = 7 * 24 * time.Hour

// View is /incidents.json, and what the page and the feed show.
type View struct {
	// AsOf is the time at which the notices were right: now, or when the API server was last reached.
	AsOf metav1.Time `json:"asOf"`
	// Stale says that AsOf is in the past.
	Stale bool `json:"stale"`
	// Current has the open notices, and Past those resolved within the last 7 days, newest first.
	Current []Notice `json:"current"`
	Past    []Notice `json:"past"`
}

func view(notices []Notice, lostAt, now time.Time) View {
	v := View{AsOf: metav1.NewTime(now), Current: []Notice{}, Past: []Notice{}}
	if !lostAt.IsZero() {
		v.AsOf, v.Stale = metav1.NewTime(lostAt), true
	}
	for _, n := range notices {
		switch {
		case n.ResolvedAt == nil:
			v.Current = append(v.Current, n)
		case now.Sub(n.ResolvedAt.Time) < past:
			v.Past = append(v.Past, n)
		}
	}
	return v
}

// Overall is the state of everything, in one sentence.
func (v View) Overall() string {
	switch {
	case len(v.Current) == 1:
		return v.Current[0].Title
	case len(v.Current) > 1:
		return fmt.Sprintf("%d incidents are open", len(v.Current))
	case v.Stale:
		return "No incidents were reported when we last knew"
	}
	return "No incidents reported"
}

// Look is how the page shows the state of everything: the worst of what is open.
func (v View) Look() string {
	look := "works"
	if v.Stale {
		look = "unknown"
	}
	for _, n := range v.Current {
		if look = n.Look(); look == "down" {
			break
		}
	}
	return look
}

// Days are the past notices by the day on which they began, newest first.
func (v View) Days() []Day {
	var days []Day
	for _, n := range v.Past {
		if on := day(n.StartedAt); len(days) == 0 || days[len(days)-1].Date != on {
			days = append(days, Day{Date: on, Weekday: n.StartedAt.UTC().Weekday()})
		}
		last := &days[len(days)-1]
		last.Notices = append(last.Notices, n)
	}
	return days
}

// Day has the notices that began on one day of UTC.
type Day struct {
	Date    string
	Weekday time.Weekday
	Notices []Notice
}

// Look is how the page shows the notice's state.
func (n Notice) Look() string {
	switch {
	case n.ResolvedAt != nil:
		return "over"
	case n.State == "Monitoring":
		return "watched"
	}
	return "down"
}

// Lasted is how long the outage was, or has been so far.
func (n Notice) Lasted(asOf metav1.Time) time.Duration {
	if n.ResolvedAt != nil {
		asOf = *n.ResolvedAt
	}
	return max(0, asOf.Sub(n.StartedAt.Time))
}

// DatedUpdate is an update with the date to show before its time.
type DatedUpdate struct {
	Update
	// Date is empty where it is that of the time above.
	Date string
}

// Dated has the updates below the times at which the notice began and ended.
func (n Notice) Dated() []DatedUpdate {
	shown := cmp.Or(n.EndDate(), day(n.StartedAt))
	dated := make([]DatedUpdate, 0, len(n.Updates))
	for _, u := range n.Updates {
		d := DatedUpdate{Update: u}
		if on := day(u.At); on != shown {
			d.Date, shown = on, on
		}
		dated = append(dated, d)
	}
	return dated
}

// EndDate is the day on which it was over. It is empty where that is the day on which it began, or it is not over.
func (n Notice) EndDate() string {
	if n.ResolvedAt == nil || day(*n.ResolvedAt) == day(n.StartedAt) {
		return ""
	}
	return day(*n.ResolvedAt)
}

// UpdatedAt is when something was published last.
func (n Notice) UpdatedAt() metav1.Time {
	if len(n.Updates) > 0 {
		return n.Updates[0].At
	}
	return n.StartedAt
}

func day(t metav1.Time) string { return t.UTC().Format("2 January 2006") }

func clock(t metav1.Time) string { return t.UTC().Format("15:04") }

// words say how long d is, such as "1 hour 5 minutes". They are rounded down.
func words(d time.Duration) string {
	const day = 24 * time.Hour
	count := func(n time.Duration, unit string) string {
		switch n {
		case 0:
			return ""
		case 1:
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	two := func(large, small string) string { return strings.TrimSpace(large + " " + small) }
	switch {
	case d < time.Hour:
		return cmp.Or(count(max(0, d)/time.Minute, "minute"), "less than a minute")
	case d < day:
		return two(count(d/time.Hour, "hour"), count(d%time.Hour/time.Minute, "minute"))
	}
	return two(count(d/day, "day"), count(d%day/time.Hour, "hour"))
}
