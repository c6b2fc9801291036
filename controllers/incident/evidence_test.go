package incident

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

const (
	up     = v1alpha1.ConditionUpAnswers
	tokens = v1alpha1.ConditionTokensIssued

	isGood    = metav1.ConditionTrue
	isBad     = metav1.ConditionFalse
	isUnknown = metav1.ConditionUnknown
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// is a signal that is so for so many seconds at noon.
func is(condition string, state metav1.ConditionStatus, seconds int) signals.Signal {
	s := signals.Signal{Condition: condition, State: state, Message: condition + " is asked",
		Since: noon.Add(-time.Duration(seconds) * time.Second)}
	if state == isBad {
		s.Severity = v1alpha1.Sev1
	}
	return s
}

func all(each ...signals.Signal) signals.Signals { return signals.Signals{Each: each} }

func was(condition string, seen v1alpha1.SignalSeen) v1alpha1.IncidentSignal {
	return v1alpha1.IncidentSignal{Condition: condition, Seen: seen}
}

// What was bad stays so in what was seen, and what was known never becomes unknown there.
func TestObserveForgetsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		looks []metav1.ConditionStatus
		want  v1alpha1.SignalSeen
	}{
		"good":                          {[]metav1.ConditionStatus{isGood}, v1alpha1.SignalSeenGood},
		"bad":                           {[]metav1.ConditionStatus{isBad}, v1alpha1.SignalSeenBad},
		"unknown":                       {[]metav1.ConditionStatus{isUnknown}, v1alpha1.SignalSeenUnknown},
		"bad, then good":                {[]metav1.ConditionStatus{isBad, isGood}, v1alpha1.SignalSeenBad},
		"good, then unknown":            {[]metav1.ConditionStatus{isGood, isUnknown}, v1alpha1.SignalSeenGood},
		"bad, then unknown":             {[]metav1.ConditionStatus{isBad, isUnknown}, v1alpha1.SignalSeenBad},
		"unknown, then good":            {[]metav1.ConditionStatus{isUnknown, isGood}, v1alpha1.SignalSeenGood},
		"good, then bad":                {[]metav1.ConditionStatus{isGood, isBad}, v1alpha1.SignalSeenBad},
		"bad, then unknown, then good":  {[]metav1.ConditionStatus{isBad, isUnknown, isGood}, v1alpha1.SignalSeenBad},
		"unknown, then bad, then good":  {[]metav1.ConditionStatus{isUnknown, isBad, isGood}, v1alpha1.SignalSeenBad},
		"good, then unknown, then good": {[]metav1.ConditionStatus{isGood, isUnknown, isGood}, v1alpha1.SignalSeenGood},
	} {
		var seen []v1alpha1.IncidentSignal
		for _, state := range c.looks {
			seen = observe(seen, all(is(up, state, 10)))
		}
		if len(seen) != 1 || seen[0].Condition != up || seen[0].Seen != c.want {
			t.Errorf("%s: seen is %+v, want %s", name, seen, c.want)
		}
		if bad := slices.Contains(c.looks, isBad); bad != (seen[0].BadAt != nil) || bad &&
			!seen[0].BadAt.Time.Equal(noon.Add(-10*time.Second)) {
			t.Errorf("%s: it was bad at %v", name, seen[0].BadAt)
		}
	}
	// A signal that is not asked any more stays in what was seen.
	seen := observe(observe(nil, all(is(up, isBad, 10), is(tokens, isGood, 10))), all(is(tokens, isGood, 10)))
	if len(seen) != 2 || seen[0].Seen != v1alpha1.SignalSeenBad {
		t.Errorf("after the probe of %s was removed, seen is %+v", up, seen)
	}
}

func TestOnlyABadSignalAsSevereAsTheIncidentConfirms(t *testing.T) {
	at := func(severity v1alpha1.Severity, state metav1.ConditionStatus) signals.Signal {
		s := is(up, state, 10)
		s.Severity = severity
		return s
	}
	for name, c := range map[string]struct {
		own      []signals.Signal
		severity v1alpha1.Severity
		want     bool
	}{
		"none":                     {nil, v1alpha1.Sev3, false},
		"good":                     {[]signals.Signal{at(v1alpha1.Sev1, isGood)}, v1alpha1.Sev3, false},
		"unknown":                  {[]signals.Signal{at(v1alpha1.Sev1, isUnknown)}, v1alpha1.Sev3, false},
		"bad, and of its severity": {[]signals.Signal{at(v1alpha1.Sev2, isBad)}, v1alpha1.Sev2, true},
		"bad, and more severe":     {[]signals.Signal{at(v1alpha1.Sev1, isBad)}, v1alpha1.Sev3, true},
		"bad, and less severe":     {[]signals.Signal{at(v1alpha1.Sev2, isBad)}, v1alpha1.Sev1, false},
		"less severe, then severe": {[]signals.Signal{at(v1alpha1.Sev3, isBad), at(v1alpha1.Sev1, isBad)},
			v1alpha1.Sev2, true},
		"less severe bad, severe good": {[]signals.Signal{at(v1alpha1.Sev2, isBad), at(v1alpha1.Sev1, isGood)},
			v1alpha1.Sev1, false},
		"less severe bad, severe unclear": {[]signals.Signal{at(v1alpha1.Sev2, isBad), at(v1alpha1.Sev1, isUnknown)},
			v1alpha1.Sev1, false},
	} {
		got := confirms(all(c.own...), c.severity)
		if (got != nil) != c.want {
			t.Errorf("%s: an incident of %s is confirmed by %+v", name, c.severity, got)
		}
		if got != nil && (got.State != isBad || got.Severity > c.severity) {
			t.Errorf("%s: it is confirmed by %+v", name, got)
		}
	}
}

func TestClearNeedsEachThatWasBadToBeGood(t *testing.T) {
	const good, bad, unknown = v1alpha1.SignalSeenGood, v1alpha1.SignalSeenBad, v1alpha1.SignalSeenUnknown
	for name, c := range map[string]struct {
		seen []v1alpha1.IncidentSignal
		own  []signals.Signal
		// since is how many seconds before noon it is clear since; 0 is not at all.
		since int
		bad   bool
		lost  int
	}{
		"nothing is known": {nil, nil, 0, false, 0},
		"was bad, is good": {[]v1alpha1.IncidentSignal{was(up, bad)}, []signals.Signal{is(up, isGood, 30)}, 30,
			false, 0},
		"was bad, is bad": {[]v1alpha1.IncidentSignal{was(up, bad)}, []signals.Signal{is(up, isBad, 30)}, 0, true,
			0},
		"was bad, is unknown": {[]v1alpha1.IncidentSignal{was(up, bad)}, []signals.Signal{is(up, isUnknown, 30)}, 0,
			false, 1},
		"was bad, is not asked": {[]v1alpha1.IncidentSignal{was(up, bad)}, nil, 0, false, 1},
		"was good, is unknown": {[]v1alpha1.IncidentSignal{was(up, good)}, []signals.Signal{is(up, isUnknown, 30)}, 0,
			false, 1},
		"was good, is not asked": {[]v1alpha1.IncidentSignal{was(up, good)}, nil, 0, false, 1},
		"was never known": {[]v1alpha1.IncidentSignal{was(up, unknown)}, []signals.Signal{is(up, isUnknown, 30)},
			0, false, 0},
		"was never known, is gone": {[]v1alpha1.IncidentSignal{was(up, unknown)}, nil, 0, false, 0},
		"one that was never known holds nothing up": {
			[]v1alpha1.IncidentSignal{was(up, bad), was(tokens, unknown)},
			[]signals.Signal{is(up, isGood, 30), is(tokens, isUnknown, 90)}, 30, false, 0,
		},
		"one that was good and became unknown does": {
			[]v1alpha1.IncidentSignal{was(up, bad), was(tokens, good)},
			[]signals.Signal{is(up, isGood, 30), is(tokens, isUnknown, 90)}, 0, false, 1,
		},
		"one that is bad, and was good, does": {
			[]v1alpha1.IncidentSignal{was(up, bad), was(tokens, good)},
			[]signals.Signal{is(up, isGood, 30), is(tokens, isBad, 90)}, 0, true, 0,
		},
		"two that were bad are clear since the later": {
			[]v1alpha1.IncidentSignal{was(up, bad), was(tokens, bad)},
			[]signals.Signal{is(up, isGood, 30), is(tokens, isGood, 90)}, 30, false, 0,
		},
		"only what was bad counts": {
			[]v1alpha1.IncidentSignal{was(up, bad), was(tokens, good)},
			[]signals.Signal{is(up, isGood, 90), is(tokens, isGood, 30)}, 90, false, 0,
		},
		"of two that were bad one is good": {
			[]v1alpha1.IncidentSignal{was(up, bad), was(tokens, bad)},
			[]signals.Signal{is(up, isGood, 30), is(tokens, isUnknown, 90)}, 0, false, 1,
		},
		"one is bad and one is unknown": {
			[]v1alpha1.IncidentSignal{was(up, bad), was(tokens, bad)},
			[]signals.Signal{is(up, isBad, 30), is(tokens, isUnknown, 90)}, 0, true, 1,
		},
	} {
		got := clear(c.seen, all(c.own...))
		want := time.Time{}
		if c.since > 0 {
			want = noon.Add(-time.Duration(c.since) * time.Second)
		}
		if !got.since.Equal(want) || got.bad != c.bad || len(got.lost) != c.lost {
			t.Errorf("%s: %+v, want since %v, bad %t, %d lost", name, got, want, c.bad, c.lost)
		}
	}
}

func TestSeverityIsAPersonsOrTheWorstThatIsKnown(t *testing.T) {
	const sev1, sev2, sev3 = v1alpha1.Sev1, v1alpha1.Sev2, v1alpha1.Sev3
	for category, want := range map[v1alpha1.IncidentCategory]v1alpha1.Severity{
		v1alpha1.CategoryUnclassified: sev3, v1alpha1.CategoryOutage: sev2, v1alpha1.CategoryWebhookDelivery: sev3,
		v1alpha1.CategoryMergeInconsistency: sev3, v1alpha1.CategoryKeyMismatch: sev3, v1alpha1.CategoryKeyExposure: sev2,
	} {
		if got := floor(category); got != want {
			t.Errorf("the floor of %s is %s, want %s", category, got, want)
		}
		for _, c := range []struct {
			decided v1alpha1.Severity
			known   []v1alpha1.Severity
			want    v1alpha1.Severity
		}{
			{"", nil, want},
			{"", []v1alpha1.Severity{"", "", ""}, want},
			{"", []v1alpha1.Severity{sev3}, want},
			{"", []v1alpha1.Severity{sev3, "", sev1}, sev1},
			{"", []v1alpha1.Severity{sev1, sev3}, sev1}, // nothing lowers it
			{"", []v1alpha1.Severity{"", sev2}, sev2},
			{sev3, []v1alpha1.Severity{sev1, sev1}, sev3},
			{sev1, []v1alpha1.Severity{sev3}, sev1},
			{sev2, nil, sev2},
		} {
			if got := severity(c.decided, category, c.known...); got != c.want {
				t.Errorf("%s: decided %q, known %q: %s, want %s", category, c.decided, c.known, got, c.want)
			}
		}
	}
}
