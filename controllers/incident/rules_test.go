package incident_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// Each rule of the playbook's classification and escalation that is this package's, by its name. What makes a signal
// sev1, sev2 or sev3 is controllers/platform's.

func (s *scene) severity(name string) v1alpha1.Severity {
	s.Helper()
	return s.get(name).Status.Severity
}

// counted is what a metric says of a severity: a counter's value, or how often a histogram was observed.
func counted(t *testing.T, name string, severity v1alpha1.Severity) float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && m.GetLabel()[0].GetValue() == string(severity) {
				return m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

// timeline says whether an entry contains text.
func (s *scene) told(name, text string) bool {
	s.Helper()
	return slices.ContainsFunc(s.get(name).Status.Timeline,
		func(e v1alpha1.TimelineEntry) bool { return strings.Contains(e.Text, text) })
}

func TestRuleTheSignalsDecideTheSeverity(t *testing.T) {
	s := newScene(t, "rule-signals")
	for _, want := range []v1alpha1.Severity{v1alpha1.Sev1, v1alpha1.Sev2} {
		s.bad(want, "as "+string(want))
		name := s.open(string(want), "{category: Outage, rollback: Never}")
		s.pass(name)
		if got := s.severity(name); got != want {
			t.Errorf("signals of %s make %s", want, got)
		}
		if got := s.message(name, "Classified"); got != string(want)+": as "+string(want) {
			t.Errorf("it says %q", got)
		}
	}
}

func TestRuleWhatMatchesNothingIsSev3(t *testing.T) {
	s := newScene(t, "rule-nothing")
	s.good()
	name := s.open("good", "{rollback: Never}")
	s.pass(name)
	if got := s.severity(name); got != v1alpha1.Sev3 {
		t.Errorf("an incident whose signals are good is %s", got)
	}
	s.signals = signals.Signals{}
	name = s.open("unknown", "{rollback: Never}")
	s.pass(name)
	if got := s.severity(name); got != v1alpha1.Sev3 {
		t.Errorf("an incident whose signals are unknown is %s", got)
	}
	if got := s.message(name, "Classified"); !strings.Contains(got, "unknown") {
		t.Errorf("it says %q", got)
	}
}

func TestRuleDeadLettersOfOneRelyingPartyAMergeRaceAndASingleUserAreSev3(t *testing.T) {
	s := newScene(t, "rule-sev3")
	s.good()
	for name, spec := range map[string]string{
		"dead-letters": `{category: WebhookDelivery, affected: {applicationIDs: ["42"]}, rollback: Never}`,
		"merge-race":   `{category: MergeInconsistency, rollback: Never}`,
		"user":         `{affected: {userIDs: ["12"]}, rollback: Never}`,
	} {
		name := s.open(name, spec)
		s.pass(name)
		obj := s.get(name)
		if obj.Status.Severity != v1alpha1.Sev3 || obj.Status.RespondBy.Sub(obj.CreationTimestamp.Time) != 24*time.Hour {
			t.Errorf("%s is %s, to be responded to by %s", name, obj.Status.Severity, obj.Status.RespondBy)
		}
		s.expect(name, "Escalated Unknown NotPaging", "Announced none", "RolledBack none",
			"Resolved Unknown AwaitingResolution")
	}
	s.expectPages()
}

func TestRuleASignalThatCannotBeReadIsUnknownAndNeverHealthy(t *testing.T) {
	s := newScene(t, "rule-unknown")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.signals = signals.Signals{Each: []signals.Signal{{Condition: v1alpha1.ConditionUpAnswers,
		State: metav1.ConditionUnknown}}}
	s.after(2*time.Hour, name)
	s.expect(name, "Mitigated Unknown SignalsUnknown")
	if got := s.message(name, "Mitigated"); strings.Contains(got, "good") {
		t.Errorf("it says %q", got)
	}
}

func TestRuleAWorseSignalRaisesTheSeverityAndABetterOneNeverLowersIt(t *testing.T) {
	s := newScene(t, "rule-raises")
	s.good()
	name := s.open("inc", "{rollback: Never}")
	s.pass(name)
	for _, step := range []struct{ seen, want v1alpha1.Severity }{
		{v1alpha1.Sev3, v1alpha1.Sev3}, {v1alpha1.Sev2, v1alpha1.Sev2}, {v1alpha1.Sev3, v1alpha1.Sev2}, {v1alpha1.Sev1,
			v1alpha1.Sev1}, {v1alpha1.Sev2, v1alpha1.Sev1},
	} {
		s.bad(step.seen, "signals of "+string(step.seen))
		s.pass(name)
		if got := s.severity(name); got != step.want {
			t.Errorf("with signals of %s it is %s, want %s", step.seen, got, step.want)
		}
	}
	s.good()
	s.pass(name)
	if got := s.severity(name); got != v1alpha1.Sev1 {
		t.Errorf("with good signals it is %s", got)
	}
	if !s.told(name, "sev1: signals of sev1") {
		t.Errorf("the timeline does not say why: %+v", s.get(name).Status.Timeline)
	}
}

func TestRuleADecidedSeverityIsFinalAndAWorseSignalOnlyReported(t *testing.T) {
	s := newScene(t, "rule-decided")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, severity: sev3, rollback: Never}")
	s.pass(name)
	s.pass(name)
	if got := s.severity(name); got != v1alpha1.Sev3 {
		t.Errorf("it is %s", got)
	}
	s.expectPages()
	reports := 0
	for _, e := range s.get(name).Status.Timeline {
		if strings.Contains(e.Text, "the signals say sev1, and spec.severity says sev3") {
			reports++
		}
	}
	if reports != 1 {
		t.Errorf("the worse signal was reported %d times", reports)
	}
	// The person changes their mind, either way.
	s.patch(name, `{"spec":{"severity":"sev1"}}`)
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.patch(name, `{"spec":{"severity":"sev2"}}`)
	s.pass(name)
	if got := s.severity(name); got != v1alpha1.Sev2 {
		t.Errorf("it is %s", got)
	}
}

func TestRuleRespondByIsAtOnceAnHourAndADay(t *testing.T) {
	s := newScene(t, "rule-respond-by")
	for severity, within := range map[v1alpha1.Severity]time.Duration{v1alpha1.Sev1: 0, v1alpha1.Sev2: time.Hour,
		v1alpha1.Sev3: 24 * time.Hour} {
		name := s.open(string(severity), fmt.Sprintf("{severity: %s, rollback: Never}", severity))
		s.pass(name)
		obj := s.get(name)
		if got := obj.Status.RespondBy.Sub(obj.CreationTimestamp.Time); got != within {
			t.Errorf("%s is to be responded to %s after it was opened, want %s", severity, got, within)
		}
		was := obj.Status.RespondBy.Time
		s.after(10*time.Minute, name)
		if got := s.get(name).Status.RespondBy.Time; !got.Equal(was) {
			t.Errorf("status.respondBy of %s moved from %s to %s", severity, was, got)
		}
	}
}

func TestRuleARaisedSeverityIsToBeRespondedToSooner(t *testing.T) {
	s := newScene(t, "rule-sooner")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.after(20*time.Minute, name)
	// At once, from the rise on.
	obj := s.get(name)
	if got := obj.Status.RespondBy.Sub(obj.CreationTimestamp.Time); got < 20*time.Minute || got > 21*time.Minute {
		t.Errorf("status.respondBy is %s after it was opened", got)
	}
}

func TestRuleAMissedResponseIsAConditionUntilSomebodyResponds(t *testing.T) {
	s := newScene(t, "rule-overdue")
	for severity, within := range map[v1alpha1.Severity]time.Duration{v1alpha1.Sev2: time.Hour,
		v1alpha1.Sev3: 24 * time.Hour} {
		began, before := s.offset, counted(t, "playbook_incident_response_overdue_total", severity)
		name := s.open(string(severity), fmt.Sprintf("{severity: %s, rollback: Never}", severity))
		// Opened now by the API server's clock, and by this one's after all that was let pass.
		s.offset = 0
		s.after(within-time.Minute, name)
		s.expect(name, "ResponseOverdue none")
		s.after(2*time.Minute, name)
		s.expect(name, "ResponseOverdue True Overdue")
		if !s.told(name, "nobody has responded to this "+string(severity)) {
			t.Error("the timeline does not say so")
		}
		s.said(name)
		if !slices.ContainsFunc(s.events, func(e string) bool {
			return strings.HasPrefix(e, "Warning Overdue nobody has responded to this "+string(severity))
		}) {
			t.Errorf("no event says so: %q", s.events)
		}
		if n := counted(t, "playbook_incident_response_overdue_total", severity) - before; n < 1 ||
			severity == v1alpha1.Sev3 && n != 1 {
			t.Errorf("the metric counts %v", n)
		}
		s.patch(name, `{"spec":{"acknowledgement":{"by":"dana"}}}`)
		s.pass(name)
		s.expect(name, "ResponseOverdue none", "Acknowledged True Succeeded")
		s.offset = began
	}
}

func TestRuleASev1IsOverdueWhereNobodyCouldBePagedWithinFiveMinutes(t *testing.T) {
	s := newScene(t, "rule-five-minutes")
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 500})
	s.Services.SetFault(logi.Slack, logi.ServiceFault{Status: 500})
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.after(5*time.Minute-2*time.Second, name)
	s.expect(name, "ResponseOverdue none")
	s.after(4*time.Second, name)
	s.expect(name, "ResponseOverdue True Overdue", "Escalated Unknown NobodyReached", "Ready False NobodyReached")
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{})
	s.after(2*time.Minute, name)
	s.expect(name, "ResponseOverdue none")
}

func TestRuleSev1PagesTheFirstTierImmediately(t *testing.T) {
	s := newScene(t, "rule-immediately")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	before := counted(t, "playbook_incident_page_seconds", v1alpha1.Sev1)
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	if counted(t, "playbook_incident_page_seconds", v1alpha1.Sev1) == before {
		t.Error("the metric does not say how long it took")
	}
	obj := s.get(name)
	if obj.Status.PagedAt == nil || obj.Status.Durations.ToPageSeconds == nil {
		t.Errorf("paged at %v, durations %+v", obj.Status.PagedAt, obj.Status.Durations)
	}
	s.expect(name, "ResponseOverdue none")
}

func TestRuleTheSecondTierIsPagedAfterFifteenMinutesWithoutAcknowledgement(t *testing.T) {
	s := newScene(t, "rule-second-tier")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	acknowledged := s.open("acked", "{category: Outage, rollback: Never}")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(acknowledged)
	s.pass(name)
	wait := s.after(14*time.Minute, name)
	s.expectPages("oncall 1 triggered", "oncall 1 triggered")
	if wait == 0 || wait > time.Minute {
		t.Errorf("a minute before the second tier is due, it comes back after %s", wait)
	}
	s.patch(acknowledged, `{"spec":{"acknowledgement":{"by":"dana"}}}`)
	s.after(time.Minute, name)
	s.pass(acknowledged)
	s.expectPages("oncall 1 acknowledged", "oncall 1 triggered", "owner 1 triggered")
	s.after(24*time.Hour, acknowledged)
	s.expectPages("oncall 1 acknowledged", "oncall 1 triggered", "owner 1 triggered")
}

func TestRuleSev2AndSev3PageByThePlatformsPolicy(t *testing.T) {
	s := newScene(t, "rule-policy")
	s.applyPlatform("  escalation: {sev2: AllTiers, sev3: FirstTier}")
	before := counted(t, "playbook_incident_page_seconds", v1alpha1.Sev3)
	name := s.open("sev3", "{severity: sev3, rollback: Never}")
	s.pass(name)
	s.after(time.Hour, name)
	s.expectPages("oncall 1 triggered")
	if n := counted(t, "playbook_incident_page_seconds", v1alpha1.Sev3) - before; n != 1 {
		t.Errorf("the metric has %v of it", n)
	}
	name = s.open("sev2", "{severity: sev2, rollback: Never}")
	s.offset = 0
	s.pass(name)
	s.after(16*time.Minute, name)
	s.expectPages("oncall 1 triggered", "oncall 1 triggered", "owner 1 triggered")
	s.applyPlatform("  escalation: {sev2: None}")
	name = s.open("none", "{severity: sev2, rollback: Never}")
	s.pass(name)
	s.expect(name, "Escalated Unknown NotPaging")
	s.expectPages("oncall 1 triggered", "oncall 1 triggered", "owner 1 triggered")
}

func TestRuleWhoResolvesByHandPagesNobodyElse(t *testing.T) {
	s := newScene(t, "rule-by-hand")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.patch(name, `{"spec":{"resolution":{"by":"dana","summary":"it was DNS"}}}`)
	// When the second tier is due.
	s.after(16*time.Minute, name)
	s.expectPages("oncall 1 resolved")
	s.expect(name, "Resolved True Succeeded", "Mitigated False NotNeeded", "Acknowledged False NotNeeded",
		"Ready True Succeeded")
	if got := s.message(name, "Resolved"); got != "resolved, by dana: it was DNS" {
		t.Errorf("it says %q", got)
	}
	if d := s.get(name).Status.Durations; d.ToResolveSeconds == nil || d.ToMitigateSeconds != nil ||
		d.ToAcknowledgeSeconds != nil {
		t.Errorf("the durations are %+v", d)
	}
}

func TestRuleARestartNeitherLosesNorRepeatsAPage(t *testing.T) {
	s := newScene(t, "rule-restart")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	for range 5 {
		s.pass(name) // each by a manager that has just started
		s.offset += time.Minute
	}
	s.expectPages("oncall 1 triggered")
	// Nor does it write anything where nothing changed.
	version := s.get(name).ResourceVersion
	s.pass(name)
	if got := s.get(name).ResourceVersion; got != version {
		t.Errorf("at rest it was written: %+v", s.get(name).Status)
	}
	s.after(11*time.Minute, name)
	s.pass(name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
}

func TestRuleFlappingDoesNotRestartTheClock(t *testing.T) {
	s := newScene(t, "rule-flapping")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	onset, affected := s.get(name).Status.Onset, s.get(name).Status.AffectedSince
	for range 7 {
		s.good()
		s.after(2*time.Minute, name)
		s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
		s.after(2*time.Minute, name)
	}
	if got := len(s.Services.Notices()); got != 0 {
		t.Fatalf("%d notices after 28 minutes", got)
	}
	s.after(2*time.Minute+time.Second, name)
	if got := len(s.Services.Notices()); got != 1 {
		t.Errorf("%d notices after 30 minutes of flapping", got)
	}
	obj := s.get(name)
	if !obj.Status.Onset.Equal(onset) || !obj.Status.AffectedSince.Equal(affected) {
		t.Errorf("the onset moved from %s to %s, and what the public is told from %s to %s", onset, obj.Status.Onset,
			affected, obj.Status.AffectedSince)
	}
	// Nor does it start the escalation over: 15 minutes after the first page is when the second tier was paged.
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
}

func TestRuleMitigationNeedsSignalsThatStayGood(t *testing.T) {
	s := newScene(t, "rule-mitigated")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	for range 3 {
		s.good()
		s.after(4*time.Minute, name)
		s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
		s.pass(name)
	}
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	s.good()
	s.after(5*time.Minute+time.Second, name)
	s.expect(name, "Mitigated True Succeeded", "Ready True Succeeded")
}

func TestRuleIncidentsReadAsAtThreeInTheMorning(t *testing.T) {
	s := newScene(t, "rule-columns")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	out, err := w.Kubectl(s.ctx, "get", "inc", name, "-n", world.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if got := strings.Join(strings.Fields(lines[0]), " "); got != "NAME SEVERITY CATEGORY RESPOND BY REACHED AGE STATE "+
		"MESSAGE" {
		t.Errorf("the columns are %s", got)
	}
	by := s.get(name).Status.RespondBy.UTC().Format(time.RFC3339)
	row := strings.Join(strings.Fields(lines[1]), " ")
	if !strings.HasPrefix(row, name+" sev1 Outage "+by+" oncall-engineer ") ||
		!strings.Contains(row, " RollbackWithheld step 2/2: /up answers HTTP 502. Nothing is rolled back: "+
			"spec.outage.rollback is Never. No deploy is suspected: ") {
		t.Errorf("the row is %s", row)
	}
}

// For hours nobody answers: what is kept stays bounded, its beginning stays, and each page is sent once.
func TestWhatAStatusKeepsIsBounded(t *testing.T) {
	s := newScene(t, "bounded")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never, notice: Withhold}")
	s.pass(name)
	const rounds = 36
	for range rounds {
		s.after(15*time.Minute, name)
		s.after(30*time.Minute, name)
	}
	status := s.get(name).Status
	if n := len(status.Timeline); n != 50 || status.Timeline[0].Text != "sev1: /up answers HTTP 502" {
		t.Errorf("%d entries, the first %q", n, status.Timeline[0].Text)
	}
	if n := len(status.Escalation.Pages); n > 64 || n < 60 {
		t.Errorf("%d pages", n)
	}
	s.expectPages(fmt.Sprintf("oncall %d triggered", rounds+1), fmt.Sprintf("owner %d triggered", rounds))
}
