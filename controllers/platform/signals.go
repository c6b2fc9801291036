package platform

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// Signals is what the probes of a Platform say together. The zero Signals is a Platform that is not probed, or not yet: nothing of
// it is known.
type Signals struct {
	// Each signal by its condition.
	Each []Signal
	// Severity that they amount to by the playbook's table; empty while none is bad.
	Severity v1alpha1.Severity
	// Because says what is bad, in a few words; empty while nothing is.
	Because string
	// BadSince is the first bad sample of what is bad now; zero while nothing is.
	BadSince time.Time
	// ClearSince is since when every signal is good; zero while one is bad or unknown.
	ClearSince time.Time
	// Down says that relying parties' users are kept out: /up, tokens or JWKS are bad.
	Down bool
}

// Signal is one of a Platform's signals.
type Signal struct {
	// Condition of the Platform that reports it.
	Condition string
	// State is True where it is good, False where it is bad, and Unknown.
	State metav1.ConditionStatus
	// Severity that it has while it is bad.
	Severity v1alpha1.Severity
	// Message says what was seen.
	Message string
	// Since is the first sample of this state.
	Since time.Time
}

// severities of the signals while they are bad, by the playbook's table.
var severities = map[string]v1alpha1.Severity{
	v1alpha1.ConditionUpAnswers:         v1alpha1.Sev1,
	v1alpha1.ConditionTokensIssued:      v1alpha1.Sev1,
	v1alpha1.ConditionJWKSServed:        v1alpha1.Sev1,
	v1alpha1.ConditionEndpointsAnswer:   v1alpha1.Sev2,
	v1alpha1.ConditionLatencyGood:       v1alpha1.Sev2,
	v1alpha1.ConditionWebhooksDelivered: v1alpha1.Sev2,
}

// order in which signals are reported: the worst first.
var order = []string{
	v1alpha1.ConditionUpAnswers, v1alpha1.ConditionTokensIssued, v1alpha1.ConditionJWKSServed,
	v1alpha1.ConditionEndpointsAnswer, v1alpha1.ConditionLatencyGood, v1alpha1.ConditionWebhooksDelivered,
}

// run is a signal's samples in a row: a signal turns bad after so many bad ones, good after so many good ones, and unknown after so
// many that say neither. One blip is nothing.
type run struct {
	state metav1.ConditionStatus // Unknown until enough samples agree
	what  string
	since time.Time
	known bool // it was good or bad once

	next   metav1.ConditionStatus // what the last samples say
	nextAt time.Time              // the first of them
	count  int
}

func (r *run) add(state metav1.ConditionStatus, what string, at time.Time, enough int) {
	if r.state == "" {
		*r = run{state: metav1.ConditionUnknown, what: "not enough samples yet", since: at}
	}
	if state != r.next {
		r.next, r.nextAt, r.count = state, at, 0
	}
	r.count++
	switch {
	case state == r.state:
		r.what = what
	case r.count >= enough:
		r.state, r.since, r.what = state, r.nextAt, what
	}
	r.known = r.known || r.state != metav1.ConditionUnknown
}

// latencies is how long answers took, over a window of the past.
type latencies struct {
	began   time.Time
	samples []latency
}

type latency struct {
	at   time.Time
	took time.Duration
}

// minimumSamples are what a percentile needs to mean something.
const minimumSamples = 20

func (l *latencies) add(at time.Time, took, window time.Duration) {
	if l.began.IsZero() {
		l.began = at
	}
	l.samples = append(l.samples, latency{at, took})
	l.samples = slices.DeleteFunc(l.samples, func(s latency) bool { return s.at.Before(at.Add(-window)) })
}

// judge says whether the 95th percentile exceeds the limit, sustained: in both halves of a window that has passed. A burst does so in
// one half only.
func (l *latencies) judge(now time.Time, window, limit time.Duration) (metav1.ConditionStatus, string) {
	if len(l.samples) < minimumSamples {
		return metav1.ConditionUnknown, fmt.Sprintf("fewer than %d answers within %s", minimumSamples, window)
	}
	middle := now.Add(-window / 2)
	var halves [2][]time.Duration
	for _, s := range l.samples {
		half := 0
		if s.at.After(middle) {
			half = 1
		}
		halves[half] = append(halves[half], s.took)
	}
	full := now.Sub(l.began) >= window
	if full && p95(halves[0]) > limit && p95(halves[1]) > limit {
		return metav1.ConditionFalse, fmt.Sprintf("the 95th percentile exceeds %s for %s", limit, window)
	}
	return metav1.ConditionTrue, fmt.Sprintf("the 95th percentile does not exceed %s for %s", limit, window)
}

func p95(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[(len(d)*95+99)/100-1]
}

// sum makes of each signal what they say together.
func sum(runs map[string]*run) Signals {
	var s Signals
	var bad []string
	good := len(runs) > 0
	for _, condition := range order {
		r := runs[condition]
		if r == nil || r.state == "" {
			continue
		}
		s.Each = append(s.Each, Signal{Condition: condition, State: r.state, Severity: severities[condition], Message: r.what, Since: r.since})
		switch r.state {
		case metav1.ConditionFalse:
			good, bad = false, append(bad, r.what)
			if s.Severity == "" {
				s.Severity = severities[condition] // the worst comes first
			}
			if s.BadSince.IsZero() || r.since.Before(s.BadSince) {
				s.BadSince = r.since
			}
			s.Down = s.Down || severities[condition] == v1alpha1.Sev1
		case metav1.ConditionUnknown:
			// What has never been known, as latency at first or webhooks without a database, holds nothing up, except what logins need.
			good = good && !r.known && severities[condition] != v1alpha1.Sev1
		default:
			s.ClearSince = later(s.ClearSince, r.since)
		}
	}
	s.Because = strings.Join(bad, ", ")
	if !good {
		s.ClearSince = time.Time{}
	}
	return s
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Summary is the signals on one line.
func (s Signals) Summary() string {
	text := "ok"
	switch {
	case s.Severity != "":
		text = string(s.Severity) + ": " + s.Because
	case s.ClearSince.IsZero():
		text = "unknown"
		for _, signal := range s.Each {
			if signal.State == metav1.ConditionUnknown {
				text = "unknown: " + signal.Message
				break
			}
		}
	}
	if len(text) > maxSummary {
		text = strings.ToValidUTF8(text[:maxSummary-len("…")], "") + "…"
	}
	return text
}

// maxSummary is v1alpha1's.
const maxSummary = 512
