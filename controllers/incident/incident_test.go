package incident_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestABadDeployIsPagedRolledBackAndResolved(t *testing.T) {
	s := newScene(t, "regression")
	r := s.Server.Render()
	r.SetRollbackDelay(5 * time.Second)
	r.BreakCommit("bad", logi.Breakage{})
	bad := r.Push(logi.WebService, "bad")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage}")

	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.expect(name, "Classified True Succeeded", "Escalated Unknown Paging", "Triaged True Succeeded",
		"RolledBack Unknown RollingBack", "Ready False RollingBack")
	if r.AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is on")
	}
	s.until(name, "RolledBack True Succeeded")
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
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
	s.expect(name, "Mitigated True Succeeded", "Resolved True Succeeded", "Escalated True Succeeded",
		"Acknowledged False NotNeeded",
		"Announced False NotNeeded", "AutoDeployRestored Unknown AwaitingFix", "Ready False AwaitingFix")
	s.expectPages("oncall 1 resolved")

	// The fix is pushed, and deployed by hand, since auto-deploy is off.
	r.DeployCommit(logi.WebService, "fix")
	s.after(time.Minute, name)
	s.expect(name, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
	if got := s.message(name, "Ready"); got != "resolved, the signals stayed good" {
		t.Errorf("the finished row says %q", got)
	}
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
	s.expect(name, "Escalated Unknown Acknowledged", "Acknowledged True Succeeded")
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

	// It gets worse: a new round, by another alert.
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	s.expectPages("oncall 1 triggered", "oncall 1 triggered")
	s.after(15*time.Minute+time.Second, name)
	s.expectPages("oncall 1 triggered", "oncall 1 triggered", "owner 1 triggered")
	if got := s.get(name).Status.Severity; got != v1alpha1.Sev1 {
		t.Errorf("the severity is %s", got)
	}
	if got := s.message(name, "Classified"); got != "sev1: /up answers HTTP 502" {
		t.Errorf("it is classified as %q", got)
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
	since := s.signals.BadSince()
	s.good()
	s.after(4*time.Minute, name)
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	s.after(7*time.Minute, name)
	notices := s.Services.Notices()
	if len(notices) != 1 || notices[0].Status != "investigating" {
		t.Fatalf("the status page has %+v", notices)
	}
	if text := notices[0].Updates[0].Body; strings.Contains(text, "internal") ||
		!strings.Contains(text, since.UTC().Format("15:04")) {
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
	if len(notices) != 1 || notices[0].Status != "resolved" || notices[0].Name != "Sign-in was unavailable" {
		t.Errorf("the status page has %+v", notices)
	}
	// The signals had to stay good for five minutes. That time is no part of the outage.
	if status := s.get(name).Status; !status.Notice.ResolvedAt.Equal(status.MitigatedAt) {
		t.Errorf("the public reads that it lasted until %s, and the signals are good since %s", status.Notice.ResolvedAt,
			status.MitigatedAt)
	}
	s.expect(name, "Announced True Succeeded", "Ready True Succeeded")
	s.pass(second)
	s.expect(second, "Announced False NotNeeded", "Ready True Succeeded")
}

// regression makes a bad deploy, and opens an Incident of it.
func (s *scene) regression(name, spec string) string {
	s.Helper()
	s.Server.Render().BreakCommit("bad", logi.Breakage{})
	s.Server.Render().Push(logi.WebService, "bad")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	return s.open(name, spec)
}

func (s *scene) rollbacks(want int) {
	s.Helper()
	if got := s.Server.Render().Counts().Rollbacks; got != want {
		s.Errorf("Render was told to roll back %d times, want %d", got, want)
	}
}

func TestTwoIncidentsAtOnceRollBackOnce(t *testing.T) {
	s := newScene(t, "two")
	first := s.regression("first", "{category: Outage}")
	second := s.open("second", "{category: Outage}")
	s.pass(first)
	s.pass(second)
	s.until(first, "RolledBack True Succeeded")
	s.expect(second, "RolledBack Unknown WaitingForOther")
	s.rollbacks(1)
	s.good()
	s.after(301*time.Second, first)
	s.pass(second)
	s.expect(second, "RolledBack False NotNeeded", "Ready True Succeeded")
	// Within the window of a new onset, and an hour after the first: the rollback itself is no suspect.
	s.offset += time.Hour
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	third := s.open("third", "{category: Outage}")
	s.pass(third)
	s.expect(third, "RolledBack Unknown NoSuspect")
	s.rollbacks(1)
}

func TestARollbackWhoseAnswerWasLostIsReadFromTheDeploys(t *testing.T) {
	s := newScene(t, "lost-rollback")
	s.Server.Render().SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", AfterEffect: true, Refuse: true,
		Times: 1})
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.expect(name, "RolledBack Unknown RollingBack")
	s.pass(name)
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
}

func TestARollbackThatMayNotHaveArrivedIsNotAskedForAgain(t *testing.T) {
	s := newScene(t, "unknown-rollback")
	s.Server.Render().SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", Status: 500, Times: 1})
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.after(31*time.Second, name)
	s.expect(name, "RolledBack False OutcomeUnknown", "Stalled True OutcomeUnknown", "Escalated Unknown Paging")
	s.rollbacks(0)
	// People are paged on, and the public is told, all the same.
	s.after(16*time.Minute, name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.after(16*time.Minute, name)
	s.expect(name, "Announced Unknown Published")
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.after(time.Second, name)
	s.until(name, "Ready True Succeeded")
	s.rollbacks(0)
	if !s.Server.Render().AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is off")
	}
}

func TestARollbackThatRenderRefusesStalls(t *testing.T) {
	s := newScene(t, "refused-rollback")
	s.Server.Render().SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", Status: 400,
		Body: `{"message":"this deploy can't be rolled back to"}`, Times: 1})
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.expect(name, "RolledBack False Refused", "Stalled True Refused")
	s.patch(name, `{"metadata":{"annotations":{"playbook.1pass.dev/requestedAt":"again"}}}`)
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
}

func TestARollbackThatDoesNotHelpSaysSoAndIsNotRepeated(t *testing.T) {
	s := newScene(t, "unhelpful")
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	at := s.get(name).Status.RolledBackAt
	wait := s.after(2*time.Minute, name)
	if wait > time.Minute {
		t.Errorf("it wants to come back after %s", wait)
	}
	until := at.Add(150 * time.Second).UTC().Format(time.RFC3339)
	s.expectRow(name, "AwaitingMitigation", "web is back at good since "+at.UTC().Format(time.RFC3339)+"; still bad: "+
		"/up answers HTTP 502. If that stays so until "+until+", the rollback did not help.")
	s.after(time.Minute, name)
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	if got := s.message(name, "Mitigated"); !strings.HasPrefix(got, "the rollback did not help: /up answers HTTP 502") {
		t.Errorf("it says %q", got)
	}
	s.after(15*time.Minute, name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.rollbacks(1)
}

func TestAnApprovalIsForTheExactPair(t *testing.T) {
	s := newScene(t, "approval")
	name := s.regression("inc", "{category: Outage, rollback: Approval}")
	s.pass(name)
	s.expect(name, "RolledBack Unknown WaitingForApproval")
	s.rollbacks(0)
	s.patch(name, `{"spec":{"approvals":[{"step":"RolledBack","digest":"sha256:`+strings.Repeat("0",
		64)+`","by":"dana"}]}}`)
	s.pass(name)
	s.expect(name, "RolledBack Unknown WaitingForApproval")
	if got := s.message(name, "RolledBack"); !strings.Contains(got, "another pair") {
		t.Errorf("it says %q", got)
	}
	s.approve(name)
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
}

// Render promises no order, and lists a hundred deploys at a time.
func TestTriageHasTheLastFiveOfManyDeploys(t *testing.T) {
	s := newScene(t, "five")
	var ids []string
	for i := range 120 {
		ids = append(ids, s.Server.Render().AddDeploy(logi.WebService, fmt.Sprint("c", i), "build_failed", "new_commit",
			time.Now().Add(time.Duration(i-300)*time.Minute)))
	}
	s.good()
	name := s.open("inc", "{category: KeyMismatch}")
	s.pass(name)
	deploys := s.get(name).Status.Triage.Deploys
	for i, want := range []int{119, 118, 117, 116, 115} {
		if len(deploys) != 5 || deploys[i].ID != ids[want] || deploys[i].Commit != fmt.Sprint("c", want) ||
			deploys[i].Status != "build_failed" || deploys[i].CreatedAt == nil {
			t.Fatalf("status.triage has %+v", deploys)
		}
	}
	if got := s.get(name).Status.Triage.Services; len(got) != 1 || got[0] != (v1alpha1.TriagedService{Name: "web",
		State: "Running"}) {
		t.Errorf("status.triage has %+v", got)
	}
}

func TestOnlyAFixWithGoodSignalsBringsAutoDeployBack(t *testing.T) {
	s := newScene(t, "fix")
	r := s.Server.Render()
	r.AddDeploy(logi.WebService, "older", "live", "new_commit", time.Now().Add(-20*time.Hour))
	r.AddDeploy(logi.WebService, "good", "live", "manual", time.Now().Add(-9*time.Hour))
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.good()
	s.after(301*time.Second, name)
	for _, commit := range []string{"bad", "good", "older"} {
		r.DeployCommit(logi.WebService, commit)
		s.after(time.Minute, name)
		s.expect(name, "AutoDeployRestored Unknown AwaitingFix")
	}
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	r.DeployCommit(logi.WebService, "fix")
	s.after(time.Minute, name)
	s.expect(name, "AutoDeployRestored Unknown AwaitingFix")
	if r.AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is on")
	}
	s.good()
	s.after(299*time.Second, name)
	s.expect(name, "AutoDeployRestored Unknown AwaitingFix")
	s.after(2*time.Second, name)
	s.expect(name, "AutoDeployRestored True Succeeded", "Ready True Succeeded")
	if !r.AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is off")
	}
}

func TestAutoDeployThatWasOffStaysOff(t *testing.T) {
	s := newScene(t, "was-off")
	r := s.Server.Render()
	r.BreakCommit("bad", logi.Breakage{})
	bad := r.DeployCommit(logi.WebService, "bad")
	if err := render.New(s.URL()+logi.RenderPath, r.Key(), nil).SetAutoDeploy(s.ctx, logi.WebService, false); err != nil {
		t.Fatal(err)
	}
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.good()
	s.after(301*time.Second, name)
	s.expect(name, "AutoDeployRestored False NotNeeded", "Ready True Succeeded")
	if got := r.Counts(); r.AutoDeploy(logi.WebService) || got.AutoDeployPatches != 1 || got.Rollbacks != 1 {
		t.Errorf("auto-deploy is on: %t; Render was told %+v", r.AutoDeploy(logi.WebService), got)
	}
	if got := s.message(name, "RolledBack"); !strings.Contains(got, "Suspected: commit bad; to investigate: git log "+
		"good..bad") {
		t.Errorf("after leaving %s it says %q", bad, got)
	}
}

func TestObserveOnlyReadsAndPagesAndChangesNothing(t *testing.T) {
	s := newScene(t, "observe-only")
	s.applyPlatform("  automation: ObserveOnly")
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.expect(name, "Triaged True Succeeded", "RolledBack Unknown AutomationOff")
	s.after(31*time.Minute, name)
	if got := len(s.Services.Notices()); got != 0 {
		t.Errorf("%d notices", got)
	}
	if got := s.Server.Render().Counts(); got.Rollbacks+got.AutoDeployPatches != 0 {
		t.Errorf("Render was told %+v", got)
	}
}

func TestAnIncidentThatIsDeletedTakesBackItsPageAndNotice(t *testing.T) {
	s := newScene(t, "deleted")
	name := s.regression("inc", "{category: Outage, notice: Publish}")
	s.until(name, "RolledBack True Succeeded")
	s.expectPages("oncall 1 triggered")
	s.expect(name, "Announced Unknown Published")
	if err := admin.Delete(s.ctx, s.get(name)); err != nil {
		t.Fatal(err)
	}
	s.pass(name)
	s.expectPages("oncall 1 resolved")
	if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" {
		t.Errorf("the status page has %+v", got)
	}
	if s.Server.Render().AutoDeploy(logi.WebService) {
		t.Error("auto-deploy is on")
	}
	p := s.platform()
	if len(p.Status.Rollbacks) != 1 || p.Status.Rollbacks[0].AutoDeploy != v1alpha1.AutoDeployOff ||
		p.Status.Notice != nil {
		t.Errorf("the Platform's status is %+v", p.Status)
	}
}

func TestRenderThatDoesNotAnswerHoldsUpNoPage(t *testing.T) {
	s := newScene(t, "render-down")
	s.Server.Render().SetFaults(logi.RenderFault{Status: 503})
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.expect(name, "Triaged Unknown Retrying")
	s.after(61*time.Second, name)
	s.expect(name, "Triaged True Succeeded", "RolledBack Unknown Retrying")
	s.after(15*time.Minute, name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.Server.Render().SetFaults()
	s.until(name, "RolledBack True Succeeded")
}

func TestADeadlineThatPassedWhileNobodyLookedIsHonouredLateAndItIsSaid(t *testing.T) {
	s := newScene(t, "late")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.after(10*time.Minute, name)
	s.expectPages("oncall 1 triggered")
	timeline := s.get(name).Status.Timeline
	if !slices.ContainsFunc(timeline, func(e v1alpha1.TimelineEntry) bool {
		return strings.Contains(e.Text, ", 10 min") && strings.HasSuffix(e.Text, " late")
	}) {
		t.Errorf("the timeline does not say how late the page was: %+v", timeline)
	}
}
