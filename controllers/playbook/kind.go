package playbook

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// A Kind is what differs from one kind of playbook to the next. What they share is the pass: read, gate, connect,
// assess, resume, run, measure, save, tell, release.
type Kind[O Object, S any] struct {
	// Client reads from the cache and writes.
	Client client.Client
	// APIReader reads past the cache: a pass begins with the object as it is, so that a manager that woke up late does not
	// act for one that is gone.
	APIReader client.Reader
	Recorder  events.EventRecorder
	Memory    *Memory
	// Now is the clock of what waits in memory. Nil: time.Now.
	Now func() time.Time

	// New makes an empty object.
	New func() O
	// Action is what events say is done to the object.
	Action string
	// Lanes are the playbook of an object.
	Lanes func(O) Lanes[S]
	// Connect reaches what the steps work with, and adds the finalizer before anything is begun that must be closed.
	Connect func(context.Context, *Visit[O]) (S, error)
	// Assess looks at the whole before the steps. An outcome that stops keeps them from running. Nil: there is nothing to
	// assess.
	Assess func(context.Context, S) Outcome
	// Urged says that a stalled object of several lanes goes on though nobody asked by requestedAt. Nil: it never does.
	Urged func(S) bool
	// Resume prepares a stalled object that goes on: what stalled it may be tried again. Asked still says whether a person
	// asked. Nil: nothing is to be prepared.
	Resume func(context.Context, S) error
	// Measure looks at the whole after the steps, and at how soon they come back; it returns how soon the pass does. Nil:
	// as they do.
	Measure func(context.Context, S, time.Duration) time.Duration
	// DropLate drops from a copy of an object what may be written a second late. Nil: the messages of conditions only.
	DropLate func(O)
	// Close takes back or closes what a deleted object began.
	Close func(context.Context, *Visit[O]) error
}

// Reconcile is one pass over one object.
func (k Kind[O, S]) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// Before the object is read: a deletion that the pass does not see any more interrupts it.
	passing, end := k.Memory.passing(ctx, req.NamespacedName)
	defer end()
	obj := k.New()
	if err := k.APIReader.Get(ctx, req.NamespacedName, obj); err != nil {
		if apierrors.IsNotFound(err) {
			k.Memory.Forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	k.Memory.use(k.Now)
	v := &Visit[O]{
		Obj: obj, written: obj.DeepCopyObject().(O),
		client: k.Client, recorder: k.Recorder, memory: k.Memory, action: k.Action,
	}
	if !obj.GetDeletionTimestamp().IsZero() {
		return Finalize(ctx, k.Client, k.Recorder, obj, func(ctx context.Context) error { return k.Close(ctx, v) })
	}
	after, err := k.pass(passing, v)
	late, writeErr := v.SaveInTime(ctx, k.DropLate)
	after = Soonest(after, late)
	switch {
	case err != nil || writeErr != nil:
	case Finished(obj):
		k.Memory.Forget(req.NamespacedName)
		err = release(ctx, k.Client, obj)
	default:
		// Whoever comes before that was woken, and tries again what failed.
		k.Memory.comesBack(req.NamespacedName, after)
	}
	return Result(ctx, after, err, writeErr)
}

// pass brings the object's playbook as far as it goes now. A finished object runs nothing. A stalled one goes on when
// it is asked to, or urged; until then only lanes beside the stalled one do.
func (k Kind[O, S]) pass(ctx context.Context, v *Visit[O]) (time.Duration, error) {
	obj := v.Obj
	generation, request := obj.Observed()
	*generation = obj.GetGeneration()
	if Finished(obj) {
		return 0, nil
	}
	v.Wiped = condition(obj, v1alpha1.ConditionReady) == nil && marked(obj)
	lanes := k.Lanes(obj)
	Begin(obj, lanes)
	if Stalled(obj) && !Asked(obj) && len(lanes) == 1 {
		return 0, nil
	}
	s, err := k.Connect(ctx, v)
	if err != nil {
		Fail(obj, err)
		return 0, err
	}
	if k.Assess != nil {
		if outcome := k.Assess(ctx, s); outcome.Stops() {
			*request = Request(obj)
			conclude(obj, outcome)
			return outcome.after, nil
		}
	}
	if Asked(obj) || Stalled(obj) && k.Urged != nil && k.Urged(s) {
		if k.Resume != nil {
			err = k.Resume(ctx, s)
		}
		if err != nil {
			Fail(obj, err)
			return 0, err
		}
		Resume(obj)
	}
	*request = Request(obj)
	after := Run(ctx, obj, lanes, s, k.Memory)
	if k.Measure != nil {
		after = k.Measure(ctx, s, after)
	}
	return after, nil
}

// conclude reports an outcome of the whole, which no step came to.
func conclude(obj Object, outcome Outcome) {
	if outcome.verdict == stall {
		Stop(obj, outcome.reason, outcome.message)
		return
	}
	proceed(obj, outcome.reason, outcome.message)
}
