package incident_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// counter counts requests by their path.
type counter struct {
	next http.RoundTripper

	mu   sync.Mutex
	seen map[string]int
}

func (c *counter) RoundTrip(request *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.seen[request.URL.Path]++
	c.mu.Unlock()
	return c.next.RoundTrip(request)
}

// looks are how often /up, tokens and JWKS were asked.
func (c *counter) looks() [3]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return [3]int{c.seen["/up"], c.seen["/oauth/token"], c.seen["/.well-known/jwks.json"]}
}

func countRequests(s *scene) *counter {
	c := &counter{next: outbound.NewTransport(), seen: map[string]int{}}
	s.transport = c
	return c
}

// Without probes triage asks itself, once, as the playbook's first line does. One look neither confirms, acts nor
// closes.
func TestTriageWithoutProbesLooksOnceAndThatDecidesNothing(t *testing.T) {
	s := newScene(t, "triage-alone")
	requests := countRequests(s)
	s.spec(`{"probes":null}`)
	s.Server.Render().BreakCommit("bad", logi.Breakage{Tokens: true, JWKS: true})
	s.Server.Render().Push(logi.WebService, "bad")
	name := s.open("inc", "{category: Outage, summary: customers call}")
	s.pass(name)
	s.expect(name, "Triaged True Succeeded", "RolledBack Unknown WaitingForApproval", "Mitigated Unknown NotConfirmed")
	health := s.get(name).Status.Triage.Health
	for _, want := range []string{"no spec.probes", "/up answers HTTP 502", "/oauth/token answers HTTP 502",
		"jwks.json answers HTTP 502"} {
		if !strings.Contains(health, want) {
			t.Errorf("triage does not say %q: %q", want, health)
		}
	}
	s.after(time.Hour, name)
	// The platform is well again, and nobody can tell.
	s.Server.Render().DeployCommit(logi.WebService, "good")
	s.after(time.Hour, name)
	if got := requests.looks(); got != [3]int{1, 1, 1} {
		t.Errorf("/up, tokens and JWKS were asked %v times", got)
	}
	s.expect(name, "Mitigated Unknown NotConfirmed", "Resolved Unknown Pending")
	if got := s.get(name).Status; got.ConfirmedAt != nil || got.Severity != v1alpha1.Sev2 || got.Notice != nil {
		t.Errorf("confirmed at %v, %s, notice %+v", got.ConfirmedAt, got.Severity, got.Notice)
	}
	s.untouched("good")
	s.expectPages("oncall 1 triggered")
	if got := s.Services.Notices(); len(got) != 0 {
		t.Errorf("the public was told %+v", got)
	}
}

// A look that good answers come from closes nothing either.
func TestTriageThatFindsAllWellClosesNothing(t *testing.T) {
	s := newScene(t, "triage-well")
	s.spec(`{"probes":null}`)
	name := s.open("inc", "{category: Outage, severity: sev1}")
	s.pass(name)
	s.after(14*time.Minute, name)
	s.expect(name, "Triaged True Succeeded", "Mitigated Unknown NotConfirmed", "Escalated Unknown Paging")
	s.expectPages("oncall 1 triggered")
	s.untouched("good")
}

// Where the platform is probed triage reads what the probes say, and asks nothing itself.
func TestTriageOfAProbedPlatformAsksNothingItself(t *testing.T) {
	s := newScene(t, "triage-probed")
	requests := countRequests(s)
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	if got := s.get(name).Status.Triage.Health; got != "sev1: /up answers HTTP 502" {
		t.Errorf("it says %q", got)
	}
	if got := requests.looks(); got != [3]int{} {
		t.Errorf("/up, tokens and JWKS were asked %v times", got)
	}
}
