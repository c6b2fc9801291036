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
