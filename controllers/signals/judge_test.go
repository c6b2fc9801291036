package signals

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

func TestTheOnsetIsTheFirstBadSample(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	c.rounds(10, nil)
	onset := c.now
	if s := c.rounds(2, only("up", "down")); s.Severity() != "" {
		t.Fatal("two are too few")
	}
	s := c.rounds(1, only("up", "down"))
	if !s.BadSince().Equal(onset) || !s.Of(v1alpha1.CategoryOutage).BadSince().Equal(onset) ||
		!s.Of(v1alpha1.CategoryWebhookDelivery).BadSince().IsZero() {
		t.Errorf("since %v, want %v", s.BadSince(), onset)
	}
	// Another one of the same trouble, and the first one is good again: it is the same trouble.
	c.rounds(3, map[string]platformapi.Look{"up": bad("down"), "jwks": bad("down")})
	if s := c.rounds(5, only("jwks", "down")); !s.BadSince().Equal(onset) || s.Severity() != v1alpha1.Sev1 {
		t.Errorf("since %v, want %v", s.BadSince(), onset)
	}
	// Unknown is not over.
	if s := c.rounds(5, map[string]platformapi.Look{"jwks": {Verdict: platformapi.Unknown}}); s.Severity() != "" ||
		!s.lingering() || !s.ClearSince().IsZero() {
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
	if !s.BadSince().Equal(outage) || !s.Of(v1alpha1.CategoryOutage).BadSince().Equal(outage) ||
		!s.Of(v1alpha1.CategoryWebhookDelivery).BadSince().Equal(webhooks) || s.Severity() != v1alpha1.Sev1 {
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
	if s := p.Status.Signals; !strings.HasPrefix(s.Summary, "unknown: ") || s.Severity != "" || s.BadSince == nil ||
		!s.BadSince.Time.Equal(onset) {
		t.Errorf("after the restart: %+v", s)
	}
	Report(p, again.rounds(3, only("tokens", "down")))
	if s := p.Status.Signals; s.Severity != v1alpha1.Sev1 || !s.BadSince.Time.Equal(onset) ||
		!again.signals().Of(v1alpha1.CategoryOutage).BadSince().Equal(onset) {
		t.Errorf("bad again: %+v", s)
	}
	Report(p, again.rounds(4, nil))
	if s := p.Status.Signals; s.Summary != "ok" || s.BadSince != nil {
		t.Errorf("over: %+v", s)
	}
}

// reported is what a Platform's status says.
func reported(s Signals) v1alpha1.PlatformStatus {
	p := &v1alpha1.Platform{}
	Report(p, s)
	return p.Status
}

// What fails now and then is bad once, for as long as it does: nothing that is said of it changes meanwhile, so nothing
// is written.
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
			if s.Severity() != c.severity || s.Down() != (c.severity == v1alpha1.Sev1) || s.BadSince().Before(onset) ||
				s.BadSince().After(onset.Add(4*time.Minute)) {
				t.Fatalf("%s, down %v, bad since %v", s.Summary(), s.Down(), s.BadSince())
			}
			for range 20 {
				for i := range len(c.pattern) {
					if now := j.turns(1, "up", c.pattern[i:]); !reflect.DeepEqual(reported(now), reported(s)) {
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

// An outage that ended is believed to be over, and a blip after it is still one; what fails again is not believed so
// soon.
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
	if s := p.Status.Signals; s.Severity != v1alpha1.Sev2 || !s.BadSince.Time.Equal(onset) ||
		is.Status != metav1.ConditionFalse || is.Reason != v1alpha1.ReasonSignalFlaky {
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
	c.rounds(3, nil)
	c.rounds(3, only("up", "/up answers HTTP 502"))
	for i := range 10 {
		if s := c.round(only("up", []string{"/up answers HTTP 502",
			"/up answers HTTP 503"}[i%2])); s.Because() != "/up answers HTTP 502" {
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
		if s := c.latency.run.signal("", c.now); s.State != metav1.ConditionUnknown {
			t.Errorf("after %v: %+v", jump, s)
		}
	}
	if s := (&judge{paths: func() (all []*run) {
		for i := range 16 {
			all = append(all, &run{state: metav1.ConditionFalse, message: fmt.Sprint(i, strings.Repeat("ü", 100))})
		}
		return all
	}()}).endpoints(c.now); len(s.Message) > 512 {
		t.Errorf("%d bytes", len(s.Message))
	}
}
