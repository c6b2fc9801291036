package playbook_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

type script struct {
	ran      []string
	outcomes map[string]playbook.Outcome
	errs     map[string]error
}

func step(name string) playbook.Step[*script] {
	return playbook.Step[*script]{Condition: name, Run: func(_ context.Context, s *script) (playbook.Outcome, error) {
		s.ran = append(s.ran, name)
		return s.outcomes[name], s.errs[name]
	}}
}

var threeSteps = []playbook.Step[*script]{step("First"), step("Second"), step("Third")}

func run(t *testing.T, obj *v1alpha1.DLQReplay, s *script) (time.Duration, error) {
	t.Helper()
	s.ran = nil
	playbook.Begin(obj, threeSteps)
	return playbook.Run(t.Context(), obj, threeSteps, s)
}

// state is what a person reads: each condition as Type=Status/Reason, sorted.
func state(obj *v1alpha1.DLQReplay) []string {
	var all []string
	for _, c := range obj.Status.Conditions {
		all = append(all, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason))
	}
	slices.Sort(all)
	return all
}

func expect(t *testing.T, obj *v1alpha1.DLQReplay, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := state(obj); !slices.Equal(got, want) {
		t.Errorf("conditions are\n  %v\nwant\n  %v", got, want)
	}
}

func TestStepsRunInOrderAndSettledOnesNotAgain(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{}
	s.outcomes = map[string]playbook.Outcome{"First": playbook.Done("one"), "Second": playbook.Wait(time.Second, "Working", "at it"), "Third": playbook.Done("three")}
	after, err := run(t, obj, s)
	if err != nil || after != time.Second || !slices.Equal(s.ran, []string{"First", "Second"}) {
		t.Fatalf("ran %v, after %v, error %v", s.ran, after, err)
	}
	expect(t, obj, "Ready=False/Working", "Reconciling=True/Working", "First=True/Succeeded", "Second=Unknown/Working", "Third=Unknown/Pending")

	s.outcomes["Second"] = playbook.NotNeeded("nothing to do")
	if _, err := run(t, obj, s); err != nil || !slices.Equal(s.ran, []string{"Second", "Third"}) {
		t.Fatalf("ran %v, error %v", s.ran, err)
	}
	expect(t, obj, "Ready=True/Succeeded", "First=True/Succeeded", "Second=False/NotNeeded", "Third=True/Succeeded")

	if _, err := run(t, obj, s); err != nil || len(s.ran) != 0 {
		t.Fatalf("a finished object ran %v, error %v", s.ran, err)
	}
}

func TestStallNeedsAPersonAndResumesWhereItStopped(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{}
	s.outcomes = map[string]playbook.Outcome{"First": playbook.Done("one"), "Second": playbook.Stall("Broken", "mend it"), "Third": playbook.Done("three")}
	if _, err := run(t, obj, s); err != nil {
		t.Fatal(err)
	}
	expect(t, obj, "Ready=False/Broken", "Stalled=True/Broken", "First=True/Succeeded", "Second=False/Broken", "Third=Unknown/Pending")
	if _, err := run(t, obj, s); err != nil || len(s.ran) != 0 {
		t.Fatalf("a stalled object ran %v, error %v", s.ran, err)
	}

	playbook.Resume(obj)
	s.outcomes["Second"] = playbook.Done("mended")
	if _, err := run(t, obj, s); err != nil || !slices.Equal(s.ran, []string{"Second", "Third"}) {
		t.Fatalf("ran %v, error %v", s.ran, err)
	}
	expect(t, obj, "Ready=True/Succeeded", "First=True/Succeeded", "Second=True/Succeeded", "Third=True/Succeeded")
}

func TestFinishAndMootEndThePlaybook(t *testing.T) {
	for _, test := range []struct {
		outcome playbook.Outcome
		want    []string
	}{
		{playbook.Finish("PlanOnly", "enough"), []string{"Ready=True/PlanOnly", "First=True/Succeeded", "Second=False/NotNeeded", "Third=False/NotNeeded"}},
		{playbook.Moot("AlreadyDone", "before"), []string{"Ready=True/AlreadyDone", "First=False/NotNeeded", "Second=False/NotNeeded", "Third=False/NotNeeded"}},
	} {
		obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: map[string]playbook.Outcome{"First": test.outcome}}
		if _, err := run(t, obj, s); err != nil || !slices.Equal(s.ran, []string{"First"}) {
			t.Fatalf("ran %v, error %v", s.ran, err)
		}
		expect(t, obj, test.want...)
	}
}

func TestAStepThatHappenedBeforeItsTurnIsNotRun(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: map[string]playbook.Outcome{"First": playbook.Done("one"), "Second": playbook.Wait(time.Second, "Working", "at it")}}
	if _, err := run(t, obj, s); err != nil {
		t.Fatal(err)
	}
	playbook.Happened(obj, "Third", "three")
	expect(t, obj, "Ready=False/Working", "Reconciling=True/Working", "First=True/Succeeded", "Second=Unknown/Working", "Third=True/Succeeded")
	s.outcomes["Second"] = playbook.Done("two")
	if _, err := run(t, obj, s); err != nil || !slices.Equal(s.ran, []string{"Second"}) {
		t.Fatalf("ran %v, error %v", s.ran, err)
	}
	expect(t, obj, "Ready=True/Succeeded", "First=True/Succeeded", "Second=True/Succeeded", "Third=True/Succeeded")
}

func TestErrorIsReportedWithItsReasonAndRetried(t *testing.T) {
	broken := errors.New("dial 127.0.0.1:4711->10.0.0.1:5432: refused after 1.5s")
	obj, s := &v1alpha1.DLQReplay{}, &script{errs: map[string]error{"First": &playbook.Waiting{Reason: "DatabaseUnreachable", Err: broken}}}
	if _, err := run(t, obj, s); !errors.Is(err, broken) {
		t.Fatalf("the error is %v", err)
	}
	expect(t, obj, "Ready=False/DatabaseUnreachable", "Reconciling=True/DatabaseUnreachable", "First=Unknown/DatabaseUnreachable", "Second=Unknown/Pending", "Third=Unknown/Pending")
	first := obj.DeepCopy()

	s.errs["First"] = &playbook.Waiting{Reason: "DatabaseUnreachable", Err: errors.New("dial 127.0.0.1:4712->10.0.0.1:5432: refused after 2.25s")}
	if _, err := run(t, obj, s); err == nil {
		t.Fatal("no error")
	}
	if got, want := meta.FindStatusCondition(obj.Status.Conditions, "First"), meta.FindStatusCondition(first.Status.Conditions, "First"); *got != *want {
		t.Errorf("the same failure with another port and time changed the condition, and would wake the controller at once:\n%+v\n%+v", got, want)
	}
}

func TestAStepOfALaterReleaseIsNotRunForAnObjectBegunWithoutIt(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: map[string]playbook.Outcome{"First": playbook.Done("one"), "Third": playbook.Done("three")}}
	playbook.Begin(obj, []playbook.Step[*script]{step("First"), step("Third")})
	if _, err := run(t, obj, s); err != nil || !slices.Equal(s.ran, []string{"First", "Third"}) {
		t.Fatalf("ran %v, error %v", s.ran, err)
	}
	expect(t, obj, "Ready=True/Succeeded", "First=True/Succeeded", "Third=True/Succeeded")
	if c := meta.FindStatusCondition(obj.Status.Conditions, "Ready"); c.Message != "three" || c.Status != metav1.ConditionTrue {
		t.Errorf("Ready is %+v", c)
	}
}
