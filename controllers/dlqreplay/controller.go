// Package dlqreplay brings the dead webhooks of one application to delivery, each requeued exactly once.
package dlqreplay

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/platform"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// The playbook: a responder reads it top to bottom.
var steps = []playbook.Step[*replay]{
	{Condition: v1alpha1.StepPlanned, Run: plan},
	{Condition: v1alpha1.StepCanaryDelivered, Run: tryCanary},
	{Condition: v1alpha1.StepRequeued, Run: requeue},
	{Condition: v1alpha1.StepDelivered, Run: awaitDelivery},
}

// Reconciler runs DLQReplays.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// APIReader reads past the cache: a pass begins with the object as it is, so that a manager that woke up late does not act
	// for one that is gone.
	APIReader   client.Reader
	Connections *platform.Connections
	Recorder    events.EventRecorder
}

// concurrency is how many replays run at once. They are more than a platform's pool has connections, so that a platform whose
// database hangs leaves workers for the replays of others.
const concurrency = 16

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=list;watch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	// Our own status writes must not wake us: a pass says itself when it wants to come back.
	asked := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.DLQReplay{}, builder.WithPredicates(asked)).
		Watches(&v1alpha1.Platform{}, handler.EnqueueRequestsFromMapFunc(r.unfinished), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](200*time.Millisecond, time.Minute),
		}).
		Complete(r)
}

// unfinished lists the replays that a change of their Platform may let go on.
func (r *Reconciler) unfinished(ctx context.Context, platform client.Object) []reconcile.Request {
	var list v1alpha1.DLQReplayList
	if err := r.Client.List(ctx, &list, client.InNamespace(platform.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing the replays of a changed Platform")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		obj := &list.Items[i]
		if obj.Spec.PlatformRef.Name == platform.GetName() && !playbook.Finished(obj) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(obj)})
		}
	}
	return requests
}

// Reconcile is one pass over one replay: at most a second of work, then one status write.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	obj := &v1alpha1.DLQReplay{}
	if err := r.APIReader.Get(ctx, req.NamespacedName, obj); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !obj.DeletionTimestamp.IsZero() {
		return r.finalize(ctx, obj)
	}
	written := obj.DeepCopy()
	after, err := r.pass(ctx, obj, written)
	if writeErr := client.IgnoreNotFound(r.writeStatus(ctx, written, obj)); writeErr != nil {
		after, err = 0, fmt.Errorf("writing the status: %w", writeErr)
	}
	if apierrors.IsConflict(err) {
		// Somebody changed the object meanwhile. The ledger has what was done, and the next pass reads both.
		return ctrl.Result{RequeueAfter: time.Millisecond}, nil
	}
	return ctrl.Result{RequeueAfter: after}, err
}

// pass brings the object's playbook as far as it goes now. A step that writes the status itself brings written up to date.
func (r *Reconciler) pass(ctx context.Context, obj, written *v1alpha1.DLQReplay) (time.Duration, error) {
	obj.Status.ObservedGeneration = obj.Generation
	if playbook.Finished(obj) {
		return 0, nil
	}
	playbook.Begin(obj, steps)
	resume := obj.Annotations[v1alpha1.AnnotationRequestedAt] != obj.Status.LastHandledRequestedAt && playbook.Stalled(obj)
	if playbook.Stalled(obj) && !resume {
		return 0, nil
	}
	s, err := r.connect(ctx, obj, written)
	if err == nil && resume {
		err = s.resume(ctx)
	}
	if err != nil {
		if !playbook.Stalled(obj) {
			playbook.Fail(obj, err)
		}
		return 0, err
	}
	obj.Status.LastHandledRequestedAt = obj.Annotations[v1alpha1.AnnotationRequestedAt]
	return playbook.Run(ctx, obj, steps, s)
}

// closeDeadline is how long a deleted object waits for its operation to be closed. After that the object goes, so that no
// namespace hangs on a dead database: a batch is only begun for an object that still exists.
const (
	closeDeadline = time.Minute
	closeInterval = 5 * time.Second
)

// finalize closes the operation of a deleted object; that waits for the batch under way and stops the next.
func (r *Reconciler) finalize(ctx context.Context, obj *v1alpha1.DLQReplay) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(obj, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	if !playbook.Finished(obj) {
		if err := r.closeDeleted(ctx, obj); err != nil {
			if time.Since(obj.DeletionTimestamp.Time) < closeDeadline {
				// Not as an error, whose backoff would overshoot the deadline.
				ctrl.LoggerFrom(ctx).Error(err, "closing the operation of a deleted replay")
				return ctrl.Result{RequeueAfter: closeInterval}, nil
			}
			r.Recorder.Eventf(obj, nil, "Warning", "OperationLeftOpen", "Delete", "%s",
				playbook.Normalise(fmt.Sprintf("the operation could not be closed in the ledger and was left open: %v", err)))
		}
	}
	return ctrl.Result{}, client.IgnoreNotFound(r.patchFinalizer(ctx, obj, controllerutil.RemoveFinalizer))
}

func (r *Reconciler) closeDeleted(ctx context.Context, obj *v1alpha1.DLQReplay) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	id, err := identity(obj)
	if err != nil {
		return err
	}
	p, err := r.platform(ctx, obj)
	if err != nil {
		return err
	}
	db, err := r.Connections.Database(ctx, p)
	if err != nil {
		return err
	}
	return db.CloseOperation(ctx, id, platformdb.OutcomeDeleted)
}

func (r *Reconciler) patchFinalizer(ctx context.Context, obj *v1alpha1.DLQReplay, change func(client.Object, string) bool) error {
	patched := obj.DeepCopy()
	if !change(patched, v1alpha1.Finalizer) {
		return nil
	}
	if err := r.Client.Patch(ctx, patched, client.MergeFromWithOptions(obj, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("patching the finalizer: %w", err)
	}
	obj.Finalizers, obj.ResourceVersion = patched.Finalizers, patched.ResourceVersion
	return nil
}

func (r *Reconciler) platform(ctx context.Context, obj *v1alpha1.DLQReplay) (*v1alpha1.Platform, error) {
	p := &v1alpha1.Platform{}
	name := types.NamespacedName{Namespace: obj.Namespace, Name: obj.Spec.PlatformRef.Name}
	err := r.Client.Get(ctx, name, p)
	if apierrors.IsNotFound(err) {
		return nil, &playbook.Waiting{Reason: v1alpha1.ReasonPlatformNotFound,
			Err: fmt.Errorf("there is no Platform %q in namespace %q: apply it, or delete this replay and name another", name.Name, name.Namespace)}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Platform: %w", err)
	}
	return p, nil
}
