package incident

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/rollback"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// A signal is good, bad or unknown. Unknown is never a reason to act, and never a reason to close.

// longestDetection bounds what counts as the time until a signal that is bad is called so.
const longestDetection = 5 * time.Minute

// observe adds what the signals say now to what was seen of them since the incident was opened.
func observe(seen []v1alpha1.IncidentSignal, own signals.Signals) []v1alpha1.IncidentSignal {
	for _, signal := range own.Each {
		i := slices.IndexFunc(seen, func(s v1alpha1.IncidentSignal) bool { return s.Condition == signal.Condition })
		if i < 0 {
			seen = append(seen, v1alpha1.IncidentSignal{Condition: signal.Condition, Seen: v1alpha1.SignalSeenUnknown})
			i = len(seen) - 1
		}
		switch {
		case signal.State == metav1.ConditionFalse:
			at := metav1.NewTime(signal.Since.Truncate(time.Second))
			seen[i].Seen, seen[i].BadAt = v1alpha1.SignalSeenBad, &at
		case signal.State == metav1.ConditionTrue && seen[i].Seen == v1alpha1.SignalSeenUnknown:
			seen[i].Seen = v1alpha1.SignalSeenGood
		}
	}
	return seen
}

// confirms returns a signal that is bad and at least as severe as the incident; nil where there is none.
func confirms(own signals.Signals, severity v1alpha1.Severity) *signals.Signal {
	for i, signal := range own.Each {
		if signal.State == metav1.ConditionFalse && signal.Severity <= severity {
			return &own.Each[i]
		}
	}
	return nil
}

// clearance is what the signals say about the end of an outage.
type clearance struct {
	// since is when the last of those that were bad turned good; zero where that is not so.
	since time.Time
	// bad says that at least one is bad.
	bad bool
	// lost are those that were known, and are unknown now or not asked any more.
	lost []string
}

// clear compares what the signals say now with what was seen of them. A signal that was never known holds nothing up.
func clear(seen []v1alpha1.IncidentSignal, own signals.Signals) clearance {
	var c clearance
	wasBad := slices.ContainsFunc(seen, func(s v1alpha1.IncidentSignal) bool { return s.Seen == v1alpha1.SignalSeenBad })
	for _, s := range seen {
		if s.Seen == v1alpha1.SignalSeenUnknown {
			continue
		}
		i := slices.IndexFunc(own.Each, func(signal signals.Signal) bool { return signal.Condition == s.Condition })
		switch {
		case i < 0:
			c.lost = append(c.lost, s.Condition+" is not asked any more")
		case own.Each[i].State == metav1.ConditionFalse:
			c.bad = true
		case own.Each[i].State != metav1.ConditionTrue:
			c.lost = append(c.lost, own.Each[i].Message)
		case (s.Seen == v1alpha1.SignalSeenBad || !wasBad) && own.Each[i].Since.After(c.since):
			c.since = own.Each[i].Since
		}
	}
	if c.bad || len(c.lost) > 0 {
		c.since = time.Time{}
	}
	return c
}

// clearAt is when the outage counts as over, if the signals stay as they are; zero where that is not in sight.
func (s *response) clearAt() time.Time {
	c := clear(s.Incident.Status.Signals, s.own)
	if c.since.IsZero() || s.Incident.Status.ConfirmedAt == nil || s.Platform.Spec.Probes == nil {
		return time.Time{}
	}
	return c.since.Add(time.Duration(s.Platform.Spec.Probes.ClearSeconds) * time.Second)
}

// over says why an outage counts as over by the signals; empty while it does not.
func (s *response) over() string {
	at := s.clearAt()
	if s.Incident.Spec.Category != v1alpha1.CategoryOutage || at.IsZero() || s.Now.Before(at) {
		return ""
	}
	return fmt.Sprintf("each signal that was bad is good since %s", clear(s.Incident.Status.Signals,
		s.own).since.UTC().Format(time.RFC3339))
}

// grounds are what a rollback depends on. The present bad episode may be younger than the incident's onset.
func (s *response) grounds() rollback.Evidence {
	e := rollback.Evidence{Onset: s.Incident.Status.Onset.Time, Over: s.over(), Because: s.own.Because(),
		Detection: s.detection()}
	if s.Incident.Status.ConfirmedAt != nil {
		e.ClearSince = clear(s.Incident.Status.Signals, s.own).since
	}
	bad := false
	for _, signal := range s.own.Each {
		if signal.State != metav1.ConditionFalse || e.Ground && !signal.Ground {
			continue
		}
		// A ground says more than any other signal that is bad.
		anew := !bad || signal.Ground && !e.Ground
		if anew || signal.BadFrom.Before(e.Onset) {
			e.Onset = signal.BadFrom
		}
		if anew || signal.EnoughFrom.After(e.EnoughFrom) {
			e.EnoughFrom = signal.EnoughFrom
		}
		bad, e.Ground = true, e.Ground || signal.Ground
	}
	return e
}

// detection is how long it takes until a signal that is bad is called so.
func (s *response) detection() time.Duration {
	if s.Platform == nil || s.Platform.Spec.Probes == nil {
		return 0
	}
	p := s.Platform.Spec.Probes
	return min(longestDetection, time.Duration(p.Failures)*time.Duration(p.IntervalSeconds+p.TimeoutSeconds)*time.Second)
}

// unknownText says what nobody knows, for people.
func (c clearance) unknownText() string { return strings.Join(c.lost, "; ") }
