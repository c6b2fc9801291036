package incident_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/platform"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// newTwin is another Platform for the same site: its service at Render, and its status page.
func newTwin(first *scene, name string) *scene {
	first.Helper()
	site := *first.Site
	site.Name = name
	s := &scene{T: first.T, Site: &site, ctx: first.ctx, recorder: first.recorder}
	s.applyPlatform("")
	s.spec(fmt.Sprintf(`{"statusPage":{"pageID":%q}}`, first.Name))
	s.Cleanup(s.removeObjects)
	return s
}

func (s *scene) removeObjects() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.remove(ctx)
}

// Two Platforms name one service and one status page, and each has an Incident of the same outage. The younger one's
// looks first.
func TestTwinPlatformsRollBackOnceAndTellOnce(t *testing.T) {
	older := newScene(t, "twins-a")
	younger := newTwin(older, "twins-b")
	first := older.regression("inc", "{category: Outage, notice: Publish}")
	younger.signals = older.signals
	second := younger.open("inc", "{category: Outage, notice: Publish}")
	younger.pass(second)
	older.untouched("bad")
	if got := older.Services.Notices(); len(got) != 0 {
		t.Errorf("the public was told %+v", got)
	}
	younger.expect(second, "RolledBack Unknown HeldByOther", "Announced Unknown HeldByOther")
	for condition, target := range map[string]string{"RolledBack": "Render's service " + logi.WebService,
		"Announced": "the status page twins-a"} {
		if got := younger.message(second, condition); !strings.Contains(got, "Platform "+world.Namespace+"/twins-a is "+
			"older, names "+target+" too, and holds it") || !strings.Contains(got, "take it out of the spec of one") {
			t.Errorf("%s says %q", condition, got)
		}
	}
	if !younger.warned(second, v1alpha1.ReasonHeldByOther, "twins-a") {
		t.Errorf("no Warning says so: %q", younger.events)
	}
	older.pass(first)
	older.until(first, "RolledBack True Succeeded")
	younger.pass(second)
	older.rollbacks(1)
	if got := older.Services.Notices(); len(got) != 1 || got[0].PageID != "twins-a" {
		t.Errorf("the public was told %+v", got)
	}
	if got := older.Server.Render().Counts(); got.AutoDeployPatches != 1 {
		t.Errorf("Render was told %+v", got)
	}
	for _, s := range []*scene{older, younger} {
		s.good()
		s.after(301*time.Second, s.Name+"-inc")
		s.expect(s.Name+"-inc", "Resolved True Succeeded")
	}
	younger.expect(second, "RolledBack False NotNeeded", "Announced False NotNeeded", "Ready True Succeeded")
}

// The rule holds at the moment of the effect, also where the cache does not have the older Platform yet. Once the older
// one is gone, or names another service, the other acts.
func TestATwinIsLookedForPastTheCache(t *testing.T) {
	older := newScene(t, "twins-cache-a")
	younger := newTwin(older, "twins-cache-b")
	name := func() string { return younger.Name + "-inc" }
	older.regression("inc", "{category: Outage, notice: Publish}")
	younger.signals = older.signals
	younger.open("inc", "{category: Outage, notice: Publish}")
	stale := interceptor.NewClient(kube, interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch,
		list client.ObjectList, options ...client.ListOption) error {
		err := c.List(ctx, list, options...)
		if platforms, ok := list.(*v1alpha1.PlatformList); ok {
			platforms.Items = slices.DeleteFunc(platforms.Items,
				func(p v1alpha1.Platform) bool { return p.Name == older.Name })
		}
		return err
	}})
	manager := younger.manager()
	manager.Client = stale
	younger.look(manager, name(), "it says who holds the service", func() bool {
		return younger.condition(name(), "RolledBack") == "Unknown HeldByOther" &&
			younger.condition(name(), "Announced") == "Unknown HeldByOther"
	})
	older.untouched("bad")
	if got := older.Services.Notices(); len(got) != 0 {
		t.Errorf("the public was told %+v", got)
	}
	older.spec(`{"rollback":null,"statusPage":null,"render":{"services":[{"name":"web","serviceID":"srv-another"}]}}`)
	younger.after(time.Minute, name())
	younger.until(name(), "RolledBack True Succeeded")
	older.rollbacks(1)
	if got := older.Services.Notices(); len(got) != 1 {
		t.Errorf("the public was told %+v", got)
	}
}

// A Platform that begins to name the service takes it over from a younger one, auto-deploy included.
func TestAServiceThatAnOlderPlatformTakesOverIsLeftAlone(t *testing.T) {
	older := newScene(t, "twins-late-a")
	services := func(id string) {
		older.spec(fmt.Sprintf(`{"render":{"services":[{"name":"web","serviceID":%q}]}}`, id))
	}
	services("srv-another")
	younger := newTwin(older, "twins-late-b")
	r := older.Server.Render()
	r.BreakCommit("bad", logi.Breakage{})
	r.Push(logi.WebService, "bad")
	younger.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := younger.open("inc", "{category: Outage}")
	younger.until(name, "RolledBack True Succeeded")
	services(logi.WebService)
	younger.good()
	younger.after(301*time.Second, name)
	r.DeployCommit(logi.WebService, "fix")
	younger.after(301*time.Second, name)
	younger.expect(name, "Resolved True Succeeded", "AutoDeployRestored Unknown HeldByOther")
	if got := r.Counts(); got.AutoDeployPatches != 1 || r.AutoDeploy(logi.WebService) {
		t.Errorf("Render was told %+v, and auto-deploy is on: %t", got, r.AutoDeploy(logi.WebService))
	}
	younger.patch(name, `{"spec":{"resolution":{"by":"kim"}}}`)
	younger.pass(name)
	younger.expect(name, "AutoDeployRestored False NotNeeded", "Ready True Succeeded")
	if got := younger.message(name, "AutoDeployRestored"); !strings.Contains(got, "Switch it on at Render") {
		t.Errorf("it says %q", got)
	}
}

// Both Platforms say so, the older one too, until one of them names another service.
func TestTwinPlatformsNameEachOther(t *testing.T) {
	older := newScene(t, "twins-say-a")
	younger := newTwin(older, "twins-say-b")
	r := &platform.Reconciler{Client: kube, Connections: older.manager().Connections, Recorder: older.recorder}
	configure := func(s *scene) {
		t.Helper()
		if _, err := r.ReconcileConfiguration(s.ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(
			s.platform())}); err != nil {
			t.Fatal(err)
		}
	}
	for s, c := range map[*scene]struct{ reason, other, says string }{
		older:   {v1alpha1.ReasonHolder, "twins-say-b", "This Platform is the oldest"},
		younger: {v1alpha1.ReasonHeldByOther, "twins-say-a", "The oldest is " + world.Namespace + "/twins-say-a"},
	} {
		configure(s)
		p := s.platform()
		for _, name := range []string{v1alpha1.ConditionRenderServicesShared, v1alpha1.ConditionStatusPageShared} {
			is := meta.FindStatusCondition(p.Status.Conditions, name)
			if is == nil || is.Status != metav1.ConditionTrue || is.Reason != c.reason ||
				!strings.Contains(is.Message, world.Namespace+"/"+c.other) || !strings.Contains(is.Message, c.says) {
				t.Errorf("%s of %s is %+v", name, s.Name, is)
			}
		}
		if p.Status.Configuration != "shared: RenderServices, StatusPage" {
			t.Errorf("%s: %q", s.Name, p.Status.Configuration)
		}
		configure(s)
		if again := s.platform(); again.ResourceVersion != p.ResourceVersion {
			t.Errorf("%s was written though nothing changed", s.Name)
		}
	}
	younger.spec(`{"statusPage":{"pageID":"another"},"render":{"services":[{"name":"web","serviceID":"srv-another"}]}}`)
	for _, s := range []*scene{older, younger} {
		configure(s)
		if p := s.platform(); p.Status.Configuration != "ok" || len(p.Status.Conditions) == 0 {
			t.Errorf("%s: %q", s.Name, p.Status.Configuration)
		}
	}
}
