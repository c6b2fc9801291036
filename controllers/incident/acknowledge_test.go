package incident_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// alerts are PagerDuty's, as "the severity in the key: state".
func (s *scene) alerts() []string {
	var texts []string
	for _, p := range s.Services.Pages() {
		texts = append(texts, p.DedupKey[strings.LastIndex(p.DedupKey, "/")+1:]+" "+p.State)
	}
	slices.Sort(texts)
	return texts
}

func (s *scene) expectAlerts(want ...string) {
	s.Helper()
	if got := s.alerts(); !slices.Equal(got, want) {
		s.Errorf("alerts: %q, want %q", got, want)
	}
}

// A rise begins a new round: another alert, and pagedAt and respondBy anew.
func TestARiseBeginsANewRound(t *testing.T) {
	s := newScene(t, "ack-rise")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	s.expectAlerts("sev2 triggered")
	before := s.get(name)
	if got := before.Status.RespondBy.Sub(before.CreationTimestamp.Time); got != time.Hour {
		t.Errorf("a sev2 is to be responded to within %s", got)
	}
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.after(20*time.Minute, name)
	s.expectAlerts("sev1 triggered", "sev2 triggered")
	after := s.get(name).Status
	if d := after.PagedAt.Sub(before.Status.PagedAt.Time); d < 19*time.Minute || d > 21*time.Minute {
		t.Errorf("status.pagedAt moved by %s", d)
	}
	if d := s.clock().Sub(after.RespondBy.Time); d < 0 || d > time.Minute {
		t.Errorf("it was to be responded to %s ago", d)
	}
	s.expect(name, "Escalated Unknown Paging", "Acknowledged Unknown WaitingForAcknowledgement", "ResponseOverdue none")
	// The second tier has its time from the rise on.
	s.after(14*time.Minute, name)
	s.expectAlerts("sev1 triggered", "sev2 triggered")
	s.after(61*time.Second, name)
	s.expectAlerts("sev1 triggered", "sev1 triggered", "sev2 triggered")
	// A better signal begins nothing.
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	s.pass(name)
	s.expectAlerts("sev1 triggered", "sev1 triggered", "sev2 triggered")
}

// An acknowledgement holds for the severity that it was given at. At a higher one people are paged, until somebody
// takes that on.
func TestAnAcknowledgementHoldsUpToItsSeverity(t *testing.T) {
	s := newScene(t, "ack-holds")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	s.patch(name, `{"spec":{"acknowledgement":{"by":"dana"}}}`)
	s.pass(name)
	s.expect(name, "Acknowledged True Succeeded", "Escalated Unknown Acknowledged")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	s.expectAlerts("sev1 triggered", "sev2 acknowledged")
	s.expect(name, "Acknowledged Unknown WaitingForAcknowledgement", "Escalated Unknown Paging")
	if got := s.message(name, "Acknowledged"); !strings.Contains(got, "dana acknowledged it as sev2, and it is sev1 "+
		"now") ||
		!strings.Contains(got, `"severity":"sev1"`) {
		t.Errorf("it says %q", got)
	}
	s.patch(name, `{"spec":{"acknowledgement":{"by":"dana","severity":"sev1"}}}`)
	s.pass(name)
	s.expectAlerts("sev1 acknowledged", "sev2 acknowledged")
	s.expect(name, "Acknowledged True Succeeded", "Escalated Unknown Acknowledged")
	s.after(time.Hour, name)
	s.expectAlerts("sev1 acknowledged", "sev2 acknowledged")
}

// One that was given for sev1 in advance holds when the severity rises.
func TestAnAcknowledgementForSev1HoldsWhenItRises(t *testing.T) {
	s := newScene(t, "ack-ahead")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	s.patch(name, `{"spec":{"acknowledgement":{"by":"dana","severity":"sev1"}}}`)
	s.pass(name)
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	s.after(time.Hour, name)
	s.expectAlerts("sev2 acknowledged")
	s.expect(name, "Acknowledged True Succeeded", "ResponseOverdue none")
	s.good()
	s.after(301*time.Second, name)
	s.expectAlerts("sev2 resolved")
	s.expect(name, "Escalated True Succeeded", "Ready True Succeeded")
}

// That nobody could be paged comes before everything, a rollback included.
func TestThatNobodyWasReachedIsTheLoudestOnTheRow(t *testing.T) {
	s := newScene(t, "ack-nobody")
	s.Server.Render().SetRollbackDelay(time.Hour)
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 404})
	s.Services.SetFault(logi.Slack, logi.ServiceFault{Status: 404})
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.rollbacks(1)
	s.expect(name, "Escalated Unknown NobodyReached", "RolledBack Unknown RollingBack", "Ready False NobodyReached")
	if !s.warned(name, v1alpha1.ReasonNobodyReached, "NOBODY WAS REACHED") {
		t.Errorf("no Warning says so: %q", s.events)
	}
	if row := s.row(name); !strings.Contains(row, " NobodyReached NOBODY WAS REACHED, call somebody: ") {
		t.Errorf("the row is %s", row)
	}
	if !s.warned(name, v1alpha1.ReasonNobodyReached, "oncall-engineer could not be paged") ||
		!s.warned(name, v1alpha1.ReasonNobodyReached, "project-owner could not be paged") {
		t.Errorf("no event says so: %q", s.events)
	}
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{})
	s.after(61*time.Second, name)
	s.expectPages("oncall 1 triggered")
	s.expect(name, "Escalated Unknown Paging", "Ready False RollingBack")
}
