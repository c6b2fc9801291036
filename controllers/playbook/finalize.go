package playbook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// closeDeadline is how long a deleted object waits for its operation to be closed. After that the object goes, so that
// no namespace hangs on a dead database: an effect is only begun for an object that still exists.
const (
	closeDeadline = time.Minute
	closeInterval = 5 * time.Second
	closeTimeout  = 15 * time.Second
	// underWayInterval is how often the end of an effect is looked for that a deleted object waits for.
	underWayInterval = time.Second
	// lastTimeout is what remains for a last try at least: a manager may come late.
	lastTimeout = 5 * time.Second
)

// ErrStillClosing says that an effect of a deleted object is under way, and that its end is certain to come. The object
// stays until then: without it the effect could be begun again by another object.
var ErrStillClosing = errors.New("an effect is under way")

// Finalize lets a deleted object go once closeOperation has closed its operation.
func Finalize(ctx context.Context, c client.Client, recorder events.EventRecorder, obj Object,
	closeOperation func(context.Context) error,
) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(obj, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	if !Finished(obj) {
		end := obj.GetDeletionTimestamp().Add(closeDeadline)
		closing, cancel := context.WithTimeout(ctx, max(lastTimeout, min(closeTimeout, time.Until(end))))
		err := closeOperation(closing)
		cancel()
		if errors.Is(err, ErrStillClosing) {
			return ctrl.Result{RequeueAfter: underWayInterval}, nil
		}
		// Where there is time for one more.
		if err != nil && time.Until(end) >= closeInterval+lastTimeout {
			// Not as an error, whose backoff would overshoot the deadline.
			ctrl.LoggerFrom(ctx).Error(err, "closing the operation of a deleted object")
			return ctrl.Result{RequeueAfter: closeInterval}, nil
		}
		if err != nil {
			recorder.Eventf(obj, nil, "Warning", "OperationLeftOpen", "Delete", "%s",
				Normalise(fmt.Sprintf("what it began could not be closed or taken back, and was left as it is: %v", err)))
		}
	}
	return Result(ctx, 0, release(ctx, c, obj), nil)
}

// release takes the finalizer off: nothing is left to be taken back or closed.
func release(ctx context.Context, c client.Client, obj Object) error {
	return client.IgnoreNotFound(PatchFinalizer(ctx, c, obj, controllerutil.RemoveFinalizer))
}

// PatchFinalizer adds or removes the finalizer, by controllerutil's AddFinalizer or RemoveFinalizer, under the
// optimistic lock.
func PatchFinalizer(ctx context.Context, c client.Client, obj client.Object,
	change func(client.Object, string) bool) error {
	patched := obj.DeepCopyObject().(client.Object)
	if !change(patched, v1alpha1.Finalizer) {
		return nil
	}
	if err := c.Patch(ctx, patched, client.MergeFromWithOptions(obj, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("patching the finalizer: %w", err)
	}
	obj.SetFinalizers(patched.GetFinalizers())
	obj.SetAnnotations(patched.GetAnnotations())
	obj.SetResourceVersion(patched.GetResourceVersion())
	return nil
}
