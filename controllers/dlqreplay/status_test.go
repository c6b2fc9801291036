package dlqreplay_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/dlqreplay"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestTheStatusIsWrittenOncePerSecondAndStep(t *testing.T) {
	s := newScene(t, "writes", quick)
	s.seed(600, "HTTP 503: down", 7)
	stop := s.statuses(s.Name + "-r")
	name := s.apply("r", "{ratePerSecond: 60, maxInFlight: 30}")
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 600, "delivered": 600})
	// Each status that tells nothing new but counts belongs to a second of its own, by the database's clock.
	seconds := map[string]int{}
	seen := stop()
	var last string
	for i := range seen {
		r := &seen[i]
		if r.Status.Progress == nil || r.Status.Progress.ObservedAt == nil {
			continue
		}
		state := fmt.Sprint(reason(r), r.Status.ObservedGeneration)
		for _, c := range r.Status.Conditions {
			state += fmt.Sprint(c.Type, c.Status, c.Reason)
		}
		if state != last {
			last = state
			continue
		}
		at := r.Status.Progress.ObservedAt.String()
		if seconds[at]++; seconds[at] > 1 {
			t.Errorf("%d statuses that differ in nothing but counts were written at %s", seconds[at], at)
		}
	}
	// Whatever they tell: one for each second and each step.
	written, first := 0, 0
	for i := 1; i < len(seen); i++ {
		if !equality.Semantic.DeepEqual(seen[i].Status, seen[i-1].Status) {
			written++
			if written == 1 {
				first = i
			}
		}
	}
	took := seen[len(seen)-1].Status.Progress.ObservedAt.Sub(seen[first].Status.Progress.ObservedAt.Time)
	if most := int(took.Seconds()) + 1 + 4; written > most {
		t.Errorf("%d statuses were written in %s, and %d may be", written, took, most)
	}
	if len(seconds) < 2 {
		t.Errorf("only %d statuses with counts were seen among %d", len(seconds), len(seen))
	}
}

func TestAFinishedReplayCostsNoWrites(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const objects, rounds = 1000, 10
	unwatched := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "resync-"}}
	if err := shared.Kube.Create(ctx, unwatched); err != nil {
		t.Fatal(err)
	}
	namespace := unwatched.Name
	inParallel := func(do func(i int) error) {
		t.Helper()
		var group errgroup.Group
		group.SetLimit(8)
		for i := range objects {
			group.Go(func() error { return do(i) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	inParallel(func(i int) error {
		r := &v1alpha1.DLQReplay{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("r", i)},
			Spec:       v1alpha1.DLQReplaySpec{PlatformRef: v1alpha1.PlatformReference{Name: "p"}, ApplicationID: "42"},
		}
		if err := shared.Kube.Create(ctx, r); err != nil {
			return err
		}
		r.Status.ObservedGeneration = r.Generation
		for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.StepPlanned, v1alpha1.StepCanaryDelivered,
			v1alpha1.StepRequeued, v1alpha1.StepDelivered} {
			meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{Type: condition, Status: metav1.ConditionTrue,
				Reason: v1alpha1.ReasonSucceeded})
		}
		return shared.Kube.Status().Update(ctx, r)
	})
	versions := func() map[string]string {
		t.Helper()
		var list v1alpha1.DLQReplayList
		if err := shared.Kube.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		versions := map[string]string{}
		for _, r := range list.Items {
			versions[r.Name] = r.ResourceVersion
		}
		return versions
	}
	before := versions()
	if len(before) != objects {
		t.Fatalf("%d objects exist", len(before))
	}

	var writes atomic.Int64
	counting := interceptor.NewClient(shared.Kube, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch,
			opts ...client.PatchOption) error {
			writes.Add(1)
			return c.Patch(ctx, obj, patch, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch,
			opts ...client.SubResourcePatchOption) error {
			writes.Add(1)
			return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
		},
	})
	// Ten thousand reads from the API server would keep it from the other tests.
	reads, err := cache.New(shared.ControlPlane.Config(), cache.Options{Scheme: shared.Kube.Scheme(),
		DefaultNamespaces: map[string]cache.Config{namespace: {}}})
	if err != nil {
		t.Fatal(err)
	}
	var caching errgroup.Group
	caching.Go(func() error { return reads.Start(ctx) })
	t.Cleanup(func() {
		if err := caching.Wait(); err != nil { // ctx ends before cleanup begins
			t.Error(err)
		}
	})
	reconciler := &dlqreplay.Reconciler{
		Client: counting, APIReader: reads, Connections: &access.Connections{Secrets: shared.Kube},
		Recorder: events.NewFakeRecorder(10),
	}
	resync := func(i int) error {
		result, err := reconciler.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace,
			Name: fmt.Sprint("r", i)}})
		if err == nil && !result.IsZero() {
			err = fmt.Errorf("a finished replay wants to come back: %v", result)
		}
		return err
	}
	for range rounds {
		inParallel(resync)
	}
	if n := writes.Load(); n != 0 {
		t.Errorf("%d writes were made in %d looks at finished replays", n, rounds*objects)
	}
	for name, version := range versions() {
		if before[name] != version {
			t.Errorf("%s was written", name)
		}
	}

	// The counter counts: a change of the spec is acknowledged, by one write.
	r := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "r0"}}
	const change = `{"spec":{"maxInFlight":7},"metadata":{"annotations":{"` + v1alpha1.AnnotationRequestedAt + `":"now"}}}`
	if err := shared.Kube.Patch(ctx, r, client.RawPatch("application/merge-patch+json", []byte(change))); err != nil {
		t.Fatal(err)
	}
	want := r.DeepCopy()
	want.Status.ObservedGeneration = r.Generation
	reconciler.APIReader = shared.Kube
	if err := resync(0); err != nil || writes.Load() != 1 {
		t.Errorf("%d writes were made after a change of the spec: %v", writes.Load(), err)
	}
	if err := shared.Kube.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
		t.Fatal(err)
	}
	if r.Generation == 1 || !equality.Semantic.DeepEqual(r.Status, want.Status) {
		t.Errorf("more than observedGeneration was written: %s, and it should be %s", stage.JSON(r.Status),
			stage.JSON(want.Status))
	}

	// The release before left the finalizer on what it had finished. It is taken off, once.
	old := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "r1"}}
	if err := shared.Kube.Patch(ctx, old, client.RawPatch("application/merge-patch+json",
		[]byte(`{"metadata":{"finalizers":["`+v1alpha1.Finalizer+`"]}}`))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := resync(1); err != nil {
			t.Fatal(err)
		}
	}
	if err := shared.Kube.Get(ctx, client.ObjectKeyFromObject(old), old); err != nil {
		t.Fatal(err)
	}
	if n := writes.Load(); n != 2 || len(old.Finalizers) != 0 {
		t.Errorf("%d writes were made in all, and the finalizers of a finished replay are %v", n, old.Finalizers)
	}
}
