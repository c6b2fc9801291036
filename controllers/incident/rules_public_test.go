package incident_test

import (
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

func TestRuleOnlySev1IsToldToThePublic(t *testing.T) {
	s := newScene(t, "rule-public-sev1")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	asked := s.open("asked", "{category: Outage, rollback: Never, notice: Publish}")
	s.pass(name)
	s.after(2*time.Hour, name)
	s.pass(asked)
	s.expect(name, "Announced Unknown NotAnnounced")
	s.expect(asked, "Announced Unknown NotAnnounced")
	if got := s.message(name, "Announced"); got != "the public is told of sev1 only" {
		t.Errorf("it says %q", got)
	}
	if got := len(s.Services.Notices()); got != 0 {
		t.Errorf("%d notices", got)
	}
}

func TestRuleThePublicIsToldOnlyWhereRelyingPartiesAreAffectedForMoreThanThirtyMinutes(t *testing.T) {
	s := newScene(t, "rule-public-30")
	unaffected := s.open("unaffected", "{category: Outage, severity: sev1, rollback: Never}")
	s.pass(unaffected)
	s.after(time.Hour, unaffected)
	s.expect(unaffected, "Announced Unknown NotAnnounced")
	s.patch(unaffected, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(unaffected)

	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	wait := s.pass(name)
	s.after(29*time.Minute, name)
	if got := len(s.Services.Notices()); got != 0 || wait == 0 {
		t.Errorf("%d notices after 29 minutes; it wanted to come back after %s", got, wait)
	}
	s.after(61*time.Second, name)
	if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "investigating" || got[0].Impact != "critical" {
		t.Errorf("after 30 minutes the status page has %+v", got)
	}
}

// What a person has the public told of confirms nothing: while the signals are good, a person closes it.
func TestRuleAReportThatThePublicIsToldOfStaysOpen(t *testing.T) {
	for _, publish := range []string{"at once", "later"} {
		t.Run(publish, func(t *testing.T) {
			s := newScene(t, "rule-report-"+strings.ReplaceAll(publish, " ", "-"))
			s.good()
			name := s.open("inc", "{category: Outage, severity: sev1, notice: "+
				map[string]string{"at once": "Publish", "later": "Automatic"}[publish]+"}")
			s.pass(name)
			s.patch(name, `{"spec":{"notice":"Publish"}}`)
			s.pass(name)
			s.expect(name, "Announced Unknown Published")
			s.after(time.Hour, name)
			s.expectPages("oncall 1 triggered", "owner 1 triggered")
			s.expect(name, "Mitigated Unknown NotConfirmed", "Announced Unknown Published")
			if status := s.get(name).Status; status.ConfirmedAt != nil || status.AffectedSince != nil {
				t.Errorf("it is confirmed by %q, and users are kept out since %v", status.ConfirmedBy, status.AffectedSince)
			}
			s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
			s.pass(name)
			s.expect(name, "Ready True Succeeded")
			if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" ||
				!strings.HasPrefix(got[0].Updates[0].Body, "Sign-in works again.") {
				t.Errorf("the public reads %+v", got)
			}
		})
	}
}

// Nobody tells the public that sign-in works while a signal says that it does not.
func TestRuleANoticeThatIsClosedDuringAnOutageDoesNotSayThatItIsOver(t *testing.T) {
	for how, end := range map[string]func(*scene, string){
		"deleted": func(s *scene, name string) {
			if err := admin.Delete(s.ctx, s.get(name)); err != nil {
				s.Fatal(err)
			}
		},
		"by-hand": func(s *scene, name string) { s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`) },
	} {
		t.Run(how, func(t *testing.T) {
			s := newScene(t, "rule-closed-"+how)
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
			name := s.open("inc", "{category: Outage, notice: Publish, outage: {rollback: Never}}")
			s.pass(name)
			s.expect(name, "Announced Unknown Published")
			end(s, name)
			s.pass(name)
			if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" ||
				!strings.HasPrefix(got[0].Updates[0].Body, "This notice is closed.") {
				t.Errorf("the public reads %+v", got)
			}
		})
	}
}

func TestRuleAWithheldNoticeIsNotPublished(t *testing.T) {
	s := newScene(t, "rule-withheld")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never, notice: Withhold}")
	s.pass(name)
	s.after(2*time.Hour, name)
	s.expect(name, "Announced Unknown NotAnnounced")
	if got := len(s.Services.Notices()); got != 0 {
		t.Errorf("%d notices", got)
	}
}

func TestRuleAPlatformHasOneNotice(t *testing.T) {
	s := newScene(t, "rule-one-notice")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	first := s.open("first", "{category: Outage, rollback: Never, notice: Publish}")
	second := s.open("second", "{category: Outage, rollback: Never, notice: Publish}")
	s.pass(first)
	s.pass(second)
	s.expect(second, "Announced Unknown NotAnnounced")
	if got := s.message(second, "Announced"); !strings.Contains(got, first) {
		t.Errorf("it says %q", got)
	}
	if got := len(s.Services.Notices()); got != 1 {
		t.Errorf("%d notices", got)
	}
	// Once the first is over, and it is still down, the second tells the public.
	s.patch(first, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(first)
	s.after(61*time.Second, second)
	notices := s.Services.Notices()
	if len(notices) != 2 || notices[0].Status != "resolved" || notices[1].Status != "investigating" {
		t.Errorf("the status page has %+v", notices)
	}
}

func TestRuleANoticeOfAnIncidentThatIsGoneIsTakenOver(t *testing.T) {
	s := newScene(t, "rule-orphaned-notice")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	first := s.open("first", "{category: Outage, rollback: Never, notice: Publish}")
	s.pass(first)
	// As where nobody could reach the status page for a minute after it was deleted.
	if err := admin.Delete(s.ctx, s.get(first)); err != nil {
		t.Fatal(err)
	}
	s.patch(first, `{"metadata":{"finalizers":null}}`)
	second := s.open("second", "{category: Outage, rollback: Never, notice: Publish}")
	s.pass(second)
	s.expect(second, "Announced Unknown Published")
	s.good()
	s.after(6*time.Minute, second)
	notices := s.Services.Notices()
	if len(notices) != 1 || notices[0].Status != "resolved" {
		t.Errorf("the status page has %+v", notices)
	}
	if got := s.platform().Status.Notice; got != nil {
		t.Errorf("the Platform's notice is taken by %+v", got)
	}
}
