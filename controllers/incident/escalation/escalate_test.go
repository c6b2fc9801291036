package escalation

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
)

var night = time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)

// of an Incident that was opened at night, at a severity.
func of(severity v1alpha1.Severity) *Escalation {
	return &Escalation{Journal: &journal.Journal{
		Now: night.Add(10 * time.Minute), Platform: &v1alpha1.Platform{},
		Incident: &v1alpha1.Incident{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(night)},
			Status:     v1alpha1.IncidentStatus{Severity: severity},
		},
	}}
}

func TestARiseBeginsARoundOfItsOwn(t *testing.T) {
	e := of(v1alpha1.Sev2)
	status := &e.Incident.Status
	if e.Begin() || status.Escalation.Severity != v1alpha1.Sev2 || !status.Escalation.Since.Time.Equal(night) {
		t.Fatalf("it begins with %+v", status.Escalation)
	}
	status.Escalation.Pages = []v1alpha1.PageStatus{{Key: "sev2-1-1-1", Severity: v1alpha1.Sev2,
		State: v1alpha1.PageAccepted}}
	status.PagedAt, status.Reached = journal.Seconds(night), "oncall-engineer"
	if e.Begin() || len(e.pages()) != 1 || status.PagedAt == nil {
		t.Errorf("without a rise it is %+v", status)
	}
	status.Severity = v1alpha1.Sev1
	if !e.Begin() || len(e.pages()) != 0 || status.PagedAt != nil || status.Reached != "" ||
		!status.Escalation.Since.Time.Equal(e.Now) {
		t.Errorf("after a rise it is %+v", status)
	}
	// A person lowers it: what was paged at sev1 was paged.
	status.PagedAt = journal.Seconds(e.Now)
	status.Severity = v1alpha1.Sev3
	if e.Begin() || status.PagedAt == nil {
		t.Errorf("after it was lowered it is %+v", status)
	}
}

func TestPagesOfTheReleaseBeforeAreOfTheSeverityThatTheyWereSentAt(t *testing.T) {
	e := of(v1alpha1.Sev1)
	e.Incident.Status.Escalation = &v1alpha1.EscalationStatus{Pages: []v1alpha1.PageStatus{{Key: "1-1-1", Tier: "t",
		State: v1alpha1.PageAccepted}}}
	e.Begin()
	pages := e.pages()
	if len(pages) != 1 || pages[0].Key != "1-1-1" {
		t.Fatalf("they are %+v", pages)
	}
	// The alert has the name that it was opened by, or nobody could take it back.
	if got := e.message(pages[0], "resolve", night).Key; got != "///t" {
		t.Errorf("its alert is %q", got)
	}
	r := round{severity: v1alpha1.Sev1, pages: pages}
	if got := r.key(1, 2, 1); got != "1-2-1" {
		t.Errorf("the next page of that round is %s", got)
	}
}

func TestAnAcknowledgementHoldsUpToItsSeverity(t *testing.T) {
	for _, c := range []struct {
		given, is v1alpha1.Severity
		holds     bool
	}{
		{v1alpha1.Sev1, v1alpha1.Sev1, true}, {v1alpha1.Sev1, v1alpha1.Sev2, true}, {v1alpha1.Sev2, v1alpha1.Sev1, false},
		{v1alpha1.Sev2, v1alpha1.Sev3, true}, {v1alpha1.Sev3, v1alpha1.Sev2, false},
	} {
		e := of(c.is)
		if e.Acknowledged() {
			t.Error("nobody acknowledged")
		}
		e.Incident.Status.AcknowledgedAt, e.Incident.Status.AcknowledgedSeverity = journal.Seconds(night), c.given
		if got := e.Acknowledged(); got != c.holds {
			t.Errorf("given at %s, it holds at %s: %t", c.given, c.is, got)
		}
	}
}

func TestThePolicyOfSev1IsThePlaybooks(t *testing.T) {
	for severity, want := range map[v1alpha1.Severity]v1alpha1.EscalationPolicy{
		v1alpha1.Sev1: v1alpha1.EscalateAllTiers, v1alpha1.Sev2: v1alpha1.EscalateFirstTier,
		v1alpha1.Sev3: v1alpha1.EscalateNone,
	} {
		if got := of(severity).policy(); got != want {
			t.Errorf("%s: %s", severity, got)
		}
		e := of(severity)
		e.Platform.Spec.Escalation = &v1alpha1.PlatformEscalation{Sev2: v1alpha1.EscalateNone,
			Sev3: v1alpha1.EscalateAllTiers}
		rules := map[v1alpha1.Severity]v1alpha1.EscalationPolicy{
			v1alpha1.Sev1: v1alpha1.EscalateAllTiers, v1alpha1.Sev2: v1alpha1.EscalateNone,
			v1alpha1.Sev3: v1alpha1.EscalateAllTiers,
		}
		if got := e.policy(); got != rules[severity] {
			t.Errorf("%s, by the Platform's rules: %s", severity, got)
		}
	}
}
