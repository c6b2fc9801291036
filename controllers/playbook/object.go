package playbook

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// PatchFinalizer adds or removes the finalizer, by controllerutil's AddFinalizer or RemoveFinalizer, under the optimistic lock.
func PatchFinalizer(ctx context.Context, c client.Client, obj client.Object, change func(client.Object, string) bool) error {
	patched := obj.DeepCopyObject().(client.Object)
	if !change(patched, v1alpha1.Finalizer) {
		return nil
	}
	if err := c.Patch(ctx, patched, client.MergeFromWithOptions(obj, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("patching the finalizer: %w", err)
	}
	obj.SetFinalizers(patched.GetFinalizers())
	obj.SetResourceVersion(patched.GetResourceVersion())
	return nil
}

// PatchStatus writes obj's status under the optimistic lock. base is obj with the status that the API server has.
func PatchStatus(ctx context.Context, c client.Client, base, obj client.Object) error {
	// The patch replaces what it is given by what the server answered.
	answered := obj.DeepCopyObject().(client.Object)
	if err := c.Status().Patch(ctx, answered, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	obj.SetResourceVersion(answered.GetResourceVersion())
	return nil
}

// Tell emits an event when the root condition's reason changed.
func Tell(recorder events.EventRecorder, before, obj Object, action string) {
	was := meta.FindStatusCondition(*before.GetConditions(), v1alpha1.ConditionReady)
	is := meta.FindStatusCondition(*obj.GetConditions(), v1alpha1.ConditionReady)
	if is == nil || was != nil && was.Reason == is.Reason {
		return
	}
	kind := "Normal"
	if Stalled(obj) || slices.Contains(troubles, is.Reason) {
		kind = "Warning"
	}
	// The API takes notes of up to 1024 bytes.
	recorder.Eventf(obj, nil, kind, is.Reason, action, "%.1000s", is.Message)
}

// maxRequest is what the status can keep of a request.
const maxRequest = 256

// Request is the value by which a person asks the object to go on; the last one that was acted on, where nobody asks any more.
func Request(obj client.Object, lastHandled string) string {
	value := obj.GetAnnotations()[v1alpha1.AnnotationRequestedAt]
	if value == "" {
		return lastHandled
	}
	return strings.ToValidUTF8(value[:min(len(value), maxRequest)], "")
}

// Asked says whether a person asked the stalled object to go on.
func Asked(obj Object, lastHandled string) bool {
	return Stalled(obj) && Request(obj, lastHandled) != lastHandled
}

// ResumeCommand is what to type to let a stalled object go on; resource is its kind in kubectl's words.
func ResumeCommand(obj client.Object, resource string) string {
	return fmt.Sprintf("kubectl -n %s annotate %s %s --overwrite %s=$(date +%%FT%%T)", obj.GetNamespace(), resource, obj.GetName(), v1alpha1.AnnotationRequestedAt)
}

// Unapproved lists the required steps that are not approved with the digest, and those of them that are approved with another.
func Unapproved(given []v1alpha1.Approval, required []string, digest string) (missing, other []string) {
	for _, step := range required {
		i := slices.IndexFunc(given, func(a v1alpha1.Approval) bool { return a.Step == step })
		switch {
		case i < 0:
			missing = append(missing, step)
		case given[i].Digest != digest:
			missing = append(missing, step)
			other = append(other, step)
		}
	}
	return missing, other
}

// ApproveCommand is what to type to approve missing steps. A merge patch replaces the list, so it repeats the approvals that stay.
func ApproveCommand(obj client.Object, resource string, given []v1alpha1.Approval, missing []string, digest string) string {
	approvals := slices.DeleteFunc(slices.Clone(given), func(a v1alpha1.Approval) bool { return slices.Contains(missing, a.Step) })
	for _, step := range missing {
		approvals = append(approvals, v1alpha1.Approval{Step: step, Digest: digest, By: "YOUR-NAME"})
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"approvals": approvals}})
	if err != nil {
		panic(err) // strings and slices of them always marshal
	}
	return fmt.Sprintf("kubectl -n %s patch %s %s --type=merge -p '%s'", obj.GetNamespace(), resource, obj.GetName(), patch)
}

// Digest of what an object asks for, as approvals and the ledger name it.
func Digest(spec any) (string, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("computing the digest of the spec: %w", err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(text)), nil
}

// closeDeadline is how long a deleted object waits for its operation to be closed. After that the object goes, so that no
// namespace hangs on a dead database: an effect is only begun for an object that still exists.
const (
	closeDeadline = time.Minute
	closeInterval = 5 * time.Second
	closeTimeout  = 15 * time.Second
)

// Finalize lets a deleted object go once closeOperation has closed its operation.
func Finalize(ctx context.Context, c client.Client, recorder events.EventRecorder, obj Object, closeOperation func(context.Context) error) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(obj, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	if !Finished(obj) {
		closing, cancel := context.WithTimeout(ctx, closeTimeout)
		err := closeOperation(closing)
		cancel()
		if err != nil && time.Since(obj.GetDeletionTimestamp().Time) < closeDeadline {
			// Not as an error, whose backoff would overshoot the deadline.
			ctrl.LoggerFrom(ctx).Error(err, "closing the operation of a deleted object")
			return ctrl.Result{RequeueAfter: closeInterval}, nil
		}
		if err != nil {
			recorder.Eventf(obj, nil, "Warning", "OperationLeftOpen", "Delete", "%s",
				Normalise(fmt.Sprintf("the operation could not be closed in the ledger and was left open: %v", err)))
		}
	}
	return ctrl.Result{}, client.IgnoreNotFound(PatchFinalizer(ctx, c, obj, controllerutil.RemoveFinalizer))
}
