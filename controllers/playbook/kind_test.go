package playbook_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// toy is a kind whose pass writes down what it does. The API server is controller-runtime's, in memory: the clock of
// these tests stands still while a real one answers.
type toy struct {
	t          *testing.T
	did        []string
	lanes      playbook.Lanes[*toy]
	outcomes   map[string]playbook.Outcome
	assessed   playbook.Outcome
	connectErr error
	resumeErr  error
	urged      bool
	memory     playbook.Memory
	client     client.WithWatch
}

var toyKey = client.ObjectKey{Namespace: "default", Name: "toy"}

// newToy is one object of a kind that has these lanes, each with steps that are named by a letter.
func newToy(t *testing.T, lanes ...string) *toy {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	k := &toy{t: t, outcomes: map[string]playbook.Outcome{}}
	for _, names := range lanes {
		var lane []playbook.Step[*toy]
		for _, name := range strings.Split(names, "") {
			lane = append(lane, playbook.Step[*toy]{Condition: name,
				Run: func(context.Context, *toy) (playbook.Outcome, error) {
					k.note("run " + name)
					return k.outcomes[name], nil
				}})
		}
		k.lanes = append(k.lanes, lane)
	}
	obj := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: toyKey.Namespace, Name: toyKey.Name,
		Generation: 1}}
	k.client = interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(obj).
		WithStatusSubresource(obj).Build(), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			k.note("read")
			return c.Get(ctx, key, obj, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch,
			opts ...client.PatchOption) error {
			had := slices.Contains(k.stored().Finalizers, v1alpha1.Finalizer)
			k.note(map[bool]string{false: "hold", true: "release"}[had])
			return c.Patch(ctx, obj, patch, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch,
			opts ...client.SubResourcePatchOption) error {
			k.note("save")
			return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
		},
	})
	return k
}

func (k *toy) note(what string) { k.did = append(k.did, what) }

func (k *toy) kind() playbook.Kind[*v1alpha1.DLQReplay, *toy] {
	return playbook.Kind[*v1alpha1.DLQReplay, *toy]{
		Client: k.client, APIReader: k.client, Recorder: events.NewFakeRecorder(100), Memory: &k.memory, Action: "Toy",
		New:   func() *v1alpha1.DLQReplay { return &v1alpha1.DLQReplay{} },
		Lanes: func(*v1alpha1.DLQReplay) playbook.Lanes[*toy] { return k.lanes },
		Connect: func(ctx context.Context, v *playbook.Visit[*v1alpha1.DLQReplay]) (*toy, error) {
			k.note("connect")
			return k, errors.Join(k.connectErr,
				playbook.PatchFinalizer(ctx, k.client, v.Obj, controllerutil.AddFinalizer))
		},
		Assess: func(context.Context, *toy) playbook.Outcome { k.note("assess"); return k.assessed },
		Urged:  func(*toy) bool { return k.urged },
		Resume: func(context.Context, *toy) error { k.note("resume"); return k.resumeErr },
		Measure: func(_ context.Context, _ *toy, after time.Duration) time.Duration {
			k.note("measure")
			return after
		},
		Close: func(ctx context.Context, v *playbook.Visit[*v1alpha1.DLQReplay]) error {
			k.note("close")
			v.Obj.Status.LastHandledRequestedAt = "closed"
			return v.Save(ctx)
		},
	}
}

// pass is one of the manager; it returns what it did.
func (k *toy) pass() (did string, result ctrl.Result, err error) {
	k.did = nil
	result, err = k.kind().Reconcile(context.Background(), ctrl.Request{NamespacedName: toyKey})
	return strings.Join(k.did, ", "), result, err
}

func (k *toy) expect(want string) ctrl.Result {
	k.t.Helper()
	did, result, err := k.pass()
	if did != want || err != nil {
		k.t.Errorf("a pass did %q, %v; want %q", did, err, want)
	}
	return result
}

// stored is the object as the API server has it.
func (k *toy) stored() *v1alpha1.DLQReplay {
	k.t.Helper()
	obj, did := &v1alpha1.DLQReplay{}, k.did
	if err := k.client.Get(context.Background(), toyKey, obj); err != nil {
		k.t.Fatal(err)
	}
	k.did = did
	return obj
}

func (k *toy) ask(value string) {
	k.t.Helper()
	obj := k.stored()
	obj.Annotations = map[string]string{v1alpha1.AnnotationRequestedAt: value}
	if err := k.client.Update(context.Background(), obj); err != nil {
		k.t.Fatal(err)
	}
}

func TestAPassGoesFromTheReadToTheRelease(t *testing.T) {
	t.Parallel()
	k := newToy(t, "AB")
	k.outcomes["A"], k.outcomes["B"] = playbook.Done("a"), playbook.Wait(0, "Working", "b")
	k.expect("read, connect, hold, assess, run A, run B, measure, save")
	expect(t, k.stored(), "A=True/Succeeded", "B=Unknown/Working", "Ready=False/Working", "Reconciling=True/Working")
	// Nothing changed, so nothing is written.
	k.expect("read, connect, assess, run B, measure")
	k.outcomes["B"] = playbook.Done("b")
	k.expect("read, connect, assess, run B, measure, save, release")
	if got := k.stored().Finalizers; len(got) > 0 {
		t.Errorf("it is finished, and has %v", got)
	}
	k.expect("read")
}

// The previous release finished it, and left the finalizer.
func TestAFinishedObjectLosesItsFinalizerAndNothingElse(t *testing.T) {
	t.Parallel()
	k := newToy(t, "A")
	k.outcomes["A"] = playbook.Done("a")
	k.expect("read, connect, hold, assess, run A, measure, save, release")
	obj := k.stored()
	controllerutil.AddFinalizer(obj, v1alpha1.Finalizer)
	if err := k.client.Update(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	before := k.stored()
	k.expect("read, release")
	after := k.stored()
	before.Finalizers, before.ResourceVersion, after.ResourceVersion = nil, "", ""
	if !equality.Semantic.DeepEqual(before, after) {
		t.Errorf("it was %+v, and is %+v", before, after)
	}
	k.expect("read")
}

func TestADeletedObjectIsClosedAndThenGoes(t *testing.T) {
	t.Parallel()
	k := newToy(t, "A")
	k.outcomes["A"] = playbook.Wait(0, "Working", "a")
	k.expect("read, connect, hold, assess, run A, measure, save")
	if err := k.client.Delete(t.Context(), k.stored()); err != nil {
		t.Fatal(err)
	}
	k.expect("read, close, save, release")
	k.expect("read")
	if err := k.client.Get(t.Context(), toyKey, &v1alpha1.DLQReplay{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("it is there still: %v", err)
	}
}

func TestAStalledObjectGoesOnWhenItIsAskedTo(t *testing.T) {
	t.Parallel()
	k := newToy(t, "A")
	k.outcomes["A"] = playbook.Stall("Broken", "mend it")
	k.expect("read, connect, hold, assess, run A, measure, save")
	// Nobody urges an object of one lane.
	k.urged = true
	k.expect("read")
	k.ask("now")
	k.resumeErr = errors.New("the database does not answer")
	if did, _, err := k.pass(); did != "read, connect, assess, resume, save" || !errors.Is(err, k.resumeErr) {
		t.Errorf("a pass did %q, %v", did, err)
	}
	expect(t, k.stored(), "A=False/Broken", "Ready=False/Retrying", "Stalled=True/Retrying")
	// It was asked once, and goes on once that can be done.
	k.resumeErr = nil
	k.outcomes["A"] = playbook.Wait(0, "Working", "a")
	k.expect("read, connect, assess, resume, run A, measure, save")
	expect(t, k.stored(), "A=Unknown/Working", "Ready=False/Working", "Reconciling=True/Working")
	k.expect("read, connect, assess, run A, measure")
}

func TestAStalledObjectOfSeveralLanesRunsTheOthersUntilItIsUrged(t *testing.T) {
	t.Parallel()
	k := newToy(t, "A", "B")
	k.outcomes["A"], k.outcomes["B"] = playbook.Stall("Broken", "mend it"), playbook.Wait(0, "Working", "b")
	k.expect("read, connect, hold, assess, run A, run B, measure, save")
	k.expect("read, connect, assess, run B, measure")
	// It can't be reached meanwhile: it stays stalled, or the request would be forgotten.
	k.ask("now")
	k.connectErr = errors.New("no Platform")
	if did, _, err := k.pass(); did != "read, connect, save" || !errors.Is(err, k.connectErr) {
		t.Errorf("a pass did %q, %v", did, err)
	}
	k.connectErr = nil
	k.expect("read, connect, assess, resume, run A, run B, measure, save")
	k.expect("read, connect, assess, run B, measure")
	k.urged = true
	k.outcomes["A"] = playbook.Wait(0, "Working", "a")
	k.expect("read, connect, assess, resume, run A, run B, measure, save")
	k.expect("read, connect, assess, run A, run B, measure")
}

func TestWhatIsAssessedKeepsTheStepsFromRunning(t *testing.T) {
	t.Parallel()
	k := newToy(t, "A")
	k.assessed = playbook.Stall("LedgerBehind", "delete it")
	k.expect("read, connect, hold, assess, save")
	expect(t, k.stored(), "A=Unknown/Pending", "Ready=False/LedgerBehind", "Stalled=True/LedgerBehind")
	k.ask("now")
	k.expect("read, connect, assess, save")
	// A request counts once.
	k.expect("read")
	k.assessed, k.outcomes["A"] = playbook.Outcome{}, playbook.Done("a")
	k.ask("again")
	k.expect("read, connect, assess, resume, run A, measure, save, release")
}

func TestAMessageThatChangesIsWrittenWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newToy(t, "A")
		say := func(reason, message string) { k.outcomes["A"] = playbook.Wait(time.Hour, reason, "%s", message) }
		stored := func() string { return ready(k.stored()).Message }
		say("Working", "one")
		k.expect("read, connect, hold, assess, run A, measure, save")
		time.Sleep(400 * time.Millisecond)
		say("Working", "two")
		if got := k.expect("read, connect, assess, run A, measure").RequeueAfter; got != 600*time.Millisecond {
			t.Errorf("it comes back for its message after %v", got)
		}
		time.Sleep(600 * time.Millisecond)
		say("Working", "three")
		k.expect("read, connect, assess, run A, measure, save")
		if got := stored(); got != "three" {
			t.Errorf("the message is %q", got)
		}
		// What is more than a message is not late.
		say("Waiting", "four")
		k.expect("read, connect, assess, run A, measure, save")
		// A manager that has just started writes at once.
		k.memory = playbook.Memory{}
		say("Waiting", "five")
		k.expect("read, connect, assess, run A, measure, save")
		if got := stored(); got != "five" {
			t.Errorf("the message is %q", got)
		}
	})
}

// A lane that failed is put off also where the pass comes back earlier, for a message.
func TestAPassThatComesBackForAMessageIsNotWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newToy(t, "A", "B")
		k.lanes[1][0].Run = func(context.Context, *toy) (playbook.Outcome, error) {
			k.note("run B")
			return playbook.Outcome{}, errors.New("no answer")
		}
		k.outcomes["A"] = playbook.Wait(0, "Working", "one")
		time.Sleep(k.expect("read, connect, hold, assess, run A, run B, measure, save").RequeueAfter)
		time.Sleep(k.expect("read, connect, assess, run A, run B, measure").RequeueAfter)
		k.outcomes["A"] = playbook.Wait(0, "Working", "two")
		// 600 ms after the write, B has failed for the third time, and is due again 800 ms later.
		time.Sleep(k.expect("read, connect, assess, run A, run B, measure").RequeueAfter)
		time.Sleep(k.expect("read, connect, assess, run A, measure, save").RequeueAfter)
		k.expect("read, connect, assess, run A, run B, measure")
	})
}
