package playbook_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

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

var threeSteps = playbook.Lanes[*script]{{step("First"), step("Second"), step("Third")}}

// run is a pass of a manager that has just started.
func run(t *testing.T, obj *v1alpha1.DLQReplay, s *script) time.Duration {
	t.Helper()
	return runLanes(t, obj, threeSteps, s, &playbook.Memory{})
}

func runLanes(t *testing.T, obj *v1alpha1.DLQReplay, lanes playbook.Lanes[*script], s *script,
	m *playbook.Memory) time.Duration {
	t.Helper()
	s.ran = nil
	playbook.Begin(obj, lanes)
	return playbook.Run(t.Context(), obj, lanes, s, m)
}

// ran fails the test unless exactly these steps were run.
func (s *script) expectRan(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(s.ran, want) {
		t.Fatalf("ran %v, want %v", s.ran, want)
	}
}

func ready(obj *v1alpha1.DLQReplay) metav1.Condition {
	return *meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionReady)
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
	s.outcomes = map[string]playbook.Outcome{
		"First": playbook.Done("one"), "Second": playbook.Wait(time.Second, "Working",
			"at it"), "Third": playbook.Done("three"),
	}
	if after := run(t, obj, s); after != time.Second {
		t.Errorf("comes back after %v", after)
	}
	s.expectRan(t, "First", "Second")
	expect(t, obj, "Ready=False/Working", "Reconciling=True/Working", "First=True/Succeeded", "Second=Unknown/Working",
		"Third=Unknown/Pending")
	if got := ready(obj).Message; got != "step 2/3: at it" {
		t.Errorf("Ready says %q", got)
	}

	s.outcomes["Second"] = playbook.NotNeeded("nothing to do")
	run(t, obj, s)
	s.expectRan(t, "Second", "Third")
	expect(t, obj, "Ready=True/Succeeded", "First=True/Succeeded", "Second=False/NotNeeded", "Third=True/Succeeded")

	run(t, obj, s)
	s.expectRan(t)
}

func TestStallNeedsAPersonAndResumesWhereItStopped(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{}
	s.outcomes = map[string]playbook.Outcome{
		"First": playbook.Done("one"), "Second": playbook.Stall("Broken", "mend it"), "Third": playbook.Done("three"),
	}
	run(t, obj, s)
	expect(t, obj, "Ready=False/Broken", "Stalled=True/Broken", "First=True/Succeeded", "Second=False/Broken",
		"Third=Unknown/Pending")
	run(t, obj, s)
	s.expectRan(t)
	expect(t, obj, "Ready=False/Broken", "Stalled=True/Broken", "First=True/Succeeded", "Second=False/Broken",
		"Third=Unknown/Pending")

	playbook.Resume(obj)
	s.outcomes["Second"] = playbook.Done("mended")
	run(t, obj, s)
	s.expectRan(t, "Second", "Third")
	expect(t, obj, "Ready=True/Succeeded", "First=True/Succeeded", "Second=True/Succeeded", "Third=True/Succeeded")
}

func TestFinishAndMootEndThePlaybookInAllLanes(t *testing.T) {
	for _, test := range []struct {
		outcome playbook.Outcome
		want    []string
	}{
		{playbook.Finish("PlanOnly", "enough"), []string{"Ready=True/PlanOnly", "First=True/Succeeded"}},
		{playbook.Moot("AlreadyDone", "before"), []string{"Ready=True/AlreadyDone", "First=False/NotNeeded"}},
	} {
		lanes := playbook.Lanes[*script]{{step("Told")}, {step("First"), step("Second")}, {step("Third")}}
		obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: map[string]playbook.Outcome{
			"Told": playbook.Wait(0, "Telling", "people"), "First": test.outcome,
		}}
		runLanes(t, obj, lanes, s, &playbook.Memory{})
		s.expectRan(t, "Told", "First")
		expect(t, obj, append(test.want, "Told=False/NotNeeded", "Second=False/NotNeeded", "Third=False/NotNeeded")...)
	}
}

func TestAStepThatHappenedBeforeItsTurnIsNotRun(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: map[string]playbook.Outcome{
		"First": playbook.Done("one"), "Second": playbook.Wait(time.Second, "Working", "at it"),
	}}
	run(t, obj, s)
	playbook.Happened(obj, "Third", "three")
	expect(t, obj, "Ready=False/Working", "Reconciling=True/Working", "First=True/Succeeded", "Second=Unknown/Working",
		"Third=True/Succeeded")
	s.outcomes["Second"] = playbook.Done("two")
	run(t, obj, s)
	s.expectRan(t, "Second")
	expect(t, obj, "Ready=True/Succeeded", "First=True/Succeeded", "Second=True/Succeeded", "Third=True/Succeeded")
}

func TestAReopenedStepIsRunAgain(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{outcomes: map[string]playbook.Outcome{
		"First": playbook.Done("one"), "Second": playbook.Wait(0, "Working", "at it"),
	}}
	run(t, obj, s)
	playbook.Reopen(obj, "First", "Outdated", "one holds no longer")
	expect(t, obj, "Ready=False/Working", "Reconciling=True/Working", "First=Unknown/Outdated", "Second=Unknown/Working",
		"Third=Unknown/Pending")
	run(t, obj, s)
	s.expectRan(t, "First", "Second")
}

func TestErrorIsReportedWithItsReasonAndRetried(t *testing.T) {
	broken := errors.New("dial 127.0.0.1:4711->10.0.0.1:5432: refused after 1.5s")
	obj := &v1alpha1.DLQReplay{}
	s := &script{errs: map[string]error{"First": &playbook.Waiting{Reason: "DatabaseUnreachable", Err: broken}}}
	if after := run(t, obj, s); after != 200*time.Millisecond {
		t.Errorf("the first retry is after %v", after)
	}
	expect(t, obj, "Ready=False/DatabaseUnreachable", "Reconciling=True/DatabaseUnreachable",
		"First=Unknown/DatabaseUnreachable", "Second=Unknown/Pending", "Third=Unknown/Pending")
	first := obj.DeepCopy()

	s.errs["First"] = &playbook.Waiting{Reason: "DatabaseUnreachable", Err: errors.New("dial " +
		"127.0.0.1:4712->10.0.0.1:5432: refused after 2.25s")}
	run(t, obj, s)
	if got, want := meta.FindStatusCondition(obj.Status.Conditions,
		"First"), meta.FindStatusCondition(first.Status.Conditions, "First"); *got != *want {
		t.Errorf("the same failure with another port and time changed the condition, which costs a write:\n%+v\n%+v", got,
			want)
	}
}

func TestAStepWithoutAnOutcomeIsAMistakeThatIsNamed(t *testing.T) {
	obj, s := &v1alpha1.DLQReplay{}, &script{}
	if after := run(t, obj, s); after == 0 {
		t.Error("it is not retried")
	}
	s.expectRan(t, "First")
	expect(t, obj, "Ready=False/Retrying", "Reconciling=True/Retrying", "First=Unknown/Retrying",
		"Second=Unknown/Pending", "Third=Unknown/Pending")
	if got := ready(obj).Message; !strings.Contains(got, "the step First ended without an outcome") {
		t.Errorf("Ready says %q", got)
	}
}

func TestAConflictIsNoFailure(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "dlqreplays"}, "r", errors.New("changed"))
	obj, s := &v1alpha1.DLQReplay{}, &script{errs: map[string]error{"First": fmt.Errorf("writing the intent: %w",
		conflict)}}
	for range 3 {
		if after := run(t, obj, s); after != time.Millisecond {
			t.Errorf("the object is read again after %v", after)
		}
	}
	expect(t, obj, "Ready=False/Pending", "Reconciling=True/Pending", "First=Unknown/Pending", "Second=Unknown/Pending",
		"Third=Unknown/Pending")
}
