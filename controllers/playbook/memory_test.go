package playbook

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

func TestADeletionInterruptsThePassOfItsObject(t *testing.T) {
	var m Memory
	named := func(name string, deleted bool) client.Object {
		obj := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		if deleted {
			obj.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		return obj
	}
	one, end := m.passing(t.Context(), client.ObjectKeyFromObject(named("one", false)))
	defer end()
	other, endOther := m.passing(t.Context(), client.ObjectKeyFromObject(named("other", false)))
	update := func(obj client.Object) {
		m.InterruptDeleted().Update(t.Context(), event.UpdateEvent{ObjectOld: obj, ObjectNew: obj}, nil)
	}
	update(named("one", false))
	if one.Err() != nil {
		t.Error("a change interrupted the pass")
	}
	update(named("one", true))
	if one.Err() == nil || other.Err() != nil {
		t.Errorf("the deleted one's pass has %v, the other's %v", one.Err(), other.Err())
	}
	endOther()
	update(named("other", true)) // which has no pass now
}
