package playbook

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// Controller begins to build the controller of a kind: it runs so many objects at once, wakes them when they or their
// Platform are changed by somebody, and retries what failed ever later, up to slowestRetry.
func Controller(mgr ctrl.Manager, kind Object, list client.ObjectList, concurrency int,
	slowestRetry time.Duration) *builder.Builder {
	// Our own status writes must not wake us: a pass says itself when it wants to come back.
	asked := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	return ctrl.NewControllerManagedBy(mgr).
		For(kind, builder.WithPredicates(asked)).
		Watches(&v1alpha1.Platform{}, Unfinished(mgr.GetClient(), list),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](fastestRetry,
				slowestRetry),
		})
}

// Unfinished wakes the objects of a kind, that of list, that a change of their Platform may let go on.
func Unfinished(c client.Reader, list client.ObjectList) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, platform client.Object) []reconcile.Request {
		found := list.DeepCopyObject().(client.ObjectList)
		err := c.List(ctx, found, client.InNamespace(platform.GetNamespace()))
		var requests []reconcile.Request
		if err == nil {
			err = meta.EachListItem(found, func(item runtime.Object) error {
				if obj := item.(Object); obj.PlatformName() == platform.GetName() && !Finished(obj) {
					requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(obj)})
				}
				return nil
			})
		}
		if err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "listing what a changed Platform may let go on")
		}
		return requests
	})
}

// Result is what a reconciler returns after a pass that wants to come back after a while or failed, and a write of its
// status.
//
// Where both failed, the pass's own error is kept as text only. Joined as an error, a terminal one would make the whole
// terminal, and the write that was lost would never be tried again.
func Result(ctx context.Context, after time.Duration, err, writeErr error) (ctrl.Result, error) {
	// An object that is gone meanwhile has no status.
	writeErr = client.IgnoreNotFound(writeErr)
	switch {
	case apierrors.IsConflict(writeErr):
		// Somebody changed the object meanwhile, and the next pass reads it. What was done is in the ledger, or was written
		// before.
		if err != nil && !apierrors.IsConflict(err) {
			ctrl.LoggerFrom(ctx).Error(err, "a pass whose status could not be written, since somebody else changed the object")
		}
		return ctrl.Result{RequeueAfter: conflictRetry}, nil
	case writeErr != nil && err != nil:
		return ctrl.Result{}, fmt.Errorf("writing the status: %w; and the pass before that: %v", writeErr, err)
	case writeErr != nil:
		return ctrl.Result{}, fmt.Errorf("writing the status: %w", writeErr)
	case apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: conflictRetry}, nil
	}
	return ctrl.Result{RequeueAfter: after}, err
}
