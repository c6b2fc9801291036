package signals

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

func everything(message string) map[string]platformapi.Look {
	slow := platformapi.Look{Verdict: platformapi.Bad, Down: true, Message: message, Answered: true, Took: time.Minute}
	return map[string]platformapi.Look{"up": slow, "tokens": slow, "jwks": slow, "/login": slow, "/userinfo": slow}
}

// A mistyped URL is no outage, however long it is asked.
func TestWhatWasNeverGoodIsUnknown(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	s := c.rounds(60, everything("it does not answer: the host's name does not exist"))
	if s.Severity() != "" || s.Because() != "" || s.Down() || !s.BadSince().IsZero() || s.lingering() ||
		!s.ClearSince().IsZero() || len(s.endpoints) != 0 {
		t.Errorf("%+v", s)
	}
	for _, signal := range s.Each {
		if signal.Condition == v1alpha1.ConditionWebhooksDelivered {
			continue
		}
		if signal.State != metav1.ConditionUnknown || signal.Ground || !signal.BadFrom.IsZero() ||
			!signal.EnoughFrom.IsZero() || !signal.Since.Equal(start) {
			t.Errorf("%+v", signal)
		}
		if !strings.Contains(signal.Message, "and was never good since it was configured: check spec.url") {
			t.Errorf("%s says %q", signal.Condition, signal.Message)
		}
	}
	// Once it was good, what is bad is bad.
	c.rounds(3, nil)
	if s := c.rounds(3, everything("it answers HTTP 502")); s.Severity() != v1alpha1.Sev1 ||
		!s.of(v1alpha1.ConditionUpAnswers).Ground || len(s.endpoints) != 5 {
		// Latency is not good yet: the window is full of what was slow.
		t.Errorf("%+v", s)
	}
}

// One path that is mistyped is unknown; another one that is bad is bad.
func TestOnePathThatWasNeverGood(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	if s := c.rounds(6, only("/login", "/login answers HTTP 500")); s.Summary() != "unknown: EndpointsAnswer" {
		t.Errorf("%+v", s)
	}
	s := c.rounds(4, map[string]platformapi.Look{"/login": bad("/login answers HTTP 500"),
		"/userinfo": bad("/userinfo answers HTTP 500")})
	if s.Summary() != "sev2: /userinfo answers HTTP 500" {
		t.Errorf("%+v", s)
	}
}

func TestWhatWasGoodOnceIsKept(t *testing.T) {
	t.Parallel()
	p := probed()
	c := newTrial(p)
	Report(p, c.rounds(6, only("/login", "/login answers HTTP 500")))
	var urls []string
	for _, endpoint := range p.Status.Endpoints {
		urls = append(urls, endpoint.URL)
		// Latency takes twenty answers.
		if late := endpoint.GoodAt.Sub(start); late < 0 || late > 50*time.Second {
			t.Errorf("%s is good since %v", endpoint.URL, endpoint.GoodAt)
		}
	}
	const at = "https://api.example.com"
	want := strings.Join([]string{at + "/up", at + "/oauth/token", at + "/.well-known/jwks.json", at, at + "/userinfo"},
		" ")
	if got := strings.Join(urls, " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	kept := p.Status.DeepCopy()

	again := &trial{judge: newJudge(p), now: c.now}
	Report(p, again.rounds(2, everything("it answers HTTP 502")))
	if len(p.Status.Endpoints) != len(kept.Endpoints) || !p.Status.Endpoints[0].GoodAt.Equal(kept.Endpoints[0].GoodAt) {
		t.Errorf("a restart made of %+v %+v", kept.Endpoints, p.Status.Endpoints)
	}
	if s := again.round(everything("it answers HTTP 502")); s.Severity() != v1alpha1.Sev1 {
		t.Errorf("after a restart it is %s", s.Summary())
	}

	// Another URL begins anew, whatever the conditions say of the one before. Nothing of that is kept.
	p.Status = *kept.DeepCopy()
	p.Spec.URL, p.Generation = "https://api.exmaple.com", p.Generation+1
	moved := &trial{judge: newJudge(p), now: c.now}
	Report(p, moved.rounds(4, everything("it does not answer")))
	if p.Status.Signals.Severity != "" || len(p.Status.Endpoints) != 0 {
		t.Errorf("of another URL it is %s, %+v", p.Status.Signals.Summary, p.Status.Endpoints)
	}

	Forget(p)
	if p.Status.Endpoints != nil || p.Status.Signals != nil || len(p.Status.Conditions) != 0 {
		t.Errorf("without probes: %+v", p.Status)
	}
}

// Two paths that differ in their query are one endpoint, as in the status.
func TestPathsThatDifferInTheirQuery(t *testing.T) {
	t.Parallel()
	p := probed()
	p.Spec.Probes.Paths = []string{"/userinfo?q=1", "/userinfo?q=2"}
	c := newTrial(p)
	Report(p, c.rounds(4, nil))
	if n := len(p.Status.Endpoints); n != 5 {
		t.Errorf("%d: %+v", n, p.Status.Endpoints)
	}
}

// The release before this one kept no endpoints.
func TestAnUpgradeInGoodTimesLosesNothing(t *testing.T) {
	t.Parallel()
	outage := func(p *v1alpha1.Platform) Signals {
		c := newTrial(p)
		return c.rounds(40, everything("it answers HTTP 502"))
	}
	before := func(looks map[string]platformapi.Look) *v1alpha1.Platform {
		p := probed()
		c := newTrial(p)
		c.rounds(4, nil)
		Report(p, c.rounds(3, looks))
		p.Status.Endpoints = nil
		return p
	}
	good := before(nil)
	if s := outage(good); s.Severity() != v1alpha1.Sev1 || len(s.endpoints) != 6 ||
		!s.of(v1alpha1.ConditionUpAnswers).Ground || s.of(v1alpha1.ConditionLatencyGood).State != metav1.ConditionFalse {
		t.Errorf("upgraded in good times: %+v", s)
	}
	// What was bad then may never have been good.
	s := outage(before(only("up", "it does not answer")))
	if up := s.of(v1alpha1.ConditionUpAnswers); up.State != metav1.ConditionUnknown ||
		s.of(v1alpha1.ConditionTokensIssued).State != metav1.ConditionFalse {
		t.Errorf("upgraded while /up was bad: %+v", s)
	}
	// Nor is what is good at another URL, if the spec changed while no manager ran.
	good.Generation++
	if s := outage(good); s.Severity() != "" {
		t.Errorf("another spec: %s", s.Summary())
	}
	if c := meta.FindStatusCondition(good.Status.Conditions,
		v1alpha1.ConditionUpAnswers); c.Status != metav1.ConditionTrue {
		t.Errorf("%+v", c)
	}
}
