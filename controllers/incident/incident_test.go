package incident_test

import (
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestABadDeployIsPagedRolledBackAndResolved(t *testing.T) {
	s := newScene(t, "regression")
	r := s.Server.Render()
	r.SetRollbackDelay(200 * time.Millisecond)
	r.BreakCommit("bad", logi.Breakage{})
	bad := r.Push(logi.WebService, "bad")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage}")

	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.expect(name, "Classified True Succeeded", "Escalated Unknown Paging", "Triaged True Succeeded", "RolledBack Unknown RollingBack", "Ready False RollingBack")
	if r.AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is on")
	}
	r.Wait()
	s.pass(name)
	s.expect(name, "RolledBack True Succeeded", "Mitigated Unknown AwaitingMitigation")
	obj := s.get(name)
	if got := obj.Status.Rollback; got == nil || got.From != bad || got.FromCommit != "bad" || got.ToCommit != "good" {
		t.Errorf("status.rollback is %+v", got)
	}
	if got := len(obj.Status.Triage.Deploys); got != 2 {
		t.Errorf("%d deploys in status.triage", got)
	}

	s.good()
	s.after(299*time.Second, name)
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	s.after(2*time.Second, name)
	s.expect(name, "Mitigated True Succeeded", "Resolved True Succeeded", "Escalated True Succeeded", "Acknowledged False NotNeeded",
		"Announced False NotNeeded", "AutoDeployRestored Unknown AwaitingFix", "Ready False AwaitingFix")
	s.expectPages("oncall 1 resolved")

	// The fix is pushed, and deployed by hand, since auto-deploy is off.
	r.DeployCommit(logi.WebService, "fix")
	s.after(time.Minute, name)
	s.expect(name, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
	if !r.AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is off")
	}
	if got := r.Counts(); got.Rollbacks != 1 || got.AutoDeployPatches != 2 {
		t.Errorf("Render was told %+v", got)
	}
	d := s.get(name).Status.Durations
	if d.ToPageSeconds == nil || d.ToMitigateSeconds == nil || d.ToResolveSeconds == nil || *d.ToResolveSeconds < 300 {
		t.Errorf("the durations are %+v", d)
	}
	if after := s.after(time.Hour, name); after != 0 {
		t.Errorf("a finished incident wants to come back after %s", after)
	}
}

func TestSev1IsEscalated(t *testing.T) {
	s := newScene(t, "escalation")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.after(14*time.Minute, name)
	s.expectPages("oncall 1 triggered")
	s.after(2*time.Minute, name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.after(29*time.Minute, name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.after(2*time.Minute, name)
	s.expectPages("oncall 2 triggered", "owner 1 triggered")

	s.patch(name, `{"spec":{"acknowledgement":{"by":"dana"}}}`)
	s.pass(name)
	s.expectPages("oncall 2 acknowledged", "owner 1 acknowledged")
	s.expect(name, "Escalated True Succeeded", "Acknowledged True Succeeded")
	s.after(2*time.Hour, name)
	s.expectPages("oncall 2 acknowledged", "owner 1 acknowledged")
	s.patch(name, `{"spec":{"resolution":{"by":"dana","summary":"it was DNS"}}}`)
	s.pass(name)
	s.expectPages("oncall 2 resolved", "owner 1 resolved")
	s.expect(name, "Ready True Succeeded")
}

func TestAPagerThatIsDeadMovesOnToTheNextChannelAndTheNextTier(t *testing.T) {
	s := newScene(t, "dead-pager")
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 500})
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	if got := len(s.Services.Chats()); got != 0 {
		t.Errorf("%d messages while PagerDuty still has time", got)
	}
	s.after(61*time.Second, name)
	if got := len(s.Services.Chats()); got != 1 {
		t.Errorf("%d messages after PagerDuty failed for a minute", got)
	}
	s.expect(name, "Escalated Unknown Paging")

	// Both of another incident's first tier are dead: the second tier is paged without waiting for 15 minutes.
	other := newSceneBeside(s, "dead-tier")
	other.Services.SetFault(logi.Slack, logi.ServiceFault{Status: 404})
	other.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 500, Times: 2})
	other.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name = other.open("inc", "{category: Outage, rollback: Never}")
	other.pass(name)
	other.after(61*time.Second, name)
	other.expectPages("owner 1 triggered")
}

func TestAPageWhoseAnswerWasLostIsSentAgain(t *testing.T) {
	s := newScene(t, "lost-page")
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{LoseReply: true, Times: 1})
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.after(6*time.Second, name)
	// The same alert: PagerDuty wakes nobody twice.
	s.expectPages("oncall 2 triggered")
	s.after(time.Minute, name)
	s.expectPages("oncall 2 triggered")
	if got := s.get(name).Status.PagedAt; got == nil {
		t.Error("status.pagedAt is not set")
	}
}

func TestSev2PagesTheFirstTierOnceAndSev3Nobody(t *testing.T) {
	s := newScene(t, "policies")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.after(time.Hour+time.Second, name)
	s.expectPages("oncall 1 triggered")
	s.expect(name, "ResponseOverdue True Overdue")
	minor := s.open("minor", "{severity: sev3, rollback: Never}")
	s.pass(minor)
	s.expectPages("oncall 1 triggered")
	s.expect(minor, "Escalated Unknown NotPaging", "ResponseOverdue none")

	// It gets worse: now everybody is paged.
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	if got := s.get(name).Status.Severity; got != v1alpha1.Sev1 {
		t.Errorf("the severity is %s", got)
	}
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	s.pass(name)
	if got := s.get(name).Status.Severity; got != v1alpha1.Sev1 {
		t.Errorf("a better signal lowered the severity to %s", got)
	}
}

func TestThePublicIsToldAfterThirtyMinutesOfBeingDown(t *testing.T) {
	s := newScene(t, "notice")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never, summary: internal words}")
	s.pass(name)
	s.after(20*time.Minute, name)
	if got := len(s.Services.Notices()); got != 0 {
		t.Fatalf("%d notices after 20 minutes", got)
	}
	// Flapping does not restart the clock.
	since := s.signals.BadSince
	s.good()
	s.after(4*time.Minute, name)
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	s.after(7*time.Minute, name)
	notices := s.Services.Notices()
	if len(notices) != 1 || notices[0].Status != "investigating" {
		t.Fatalf("the status page has %+v", notices)
	}
	if text := notices[0].Updates[0].Body; strings.Contains(text, "internal") || !strings.Contains(text, since.UTC().Format("15:04")) {
		t.Errorf("the public reads %q", text)
	}
	// A second incident adds none.
	second := s.open("second", "{category: Outage, rollback: Never}")
	s.pass(second)
	s.after(40*time.Minute, second)
	s.expect(second, "Announced Unknown NotAnnounced")

	s.good()
	s.after(301*time.Second, name)
	notices = s.Services.Notices()
	if len(notices) != 1 || notices[0].Status != "resolved" {
		t.Errorf("the status page has %+v", notices)
	}
	s.expect(name, "Announced True Succeeded", "Ready True Succeeded")
	s.pass(second)
	s.expect(second, "Announced False NotNeeded", "Ready True Succeeded")
}
