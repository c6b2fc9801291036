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
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// Controller begins to build the controller of a kind. It runs as many objects in parallel as concurrency says. It
// wakes an object when somebody changes it or its Platform, or wipes its status. It retries a failure after ever longer
// waits, up to slowestRetry.
func Controller(mgr ctrl.Manager, kind Object, list client.ObjectList, concurrency int,
	slowestRetry time.Duration) *builder.Builder {
	// The controller's own writes must not wake the object: a pass returns when it wants to come back.
	asked := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, is := e.ObjectOld.(Object), e.ObjectNew.(Object)
		return was.GetGeneration() != is.GetGeneration() ||
			was.GetAnnotations()[v1alpha1.AnnotationRequestedAt] != is.GetAnnotations()[v1alpha1.AnnotationRequestedAt] ||
			condition(was, v1alpha1.ConditionReady) != nil && condition(is, v1alpha1.ConditionReady) == nil
	}}
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

// Unfinished wakes the unfinished objects of list's kind when their Platform changes, since that may let them go on.
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

// Result is what a reconciler returns after a pass and the write of its status. after is when the pass wants to come
// back, err is its error, and writeErr is that of the write.
//
// If both failed, the pass's own error is kept as text only. If it were joined as an error, a terminal error would make
// the whole terminal, and the lost write would never be tried again.
func Result(ctx context.Context, after time.Duration, err, writeErr error) (ctrl.Result, error) {
	// An object that was deleted during the pass has no status.
	writeErr = client.IgnoreNotFound(writeErr)
	switch {
	case apierrors.IsConflict(writeErr):
		// Somebody changed the object during the pass, and the next pass reads it. What was done is in the ledger, or was
		// written before.
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
