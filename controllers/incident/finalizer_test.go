package incident_test

import (
	"net/http"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// A finalizer stands while something must be taken back: a page that rings, a notice that the public reads.
func TestAFinishedIncidentHasNoFinalizer(t *testing.T) {
	s := newScene(t, "finalizer")
	held := func(want bool) {
		t.Helper()
		if got := s.get(s.Name + "-inc").Finalizers; len(got) > 0 != want {
			t.Errorf("the finalizers are %v", got)
		}
	}
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, notice: Publish, outage: {rollback: Never}}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	held(true)
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: http.StatusInternalServerError})
	s.Services.SetFault(logi.Statuspage, logi.ServiceFault{Status: http.StatusInternalServerError})
	s.good()
	s.after(301*time.Second, name)
	s.expect(name, "Mitigated True Succeeded", "Resolved Unknown Resolved", "Ready False Resolved")
	held(true)
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{})
	s.after(31*time.Second, name)
	s.expectPages("oncall 1 resolved")
	s.expect(name, "Resolved True Succeeded", "Announced Unknown Retrying")
	held(true)
	s.Services.SetFault(logi.Statuspage, logi.ServiceFault{})
	s.after(31*time.Second, name)
	s.after(31*time.Second, name)
	s.expect(name, "Announced True Succeeded", "Ready True Succeeded")
	if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" {
		t.Errorf("the status page has %+v", got)
	}
	held(false)

	// The release before this one left it on.
	before := s.get(name)
	s.patch(name, `{"metadata":{"finalizers":["`+v1alpha1.Finalizer+`"]}}`)
	manager := s.manager()
	for range 2 {
		if _, err := manager.Reconcile(s.ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(before)}); err != nil {
			t.Fatal(err)
		}
	}
	held(false)
	if after := s.get(name); !equality.Semantic.DeepEqual(before.Status, after.Status) ||
		!equality.Semantic.DeepEqual(before.Spec, after.Spec) {
		t.Errorf("it was %+v, and is %+v", before, after)
	}
}

// The first try to take a page back failed, and the page rang for ever.
func TestADeletedIncidentStaysUntilItsPageIsTakenBack(t *testing.T) {
	s := newScene(t, "rings")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: http.StatusServiceUnavailable, Times: 1})
	if err := admin.Delete(s.ctx, s.get(name)); err != nil {
		t.Fatal(err)
	}
	s.pass(name)
	if s.gone(name) {
		t.Error("it is gone, and the page rings")
	}
	s.expectPages("oncall 1 triggered")
	s.pass(name)
	if !s.gone(name) {
		t.Error("it is not gone")
	}
	s.expectPages("oncall 1 resolved")
}

func TestADeletedIncidentThatToldNobodyNeedsNoPlatform(t *testing.T) {
	s := newScene(t, "tells-nobody")
	name := s.open("inc", "{severity: sev3}")
	s.pass(name)
	s.deletePlatform()
	if err := admin.Delete(s.ctx, s.get(name)); err != nil {
		t.Fatal(err)
	}
	s.pass(name)
	if !s.gone(name) {
		t.Error("it waits for its Platform")
	}
	s.applyPlatform("") // which is cleaned up
}
