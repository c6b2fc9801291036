package claims

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

var (
	start  = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	outage = Place{v1alpha1.CategoryOutage, Platformwide}
)

const pause = 30 * time.Minute

func after(d time.Duration) metav1.Time { return metav1.NewTime(start.Add(d)) }

func bad(condition string, severity v1alpha1.Severity, since time.Duration) signals.Signal {
	return signals.Signal{Condition: condition, State: metav1.ConditionFalse, Severity: severity,
		Since: start.Add(since), Message: condition}
}

func state(condition string, state metav1.ConditionStatus) signals.Signal {
	return signals.Signal{Condition: condition, State: state, Severity: v1alpha1.Sev1, Since: start}
}

func see(each ...signals.Signal) signals.Signals { return signals.Signals{Each: each} }

// incidentOf is an open Outage, created at the start.
func incidentOf(name string, change ...func(*v1alpha1.Incident)) v1alpha1.Incident {
	i := v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), CreationTimestamp: after(0)},
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: "p"},
			Category: v1alpha1.CategoryOutage},
	}
	for _, c := range change {
		c(&i)
	}
	return i
}

func decided(severity v1alpha1.Severity) func(*v1alpha1.Incident) {
	return func(i *v1alpha1.Incident) { i.Spec.Severity = severity }
}

func category(c v1alpha1.IncidentCategory) func(*v1alpha1.Incident) {
	return func(i *v1alpha1.Incident) { i.Spec.Category = c }
}

func of(platform string) func(*v1alpha1.Incident) {
	return func(i *v1alpha1.Incident) { i.Spec.PlatformRef.Name = platform }
}

func ended(i *v1alpha1.Incident) {
	i.Status.ResolvedAt, i.Status.Severity = new(after(time.Minute)), v1alpha1.Sev1
}

func byHand(i *v1alpha1.Incident) {
	ended(i)
	i.Spec.Resolution = &v1alpha1.IncidentResolution{By: "kim"}
}

// text writes slots as name/uid, severity, ~ if quiet, and the known signals.
func text(status *v1alpha1.PlatformStatus) string {
	var all []string
	for _, slot := range status.Incidents {
		line := fmt.Sprintf("%s/%s %s", slot.Incident, slot.IncidentUID, slot.Severity)
		if slot.QuietSince != nil {
			line += "~"
		}
		for _, k := range slot.Known {
			line += fmt.Sprintf(" %s=%s", k.Condition, k.Severity)
		}
		all = append(all, strings.TrimSpace(line))
	}
	return strings.Join(all, "; ")
}

func slot(name, uid string, change ...func(*v1alpha1.IncidentSlot)) v1alpha1.IncidentSlot {
	s := v1alpha1.IncidentSlot{Category: outage.Category, ApplicationID: outage.ApplicationID, Incident: name,
		IncidentUID: uid, At: new(after(0))}
	for _, c := range change {
		c(&s)
	}
	return s
}

func at(severity v1alpha1.Severity) func(*v1alpha1.IncidentSlot) {
	return func(s *v1alpha1.IncidentSlot) { s.Severity = severity }
}

func knows(condition string, severity v1alpha1.Severity) func(*v1alpha1.IncidentSlot) {
	return func(s *v1alpha1.IncidentSlot) {
		s.Known = append(s.Known, v1alpha1.KnownSignal{Condition: condition, Severity: severity})
	}
}

func quiet(s *v1alpha1.IncidentSlot) { s.QuietSince = new(after(time.Minute)) }

func TestWhoHasThePlaceWhileSignalsAskForOne(t *testing.T) {
	t.Parallel()
	up, tokens := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, time.Minute), bad(v1alpha1.ConditionTokensIssued,
		v1alpha1.Sev1, time.Minute)
	flaky := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev2, time.Minute)
	knowsUp, down := knows("UpAnswers", "sev1"), see(up)
	type incidents = []v1alpha1.Incident
	type slots = []v1alpha1.IncidentSlot
	for name, c := range map[string]struct {
		slots   slots
		all     incidents
		signals signals.Signals
		at      time.Duration
		create  string
		then    string
	}{
		"nobody": {nil, nil, down, 0, "n", "n/"},
		"open": {slots{slot("a", "uid-a")}, incidents{incidentOf("a")}, down, 0, "",
			"a/uid-a"},
		"gone": {slots{slot("a", "uid-a")}, nil, down, 0, "n", "n/"},
		"another object has the name": {slots{slot("a", "uid-former")}, incidents{incidentOf("a", ended)},
			down, 0, "n", "n/"},
		"the manager died before the Create": {slots{slot("a", "")}, nil, down, 0, "a", "a/"},
		"the manager died after the Create": {slots{slot("a", "")}, incidents{incidentOf("a")}, down, 0, "",
			"a/uid-a"},
		"it died, and a person resolved it": {slots{slot("a", "")}, incidents{incidentOf("a", byHand)}, down, 0,
			"", "a/uid-a sev1~ UpAnswers=sev1"},
		"it ended by itself": {slots{slot("a", "uid-a")}, incidents{incidentOf("a", ended)}, down,
			0, "n", "n/"},
		"a person resolved it": {slots{slot("a", "uid-a")}, incidents{incidentOf("a", byHand)}, down,
			0, "", "a/uid-a sev1~ UpAnswers=sev1"},
		"quiet": {slots{slot("a", "uid-a", at("sev1"), quiet, knowsUp)},
			incidents{incidentOf("a", byHand)}, down, 20 * time.Minute, "", "a/uid-a sev1~ UpAnswers=sev1"},
		"quiet, and deleted": {slots{slot("a", "uid-a", at("sev1"), quiet, knowsUp)}, nil, down,
			20 * time.Minute, "", "a/uid-a sev1~ UpAnswers=sev1"},
		"quiet for repeatSeconds": {slots{slot("a", "uid-a", at("sev1"), quiet, knowsUp)},
			incidents{incidentOf("a", byHand)}, down, 31 * time.Minute, "n", "n/"},
		"quiet at sev2, and sev1 now": {slots{slot("a", "uid-a", at("sev2"), quiet,
			knows("UpAnswers", "sev2"))}, incidents{incidentOf("a", byHand)}, down, 0, "n", "n/"},
		"quiet at sev2, and still": {slots{slot("a", "uid-a", at("sev2"), quiet,
			knows("UpAnswers", "sev2"))}, incidents{incidentOf("a", byHand)}, see(flaky), 0, "", "a/uid-a sev2~ UpAnswers=sev2"},
		"lowered to sev3, resolved, bad still": {slots{slot("a", "uid-a", at("sev3"), quiet, knowsUp)},
			incidents{incidentOf("a", byHand)}, down, 0, "", "a/uid-a sev3~ UpAnswers=sev1"},
		"lowered to sev3, resolved, another bad": {slots{slot("a", "uid-a", at("sev3"), quiet, knowsUp)},
			incidents{incidentOf("a", byHand)}, see(up, tokens), 0, "n", "n/"},
		"a person's sev3, and sev1": {slots{slot("a", "uid-a", at("sev3"))},
			incidents{incidentOf("a", decided("sev3"))}, down, 0, "n", "n/"},
		"a person's sev3, and sev2": {slots{slot("a", "uid-a", at("sev3"))},
			incidents{incidentOf("a", decided("sev3"))}, see(flaky), 0, "", "a/uid-a sev3"},
		"a person's sev1": {slots{slot("a", "uid-a", at("sev1"))},
			incidents{incidentOf("a", decided("sev1"))}, down, 0, "", "a/uid-a sev1"},
		"lowered with that bad": {slots{slot("a", "uid-a", at("sev3"), knowsUp)},
			incidents{incidentOf("a", decided("sev3"))}, down, time.Hour, "", "a/uid-a sev3 UpAnswers=sev1"},
		"lowered with that bad, and another": {slots{slot("a", "uid-a", at("sev3"), knowsUp)},
			incidents{incidentOf("a", decided("sev3"))}, see(up, tokens), 0, "n", "n/"},
		"lowered with that flaky, and down now": {slots{slot("a", "uid-a", at("sev3"), knows("UpAnswers", "sev2"))},
			incidents{incidentOf("a", decided("sev3"))}, down, 0, "n", "n/"},
		"open without a slot":                      {nil, incidents{incidentOf("a")}, down, 0, "", "a/uid-a"},
		"open without a slot, of a lower severity": {nil, incidents{incidentOf("a", decided("sev2"))}, down, 0, "n", "n/"},
		"opened at sev3 while that was bad": {nil, incidents{incidentOf("a", decided("sev3"))},
			see(bad("UpAnswers", "sev1", -time.Second)), 0, "", "a/uid-a sev3 UpAnswers=sev1"},
		"sev3 has the slot, and a sev1 is open": {slots{slot("a", "uid-a", at("sev3"))},
			incidents{incidentOf("a", decided("sev3")), incidentOf("b")}, down, 0, "", "b/uid-b"},
		"open, of another category": {nil, incidents{incidentOf("a",
			category(v1alpha1.CategoryUnclassified))}, down, 0, "n", "n/"},
		"open, of another Platform": {nil, incidents{incidentOf("a", of("other"))}, down, 0, "n", "n/"},
		"the name is taken": {nil, incidents{incidentOf("n", of("other")),
			incidentOf("n-2", byHand)}, down, 0, "n-3", "n-3/"},
		"another Platform has the name in the slot ": {slots{slot("a", "")}, incidents{incidentOf("a", of("other"))}, down,
			0, "a", "a/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := &v1alpha1.PlatformStatus{Incidents: c.slots}
			want := Want{Platform: &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, Place: outage, Name: "n",
				Signals: c.signals}
			create := choose(status, want, c.all, start.Add(c.at), pause)
			if create != c.create || text(status) != c.then {
				t.Errorf("it creates %q, and the slots are %q; want %q and %q", create, text(status), c.create, c.then)
			}
		})
	}
}

func TestAnIncidentHoldsItsPlace(t *testing.T) {
	t.Parallel()
	up, knowsUp := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, time.Minute), knows("UpAnswers", "sev1")
	sawUp := func(i *v1alpha1.Incident) {
		i.Status.Signals = []v1alpha1.IncidentSignal{{Condition: v1alpha1.ConditionUpAnswers, Seen: v1alpha1.SignalSeenBad}}
	}
	for name, c := range map[string]struct {
		slots    []v1alpha1.IncidentSlot
		incident v1alpha1.Incident
		signals  signals.Signals
		then     string
	}{
		"nobody had it":                   {nil, incidentOf("a"), see(up), "a/uid-a"},
		"a person's, bad only afterwards": {nil, incidentOf("a", decided("sev3")), see(up), "a/uid-a sev3"},
		"a person's, bad before": {nil, incidentOf("a", decided("sev3")),
			see(bad("UpAnswers", "sev1", -time.Minute)), "a/uid-a sev3 UpAnswers=sev1"},
		"its name was written": {[]v1alpha1.IncidentSlot{slot("a", "")}, incidentOf("a"), see(up), "a/uid-a"},
		"lowered": {[]v1alpha1.IncidentSlot{slot("a", "uid-a")},
			incidentOf("a", decided("sev3")), see(up), "a/uid-a sev3 UpAnswers=sev1"},
		"lowered again": {[]v1alpha1.IncidentSlot{slot("a", "uid-a", at("sev2"))},
			incidentOf("a", decided("sev3")), see(up), "a/uid-a sev3 UpAnswers=sev1"},
		"lowered with nothing bad": {[]v1alpha1.IncidentSlot{slot("a", "uid-a")},
			incidentOf("a", decided("sev3")), see(state("UpAnswers", metav1.ConditionTrue)), "a/uid-a sev3"},
		"lowered after a restart": {[]v1alpha1.IncidentSlot{slot("a", "uid-a")},
			incidentOf("a", decided("sev3"), sawUp), see(state("UpAnswers", metav1.ConditionUnknown)), "a/uid-a sev3 " +
				"UpAnswers=sev1"},
		"lowered after a restart, before anything is known": {[]v1alpha1.IncidentSlot{slot("a", "uid-a")},
			incidentOf("a", decided("sev3"), sawUp), see(signals.Signal{Condition: v1alpha1.ConditionUpAnswers,
				State: metav1.ConditionUnknown}), "a/uid-a sev3 UpAnswers=sev3"},
		"raised": {[]v1alpha1.IncidentSlot{slot("a", "uid-a", at("sev3"))},
			incidentOf("a", decided("sev2")), see(up), "a/uid-a sev2"},
		"the severity follows the signals": {[]v1alpha1.IncidentSlot{slot("a", "uid-a", at("sev3"))}, incidentOf("a"),
			see(up), "a/uid-a"},
		"takes over from one that is gone": {[]v1alpha1.IncidentSlot{slot("b", "uid-b", knowsUp)}, incidentOf("a"),
			see(up), "a/uid-a"},
		"takes over, and it stays quiet": {[]v1alpha1.IncidentSlot{slot("b", "uid-b", at("sev1"), quiet, knowsUp)},
			incidentOf("a", decided("sev3")), see(up), "a/uid-a sev3~ UpAnswers=sev1"},
		"another has the name": {[]v1alpha1.IncidentSlot{slot("a", "uid-former")}, incidentOf("a"), see(up),
			"a/uid-a"},
		"the place of another one is another": {[]v1alpha1.IncidentSlot{slot("b", "uid-b")},
			incidentOf("a", category(v1alpha1.CategoryKeyMismatch)), see(up), "b/uid-b; a/uid-a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := &v1alpha1.PlatformStatus{Incidents: c.slots}
			hold(status, &c.incident, c.signals, start.Add(time.Minute))
			if text(status) != c.then {
				t.Errorf("the slots are %q, want %q", text(status), c.then)
			}
		})
	}
}

func TestWhatIsOverLeavesItsPlace(t *testing.T) {
	t.Parallel()
	up, good, unknown := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, 0), state("UpAnswers",
		metav1.ConditionTrue), state("UpAnswers", metav1.ConditionUnknown)
	knowsUp := knows("UpAnswers", "sev1")
	for name, c := range map[string]struct {
		slot    v1alpha1.IncidentSlot
		all     []v1alpha1.Incident
		signals signals.Signals
		at      time.Duration
		then    string
	}{
		"open": {slot("a", "uid-a"), []v1alpha1.Incident{incidentOf("a")}, see(up),
			time.Hour, "a/uid-a"},
		"gone": {slot("a", "uid-a"), nil, see(up), 0, ""},
		"its name is another's": {slot("a", "uid-former"), []v1alpha1.Incident{incidentOf("a")}, see(up), 0,
			""},
		"created, and its UID was not written": {slot("a", ""), []v1alpha1.Incident{incidentOf("a")}, see(up), 0, "a/uid-a"},
		"about to be created":                  {slot("a", ""), nil, see(good), settle - 1, "a/"},
		"never created":                        {slot("a", ""), nil, see(good), settle, ""},
		"it ended": {slot("a", "uid-a"), []v1alpha1.Incident{incidentOf("a", ended)}, see(up),
			2 * time.Minute, ""},
		"resolved while bad": {slot("a", "uid-a"), []v1alpha1.Incident{incidentOf("a", byHand)}, see(up),
			2 * time.Minute, "a/uid-a sev1~ UpAnswers=sev1"},
		"resolved while good": {slot("a", "uid-a"), []v1alpha1.Incident{incidentOf("a", byHand)},
			see(good), 2 * time.Minute, ""},
		"quiet, bad": {slot("a", "uid-a", at("sev1"), quiet, knowsUp), nil, see(up),
			2 * time.Minute, "a/uid-a sev1~ UpAnswers=sev1"},
		"quiet, unknown": {slot("a", "uid-a", at("sev1"), quiet, knowsUp), nil, see(unknown),
			2 * time.Minute, "a/uid-a sev1~ UpAnswers=sev1"},
		"quiet, nothing seen yet": {slot("a", "uid-a", at("sev1"), quiet, knowsUp), nil, see(),
			2 * time.Minute, "a/uid-a sev1~ UpAnswers=sev1"},
		"quiet, good once": {slot("a", "uid-a", at("sev1"), quiet, knowsUp), nil, see(good),
			2 * time.Minute, ""},
		"quiet for repeatSeconds": {slot("a", "uid-a", at("sev1"), quiet, knowsUp), nil, see(up),
			31 * time.Minute, ""},
		"lowered, bad": {slot("a", "uid-a", at("sev3"), knowsUp),
			[]v1alpha1.Incident{incidentOf("a", decided("sev3"))}, see(up), time.Hour, "a/uid-a sev3 UpAnswers=sev1"},
		"lowered, good once": {slot("a", "uid-a", at("sev3"), knowsUp),
			[]v1alpha1.Incident{incidentOf("a", decided("sev3"))}, see(good), time.Hour, "a/uid-a sev3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := &v1alpha1.PlatformStatus{Incidents: []v1alpha1.IncidentSlot{c.slot}}
			for range 2 { // a second time changes nothing
				tidy(status, slices.Clone(c.all), c.signals, start.Add(c.at), pause)
				if text(status) != c.then {
					t.Fatalf("the slots are %q, want %q", text(status), c.then)
				}
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	applications := func(ids ...string) func(*v1alpha1.Incident) {
		return func(i *v1alpha1.Incident) { i.Spec.Affected = &v1alpha1.IncidentAffected{ApplicationIDs: ids} }
	}
	for want, i := range map[string]v1alpha1.Incident{
		"0": incidentOf("a"), "42": incidentOf("a", applications("42")), "0 ": incidentOf("a", applications("41", "42")),
	} {
		if got := PlaceOf(&i).ApplicationID; got != strings.TrimSpace(want) {
			t.Errorf("%v is in place %q, want %q", i.Spec.Affected, got, want)
		}
	}
	ask := signals.Signal{Condition: v1alpha1.ConditionTokensIssued, State: metav1.ConditionUnknown,
		Severity: v1alpha1.Sev1, Ask: true}
	up := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, 0)
	if got := Alarms(see(up, ask), v1alpha1.CategoryUnclassified); len(got) != 1 || got[0].Condition != ask.Condition ||
		got[0].Severity != v1alpha1.Sev2 {
		t.Errorf("people are asked about %+v", got)
	}
	latency := bad(v1alpha1.ConditionLatencyGood, v1alpha1.Sev2, 0)
	if got := Alarms(see(latency, ask, up), v1alpha1.CategoryOutage); len(got) != 2 || got[0].Condition != up.Condition {
		t.Errorf("an Outage is %+v", got)
	}
}
