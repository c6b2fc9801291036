package incident_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func TestAClockThatJumpsForwardsDoesNothingTwice(t *testing.T) {
	s := newScene(t, "jump-forwards")
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.after(72*time.Hour, name)
	s.pass(name)
	s.rollbacks(1)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	if got := len(s.Services.Notices()); got != 1 {
		t.Errorf("%d notices", got)
	}
	s.good()
	s.after(301*time.Second, name)
	s.expectPages("oncall 1 resolved", "owner 1 resolved")
}

func TestAClockThatJumpsBackwardsLosesNothingAndDoesNothingTwice(t *testing.T) {
	s := newScene(t, "jump-backwards")
	// An hour behind when it is opened: the first page comes at once all the same.
	s.offset = -time.Hour
	s.Server.Render().AddDeploy(logi.WebService, "bad", "live", "new_commit", s.clock().Add(-time.Minute))
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, notice: Publish}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.until(name, "RolledBack True Succeeded")
	s.expect(name, "Announced Unknown Published")
	// It goes right, and back again.
	s.after(time.Hour, name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.after(-time.Hour, name)
	s.after(-time.Hour, name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	s.rollbacks(1)
	if got := len(s.Services.Notices()); got != 1 {
		t.Errorf("%d notices", got)
	}
	s.after(2*time.Hour, name)
	s.after(31*time.Minute, name)
	s.expectPages("oncall 2 triggered", "owner 1 triggered")
	s.good()
	s.after(301*time.Second, name)
	s.expectPages("oncall 2 resolved", "owner 1 resolved")
	if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" {
		t.Errorf("the status page has %+v", got)
	}
}

func TestDeadlinesThatPassWhileTheAPIServerIsAwayAreHonouredLateAndItIsSaid(t *testing.T) {
	s := newScene(t, "api-away")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.offset += 10 * time.Minute

	away := errors.New("the API server does not answer")
	broken := interceptor.NewClient(kube, interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return away
		},
	})
	manager := &incident.Reconciler{
		Client: broken, APIReader: broken, Recorder: s.recorder, Connections: &access.Connections{Secrets: broken},
		Now:     s.clock,
		Signals: func(client.ObjectKey) signals.Signals { return s.signals },
	}
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: world.Namespace, Name: name}}
	for range 10 {
		if _, err := manager.Reconcile(s.ctx, request); !errors.Is(err, away) {
			t.Fatalf("a pass without the API server came to %v", err)
		}
		s.offset += time.Minute
	}
	s.expectPages("oncall 1 triggered")
	s.pass(name)
	s.expectPages("oncall 1 triggered", "owner 1 triggered")
	if !s.told(name, "project-owner was paged by api-away-owner, 5 min") || !s.told(name, " late") {
		t.Errorf("the timeline does not say how late: %+v", s.get(name).Status.Timeline)
	}
}
