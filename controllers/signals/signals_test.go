package signals

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

var start = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

// probed is a Platform with the defaults, a database and two paths.
func probed() *v1alpha1.Platform {
	return &v1alpha1.Platform{Spec: v1alpha1.PlatformSpec{URL: "https://api.example.com/",
		Database: &v1alpha1.PlatformDatabase{}, Probes: &v1alpha1.PlatformProbes{
			IntervalSeconds: 10, TimeoutSeconds: 5, Failures: 3, WindowSeconds: 300, LatencyMilliseconds: 2000,
			Paths: []string{"/login", "/userinfo?q=1"},
		}}}
}

// turns lets the looks at one thing fail in turn: of each len(pattern) looks, those with an x.
func (c *trial) turns(n int, name, pattern string) (s Signals) {
	for i := range n {
		but := map[string]platformapi.Look(nil)
		if pattern[i%len(pattern)] == 'x' {
			// Each time in another way.
			but = only(name, fmt.Sprintf("%s answers HTTP %d", name, 500+i%4))
		}
		s = c.round(but)
	}
	return s
}

// nothing is what the summary says of a Platform without a database at first.
const nothing = "unknown: UpAnswers, TokensIssued, JWKSServed, EndpointsAnswer, LatencyGood"

// trial is a judge and its clock.
type trial struct {
	*judge
	now time.Time
}

func newTrial(p *v1alpha1.Platform) *trial { return &trial{judge: newJudge(p), now: start} }

// signals as they are now.
func (c *trial) signals() Signals { return c.judge.signals(c.now) }

func good(took time.Duration) platformapi.Look {
	return platformapi.Look{Verdict: platformapi.Good, Message: "fine", Answered: true, Took: took}
}

func bad(message string) platformapi.Look {
	return platformapi.Look{Verdict: platformapi.Bad, Down: strings.Contains(message, "HTTP 5"), Message: message}
}

// round is one look at everything, all well but what is named.
func (c *trial) round(but map[string]platformapi.Look) Signals {
	look := func(name string, r *run) {
		seen, ok := but[name]
		if !ok {
			seen = good(50 * time.Millisecond)
		}
		c.look(r, seen, c.now)
	}
	look("up", c.up)
	look("tokens", c.tokens)
	look("jwks", c.jwks)
	look("/login", c.paths[0])
	look("/userinfo", c.paths[1])
	if c.judge.webhooks != nil {
		c.deliveries(&platformdb.Deliveries{Attempted: 40}, 0, nil, c.now)
	}
	c.now = c.now.Add(10 * time.Second)
	return c.signals()
}

func (c *trial) rounds(n int, but map[string]platformapi.Look) (s Signals) {
	for range n {
		s = c.round(but)
	}
	return s
}

func only(name, message string) map[string]platformapi.Look {
	return map[string]platformapi.Look{name: bad(message)}
}

func all(took time.Duration) map[string]platformapi.Look {
	return map[string]platformapi.Look{"up": good(took), "tokens": good(took), "jwks": good(took), "/login": good(took),
		"/userinfo": good(took)}
}

func (c *trial) webhooks(n int, d platformdb.Deliveries) (s Signals) {
	for range n {
		c.deliveries(&d, 300*time.Second, nil, c.now)
		c.now = c.now.Add(30 * time.Second)
	}
	return c.signals()
}

func TestClassification(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]struct {
		happens func(*trial) Signals
		want    string // the summary
	}{
		"ok: everything answers": {func(c *trial) Signals { return c.round(nil) }, "ok"},
		"sev1: /up answers 5xx": {func(c *trial) Signals { return c.rounds(3, only("up", "/up answers HTTP 502")) },
			"sev1: /up answers HTTP 502"},
		"sev1: /up answers 404": {func(c *trial) Signals { return c.rounds(3, only("up", "/up answers HTTP 404")) },
			"sev1: /up answers HTTP 404"},
		"sev1: all token issuance fails": {func(c *trial) Signals {
			return c.rounds(3, only("tokens",
				"/oauth/token answers HTTP 500"))
		},
			"sev1: /oauth/token answers HTTP 500"},
		"sev1: JWKS is unresponsive": {func(c *trial) Signals {
			return c.rounds(3, only("jwks",
				"/.well-known/jwks.json has no keys"))
		},
			"sev1: /.well-known/jwks.json has no keys"},
		"sev2: some endpoints answer 5xx": {func(c *trial) Signals {
			return c.rounds(3, only("/userinfo",
				"/userinfo answers HTTP 500"))
		},
			"sev2: /userinfo answers HTTP 500"},
		"sev2: p95 over 2 s sustained for 5 minutes": {func(c *trial) Signals {
			return c.rounds(31,
				all(2100*time.Millisecond))
		},
			"sev2: the 95th percentile of latency has been over 2000 ms for 300 s"},
		"nothing: p95 over 2 s for half of that": {func(c *trial) Signals {
			c.rounds(31, nil)
			return c.rounds(14,
				all(2100*time.Millisecond))
		}, "ok"},
		"nothing: p95 of exactly 2 s": {func(c *trial) Signals { return c.rounds(31, all(2*time.Second)) }, "ok"},
		"nothing: 1 of 25 answers is slow": {func(c *trial) (s Signals) {
			for range 10 {
				c.rounds(1, map[string]platformapi.Look{"up": good(3 * time.Second)})
				s = c.rounds(4, nil)
			}
			return s
		}, "ok"},
		"sev2: 2 of 25 answers are slow": {func(c *trial) (s Signals) {
			for range 10 {
				c.rounds(1, map[string]platformapi.Look{"up": good(3 * time.Second), "jwks": good(3 * time.Second)})
				s = c.rounds(4, nil)
			}
			return s
		}, "sev2: the 95th percentile of latency has been over 2000 ms for 300 s"},
		"sev2: half of the looks at /up fail, never three in a row": {func(c *trial) Signals {
			return c.turns(34, "up",
				"x.")
		},
			"sev2: /up fails in more than 20 % of the looks, for 300 s"},
		"sev2: a quarter of the tokens is not issued": {func(c *trial) Signals { return c.turns(34, "tokens", "x...") },
			"sev2: /oauth/token fails in more than 20 % of the looks, for 300 s"},
		"sev2: two of five looks at JWKS fail": {func(c *trial) Signals { return c.turns(34, "jwks", "x.x..") },
			"sev2: /.well-known/jwks.json fails in more than 20 % of the looks, for 300 s"},
		"sev2: a third of the looks at an endpoint fails": {func(c *trial) Signals { return c.turns(34, "/userinfo", "x..") },
			"sev2: /userinfo fails in more than 20 % of the looks, for 300 s"},
		"nothing: one look in five fails": {func(c *trial) Signals {
			return c.turns(100, "up",
				"x....")
		}, "ok"},
		"nothing: half of the looks fail for a while": {func(c *trial) Signals {
			c.rounds(31,
				nil)
			return c.turns(14, "up", "x.")
		}, "ok"},
		"nothing: of a window that begins, nobody knows the share": {func(c *trial) Signals {
			return c.turns(24, "up",
				"x.")
		}, "ok"},
		"sev1: what fails too often, and then each time": {func(c *trial) Signals {
			c.turns(34, "up", "x.")
			return c.rounds(3, only("up", "/up answers HTTP 502"))
		}, "sev1: /up answers HTTP 502"},
		"sev2: webhooks fail to two relying parties": {func(c *trial) Signals {
			c.rounds(4, nil)
			return c.webhooks(3, platformdb.Deliveries{Failing: []int64{41, 42}, Attempted: 1000, Failed: 2})
		}, "sev2: no webhook reaches applications 41, 42"},
		"sev2: 20 % of webhooks fail": {func(c *trial) Signals {
			c.rounds(4, nil)
			return c.webhooks(3, platformdb.Deliveries{Failing: []int64{41}, Attempted: 1000, Failed: 200})
		}, "sev2: at least 20 % of the webhooks of the last 300 s fail"},
		"nothing: webhooks fail to one relying party": {func(c *trial) Signals {
			c.rounds(4, nil)
			return c.webhooks(3, platformdb.Deliveries{Failing: []int64{41}, Attempted: 1000, Failed: 199})
		}, "ok"},
		"nothing: 3 of 10 webhooks fail, which are too few to tell": {func(c *trial) Signals {
			c.rounds(4, nil)
			return c.webhooks(3, platformdb.Deliveries{Attempted: 10, Failed: 3})
		}, "ok"},
		"sev1: the worst is named first": {func(c *trial) Signals {
			return c.rounds(3, map[string]platformapi.Look{"/login": bad("/login answers HTTP 500"), "jwks": bad("JWKS is down"),
				"up": bad("/up is down")})
		}, "sev1: /up is down; JWKS is down; /login answers HTTP 500"},
		"unknown: the database does not answer": {func(c *trial) Signals {
			for range 3 {
				c.deliveries(nil, 0, errors.New("unreachable"), c.now)
			}
			return c.signals()
		}, "unknown: WebhooksDelivered"},
		"unknown: answers that say neither": {func(c *trial) Signals {
			return c.rounds(3, map[string]platformapi.Look{"tokens": {Verdict: platformapi.Unknown, Message: "HTTP 429",
				Answered: true}})
		}, "unknown: TokensIssued"},
		"unknown: bad and unknown in turn": {func(c *trial) Signals {
			c.round(only("up", "down"))
			return c.rounds(2, map[string]platformapi.Look{"up": {Verdict: platformapi.Unknown, Message: "HTTP 429",
				Answered: true}})
		}, "unknown: UpAnswers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTrial(probed())
			if s := c.signals(); s.Summary() != nothing+", WebhooksDelivered" || !s.ClearSince().IsZero() {
				t.Fatalf("at first it is %q", s.Summary())
			}
			if s := c.rounds(4, nil); s.Summary() != "ok" || s.ClearSince().IsZero() {
				t.Fatalf("when all is well it is %q, %v", s.Summary(), s)
			}
			s := rule.happens(c)
			if s.Summary() != rule.want {
				t.Errorf("it is %q, want %q", s.Summary(), rule.want)
			}
			if s.Down() != strings.HasPrefix(rule.want, "sev1") {
				t.Errorf("down: %v", s.Down())
			}
			if s.BadSince().IsZero() != (s.Severity() == "") || s.ClearSince().IsZero() != (s.Summary() != "ok") {
				t.Errorf("bad since %v, clear since %v", s.BadSince(), s.ClearSince())
			}
		})
	}
}

// An Incident closes when all signals are clear: one that nothing could ever clear is none.
func TestWithoutADatabaseWebhooksAreNoSignal(t *testing.T) {
	t.Parallel()
	p := probed()
	p.Spec.Database = nil
	c := newTrial(p)
	if s := c.signals(); s.Summary() != nothing {
		t.Errorf("at first it is %q", s.Summary())
	}
	c.rounds(4, only("up", "/up answers HTTP 502"))
	if s := c.rounds(4, nil); s.Summary() != "ok" || s.ClearSince().IsZero() {
		t.Errorf("when all is well it is %q, clear since %v", s.Summary(), s.ClearSince())
	}
}
