package playbook_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

var threeLanes = playbook.Lanes[*script]{{step("Paged")}, {step("Noticed")}, {step("Mended"), step("Closed")}}

func TestALaneThatStallsOrFailsHoldsUpOnlyItself(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{errs: map[string]error{"Noticed": errors.New("no answer")}}
	s.outcomes = map[string]playbook.Outcome{
		"Paged": playbook.Stall("Broken",
			"mend it"), "Mended": playbook.Done("mended"), "Closed": playbook.Wait(time.Second, "Watching", "signals"),
	}
	m := &playbook.Memory{}
	after := runLanes(t, obj, threeLanes, s, m)
	s.expectRan(t, "Paged", "Noticed", "Mended", "Closed")
	expect(t, obj, "Ready=False/Broken", "Stalled=True/Broken", "Paged=False/Broken", "Noticed=Unknown/Retrying",
		"Mended=True/Succeeded", "Closed=Unknown/Watching")
	if after != 200*time.Millisecond {
		t.Errorf("comes back after %v", after)
	}
	s.errs, s.outcomes["Noticed"], s.outcomes["Closed"] = nil, playbook.Done("told"), playbook.Done("over")
	runLanes(t, obj, threeLanes, s, m)
	s.expectRan(t, "Noticed", "Closed")
	expect(t, obj, "Ready=False/Broken", "Stalled=True/Broken", "Paged=False/Broken", "Noticed=True/Succeeded",
		"Mended=True/Succeeded", "Closed=True/Succeeded")
}

func TestTheLastLaneSpeaksUnlessOneIsLoud(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: map[string]playbook.Outcome{
		"Paged": playbook.Wait(time.Minute, "Paging", "soon"), "Noticed": playbook.Wait(0, "Withheld", "not confirmed"),
		"Mended": playbook.Wait(time.Second, "RollingBack", "to dep-1"),
	}}
	m := &playbook.Memory{}
	if after := runLanes(t, obj, threeLanes, s, m); after != time.Second {
		t.Errorf("comes back after %v", after)
	}
	if got := ready(obj); got.Reason != "RollingBack" || got.Message != "step 1/2: to dep-1" {
		t.Errorf("Ready is %+v", got)
	}
	s.outcomes["Paged"] = playbook.Wait(time.Second, "NobodyReached", "no channel accepted the page").Loud()
	runLanes(t, obj, threeLanes, s, m)
	expect(t, obj, "Ready=False/NobodyReached", "Reconciling=True/NobodyReached", "Paged=Unknown/NobodyReached",
		"Noticed=Unknown/Withheld", "Mended=Unknown/RollingBack", "Closed=Unknown/Pending")

	// It comes before what is stalled, too, which stays visible.
	s.outcomes["Mended"] = playbook.Stall("Refused", "mend it")
	runLanes(t, obj, threeLanes, s, m)
	expect(t, obj, "Ready=False/NobodyReached", "Stalled=True/Refused", "Paged=Unknown/NobodyReached",
		"Noticed=Unknown/Withheld", "Mended=False/Refused", "Closed=Unknown/Pending")
}

// awaited runs passes as controller-runtime does, each when the one before asked for it.
func awaited(t *testing.T, obj *v1alpha1.DLQReplay, s *script, m *playbook.Memory, passes int) (ran []string) {
	t.Helper()
	for range passes {
		after := runLanes(t, obj, threeLanes, s, m)
		ran = append(ran, s.ran...)
		time.Sleep(after)
	}
	return ran
}

func TestALaneThatFailsIsPutOffWhileOthersGoOn(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{errs: map[string]error{"Noticed": errors.New("no answer")}}
	s.outcomes = map[string]playbook.Outcome{"Paged": playbook.Done("reached"),
		"Mended": playbook.Wait(10*time.Millisecond, "Working", "at it")}
	m := &playbook.Memory{SlowestRetry: 300 * time.Millisecond}
	began := time.Now()
	ran := awaited(t, obj, s, m, 60)
	took := time.Since(began)
	tries := 0
	for _, name := range ran {
		if name == "Noticed" {
			tries++
		}
	}
	// At once, after 200 ms, and then each 300 ms.
	if most := int(took/(200*time.Millisecond)) + 1; tries < 2 || tries > most {
		t.Errorf("the lane that fails was tried %d times in %v", tries, took)
	}
	if n := len(ran) - tries; n < 50 {
		t.Errorf("the other lane was run %d times in 60 passes", n)
	}
	if c := meta.FindStatusCondition(obj.Status.Conditions, "Noticed"); c.Message != "no answer" ||
		c.Reason != v1alpha1.ReasonRetrying {
		t.Errorf("a lane that is put off says %+v", c)
	}

	// A person who wakes the object early may have mended the fault.
	s.errs, s.outcomes["Noticed"] = nil, playbook.Wait(time.Hour, "Telling", "at it")
	runLanes(t, obj, threeLanes, s, m)
	runLanes(t, obj, threeLanes, s, m)
	if !slices.Contains(s.ran, "Noticed") {
		t.Errorf("a pass that was woken ran %v", s.ran)
	}
}

func TestRetriesTakeEverLongerUntilTheLaneMakesProgress(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{errs: map[string]error{"First": errors.New("no answer")}}
	m := &playbook.Memory{SlowestRetry: time.Second}
	next := func() time.Duration { return runLanes(t, obj, threeSteps, s, m) }
	for _, want := range []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
		time.Second, time.Second} {
		if got := next(); got != want {
			t.Fatalf("the retry is after %v, want %v", got, want)
		}
	}
	s.errs, s.outcomes = nil, map[string]playbook.Outcome{"First": playbook.Wait(time.Hour, "Working", "at it")}
	next()
	s.errs = map[string]error{"First": errors.New("no answer")}
	if got := next(); got != 200*time.Millisecond {
		t.Errorf("after progress the retry is after %v", got)
	}
	next()
	m.Forget(client.ObjectKeyFromObject(obj))
	if got := next(); got != 200*time.Millisecond {
		t.Errorf("of an object that is forgotten the retry is after %v", got)
	}
}

func TestTheFinishedRowSaysHowItEnded(t *testing.T) {
	ending := func(name string) playbook.Step[*script] { s := step(name); s.Ends = true; return s }
	outcomes := map[string]playbook.Outcome{
		"Mended": playbook.Done("rolled back"), "Closed": playbook.Done("over"), "Restored": playbook.NotNeeded("was not " +
			"switched off"),
	}
	for _, test := range []struct {
		restored playbook.Outcome
		closed   func(string) playbook.Step[*script]
		want     string
	}{
		{playbook.NotNeeded("was not switched off"), step, "over"},
		{playbook.Done("switched on"), step, "switched on"},
		{playbook.Done("switched on"), ending, "over"},
	} {
		outcomes["Restored"] = test.restored
		obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: outcomes}
		runLanes(t, obj, playbook.Lanes[*script]{{step("Mended"), test.closed("Closed"), step("Restored")}}, s,
			&playbook.Memory{})
		if got := ready(obj); got.Status != metav1.ConditionTrue || got.Message != test.want {
			t.Errorf("Ready is %+v, and should say %q", got, test.want)
		}
	}
}

// An object that was begun by another release has some of the steps that this one knows.
func TestAnObjectBegunWithAnySubsetOfStepsIsRunToItsEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all, had playbook.Lanes[*script]
		s := &script{outcomes: map[string]playbook.Outcome{}}
		var want []string
		for lane := range rapid.IntRange(1, 4).Draw(t, "lanes") {
			var steps, known []playbook.Step[*script]
			for i := range rapid.IntRange(0, 4).Draw(t, "steps") {
				name := fmt.Sprintf("S%d%d", lane, i)
				steps = append(steps, step(name))
				s.outcomes[name] = playbook.Done("%s", name)
				if rapid.Bool().Draw(t, "has "+name) {
					known, want = append(known, step(name)), append(want, name)
				}
			}
			all, had = append(all, steps), append(had, known)
		}
		obj := &v1alpha1.DLQReplay{}
		playbook.Begin(obj, had)
		before := len(obj.Status.Conditions)
		// Each step first says what it does, once.
		waited := map[string]bool{}
		for i := range all {
			for j, st := range all[i] {
				run := st.Run
				all[i][j].Run = func(ctx context.Context, s *script) (playbook.Outcome, error) {
					if !waited[st.Condition] {
						waited[st.Condition] = true
						return playbook.Wait(time.Second, "Working", "on %s", st.Condition), nil
					}
					return run(ctx, s)
				}
			}
		}
		for range len(want) + 1 {
			playbook.Run(context.Background(), obj, all, s, &playbook.Memory{})
			checkCounted(t, obj, had)
		}
		ready := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionReady)
		if len(want) == 0 {
			if !playbook.Stalled(obj) {
				t.Fatalf("an object none of whose steps is known is %+v", ready)
			}
			return
		}
		slices.Sort(want)
		slices.Sort(s.ran)
		if !slices.Equal(s.ran, want) {
			t.Fatalf("ran %v, and the object has %v", s.ran, want)
		}
		// Reconciling went.
		if ready.Status != metav1.ConditionTrue || len(obj.Status.Conditions) != before-1 {
			t.Fatalf("conditions at the end: %+v", obj.Status.Conditions)
		}
	})
}

// checkCounted fails unless what the row says counts the steps that the object has, and no other.
func checkCounted(t *rapid.T, obj *v1alpha1.DLQReplay, had playbook.Lanes[*script]) {
	message := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionReady).Message
	text, name, found := strings.Cut(message, "on ")
	if !found {
		return
	}
	for _, lane := range had {
		i := slices.IndexFunc(lane, func(s playbook.Step[*script]) bool { return s.Condition == name })
		if i < 0 {
			continue
		}
		want := ""
		if len(lane) > 1 {
			want = fmt.Sprintf("step %d/%d: ", i+1, len(lane))
		}
		if text != want {
			t.Fatalf("the row says %q, and %s is %q", message, name, want)
		}
		return
	}
	t.Fatalf("the row speaks of a step that the object does not have: %q", message)
}
