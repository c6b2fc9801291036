package incident_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func (s *scene) expectRow(name string, texts ...string) {
	s.Helper()
	got := s.row(name)
	for _, text := range texts {
		if !strings.Contains(got, text) {
			s.Errorf("the row of %s does not say %q: %s", name, text, got)
		}
	}
}

// What only a person can mend while the platform is down is what the row says.
func TestTheRowSaysWhatKeepsARollbackBack(t *testing.T) {
	for what, c := range map[string]struct {
		prepare func(*scene)
		spec    string
		says    []string
	}{
		"render-secret": {func(s *scene) { s.removeSecret("render") }, "{category: Outage}",
			[]string{"SecretUnusable", "nothing is rolled back: there is no Secret"}},
		"observe-only": {func(s *scene) { s.applyPlatform("  automation: ObserveOnly") }, "{category: Outage}",
			[]string{"AutomationOff", "/up answers HTTP 502; rolling web back from ", "is ObserveOnly"}},
		"approval-too": {func(s *scene) { s.applyPlatform("  automation: ObserveOnly") },
			"{category: Outage, outage: {rollback: Approval}}",
			[]string{"WaitingForApproval", "/up answers HTTP 502; rolling web back", "is ObserveOnly, too"}},
		"never": {func(*scene) {}, "{category: Outage, outage: {rollback: Never}}",
			[]string{"RollbackWithheld", "/up answers HTTP 502; rolling web back from ", "(bad) to ",
				"is left to a person: spec.outage.rollback is Never"}},
		"never-unread": {func(s *scene) { s.removeSecret("render") }, "{category: Outage, outage: {rollback: Never}}",
			[]string{"RollbackWithheld", "/up answers HTTP 502. Nothing is rolled back: spec.outage.rollback is Never. Which " +
				"deploy is suspected could not be read"}},
	} {
		t.Run(what, func(t *testing.T) {
			s := newScene(t, "row-"+what)
			c.prepare(s)
			name := s.regression("inc", c.spec)
			s.pass(name)
			s.after(61*time.Second, name)
			s.expectRow(name, c.says...)
			s.rollbacks(0)
		})
	}
}

// An approval of which nothing comes, since another deploy is live, is not dropped in silence.
func TestTheRowSaysThatAnApprovalIsNotUsed(t *testing.T) {
	s := newScene(t, "row-unused")
	name := s.regression("inc", "{category: Outage, outage: {rollback: Approval}}")
	s.pass(name)
	digest := s.get(name).Status.Rollback.Digest
	// What was pushed since may be the fix.
	s.Server.Render().BreakCommit("fix", logi.Breakage{})
	s.Server.Render().AddDeploy(logi.WebService, "fix", "live", "manual", s.clock().Add(time.Second))
	s.offset += 10 * time.Second
	s.signals.Each[0].EnoughFrom = s.clock()
	s.patch(name, `{"spec":{"approvals":[{"step":"RolledBack","digest":"`+digest+`","by":"dana"}]}}`)
	s.pass(name)
	s.after(time.Minute, name)
	s.expectRow(name, "NoSuspect", "/up answers HTTP 502; no deploy is suspected")
	if !s.warned(name, v1alpha1.ReasonWaitingForApproval, "the approval of "+digest+" by dana is not used") {
		t.Errorf("the events are %q", s.events)
	}
	s.rollbacks(0)
}

// A page that nobody took on yet is taken on before the Incident is closed. A ticket says what it is about.
func TestTheRowSaysWhatToDoNow(t *testing.T) {
	s := newScene(t, "row-now")
	s.good()
	report := s.open("report", "{category: Outage, severity: sev1}")
	ticket := s.open("ticket", "{category: MergeInconsistency, affected: {userIDs: ['12']}, summary: user 12 sees no "+
		"data}")
	s.pass(report)
	s.pass(ticket)
	s.expectRow(report, "NotConfirmed", `to take it on, kubectl`, `"acknowledgement"`, "to close it, kubectl")
	s.expectRow(ticket, "AwaitingResolution user 12 sees no data: the probes can't tell when it is over")
	s.patch(report, `{"spec":{"acknowledgement":{"by":"kim","severity":"sev1"}}}`)
	s.pass(report)
	if got := s.row(report); strings.Contains(got, "acknowledgement") || !strings.Contains(got, `"resolution"`) {
		t.Errorf("the row is %s", got)
	}
}

// Another Outage beside one that acts names it.
func TestTheRowOfAnotherOutageNamesTheFirst(t *testing.T) {
	s := newScene(t, "row-second")
	s.Server.Render().SetFaults(logi.RenderFault{Status: http.StatusServiceUnavailable})
	first := s.regression("first", "{category: Outage}")
	s.pass(first)
	second := s.open("second", "{category: Outage}")
	s.pass(second)
	s.after(time.Minute, second)
	s.expectRow(second, "WaitingForOther", "Incident "+first+" of the same category is open, and acts")
}
