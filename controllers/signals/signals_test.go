package signals

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

var start = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

// probed is a Platform with the defaults, a database and two paths.
func probed() *v1alpha1.Platform {
	return &v1alpha1.Platform{Spec: v1alpha1.PlatformSpec{Database: &v1alpha1.PlatformDatabase{}, Probes: &v1alpha1.PlatformProbes{
		IntervalSeconds: 10, TimeoutSeconds: 5, Failures: 3, WindowSeconds: 300, LatencyMilliseconds: 2000, Paths: []string{"/login", "/userinfo?q=1"},
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

// trial is a judge and its clock.
type trial struct {
	*judge
	now time.Time
}

func newTrial(p *v1alpha1.Platform) *trial { return &trial{judge: newJudge(p), now: start} }

func good(took time.Duration) platformapi.Look {
	return platformapi.Look{Verdict: platformapi.Good, Message: "fine", Answered: true, Took: took}
}

func bad(message string) platformapi.Look {
	return platformapi.Look{Verdict: platformapi.Bad, Message: message}
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
		c.deliveries(&platformdb.Deliveries{}, 0, nil, c.now)
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
	return map[string]platformapi.Look{"up": good(took), "tokens": good(took), "jwks": good(took), "/login": good(took), "/userinfo": good(took)}
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
		"sev1: all token issuance fails": {func(c *trial) Signals { return c.rounds(3, only("tokens", "/oauth/token answers HTTP 500")) },
			"sev1: /oauth/token answers HTTP 500"},
		"sev1: JWKS is unresponsive": {func(c *trial) Signals { return c.rounds(3, only("jwks", "/.well-known/jwks.json has no keys")) },
			"sev1: /.well-known/jwks.json has no keys"},
		"sev2: some endpoints answer 5xx": {func(c *trial) Signals { return c.rounds(3, only("/userinfo", "/userinfo answers HTTP 500")) },
			"sev2: /userinfo answers HTTP 500"},
		"sev2: p95 over 2 s sustained for 5 minutes": {func(c *trial) Signals { return c.rounds(31, all(2100*time.Millisecond)) },
			"sev2: the 95th percentile of latency has been over 2000 ms for 300 s"},
		"nothing: p95 over 2 s for half of that": {func(c *trial) Signals { c.rounds(31, nil); return c.rounds(14, all(2100*time.Millisecond)) }, "ok"},
		"nothing: p95 of exactly 2 s":            {func(c *trial) Signals { return c.rounds(31, all(2*time.Second)) }, "ok"},
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
		"sev2: half of the looks at /up fail, never three in a row": {func(c *trial) Signals { return c.turns(34, "up", "x.") },
			"sev2: /up fails in more than 20 % of the looks, for 300 s"},
		"sev2: a quarter of the tokens is not issued": {func(c *trial) Signals { return c.turns(34, "tokens", "x...") },
			"sev2: /oauth/token fails in more than 20 % of the looks, for 300 s"},
		"sev2: two of five looks at JWKS fail": {func(c *trial) Signals { return c.turns(34, "jwks", "x.x..") },
			"sev2: /.well-known/jwks.json fails in more than 20 % of the looks, for 300 s"},
		"sev2: a third of the looks at an endpoint fails": {func(c *trial) Signals { return c.turns(34, "/userinfo", "x..") },
			"sev2: /userinfo fails in more than 20 % of the looks, for 300 s"},
		"nothing: one look in five fails":                          {func(c *trial) Signals { return c.turns(100, "up", "x....") }, "ok"},
		"nothing: half of the looks fail for a while":              {func(c *trial) Signals { c.rounds(31, nil); return c.turns(14, "up", "x.") }, "ok"},
		"nothing: of a window that begins, nobody knows the share": {func(c *trial) Signals { return c.turns(24, "up", "x.") }, "ok"},
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
			return c.rounds(3, map[string]platformapi.Look{"/login": bad("/login answers HTTP 500"), "jwks": bad("JWKS is down"), "up": bad("/up is down")})
		}, "sev1: /up is down; JWKS is down; /login answers HTTP 500"},
		"unknown: the database does not answer": {func(c *trial) Signals {
			for range 3 {
				c.deliveries(nil, 0, errors.New("unreachable"), c.now)
			}
			return c.signals()
		}, "unknown: WebhooksDelivered"},
		"unknown: answers that say neither": {func(c *trial) Signals {
			return c.rounds(3, map[string]platformapi.Look{"tokens": {Verdict: platformapi.Unknown, Message: "HTTP 429", Answered: true}})
		}, "unknown: TokensIssued"},
		"unknown: bad and unknown in turn": {func(c *trial) Signals {
			c.round(only("up", "down"))
			return c.rounds(2, map[string]platformapi.Look{"up": {Verdict: platformapi.Unknown, Message: "HTTP 429", Answered: true}})
		}, "unknown: UpAnswers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTrial(probed())
			if s := c.signals(); s.Summary() != "unknown: UpAnswers, TokensIssued, JWKSServed, EndpointsAnswer, LatencyGood, WebhooksDelivered" || !s.ClearSince().IsZero() {
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
	if s := c.signals(); s.Summary() != "unknown: UpAnswers, TokensIssued, JWKSServed, EndpointsAnswer, LatencyGood" {
		t.Errorf("at first it is %q", s.Summary())
	}
	c.rounds(4, only("up", "/up answers HTTP 502"))
	if s := c.rounds(4, nil); s.Summary() != "ok" || s.ClearSince().IsZero() {
		t.Errorf("when all is well it is %q, clear since %v", s.Summary(), s.ClearSince())
	}
}

func TestTheOnsetIsTheFirstBadSample(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	c.rounds(10, nil)
	onset := c.now
	if s := c.rounds(2, only("up", "down")); s.Severity() != "" {
		t.Fatal("two are too few")
	}
	s := c.rounds(1, only("up", "down"))
	if !s.BadSince().Equal(onset) || !s.Of(v1alpha1.CategoryOutage).BadSince().Equal(onset) || !s.Of(v1alpha1.CategoryWebhookDelivery).BadSince().IsZero() {
		t.Errorf("since %v, want %v", s.BadSince(), onset)
	}
	// Another one of the same trouble, and the first one is good again: it is the same trouble.
	c.rounds(3, map[string]platformapi.Look{"up": bad("down"), "jwks": bad("down")})
	if s := c.rounds(5, only("jwks", "down")); !s.BadSince().Equal(onset) || s.Severity() != v1alpha1.Sev1 {
		t.Errorf("since %v, want %v", s.BadSince(), onset)
	}
	// Unknown is not over.
	if s := c.rounds(5, map[string]platformapi.Look{"jwks": {Verdict: platformapi.Unknown}}); s.Severity() != "" || !s.lingering() || !s.ClearSince().IsZero() {
		t.Errorf("%+v", s)
	}
	if s := c.rounds(3, only("jwks", "down")); !s.BadSince().Equal(onset) {
		t.Errorf("since %v, want %v", s.BadSince(), onset)
	}
	clear := c.now
	if s := c.rounds(3, nil); !s.BadSince().IsZero() || s.lingering() || !s.ClearSince().Equal(clear) {
		t.Errorf("%+v", s)
	}
	onset = c.now
	if s := c.rounds(3, only("jwks", "down")); !s.BadSince().Equal(onset) {
		t.Errorf("another trouble is since %v, want %v", s.BadSince(), onset)
	}
}

// A relying party or two are down for days; then a deploy breaks the platform.
func TestWhatIsWorseHasAnOnsetOfItsOwn(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	c.rounds(4, nil)
	webhooks := c.now
	c.webhooks(3, platformdb.Deliveries{Failing: []int64{1, 2}})
	outage := c.now
	for range 3 {
		for _, r := range []*run{c.up, c.tokens, c.jwks} {
			c.look(r, bad("down"), c.now)
		}
		c.now = c.now.Add(10 * time.Second)
	}
	s := c.signals()
	if !s.BadSince().Equal(outage) || !s.Of(v1alpha1.CategoryOutage).BadSince().Equal(outage) || !s.Of(v1alpha1.CategoryWebhookDelivery).BadSince().Equal(webhooks) || s.Severity() != v1alpha1.Sev1 {
		t.Errorf("%+v", s)
	}
}

func TestARestartKeepsTheOnset(t *testing.T) {
	t.Parallel()
	p := probed()
	c := newTrial(p)
	c.rounds(4, nil)
	onset := c.now
	c.rounds(3, only("up", "down"))
	Report(p, c.rounds(3, map[string]platformapi.Look{"up": bad("down"), "tokens": bad("down")}))
	Report(p, c.rounds(3, only("tokens", "down")))
	if p.Status.Signals.Summary != "sev1: down" || !p.Status.Signals.BadSince.Time.Equal(onset) {
		t.Fatalf("%+v", p.Status.Signals)
	}
	again := &trial{judge: newJudge(p), now: c.now}
	Report(p, again.signals())
	if s := p.Status.Signals; !strings.HasPrefix(s.Summary, "unknown: ") || s.Severity != "" || s.BadSince == nil || !s.BadSince.Time.Equal(onset) {
		t.Errorf("after the restart: %+v", s)
	}
	Report(p, again.rounds(3, only("tokens", "down")))
	if s := p.Status.Signals; s.Severity != v1alpha1.Sev1 || !s.BadSince.Time.Equal(onset) || !again.signals().Of(v1alpha1.CategoryOutage).BadSince().Equal(onset) {
		t.Errorf("bad again: %+v", s)
	}
	Report(p, again.rounds(4, nil))
	if s := p.Status.Signals; s.Summary != "ok" || s.BadSince != nil {
		t.Errorf("over: %+v", s)
	}
}

// What fails now and then is bad once, for as long as it does: nothing that is said of it changes meanwhile, so nothing is written.
func TestWhatFlapsIsNotGood(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pattern  string
		severity v1alpha1.Severity // while it flaps
	}{
		"at random":                             {"x..x.x...x", v1alpha1.Sev2},
		"every third look":                      {"x..", v1alpha1.Sev2},
		"down for half a minute of each minute": {"xxx...", v1alpha1.Sev1},
		"up for two minutes":                    {"xxxxxx............", v1alpha1.Sev1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newTrial(probed())
			j.rounds(40, nil)
			onset := j.now
			s := j.turns(90, "up", c.pattern)
			if s.Severity() != c.severity || s.Down() != (c.severity == v1alpha1.Sev1) || s.BadSince().Before(onset) || s.BadSince().After(onset.Add(4*time.Minute)) {
				t.Fatalf("%s, down %v, bad since %v", s.Summary(), s.Down(), s.BadSince())
			}
			for range 20 {
				for i := range len(c.pattern) {
					if now := j.turns(1, "up", c.pattern[i:]); !reflect.DeepEqual(now, s) {
						t.Fatalf("%+v\nbecame\n%+v", s, now)
					}
				}
			}
			mended := j.now
			for s.ClearSince().IsZero() {
				if s = j.round(nil); j.now.Sub(mended) > 3*time.Minute {
					t.Fatalf("it is not good again: %s", s.Summary())
				}
			}
			if s.ClearSince().After(mended) || mended.Sub(s.ClearSince()) > 2*time.Minute {
				t.Errorf("good since %v, and it was mended at %v", s.ClearSince(), mended)
			}
		})
	}
}

// An outage that ended is believed to be over, and a blip after it is still one; what fails again is not believed so soon.
func TestWhatIsMendedIsGoodUntilItFailsAgain(t *testing.T) {
	t.Parallel()
	j := newTrial(probed())
	j.rounds(40, nil)
	j.rounds(40, only("up", "down"))
	mended := j.now
	if s := j.rounds(3, nil); s.Summary() != "ok" || !s.ClearSince().Equal(mended) {
		t.Fatalf("%s since %v", s.Summary(), s.ClearSince())
	}
	for range 2 {
		j.round(only("up", "down"))
		if s := j.rounds(3, nil); !s.ClearSince().Equal(mended) {
			t.Fatalf("after a blip it is %s since %v", s.Summary(), s.ClearSince())
		}
	}
	// A third one, and that is no blip any more.
	again := mended.Add(30 * time.Second)
	if s := j.round(only("up", "down")); s.Severity() != v1alpha1.Sev2 || !s.BadSince().Equal(again) {
		t.Fatalf("%s since %v", s.Summary(), s.BadSince())
	}
	mended = j.now
	if s := j.rounds(8, nil); s.Severity() != v1alpha1.Sev2 || !s.ClearSince().IsZero() {
		t.Fatalf("%s", s.Summary())
	}
	if s := j.rounds(8, nil); s.Summary() != "ok" || !s.ClearSince().Equal(mended) {
		t.Errorf("%s since %v", s.Summary(), s.ClearSince())
	}
}

func TestARestartKeepsWhatFailsTooOften(t *testing.T) {
	t.Parallel()
	p := probed()
	c := newTrial(p)
	c.rounds(40, nil)
	onset := c.now
	Report(p, c.turns(60, "jwks", "x..."))
	is := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionJWKSServed)
	if s := p.Status.Signals; s.Severity != v1alpha1.Sev2 || !s.BadSince.Time.Equal(onset) || is.Status != metav1.ConditionFalse || is.Reason != v1alpha1.ReasonSignalFlaky {
		t.Fatalf("%+v %+v", s, is)
	}
	again := &trial{judge: newJudge(p), now: c.now}
	for range 30 {
		// Three good looks in a row are enough only of what did not fail too often.
		s := again.turns(4, "jwks", "x...")
		Report(p, s)
		if !s.ClearSince().IsZero() || p.Status.Signals.BadSince == nil || !p.Status.Signals.BadSince.Time.Equal(onset) {
			t.Fatalf("after the restart: %+v", p.Status.Signals)
		}
	}
	if s := p.Status.Signals; s.Severity != v1alpha1.Sev2 {
		t.Errorf("%+v", s)
	}
}

// What fails now in this way and now in that is told once.
func TestAMessageChangesOnlyWhenItLasts(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	c.rounds(3, only("up", "/up answers HTTP 502"))
	for i := range 10 {
		if s := c.round(only("up", []string{"/up answers HTTP 502", "/up answers HTTP 503"}[i%2])); s.Because() != "/up answers HTTP 502" {
			t.Fatalf("look %d: %q", i, s.Because())
		}
	}
	if s := c.rounds(3, only("up", "/up does not answer")); s.Because() != "/up does not answer" {
		t.Errorf("%q", s.Because())
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	t.Parallel()
	p := probed()
	p.Spec.Probes.IntervalSeconds, p.Spec.Probes.WindowSeconds = 1, 3600
	c := newTrial(p)
	for range 4000 {
		c.look(c.up, good(time.Second), c.now)
		c.now = c.now.Add(time.Second)
	}
	if n := len(c.latency.window.slots); n > slots+1 {
		t.Errorf("%d slots", n)
	}
	// A clock that was put back, and one that jumps ahead, only empty the window.
	for _, jump := range []time.Duration{-time.Hour, 48 * time.Hour} {
		c.now = c.now.Add(jump)
		c.look(c.up, good(time.Second), c.now)
		if s := c.latency.run.signal(""); s.State != metav1.ConditionUnknown {
			t.Errorf("after %v: %+v", jump, s)
		}
	}
	if s := (&judge{paths: func() (all []*run) {
		for i := range 16 {
			all = append(all, &run{state: metav1.ConditionFalse, message: fmt.Sprint(i, strings.Repeat("ü", 100))})
		}
		return all
	}()}).endpoints(); len(s.Message) > 512 {
		t.Errorf("%d bytes", len(s.Message))
	}
}

// Whatever the looks before: fewer than enough others change no verdict, nothing is good that was not seen good often enough in a
// row, and nothing bad, unless too many looks of both halves of the window fail.
func TestAnyLooks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		enough := rapid.IntRange(1, 5).Draw(t, "enough")
		// So many good looks follow each that is drawn: shares are met as well as rows.
		quiet := rapid.IntRange(0, 12).Draw(t, "quiet")
		r := newRun(enough)
		drawn := rapid.SliceOfN(rapid.SampledFrom([]platformapi.Verdict{platformapi.Good, platformapi.Bad, platformapi.Unknown}), 1, 60).Draw(t, "verdicts")
		var verdicts []platformapi.Verdict
		for _, v := range drawn {
			verdicts = append(append(verdicts, v), slices.Repeat([]platformapi.Verdict{platformapi.Good}, quiet)...)
		}
		failed := 0 // since it turned good
		for i, v := range verdicts {
			was := *r
			at := start.Add(time.Duration(i) * 15 * time.Second) // a slot each
			if v == platformapi.Bad {
				failed++
			}
			r.add(v, string(v), at)
			last := verdicts[max(0, i+1-enough) : i+1]
			older, newer := share(verdicts[:i+1], 11, 21), share(verdicts[:i+1], 0, 11)
			often := failed >= enough && older > 0.20 && newer > 0.20
			row := len(last) == enough && !slices.ContainsFunc(last, func(v platformapi.Verdict) bool { return v != platformapi.Bad })
			switch {
			case r.state == metav1.ConditionTrue && was.state != metav1.ConditionTrue && (len(last) < enough || slices.ContainsFunc(last, func(v platformapi.Verdict) bool { return v != platformapi.Good })):
				t.Fatalf("good after %v", verdicts[:i+1])
			case r.state == metav1.ConditionFalse && was.state != metav1.ConditionFalse && (v != platformapi.Bad || slices.Contains(last, platformapi.Good) && !often):
				t.Fatalf("bad after %v", verdicts[:i+1])
			case was.state == metav1.ConditionTrue && r.state != metav1.ConditionTrue && slices.Contains(last, platformapi.Good) && !often:
				t.Fatalf("good no more after %v", verdicts[:i+1])
			case was.flaps && r.state == metav1.ConditionTrue && newer > 0.10:
				t.Fatalf("flaps, and is good after %v", verdicts[:i+1])
			case row && (r.state != metav1.ConditionFalse || r.partly):
				t.Fatalf("not bad, or in part only, after %v", verdicts[:i+1])
			case often && v == platformapi.Bad && i >= 20 && !slices.Contains(verdicts[i-20:i+1], platformapi.Unknown) && r.state != metav1.ConditionFalse:
				t.Fatalf("too many fail, and it is %s after %v", r.state, verdicts[:i+1])
			case r.partly && (was.state != metav1.ConditionFalse && !often):
				t.Fatalf("bad in part after %v", verdicts[:i+1])
			case was.state == metav1.ConditionFalse && r.state == metav1.ConditionTrue && len(last) < enough:
				t.Fatalf("over after %v", verdicts[:i+1])
			case r.state == metav1.ConditionTrue && len(last) == enough && !slices.Contains(last, platformapi.Good):
				t.Fatalf("still good after %v", verdicts[:i+1])
			case (r.state == metav1.ConditionTrue) && !r.onset.IsZero(), r.state == metav1.ConditionFalse && r.onset.IsZero():
				t.Fatalf("the onset is %v after %v", r.onset, verdicts[:i+1])
			case r.state == was.state && r.state == metav1.ConditionFalse && !r.onset.Equal(was.onset):
				t.Fatalf("the onset moved from %v to %v after %v", was.onset, r.onset, verdicts[:i+1])
			}
			if r.state == metav1.ConditionTrue && was.state != metav1.ConditionTrue {
				failed = 0
			}
		}
		// One blip.
		settled := newRun(max(2, enough))
		state := rapid.SampledFrom([]platformapi.Verdict{platformapi.Good, platformapi.Bad, platformapi.Unknown}).Draw(t, "state")
		blip := rapid.SampledFrom([]platformapi.Verdict{platformapi.Good, platformapi.Bad, platformapi.Unknown}).Draw(t, "blip")
		for range settled.enough {
			settled.add(state, "", start)
		}
		before, since := settled.state, settled.since
		times := rapid.IntRange(1, 5).Draw(t, "times")
		if state == platformapi.Unknown {
			// Several bad ones, with nothing good between them, are no blip.
			times = 1
		}
		for i := range times {
			at := start.Add(time.Duration(i) * 10 * time.Second)
			settled.add(blip, "", at)
			for range settled.enough - 1 {
				settled.add(state, "", at)
			}
			if settled.state != before || settled.since != since {
				t.Fatalf("%s became %s by one %s among %d", before, settled.state, blip, settled.enough)
			}
		}
	})
}

// newRun has a window of 300 s.
func newRun(enough int) *run {
	return &run{what: "/up", enough: enough, state: metav1.ConditionUnknown, window: newWindow(probed().Spec.Probes, fewest)}
}

// share of the looks that fail, among those that are from to to looks old; those that say neither don't count.
func share(verdicts []platformapi.Verdict, from, to int) float64 {
	good, bad := 0, 0
	for i, v := range slices.Backward(verdicts) {
		if age := len(verdicts) - 1 - i; age < from || age >= to {
			continue
		}
		switch v {
		case platformapi.Good:
			good++
		case platformapi.Bad:
			bad++
		}
	}
	if good+bad == 0 {
		return 0
	}
	return float64(bad) / float64(good+bad)
}

// What fails more often than the limit, in whatever order, is bad by the end of the window, and stays so; what fails less often never is.
func TestAnyShareIsJudged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Each half of the window has 15 or 16 looks: of 4 of 12 it has at least 4, of 1 of 12 at most 2.
		many := rapid.Bool().Draw(t, "many")
		bad := map[bool]int{true: 4, false: 1}[many]
		period := rapid.Permutation(append(slices.Repeat([]platformapi.Verdict{platformapi.Bad}, bad), slices.Repeat([]platformapi.Verdict{platformapi.Good}, 12-bad)...)).Draw(t, "period")
		r := newRun(3)
		at := start
		look := func(v platformapi.Verdict) {
			r.add(v, string(v), at)
			at = at.Add(10 * time.Second)
		}
		for range 31 {
			look(platformapi.Good)
		}
		for i := range 10 * len(period) {
			look(period[i%len(period)])
			switch {
			case !many && r.state != metav1.ConditionTrue:
				t.Fatalf("one of %d looks fails: it is %s, %s", len(period), r.state, r.message)
			case many && i > 36 && r.state != metav1.ConditionFalse:
				t.Fatalf("%d of %d looks fail: it is %s", bad, len(period), r.state)
			}
		}
	})
}
