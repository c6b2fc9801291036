package playbook_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// farSide is what an effect is made on, and the intent as it is kept.
type farSide struct {
	did               []string
	happened          bool
	may               bool
	intendErr, actErr error
	lookErr           error
	withdrawErr       error
}

func (f *farSide) effect(class playbook.Class, age time.Duration) playbook.Effect {
	now := time.Now()
	e := playbook.Effect{
		Class: class, Settle: time.Minute, Now: now,
		Intend:   func(context.Context) (bool, error) { f.did = append(f.did, "intend"); return f.may, f.intendErr },
		Act:      func(context.Context) error { f.did = append(f.did, "act"); return f.actErr },
		Look:     func(context.Context) (bool, error) { f.did = append(f.did, "look"); return f.happened, f.lookErr },
		Withdraw: func(context.Context, error) error { f.did = append(f.did, "withdraw"); return f.withdrawErr },
	}
	if age > 0 {
		e.Intended = now.Add(-age)
	}
	return e
}

func TestAnEffectKeepsItsClass(t *testing.T) {
	broken := errors.New("broken")
	nothing := &playbook.NoEffect{Err: errors.New("refused")}
	under := fmt.Errorf("asking: %w", &playbook.UnderWay{What: "rolling back"})
	for _, test := range []struct {
		name  string
		class playbook.Class
		age   time.Duration // of the intent that is found; 0: there is none
		side  farSide
		did   []string
		fate  playbook.Fate
		fails bool
	}{
		{"it is made and shows", playbook.AtMostOnce, 0, farSide{may: true, happened: true},
			[]string{"intend", "act", "look"}, playbook.Made, false},
		{"it is made and does not show yet", playbook.AtMostOnce, 0, farSide{may: true}, []string{"intend", "act", "look"},
			playbook.Open, false},
		{"the intent is not written", playbook.AtLeastOnce, 0, farSide{intendErr: broken}, []string{"intend"},
			playbook.NotBegun, true},
		{"the intent is held back", playbook.AtLeastOnce, 0, farSide{}, []string{"intend"}, playbook.NotBegun, false},
		{"the answer is lost", playbook.AtMostOnce, 0, farSide{may: true, actErr: broken}, []string{"intend", "act"},
			playbook.Lost, true},
		{"the answer says that nothing was done", playbook.AtMostOnce, 0, farSide{may: true, actErr: nothing},
			[]string{"intend", "act", "withdraw"}, playbook.Withdrawn, true},
		{"the withdrawal is not written", playbook.AtMostOnce, 0, farSide{may: true, actErr: nothing, withdrawErr: broken},
			[]string{"intend", "act", "withdraw"}, playbook.NotBegun, true},
		{"what came of it can't be read", playbook.AtMostOnce, 0, farSide{may: true, lookErr: broken},
			[]string{"intend", "act", "look"}, playbook.NotBegun, true},
		{"the call goes on beside the passes", playbook.AtMostOnce, 0, farSide{may: true, actErr: under},
			[]string{"intend", "act"}, playbook.Open, true},
		{"a call goes on for longer than an effect may take", playbook.AtMostOnce, time.Hour,
			farSide{may: true, lookErr: under}, []string{"look"}, playbook.Open, true},
		{"a call goes on, and may be repeated", playbook.AtLeastOnce, time.Hour, farSide{may: true, lookErr: under},
			[]string{"look"}, playbook.Open, true},
		{"an intent is found whose effect shows", playbook.AtMostOnce, time.Hour, farSide{may: true, happened: true},
			[]string{"look"}, playbook.Made, false},
		{"an intent is found, and the far side can't be read", playbook.AtLeastOnce, time.Hour,
			farSide{may: true, lookErr: broken}, []string{"look"}, playbook.NotBegun, true},
		{"an intent is found that was never acted on", playbook.AtMostOnce, time.Second,
			farSide{may: true, lookErr: nothing}, []string{"look", "withdraw"}, playbook.Withdrawn, true},
		{"a young intent, at most once", playbook.AtMostOnce, time.Second, farSide{may: true}, []string{"look"},
			playbook.Open, false},
		{"a young intent, effectively once", playbook.EffectivelyOnce, time.Second, farSide{may: true}, []string{"look"},
			playbook.Open, false},
		{"an old intent, at most once", playbook.AtMostOnce, time.Hour, farSide{may: true}, []string{"look"},
			playbook.Untold, false},
		{"an old intent, effectively once", playbook.EffectivelyOnce, time.Hour, farSide{may: true},
			[]string{"look", "intend", "act", "look"}, playbook.Open, false},
		{"an old intent, at least once", playbook.AtLeastOnce, time.Hour, farSide{may: true},
			[]string{"look", "intend", "act", "look"}, playbook.Open, false},
		{"an old intent, and another manager takes the next attempt", playbook.AtLeastOnce, time.Hour,
			farSide{intendErr: broken}, []string{"look", "intend"}, playbook.NotBegun, true},
	} {
		fate, err := test.side.effect(test.class, test.age).Do(t.Context())
		if fate != test.fate || (err != nil) != test.fails || !slices.Equal(test.side.did, test.did) {
			t.Errorf("%s: fate %d, error %v, did %v; want fate %d, did %v", test.name, fate, err, test.side.did, test.fate,
				test.did)
		}
	}
}
