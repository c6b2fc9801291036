package incident_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// A person's sev2 has the slot. It keeps a sev1 from rolling back, and not from telling the public.
func TestALessSevereIncidentKeepsNothingFromThePublic(t *testing.T) {
	s := newScene(t, "severest")
	s.good()
	first := s.open("first", "{category: Outage, severity: sev2}")
	s.pass(first)
	second := s.open("second", "{category: Outage, severity: sev1, notice: Publish}")
	s.pass(second)
	s.expect(second, "Announced Unknown Published", "RolledBack Unknown WaitingForOther")
	if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "investigating" {
		t.Fatalf("the public reads %+v", got)
	}
	// The first becomes as severe: the Platform has one notice.
	s.patch(first, `{"spec":{"severity":"sev1","notice":"Publish"}}`)
	s.pass(first)
	s.expect(first, "Announced Unknown NotAnnounced")
	if got := s.message(first, "Announced"); got != "the public reads the notice of Incident "+second {
		t.Errorf("it says %q", got)
	}
	// Of two that are as severe, the first decides.
	s.patch(second, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(second)
	s.after(61*time.Second, first)
	third := s.open("third", "{category: Outage, severity: sev1, notice: Publish}")
	s.pass(third)
	s.expect(first, "Announced Unknown Published")
	s.expect(third, "Announced Unknown NotAnnounced")
	if got := s.Services.Notices(); len(got) != 2 || got[0].Status != "resolved" || got[1].Status != "investigating" {
		t.Errorf("the public reads %+v", got)
	}
}

// A mortal manager dies at its nth effect: before it is sent, or when its answer arrives. Nothing is sent after that.
type mortal struct {
	next    http.RoundTripper
	mutex   sync.Mutex
	n, seen int
	sent    bool
}

// lives does one effect, as far as the manager lives.
func (m *mortal) lives(effect func() error) error {
	m.mutex.Lock()
	m.seen++
	at := m.seen
	m.mutex.Unlock()
	switch {
	case at < m.n:
		return effect()
	case at == m.n && m.sent:
		_ = effect()
	}
	return errDied
}

func (m *mortal) died() bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.seen >= m.n
}

func (m *mortal) RoundTrip(r *http.Request) (response *http.Response, err error) {
	if r.Method == http.MethodGet && !m.died() {
		return m.next.RoundTrip(r)
	}
	err = m.lives(func() (err error) { response, err = m.next.RoundTrip(r); return err })
	if errors.Is(err, errDied) && response != nil {
		_ = response.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	return response, nil
}

// pass of the mortal manager over an Incident, until it dies or comes to rest.
func (m *mortal) pass(s *scene, name string) {
	s.transport = m
	manager := s.manager()
	s.transport = nil
	mortal := interceptor.NewClient(kube, interceptor.Funcs{
		Patch: func(ctx context.Context, next client.WithWatch, obj client.Object, patch client.Patch,
			options ...client.PatchOption) error {
			return m.lives(func() error { return next.Patch(ctx, obj, patch, options...) })
		},
		SubResourcePatch: func(ctx context.Context, next client.Client, resource string, obj client.Object,
			patch client.Patch, options ...client.SubResourcePatchOption) error {
			return m.lives(func() error { return next.SubResource(resource).Patch(ctx, obj, patch, options...) })
		},
	})
	manager.Client, manager.APIReader = mortal, mortal
	for range 300 {
		result, err := manager.Reconcile(s.ctx,
			ctrl.Request{NamespacedName: types.NamespacedName{Namespace: world.Namespace, Name: name}})
		if m.died() {
			return
		}
		if err != nil {
			s.Fatal(err)
		}
		if result.RequeueAfter == 0 || result.RequeueAfter > 100*time.Millisecond {
			return
		}
		time.Sleep(result.RequeueAfter)
	}
	s.Fatalf("%s does not come to rest", name)
}

// The manager dies at each effect of the sev1 that tells the public. By then the sev2 that has the slot is a sev1, too,
// and is to tell the public. One notice comes out.
func TestOneNoticeComesOutWhereverTheManagerDies(t *testing.T) {
	s := newScene(t, "severest-dies")
	s.good()
	told, points := 0, 0
	for n := 1; ; n++ {
		died := false
		for _, sent := range []bool{false, true} {
			first := s.open(fmt.Sprintf("first-%d-%t", n, sent), "{category: Outage, severity: sev2}")
			s.pass(first)
			second := s.open(fmt.Sprintf("second-%d-%t", n, sent), "{category: Outage, severity: sev1, notice: Publish}")
			m := &mortal{next: outbound.NewTransport(), n: n, sent: sent}
			m.pass(s, second)
			died = m.died()
			s.patch(first, `{"spec":{"severity":"sev1","notice":"Publish"}}`)
			s.pass(first)
			s.pass(second)
			s.after(31*time.Second, second)
			s.after(31*time.Second, first)
			s.pass(second)
			notices := s.Services.Notices()[told:]
			if len(notices) != 1 || notices[0].Status != "investigating" {
				t.Errorf("it died at effect %d (sent: %t), and the public reads %+v", n, sent, notices)
			}
			for _, name := range []string{first, second} {
				s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
				s.pass(name)
				s.after(31*time.Second, name)
			}
			open := slices.ContainsFunc(s.Services.Notices(),
				func(n logi.Notice) bool { return !strings.EqualFold(n.Status, "resolved") })
			if claim := s.platform().Status.Notice; open || claim != nil {
				t.Fatalf("after both ended, the public reads %+v, and the notice is of %+v", s.Services.Notices(), claim)
			}
			told, points = len(s.Services.Notices()), points+1
		}
		if !died {
			break
		}
	}
	// The finalizer, the mark, both claims, the intent, the call and what came of it are among them.
	if points < 14 {
		t.Errorf("it died at %d points only", points)
	}
}
