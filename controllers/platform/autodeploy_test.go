package platform_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// Auto-deploy is switched on at Render by a person. It is no longer said to be off where nobody else would notice: the
// Incident is gone or finished, and no call of its own may still switch it off.
func TestAutoDeployThatAPersonSwitchedOnIsNotSaidToBeOff(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	api := render.New(site.URL()+logi.RenderPath, site.Render().Key(), nil)
	namespace := newNamespace(t, "by-hand")
	open := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "open"},
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: "elsewhere"}, Category: "Outage"}}
	create(t, open)
	old, recent := metav1.NewTime(time.Now().Add(-time.Hour)), metav1.NewTime(time.Now())
	for name, c := range map[string]struct {
		at            metav1.Time
		incident, uid string
		on, stays     bool
	}{
		"on":         {old, "gone", "u", true, false},
		"off":        {old, "gone", "u", false, true},
		"just-now":   {recent, "gone", "u", true, true},
		"followed":   {old, "open", string(open.UID), true, true},
		"older-name": {old, "open", "u", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := api.SetAutoDeploy(t.Context(), logi.WebService, c.on); err != nil {
				t.Fatal(err)
			}
			p := platformOf(namespace, name)
			p.Spec.Database = nil
			p.Spec.Render = &v1alpha1.PlatformRender{SecretRef: ref(name + "-render"), URL: site.URL() + logi.RenderPath,
				Services: []v1alpha1.RenderService{{Name: "web", ServiceID: logi.WebService}}}
			create(t, p, secretOf(p, name+"-render", map[string]string{"apiKey": site.Render().Key()}))
			base := p.DeepCopy()
			p.Status.Rollbacks = []v1alpha1.ServiceRollback{{Service: "web", Incident: c.incident, IncidentUID: c.uid, At: &c.at,
				From: "dep-b", FromCommit: "b1", To: "dep-a", ToCommit: "a1",
				State: v1alpha1.RollbackLive, AutoDeploy: v1alpha1.AutoDeployOff}}
			if err := kube.Status().Patch(t.Context(), p, client.MergeFrom(base)); err != nil {
				t.Fatal(err)
			}
			r := reconciler(t)
			r.APIReader = kube
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)}); err != nil {
				t.Fatal(err)
			}
			want := v1alpha1.AutoDeployRestored
			if c.stays {
				want = v1alpha1.AutoDeployOff
			}
			if got := read(t, p).Status.Rollbacks[0].AutoDeploy; got != want {
				t.Errorf("auto-deploy is %s, want %s", got, want)
			}
			if !c.stays {
				awaitEvent(t, p, "Normal", v1alpha1.StepAutoDeployRestored)
			}
		})
	}
}
