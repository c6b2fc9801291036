package incident_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func (s *scene) wipe(name string) {
	s.Helper()
	if err := admin.Status().Patch(s.ctx, s.get(name), client.RawPatch(types.MergePatchType,
		[]byte(`{"status":null}`))); err != nil {
		s.Fatal(err)
	}
}

// forget what the Platform remembers, as where its status was wiped as well.
func (s *scene) forget() {
	s.Helper()
	if err := admin.Status().Patch(s.ctx, s.platform(), client.RawPatch(types.MergePatchType,
		[]byte(`{"status":null}`))); err != nil {
		s.Fatal(err)
	}
}

// An Incident that lost its status, whether it is open or finished, pages again, and rolls nothing back by itself, also
// where its Platform forgot it. With an approval it does.
func TestAnIncidentThatLostItsStatusActsOnlyOnAnApproval(t *testing.T) {
	for _, finished := range []bool{false, true} {
		name := map[bool]string{false: "wiped-open", true: "wiped-finished"}[finished]
		t.Run(name, func(t *testing.T) {
			s := newScene(t, name)
			s.Server.Render().AddDeploy(logi.WebService, "older", "deactivated", "new_commit", time.Now().Add(-11*time.Hour))
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
			inc := s.open("inc", "{category: Outage}")
			s.pass(inc)
			s.expectPages("oncall 1 triggered")
			s.expect(inc, "RolledBack Unknown NoSuspect", "StatusLost none")
			want := []string{"oncall 2 triggered"}
			if finished {
				s.good()
				s.after(301*time.Second, inc)
				s.expect(inc, "Ready True Succeeded")
				if got := s.get(inc).Finalizers; len(got) != 0 {
					t.Errorf("it keeps %v", got)
				}
				want = []string{"oncall 1 resolved", "oncall 1 triggered"}
			}
			s.wipe(inc)
			s.forget()
			s.breakIt()
			s.pass(inc)
			s.expectPages(want...)
			s.expect(inc, "StatusLost True StatusLost", "RolledBack Unknown WaitingForApproval")
			s.untouched("bad")
			if got := s.message(inc, "RolledBack"); !strings.Contains(got, "the incident's status was lost") {
				t.Errorf("it says %q", got)
			}
			if !s.warned(inc, v1alpha1.ReasonStatusLost, "Nothing is rolled back without an approval") {
				t.Errorf("no Warning says so: %q", s.events)
			}
			s.after(time.Minute, inc)
			s.untouched("bad")
			s.approve(inc)
			s.until(inc, "RolledBack True Succeeded")
			s.rollbacks(1)
		})
	}
}

// breakIt makes a bad deploy.
func (s *scene) breakIt() {
	s.Server.Render().BreakCommit("bad", logi.Breakage{})
	s.Server.Render().Push(logi.WebService, "bad")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
}

// What the Platform remembers is followed: nothing is asked for twice, and the notice is brought to its end.
func TestAnIncidentThatLostItsStatusFollowsWhatItsPlatformRemembers(t *testing.T) {
	s := newScene(t, "wiped-known")
	inc := s.regression("inc", "{category: Outage, notice: Publish}")
	s.pass(inc)
	s.until(inc, "RolledBack True Succeeded")
	s.expect(inc, "Announced Unknown Published")
	s.patch(inc, `{"spec":{"notice":"Automatic"}}`)
	s.wipe(inc)
	s.pass(inc)
	s.expect(inc, "StatusLost True StatusLost", "RolledBack True Succeeded", "Announced Unknown Published")
	s.rollbacks(1)
	s.good()
	s.wipe(inc)
	s.patch(inc, `{"spec":{"notice":"Withhold","resolution":{"by":"dana"}}}`)
	s.pass(inc)
	s.until(inc, "Ready True Succeeded")
	if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" {
		t.Errorf("the public was told %+v", got)
	}
	if got := s.platform().Status.Notice; got != nil {
		t.Errorf("the notice is still %+v", got)
	}
	s.rollbacks(1)
}

// Without what the Platform remembers, the public is told only where a person says so.
func TestAnIncidentThatLostItsStatusTellsThePublicOnlyWhenItIsTold(t *testing.T) {
	s := newScene(t, "wiped-notice")
	s.spec(`{"statusPage":{"afterSeconds":0}}`)
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	inc := s.open("inc", "{category: Outage, notice: Withhold}")
	s.pass(inc)
	s.wipe(inc)
	s.patch(inc, `{"spec":{"notice":"Automatic"}}`)
	s.pass(inc)
	s.expect(inc, "Announced Unknown NotAnnounced")
	if got := s.message(inc, "Announced"); !strings.Contains(got, "status was lost; spec.notice: Publish") {
		t.Errorf("it says %q", got)
	}
	s.patch(inc, `{"spec":{"notice":"Publish"}}`)
	s.pass(inc)
	s.expect(inc, "Announced Unknown Published")
}

var errDied = errors.New("the manager died")

// A fresh Incident is never taken for one that lost its status: not if it is as old as the manager was away, and
// whatever the last write was that a manager made of it before it died.
func TestAFreshIncidentIsNotTakenForOneThatLostItsStatus(t *testing.T) {
	for allowed := range 7 {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			s := newScene(t, fmt.Sprintf("fresh-%d", allowed))
			inc := s.regression("inc", "{category: Outage}")
			s.offset += 30 * time.Minute
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
			manager, writes := s.dying(allowed)
			_, _ = manager.Reconcile(s.ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: world.Namespace,
				Name: inc}})
			if *writes <= allowed {
				t.Fatalf("the pass made %d writes, and died at none", *writes)
			}
			obj := s.get(inc)
			if marked := obj.Annotations[v1alpha1.AnnotationBegun]; marked != "" && len(obj.Status.Conditions) == 0 ||
				(marked != "") != (allowed > 3) {
				t.Fatalf("the mark is %q, with %d conditions", marked, len(obj.Status.Conditions))
			}
			s.until(inc, "RolledBack True Succeeded")
			s.expect(inc, "StatusLost none")
			s.rollbacks(1)
		})
	}
}

// dying is a manager that dies after so many writes of the Incident. writes counts those that it tried.
func (s *scene) dying(allowed int) (manager *incident.Reconciler, writes *int) {
	writes = new(int)
	dies := func() error {
		if *writes++; *writes > allowed {
			return errDied
		}
		return nil
	}
	manager = s.manager()
	manager.Client = interceptor.NewClient(kube, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch,
			options ...client.PatchOption) error {
			if err := dies(); err != nil {
				return err
			}
			return c.Patch(ctx, obj, patch, options...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, obj client.Object, patch client.Patch,
			options ...client.SubResourcePatchOption) error {
			if err := dies(); err != nil {
				return err
			}
			return c.SubResource(name).Patch(ctx, obj, patch, options...)
		},
	})
	return manager, writes
}

// One whose Platform was not there, and that is deleted before anything was looked at, just goes.
func TestAnIncidentDeletedBeforeItWasLookedAtGoes(t *testing.T) {
	s := newScene(t, "fresh-deleted")
	s.deletePlatform()
	name := s.open("inc", "{category: Outage}")
	if err := s.tryPass(name); err == nil {
		t.Error("without its Platform a pass does not fail")
	}
	obj := s.get(name)
	if len(obj.Finalizers) == 0 || len(obj.Status.Conditions) == 0 || obj.Status.Onset != nil {
		t.Fatalf("%v, %+v", obj.Finalizers, obj.Status)
	}
	s.applyPlatform("")
	if err := admin.Delete(s.ctx, obj); err != nil {
		t.Fatal(err)
	}
	s.pass(name)
	if !s.gone(name) {
		t.Errorf("it is still there: %+v", s.get(name).Status)
	}
	s.expectPages()
}
