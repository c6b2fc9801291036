package main

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func at(text string) metav1.Time {
	t, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	// The API server's zone is not the page's.
	return metav1.NewTime(t.In(time.FixedZone("elsewhere", 9*60*60)))
}

func TestTheOverallStateIsTheWorstOfWhatIsOpen(t *testing.T) {
	t.Parallel()
	down, watched := notice("sign-in is down", "Identified", time.Hour), notice("tokens were", "Monitoring", time.Hour)
	over := notice("it was down", "Resolved", time.Hour, time.Minute)
	for want, v := range map[string]View{
		"works: No incidents reported":                          view([]Notice{over}, time.Time{}, now),
		"unknown: No incidents were reported when we last knew": view(nil, now.Add(-time.Minute), now),
		"down: sign-in is down":                                 view([]Notice{down, over}, time.Time{}, now),
		"watched: tokens were":                                  view([]Notice{watched}, now.Add(-time.Minute), now),
		"down: 2 incidents are open":                            view([]Notice{watched, down}, time.Time{}, now),
		"watched: 3 incidents are open":                         view([]Notice{watched, watched, watched}, time.Time{}, now),
	} {
		if got := v.Look() + ": " + v.Overall(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestEachDayIsNamedOnce(t *testing.T) {
	t.Parallel()
	past := func(title, began, ended string) Notice {
		return Notice{Title: title, State: "Resolved", StartedAt: at(began), ResolvedAt: new(at(ended))}
	}
	v := View{Past: []Notice{
		past("new year", "2027-01-01 00:10", "2027-01-01 00:40"), past("second", "2026-12-31 23:50", "2027-01-01 00:05"),
		past("first", "2026-12-31 00:00", "2026-12-31 00:01"), past("christmas", "2026-12-25 12:00", "2026-12-25 12:30"),
	}}
	var got []string
	for _, d := range v.Days() {
		line := fmt.Sprintf("%s %s:", d.Weekday, d.Date)
		for _, n := range d.Notices {
			line += fmt.Sprintf(" %s (%s)", n.Title, n.EndDate())
		}
		got = append(got, line)
	}
	if want := []string{
		"Friday 1 January 2027: new year ()", "Thursday 31 December 2026: second (1 January 2027) first ()",
		"Friday 25 December 2026: christmas ()",
	}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

// The date stands before a time where it is another than that of the time above it.
func TestAnUpdateHasItsDateWhereTheDayChanges(t *testing.T) {
	t.Parallel()
	n := Notice{StartedAt: at("2026-12-31 23:20"), Updates: []Update{
		{At: at("2027-01-01 00:30")}, {At: at("2027-01-01 00:10")}, {At: at("2026-12-31 23:59")}, {At: at("2026-12-31 " +
			"23:51")},
	}}
	dates := func() (all []string) {
		for _, u := range n.Dated() {
			all = append(all, u.Date)
		}
		return all
	}
	if got := dates(); !reflect.DeepEqual(got, []string{"1 January 2027", "", "31 December 2026", ""}) {
		t.Errorf("open: %q", got)
	}
	n.ResolvedAt = new(at("2027-01-01 00:25"))
	if got := dates(); !reflect.DeepEqual(got, []string{"", "", "31 December 2026", ""}) {
		t.Errorf("resolved on the next day: %q", got)
	}
	n.ResolvedAt = nil
	n.Updates = nil
	if got := dates(); got != nil {
		t.Errorf("without updates: %q", got)
	}
}

func TestAnOutageLastsUntilItIsOver(t *testing.T) {
	t.Parallel()
	n := Notice{StartedAt: at("2026-12-31 23:20")}
	if got := n.Lasted(at("2027-01-01 00:25")); got != 65*time.Minute {
		t.Errorf("open: %s", got)
	}
	n.ResolvedAt = new(at("2027-01-01 00:00"))
	if got := n.Lasted(at("2027-01-01 00:25")); got != 40*time.Minute {
		t.Errorf("resolved: %s", got)
	}
	n.ResolvedAt = new(at("2026-12-31 23:10"))
	if got := n.Lasted(at("2027-01-01 00:25")); got != 0 {
		t.Errorf("clocks that differ: %s", got)
	}
}

func TestDurationsInWords(t *testing.T) {
	t.Parallel()
	got := map[time.Duration]string{}
	want := map[time.Duration]string{
		-time.Hour: "less than a minute", 59 * time.Second: "less than a minute", time.Minute: "1 minute",
		59*time.Minute + 59*time.Second: "59 minutes", time.Hour: "1 hour", 61 * time.Minute: "1 hour 1 minute",
		23*time.Hour + 59*time.Minute: "23 hours 59 minutes", 24 * time.Hour: "1 day",
		24*time.Hour + 59*time.Minute: "1 day", 50 * time.Hour: "2 days 2 hours", 7 * 24 * time.Hour: "7 days",
	}
	for d := range want {
		got[d] = words(d)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}
