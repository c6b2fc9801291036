// Package playbook runs the steps of a playbook, and reports each as a status condition. It imports no system.
package playbook

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// A Step is one line of a playbook: the condition that reports it and the work that makes it true.
type Step[S any] struct {
	Condition string
	Run       func(ctx context.Context, s S) (Outcome, error)
	// Ends marks a step whose message the finished object shows. If no step is marked, the object shows the message of the
	// last step that happened.
	Ends bool
}

// Lanes are a playbook: lists of steps. Each list is run from top to bottom, and no list waits for another.
type Lanes[S any] [][]Step[S]

// Object is what a playbook reports on.
type Object interface {
	client.Object
	GetConditions() *[]metav1.Condition
	// PlatformName is the name of the Platform that it uses.
	PlatformName() string
	// Observed returns the status fields with the observed generation and the last request, for reading and setting.
	Observed() (generation *int64, requestedAt *string)
	// SetStatusOf takes over the status of another object of the same kind.
	SetStatusOf(runtime.Object)
}

type verdict int

const (
	unsaid verdict = iota
	done
	notNeeded
	wait
	stall
	finish
	moot
)

// An Outcome is the result of a step. An error is not an outcome: it is retried.
//
// The zero Outcome means "go on" between the functions of a step, as a nil error does. A step must not return it to the
// engine. The engine reports that as a mistake.
type Outcome struct {
	verdict verdict
	reason  string
	message string
	after   time.Duration
	loud    bool
}

// Done settles a step: what its condition names happened.
func Done(format string, args ...any) Outcome {
	return Outcome{verdict: done, reason: v1alpha1.ReasonSucceeded, message: fmt.Sprintf(format, args...)}
}

// NotNeeded settles a step that had nothing to do.
func NotNeeded(format string, args ...any) Outcome {
	return Outcome{verdict: notNeeded, reason: v1alpha1.ReasonNotNeeded, message: fmt.Sprintf(format, args...)}
}

// Wait reports what the step is doing, and comes back after d. If d is zero, only a change of the object or of its
// Platform brings the step back.
func Wait(d time.Duration, reason, format string, args ...any) Outcome {
	return Outcome{verdict: wait, reason: reason, message: fmt.Sprintf(format, args...), after: d}
}

// Stall stops the step's lane: a person is needed, and the message says what to do.
func Stall(reason, format string, args ...any) Outcome {
	return Outcome{verdict: stall, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Finish settles a step and the whole playbook with it. The other steps that are not settled are not needed, and Ready
// has this reason.
func Finish(reason, format string, args ...any) Outcome {
	return Outcome{verdict: finish, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Moot settles the whole playbook. This step, and each other step that is not settled, is not needed, and Ready has
// this reason.
func Moot(reason, format string, args ...any) Outcome {
	return Outcome{verdict: moot, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Loud makes Ready show the message of this Wait or Stall, before those of other lanes.
func (o Outcome) Loud() Outcome {
	o.loud = true
	return o
}

// Stops says whether the step ends here with this outcome. The zero Outcome lets it go on.
func (o Outcome) Stops() bool { return o.verdict != unsaid }

// Waiting is an error with a reason of its own: the operation can't go on until something outside changes. It is
// retried like any other error.
type Waiting struct {
	Reason string
	Err    error
	// Urgent says that it is the most urgent thing about the object, as Loud says of an Outcome.
	Urgent bool
}

func (w *Waiting) Error() string { return w.Err.Error() }
func (w *Waiting) Unwrap() error { return w.Err }
