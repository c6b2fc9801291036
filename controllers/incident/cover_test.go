package incident_test

import (
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// tickets are open reports of people that the signals of an outage raise from sev3.
func (s *scene) tickets(names ...string) (opened []string) {
	s.Helper()
	s.good()
	for _, name := range names {
		opened = append(opened, s.open(name, "{category: Unclassified, summary: "+name+"}"))
		s.pass(opened[len(opened)-1])
	}
	s.expectPages()
	s.offset += time.Minute
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	return opened
}

// One outage raises each ticket, and pages once. Whoever has the slot pages on, until somebody takes it on.
func TestTicketsThatRiseTogetherPageOnce(t *testing.T) {
	s := newScene(t, "cover")
	all := s.tickets("a", "b", "c")
	// Its pass comes before that of the one that has the slot.
	if again := s.pass(all[1]); again != time.Second {
		t.Errorf("it wants to come back after %s", again)
	}
	s.expectPages()
	s.pass(all[0])
	s.expectPages("oncall 1 triggered")
	for _, name := range all[1:] {
		s.pass(name)
		s.expect(name, "Escalated Unknown Paging")
		if got := s.message(name, "Escalated"); got != "Incident "+all[0]+" was paged for the same signals: /up answers "+
			"HTTP 502" {
			t.Errorf("it says %q", got)
		}
	}
	s.offset += 16 * time.Minute
	for _, name := range all {
		s.pass(name)
	}
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.expect(all[0], "ResponseOverdue none")
	s.expect(all[1], "ResponseOverdue none")
	// A person's own severity is theirs.
	own := s.open("own", "{category: Unclassified, severity: sev1}")
	s.pass(own)
	s.expectPages("oncall 1 triggered", "oncall 1 triggered", "owner 1 triggered")
	// It is over: whoever was covered pages nobody.
	s.good()
	s.pass(all[1])
	s.patch(all[0], `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(all[0])
	s.after(time.Minute, all[1])
	s.expectPages("oncall 1 resolved", "oncall 1 triggered", "owner 1 resolved")
	// It comes back. Nobody was paged for that.
	s.offset += time.Minute
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(all[1])
	s.expectPages("oncall 1 resolved", "oncall 1 triggered", "oncall 1 triggered", "owner 1 resolved")
}

// What covers a ticket must have paged, for these signals, and be open. Else the ticket pages.
func TestATicketThatNobodyCoversPages(t *testing.T) {
	for name, c := range map[string]struct {
		first func(s *scene, first string)
		after time.Duration
	}{
		// As where its manager hangs.
		"never-looked": {func(*scene, string) {}, 16 * time.Second},
		"not-accepted": {func(s *scene, first string) {
			s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 500})
			s.pass(first)
			s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{})
		}, 16 * time.Second},
		"lowered": {func(s *scene, first string) { s.patch(first, `{"spec":{"severity":"sev3"}}`); s.pass(first) }, 0},
		"closed": {func(s *scene, first string) {
			s.pass(first)
			s.patch(first, `{"spec":{"resolution":{"by":"dana"}}}`)
			s.pass(first)
		}, 0},
		"paged-before": {func(s *scene, first string) {
			s.pass(first)
			s.offset += time.Minute
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
		}, 16 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "cover-"+name)
			all := s.tickets("a", "b")
			c.first(s, all[0])
			s.pass(all[1])
			s.after(c.after, all[1])
			var mine int
			for _, page := range s.Services.Pages() {
				if strings.Contains(page.DedupKey, "/"+all[1]+"/") {
					mine++
				}
			}
			if mine != 1 || s.get(all[1]).Status.PagedAt == nil {
				t.Errorf("%d pages: %q", mine, s.pages())
			}
		})
	}
}
