package incident_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// What was seen when people tried it, each by its number.

// sees sets the signals.
func (s *scene) sees(each ...signals.Signal) { s.signals = signals.Signals{Each: each} }

// signal that is so since now.
func (s *scene) signal(condition string, state metav1.ConditionStatus, severity v1alpha1.Severity) signals.Signal {
	signal := signals.Signal{Condition: condition, State: state, Severity: severity, Message: condition + " is " +
		string(state), Since: s.clock()}
	if state == metav1.ConditionFalse {
		signal.Ground, signal.BadFrom, signal.EnoughFrom = severity == v1alpha1.Sev1, s.clock(), s.clock()
	}
	return signal
}

// live is the commit that Render has live.
func (s *scene) live() string {
	s.Helper()
	api := render.New(s.URL()+logi.RenderPath, s.Server.Render().Key(), outbound.NewTransport())
	deploys, err := api.History(s.ctx, logi.WebService)
	if err != nil {
		s.Fatal(err)
	}
	if live := render.Live(deploys); live != nil {
		return live.Commit
	}
	return "none"
}

// untouched fails where Render was told anything, or another commit than this is live.
func (s *scene) untouched(live string) {
	s.Helper()
	r := s.Server.Render()
	if got := r.Counts(); got.Rollbacks != 0 || got.AutoDeployPatches != 0 || got.Jobs != 0 {
		s.Errorf("Render was told %+v", got)
	}
	if got := s.live(); got != live || !r.AutoDeploy(logi.WebService) {
		s.Errorf("%s is live, want %s; auto-deploy is on: %t", got, live, r.AutoDeploy(logi.WebService))
	}
}

// spec patches the Platform's.
func (s *scene) spec(merge string) {
	s.Helper()
	if _, err := w.Kubectl(s.ctx, "-n", world.Namespace, "patch", "platform", s.Name, "--type=merge", "-p",
		`{"spec":`+merge+`}`); err != nil {
		s.Fatal(err)
	}
}

// row is what `kubectl get` prints of an Incident, each run of spaces as one.
func (s *scene) row(name string) string {
	s.Helper()
	out, err := w.Kubectl(s.ctx, "get", "incident", name, "-n", world.Namespace, "--no-headers")
	if err != nil {
		s.Fatal(err)
	}
	return strings.Join(strings.Fields(out), " ")
}

// warned says whether a Warning event of a reason contains all of the texts.
func (s *scene) warned(name, reason string, texts ...string) bool {
	s.Helper()
	s.said(name)
	return slices.ContainsFunc(s.events, func(e string) bool {
		return strings.HasPrefix(e, "Warning "+reason+" ") &&
			!slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(e, text) })
	})
}

// tryPass is one pass, which may fail.
func (s *scene) tryPass(name string) error {
	key := types.NamespacedName{Namespace: world.Namespace, Name: name}
	_, err := s.manager().Reconcile(s.ctx, ctrl.Request{NamespacedName: key})
	return err
}

// 1. A ticket about a merge rolled production back, a moment after a healthy deploy: the signals were not known.
func TestATicketAboutAMergeRollsNothingBack(t *testing.T) {
	s := newScene(t, "seen-merge")
	s.Server.Render().Push(logi.WebService, "healthy")
	for _, probes := range []string{"unanswered", "none"} {
		if probes == "none" {
			s.spec(`{"probes":null}`)
		}
		name := s.open(probes, `{category: MergeInconsistency, severity: sev3, affected: {userIDs: ["12"]}}`)
		s.pass(name)
		s.after(time.Hour, name)
		s.expect(name, "RolledBack none", "Resolved Unknown AwaitingResolution", "Ready False AwaitingResolution")
		s.untouched("healthy")
		s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
		s.pass(name)
		s.expect(name, "Ready True Succeeded")
	}
	s.untouched("healthy")
	s.expectPages()
}

// 2. What a person reported as sev1 was resolved 34 ms later, since all signals were good.
func TestWhatAPersonReportsStaysOpenWhileAllSignalsAreGood(t *testing.T) {
	s := newScene(t, "seen-good")
	s.Server.Render().Push(logi.WebService, "healthy")
	s.good()
	s.offset = time.Hour // good for long
	specs := map[v1alpha1.IncidentCategory]string{
		v1alpha1.CategoryUnclassified: "", v1alpha1.CategoryOutage: "", v1alpha1.CategoryWebhookDelivery: "",
		v1alpha1.CategoryMergeInconsistency: `, affected: {userIDs: ["12"]}`, v1alpha1.CategoryKeyMismatch: "",
		v1alpha1.CategoryKeyExposure: `, affected: {applicationIDs: ["42"], kid: whk_1}`,
	}
	names := map[v1alpha1.IncidentCategory]string{}
	for category, more := range specs {
		name := s.open(strings.ToLower(string(category)), fmt.Sprintf("{category: %s, severity: sev1%s}", category, more))
		names[category] = name
		s.pass(name)
	}
	triggered := slices.Repeat([]string{"oncall 1 triggered"}, len(specs))
	s.expectPages(triggered...)
	s.offset += 10 * time.Minute // longer than clearSeconds
	for category, name := range names {
		s.pass(name)
		s.expect(name, "Escalated Unknown Paging")
		if obj := s.get(name); obj.Status.ResolvedAt != nil || obj.Status.ConfirmedAt != nil {
			t.Errorf("%s: resolved at %v, confirmed at %v", category, obj.Status.ResolvedAt, obj.Status.ConfirmedAt)
		}
		if got := s.message(name, "Ready"); !strings.Contains(got, "kubectl -n "+world.Namespace+" patch incident "+name) {
			t.Errorf("%s: the row has no command: %q", category, got)
		}
	}
	s.expectPages(triggered...)
	s.untouched("healthy")
	for _, name := range names {
		s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
		s.pass(name)
		s.expect(name, "Resolved True Succeeded", "Ready True Succeeded")
	}
	s.expectPages(slices.Repeat([]string{"oncall 1 resolved"}, len(specs))...)
	if got := s.Services.Notices(); len(got) != 0 {
		t.Errorf("the public was told %+v", got)
	}
}

// 3. An Outage that a person applied before the third failing look ended as sev3, with nobody paged, and the
// platform stayed down.
func TestAnOutageThatIsReportedBeforeItIsSeenIsPagedAndRolledBack(t *testing.T) {
	s := newScene(t, "seen-early")
	s.good()
	s.Server.Render().BreakCommit("bad", logi.Breakage{})
	s.Server.Render().Push(logi.WebService, "bad")
	name := s.open("inc", "{category: Outage}")
	s.pass(name)
	if got := s.severity(name); got != v1alpha1.Sev2 {
		t.Errorf("it is %s", got)
	}
	s.expectPages("oncall 1 triggered")
	s.untouched("bad")
	s.expect(name, "RolledBack Unknown WaitingForApproval", "Mitigated Unknown NotConfirmed",
		"Ready False WaitingForApproval")
	// The third look fails.
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.live(); got != "good" {
		t.Errorf("%s is live", got)
	}
	s.expectPages("oncall 1 triggered", "oncall 1 triggered")
	s.good()
	s.after(301*time.Second, name)
	s.expect(name, "Resolved True Succeeded")
	s.expectPages("oncall 1 resolved", "oncall 1 resolved")
}

// 4. With an Incident about webhooks open, nothing was done about an outage.
func TestAnIncidentAboutWebhooksHoldsUpNoOutage(t *testing.T) {
	s := newScene(t, "seen-beside")
	webhooks := s.signal(v1alpha1.ConditionWebhooksDelivered, metav1.ConditionFalse, v1alpha1.Sev2)
	s.sees(s.signal(v1alpha1.ConditionUpAnswers, metav1.ConditionTrue, ""), webhooks)
	ticket := s.open("webhooks", "{category: WebhookDelivery, severity: sev3}")
	s.pass(ticket)
	s.expectPages()
	name := s.regression("inc", "{category: Outage}")
	s.signals.Each = append(s.signals.Each, webhooks)
	s.pass(ticket)
	s.until(name, "RolledBack True Succeeded")
	s.pass(ticket)
	s.rollbacks(1)
	s.expectPages("oncall 1 triggered")
	s.expect(ticket, "RolledBack none", "Resolved Unknown AwaitingResolution")
}

// 4. An acknowledged sev2 that rose to sev1 paged nobody again.
func TestAnAcknowledgedSev2ThatRisesPagesAgain(t *testing.T) {
	s := newScene(t, "seen-rise")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage, summary: login is slow, outage: {rollback: Never}}")
	s.pass(name)
	s.patch(name, `{"spec":{"acknowledgement":{"by":"dana"}}}`)
	s.pass(name)
	s.expectPages("oncall 1 acknowledged")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	s.expectPages("oncall 1 acknowledged", "oncall 1 triggered")
	if !slices.ContainsFunc(s.Services.Pages(), func(p logi.Page) bool {
		return strings.HasSuffix(p.Summary, ": login is slow; /up answers HTTP 502")
	}) {
		t.Errorf("the pages are %+v", s.Services.Pages())
	}
	s.after(15*time.Minute+time.Second, name)
	s.expectPages("oncall 1 acknowledged", "oncall 1 triggered", "owner 1 triggered")
}

// 5. After a ticket that was applied and closed, a rollback skipped the last good commit, or found none to go back to.
func TestATicketThatWasClosedMakesNoCommitUnfit(t *testing.T) {
	for name, c := range map[string]struct {
		ticket string
		older  bool
	}{
		"user":       {`{severity: sev3, affected: {userIDs: ["12"]}}`, true},
		"outage":     {"{category: Outage, severity: sev3}", true},
		"none-older": {`{severity: sev3, affected: {userIDs: ["12"]}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "seen-ticket-"+name)
			r := s.Server.Render()
			if !c.older {
				r.Forget()
			}
			r.AddDeploy(logi.WebService, "last-good", "live", "new_commit", time.Now().Add(-2*time.Minute))
			s.good()
			ticket := s.open("ticket", c.ticket)
			s.pass(ticket)
			s.patch(ticket, `{"spec":{"resolution":{"by":"dana"}}}`)
			s.pass(ticket)
			s.expect(ticket, "Ready True Succeeded")
			s.untouched("last-good")
			inc := s.regression("inc", "{category: Outage}")
			s.until(inc, "RolledBack True Succeeded")
			s.rollbacks(1)
			if got := s.live(); got != "last-good" {
				t.Errorf("%s is live", got)
			}
		})
	}
}

// 6. A deploy that seemed to end after the first bad look was called live at the onset, for good, and the
// platform stayed down.
func TestADeployThatEndsAfterTheFirstBadLookIsSuspected(t *testing.T) {
	s := newScene(t, "seen-skew")
	r := s.Server.Render()
	first := s.clock().Add(-4 * time.Second)
	id := r.AddDeploy(logi.WebService, "bad", "update_in_progress", "new_commit", first.Add(-time.Minute))
	r.SetDeployStatus(logi.WebService, id, "live") // 4 s after the first bad look
	bad := s.signal(v1alpha1.ConditionUpAnswers, metav1.ConditionFalse, v1alpha1.Sev1)
	bad.Since, bad.BadFrom, bad.EnoughFrom = first, first, first
	s.sees(bad)
	name := s.open("inc", "{category: Outage}")
	s.pass(name)
	// Only looks after it went live count.
	s.rollbacks(0)
	s.expect(name, "RolledBack Unknown NoSuspect")
	s.offset += 10 * time.Second
	bad.EnoughFrom = s.clock()
	s.sees(bad)
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.live(); got != "good" {
		t.Errorf("%s is live", got)
	}
}

// 6. The same where the first bad look fell into the deploy's update.
func TestADeployThatIsUnderWayAtTheOnsetIsSuspectedOnceItIsLive(t *testing.T) {
	s := newScene(t, "seen-update")
	r := s.Server.Render()
	first := s.clock().Add(-10 * time.Minute)
	id := r.AddDeploy(logi.WebService, "bad", "update_in_progress", "new_commit", first.Add(-time.Minute))
	bad := s.signal(v1alpha1.ConditionUpAnswers, metav1.ConditionFalse, v1alpha1.Sev1)
	bad.Since, bad.BadFrom, bad.EnoughFrom = first, first, first.Add(20*time.Second)
	s.sees(bad)
	name := s.open("inc", "{category: Outage}")
	s.pass(name)
	s.rollbacks(0)
	s.expect(name, "RolledBack Unknown WaitingForDeploy", "Ready False WaitingForDeploy")
	// It takes longer than anything that goes live by itself could be suspected.
	r.SetDeployStatus(logi.WebService, id, "live")
	s.offset += 2 * time.Minute
	bad.EnoughFrom = s.clock()
	s.sees(bad)
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.live(); got != "good" {
		t.Errorf("%s is live", got)
	}
}

// 6. The same where a short flap came before the deploy that breaks it.
func TestAFlapBeforeTheDeployHidesItNot(t *testing.T) {
	s := newScene(t, "seen-flap")
	s.Server.Render().Push(logi.WebService, "bad")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.signals.Each[0].Since = s.clock().Add(-20 * time.Minute)
	name := s.open("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.live(); got != "good" {
		t.Errorf("%s is live", got)
	}
}
