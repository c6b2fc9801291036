package playbook

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// writeInterval is how often a status is written at most whose messages and counts alone have changed.
const writeInterval = time.Second

// A Visit is what a pass has of its object: as the pass changes it, and as the API server has it. It is the one way to
// save a status.
type Visit[O Object] struct {
	Obj O
	// Wiped says that the object has begun and has lost its status. It is known in the first pass after that only.
	Wiped bool

	written  O
	client   client.Client
	recorder events.EventRecorder
	memory   *Memory
	action   string
}

// Save writes a changed status under the optimistic lock, and then tells about it. What is decided after it was decided
// by this process alone, so it comes before an effect.
func (v *Visit[O]) Save(ctx context.Context) error {
	base := v.asWritten()
	if equality.Semantic.DeepEqual(base, v.Obj) {
		return nil
	}
	if err := PatchStatus(ctx, v.client, base, v.Obj); err != nil {
		return err
	}
	v.memory.wrote(client.ObjectKeyFromObject(v.Obj))
	Tell(v.recorder, v.written, v.Obj, v.action)
	v.Reread()
	return nil
}

// Reread takes Obj for what the API server has: it was just read again.
func (v *Visit[O]) Reread() { v.written = v.Obj.DeepCopyObject().(O) }

// asWritten is the object with the status that the API server has.
func (v *Visit[O]) asWritten() O {
	base := v.Obj.DeepCopyObject().(O)
	base.SetStatusOf(v.written)
	return base
}

// SaveInTime is Save at the end of a pass. What is late may wait until a second after the last write: the messages of
// conditions, and what dropLate drops from an object. It then returns how soon to come back for it.
func (v *Visit[O]) SaveInTime(ctx context.Context, dropLate func(O)) (again time.Duration, err error) {
	if wait := v.memory.mayWriteIn(client.ObjectKeyFromObject(v.Obj)); wait > 0 {
		is, was := v.Obj.DeepCopyObject().(O), v.asWritten()
		if equality.Semantic.DeepEqual(is, was) {
			return 0, nil
		}
		for _, obj := range []O{is, was} {
			if dropLate != nil {
				dropLate(obj)
			}
			for i := range *obj.GetConditions() {
				(*obj.GetConditions())[i].Message = ""
			}
		}
		if equality.Semantic.DeepEqual(is, was) {
			return wait, nil
		}
	}
	return 0, v.Save(ctx)
}

// Mark adds the finalizer, and the mark that the playbook has begun, which outlasts the status. If the API server has
// no conditions yet, the status is written before it. So a mark on an object without conditions says that these were
// lost, and never that a manager ended in between. What must not be done twice comes after it.
func (v *Visit[O]) Mark(ctx context.Context) error {
	if controllerutil.ContainsFinalizer(v.Obj, v1alpha1.Finalizer) && marked(v.Obj) {
		return nil
	}
	if condition(v.written, v1alpha1.ConditionReady) == nil {
		// Not Save, which tells people: nothing happened yet.
		if err := PatchStatus(ctx, v.client, v.asWritten(), v.Obj); err != nil {
			return fmt.Errorf("writing the status before the playbook begins: %w", err)
		}
		v.Reread()
	}
	return PatchFinalizer(ctx, v.client, v.Obj, func(obj client.Object, finalizer string) bool {
		added := controllerutil.AddFinalizer(obj, finalizer)
		if marked(obj) {
			return added
		}
		annotations := maps.Clone(obj.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[v1alpha1.AnnotationBegun] = string(obj.GetUID())
		obj.SetAnnotations(annotations)
		return true
	})
}

func marked(obj client.Object) bool { return obj.GetAnnotations()[v1alpha1.AnnotationBegun] != "" }

// PatchStatus writes obj's status under the optimistic lock. base is obj with the status that the API server has.
func PatchStatus(ctx context.Context, c client.Client, base, obj client.Object) error {
	// The patch replaces what it is given by what the server answered.
	answered := obj.DeepCopyObject().(client.Object)
	if err := c.Status().Patch(ctx, answered, client.MergeFromWithOptions(base,
		client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	obj.SetResourceVersion(answered.GetResourceVersion())
	return nil
}

// Tell emits an event when the root condition's reason changed.
func Tell(recorder events.EventRecorder, before, obj Object, action string) {
	was, is := condition(before, v1alpha1.ConditionReady), condition(obj, v1alpha1.ConditionReady)
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
