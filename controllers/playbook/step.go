// Package playbook runs the steps of a playbook and reports each as a status condition. It knows no system.
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
	// Ends marks the step whose message the finished object shows. Without one it is that of the last step that happened.
	Ends bool
}

// Lanes are a playbook: lists of steps. Each list is run from top to bottom, and none waits for another. A kind that
// has one list has one lane.
type Lanes[S any] [][]Step[S]

// Object is what a playbook reports on.
type Object interface {
	client.Object
	GetConditions() *[]metav1.Condition
	// PlatformName is the name of the Platform that it is about.
	PlatformName() string
	// Observed returns the generation and the last request that the status knows, for reading and setting.
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

// An Outcome is what a step came to. An error is not an outcome: it is retried.
//
// The zero Outcome says nothing. Between the functions of a step it means "go on", as a nil error does. A step that
// returns it to the engine has a mistake, and the engine says so.
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

// Wait reports what the step is doing, and comes back after d. With a d of zero only a change of the object or of its
// Platform brings the step back.
func Wait(d time.Duration, reason, format string, args ...any) Outcome {
	return Outcome{verdict: wait, reason: reason, message: fmt.Sprintf(format, args...), after: d}
}

// Stall stops the step's lane: a person is needed, and the message says what to do.
func Stall(reason, format string, args ...any) Outcome {
	return Outcome{verdict: stall, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Finish settles a step and the whole playbook with it: all steps that are not settled are not needed, and Ready has
// this reason.
func Finish(reason, format string, args ...any) Outcome {
	return Outcome{verdict: finish, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Moot settles the whole playbook without this step: neither it nor any other that is not settled is needed, and Ready
// has this reason.
func Moot(reason, format string, args ...any) Outcome {
	return Outcome{verdict: moot, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Loud makes a Wait or a Stall the one that Ready speaks of, whatever other lanes wait for.
func (o Outcome) Loud() Outcome {
	o.loud = true
	return o
}

// Stops says whether the step ends here, with this outcome. The zero Outcome lets it go on.
func (o Outcome) Stops() bool { return o.verdict != unsaid }

// Waiting is an error with a reason of its own: the operation can't go on until something outside changes, and says
// which. It is retried like any other.
type Waiting struct {
	Reason string
	Err    error
}

func (w *Waiting) Error() string { return w.Err.Error() }
func (w *Waiting) Unwrap() error { return w.Err }
