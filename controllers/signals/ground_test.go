package signals

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

// of the signal with a condition.
func (s Signals) of(condition string) Signal {
	for _, signal := range s.Each {
		if signal.Condition == condition {
			return signal
		}
	}
	return Signal{}
}

// script lets looks at one thing come, ten seconds apart: . is good, x is down, o is bad in another way, ? is unknown.
func (c *trial) script(name, looks string) (s Signals) {
	for _, look := range looks {
		seen := map[rune]platformapi.Look{
			'.': good(time.Millisecond), 'x': {Verdict: platformapi.Bad, Down: true, Message: "it answers HTTP 502"},
			'o': {Verdict: platformapi.Bad, Message: "its certificate is not trusted"},
			'?': {Verdict: platformapi.Unknown, Message: "it answers HTTP 429"},
		}[look]
		s = c.round(map[string]platformapi.Look{name: seen})
	}
	return s
}

func TestWhatIsAGround(t *testing.T) {
	t.Parallel()
	for looks, c := range map[string]struct {
		state  metav1.ConditionStatus
		ground bool
		// badFrom and enoughFrom are looks, counted from 0; -1 is none.
		badFrom, enoughFrom int
	}{
		"":       {metav1.ConditionTrue, false, -1, -1},
		"xx":     {metav1.ConditionTrue, false, -1, -1},
		"xxx":    {metav1.ConditionFalse, true, 0, 0},
		"xxxxx":  {metav1.ConditionFalse, true, 0, 2},
		"ooo":    {metav1.ConditionFalse, false, 0, 0},
		"oxx":    {metav1.ConditionFalse, false, 0, 0},
		"oxxx":   {metav1.ConditionFalse, true, 0, 1},
		"xxxo":   {metav1.ConditionFalse, false, 0, 1},
		"x?xx":   {metav1.ConditionFalse, true, 0, 0},
		"xxx?":   {metav1.ConditionFalse, true, 0, 0},
		"xxx??":  {metav1.ConditionFalse, true, 0, 0},
		"xxx???": {metav1.ConditionUnknown, false, -1, -1},
		// What was bad, and then unknown, is the same episode. What suffices is new.
		"xxx???xxx": {metav1.ConditionFalse, true, 0, 6},
		// One good look ends the episode, and the state is bad on.
		"xxx.":    {metav1.ConditionFalse, false, 0, 0},
		"xxx.x":   {metav1.ConditionFalse, false, 4, 0},
		"xxx.xxx": {metav1.ConditionFalse, true, 4, 4},
		"xxx...":  {metav1.ConditionTrue, false, -1, -1},
		// A first short flap, and then the deploy that breaks it.
		"xx...xxxx": {metav1.ConditionFalse, true, 5, 6},
	} {
		t.Run("looks "+looks, func(t *testing.T) {
			t.Parallel()
			j := newTrial(probed())
			j.rounds(4, nil)
			began := j.now
			at := func(look int) time.Time {
				if look < 0 {
					return time.Time{}
				}
				return began.Add(time.Duration(look) * 10 * time.Second)
			}
			j.script("up", looks)
			got := j.signals().of(v1alpha1.ConditionUpAnswers)
			if got.State != c.state || got.Ground != c.ground || !got.BadFrom.Equal(at(c.badFrom)) ||
				!got.EnoughFrom.Equal(at(c.enoughFrom)) {
				t.Errorf("%+v, want %+v", got, c)
			}
		})
	}
}

// A signal that is not sev1 is no ground, however it is bad.
func TestOnlySev1IsAGround(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	c.rounds(31, nil)
	if got := c.script("/login", "xxx").of(v1alpha1.ConditionEndpointsAnswer); got.State != metav1.ConditionFalse ||
		got.Ground || got.BadFrom.IsZero() {
		t.Errorf("an endpoint: %+v", got)
	}
	c.script("/login", "...")
	for range 20 {
		if got := c.script("tokens", "xx.").of(v1alpha1.ConditionTokensIssued); got.Ground {
			t.Errorf("what is flaky: %+v", got)
		}
	}
	if got := c.signals().of(v1alpha1.ConditionTokensIssued); !got.Flaky || got.BadFrom.IsZero() ||
		got.EnoughFrom.IsZero() {
		t.Errorf("%+v", got)
	}
	from := c.now
	c.rounds(31, all(3*time.Second))
	if got := c.signals().of(v1alpha1.ConditionLatencyGood); got.State != metav1.ConditionFalse || got.Ground ||
		got.BadFrom.Before(from) || got.EnoughFrom.Before(from) {
		t.Errorf("latency: %+v", got)
	}
}

// The endpoints are bad since the first one is. The newest looks that suffice are those of the one that was bad last.
func TestEndpointsTogether(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	c.rounds(4, nil)
	first := c.now
	c.rounds(3, only("/login", "/login answers HTTP 502"))
	last := c.now
	c.rounds(3, map[string]platformapi.Look{"/login": good(0), "/userinfo": bad("/userinfo answers HTTP 502")})
	c.rounds(3, map[string]platformapi.Look{"/login": bad("/login answers HTTP 502"),
		"/userinfo": bad("/userinfo answers HTTP 502")})
	got := c.signals().of(v1alpha1.ConditionEndpointsAnswer)
	if want := last.Add(30 * time.Second); !got.EnoughFrom.Equal(want) || !got.BadFrom.Equal(last) ||
		!got.Since.Equal(last) {
		t.Errorf("%+v, want bad since and from %v, enough from %v; at first it was bad from %v", got, last, want, first)
	}
}

// A manager that starts in the middle of an outage knows no look since its start. The episode began no later than its
// predecessor's.
func TestARestartBeginsNoEpisode(t *testing.T) {
	t.Parallel()
	p := probed()
	c := newTrial(p)
	c.rounds(4, nil)
	from := c.now
	Report(p, c.script("up", "xxxx"))
	again := &trial{judge: newJudge(p), now: c.now.Add(time.Hour)}
	if got := again.signals().of(v1alpha1.ConditionUpAnswers); got.State != metav1.ConditionUnknown || got.Ground ||
		!got.BadFrom.IsZero() {
		t.Errorf("after the restart: %+v", got)
	}
	enough := again.now
	if got := again.script("up", "xxx").of(v1alpha1.ConditionUpAnswers); !got.Ground || !got.BadFrom.Equal(from) ||
		!got.EnoughFrom.Equal(enough) {
		t.Errorf("bad again: %+v", got)
	}
}

// A process that was stopped for a while, or looks that hang, leave nothing good and nothing bad.
func TestWhatNobodyLooksAtIsUnknown(t *testing.T) {
	t.Parallel()
	for _, looks := range []string{"...", "xxx"} {
		c := newTrial(probed())
		c.rounds(4, nil)
		c.script("up", looks)
		last := c.now.Add(-10 * time.Second)
		c.now = last.Add(300 * time.Second)
		if got := c.signals().of(v1alpha1.ConditionUpAnswers); got.State == metav1.ConditionUnknown {
			// The window is 300 s.
			t.Errorf("within the window: %+v", got)
		}
		c.now = c.now.Add(time.Second)
		s := c.signals()
		if got := s.of(v1alpha1.ConditionUpAnswers); got.State != metav1.ConditionUnknown || got.Ground ||
			!got.Since.Equal(last) {
			t.Errorf("after it: %+v", got)
		}
		if !s.ClearSince().IsZero() || s.Severity() != "" {
			t.Errorf("%+v", s)
		}
		if s := c.script("up", looks); s.of(v1alpha1.ConditionUpAnswers).State == metav1.ConditionUnknown {
			t.Errorf("looked at again: %+v", s)
		}
	}
}

func TestPeopleAreAskedWhereTheClientMayHaveBeenRotated(t *testing.T) {
	t.Parallel()
	refused := map[string]platformapi.Look{"tokens": {Verdict: platformapi.Unknown, Ask: true, Message: "invalid_client"}}
	c := newTrial(probed())
	// A client that was never accepted is a mistake of whoever configures it, and they look at the status.
	if got := c.rounds(3, refused).of(v1alpha1.ConditionTokensIssued); got.State != metav1.ConditionUnknown || got.Ask {
		t.Errorf("never good: %+v", got)
	}
	c.rounds(4, nil)
	if got := c.rounds(2, refused).of(v1alpha1.ConditionTokensIssued); got.Ask {
		t.Errorf("after two looks: %+v", got)
	}
	s := c.rounds(1, refused)
	if got := s.of(v1alpha1.ConditionTokensIssued); got.State != metav1.ConditionUnknown || !got.Ask ||
		got.Message != "invalid_client" || s.Severity() != "" {
		t.Errorf("%+v", got)
	}
	if got := c.rounds(3, map[string]platformapi.Look{"tokens": {Verdict: platformapi.Unknown,
		Message: "HTTP 429"}}).of(v1alpha1.ConditionTokensIssued); got.Ask {
		t.Errorf("unknown by something else: %+v", got)
	}
	if got := c.rounds(3, nil).of(v1alpha1.ConditionTokensIssued); got.Ask || got.State != metav1.ConditionTrue {
		t.Errorf("good again: %+v", got)
	}
}
