package incident_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// holding is a way to far sides on which one call hangs until it is let go.
type holding struct {
	next    http.RoundTripper
	call    string // the method and the end of the path
	arrived chan struct{}
	letGo   chan struct{}
	once    sync.Once
	// answered says that the far side has answered by then.
	answered bool
}

func hold(call string) *holding {
	return &holding{next: outbound.NewTransport(), call: call, arrived: make(chan struct{}), letGo: make(chan struct{})}
}

func (h *holding) RoundTrip(request *http.Request) (*http.Response, error) {
	method, path, _ := strings.Cut(h.call, " ")
	held := request.Method == method && strings.HasSuffix(request.URL.Path, path)
	if held && !h.answered {
		if err := h.wait(request); err != nil {
			return nil, err
		}
	}
	response, err := h.next.RoundTrip(request)
	if err == nil && held && h.answered {
		err = h.wait(request)
	}
	return response, err
}

func (h *holding) wait(request *http.Request) error {
	h.once.Do(func() { close(h.arrived) })
	select {
	case <-h.letGo:
		return nil
	case <-request.Context().Done():
		return request.Context().Err()
	}
}

// hangs says whether the call is being held.
func (h *holding) hangs() bool {
	select {
	case <-h.arrived:
		return true
	default:
		return false
	}
}

// lookOnce is one pass of a manager.
func (s *scene) lookOnce(manager *incident.Reconciler, name string) (after time.Duration) {
	s.Helper()
	result, err := manager.Reconcile(s.ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: world.Namespace,
		Name: name}})
	if err != nil {
		s.Fatal(err)
	}
	return result.RequeueAfter
}

// look lets a manager look until something is so.
func (s *scene) look(manager *incident.Reconciler, name, what string, so func() bool) {
	s.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); {
		if time.Now().After(end) {
			s.Fatalf("this was waited for in vain: %s", what)
		}
		if after := s.lookOnce(manager, name); after > 0 {
			time.Sleep(min(after, 100*time.Millisecond))
		}
	}
}

// slowest is how long a pass may take in which a far side hangs: its patience with each, and the API server's share.
const slowest = 3 * time.Second

var slowCalls = map[string]string{
	"find a notice": "GET /incidents/unresolved", "publish": "POST /incidents", "auto-deploy": "PATCH " + logi.WebService,
	"rollback": "POST /rollback",
}

// What is due to people comes in time, whatever else hangs, and what hangs is done once.
func TestASlowFarSideHoldsUpNoPage(t *testing.T) {
	for what, call := range slowCalls {
		t.Run(what, func(t *testing.T) {
			s := newScene(t, "slow-"+strings.ReplaceAll(what, " ", "-"))
			h := hold(call)
			s.transport = h
			manager := s.manager()
			name := s.regression("inc", "{category: Outage, notice: Publish}")
			s.look(manager, name, what+" hangs", h.hangs)
			s.expectPages("oncall 1 triggered")
			// The next tier is due while it hangs.
			s.offset += 16 * time.Minute
			began := time.Now()
			s.lookOnce(manager, name)
			s.expectPages("oncall 1 triggered", "owner 1 triggered")
			if took := time.Since(began); took > slowest {
				t.Errorf("the pass took %s", took)
			}
			s.lookOnce(manager, name)
			close(h.letGo)
			s.look(manager, name, "the rollback", func() bool { return s.condition(name, "RolledBack") == "True Succeeded" })
			s.rollbacks(1)
			s.good()
			s.offset += 301 * time.Second
			s.look(manager, name, "the end", func() bool { return s.condition(name, "Announced") == "True Succeeded" })
			if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" {
				t.Errorf("the status page has %+v", got)
			}
			s.expectPages("oncall 1 resolved", "owner 1 resolved")
		})
	}
}

// Auto-deploy is switched on only after Render answered that it is off: two calls at once may arrive in any order.
func TestAutoDeployThatIsBeingSwitchedOffIsSwitchedOnAfterwards(t *testing.T) {
	s := newScene(t, "slow-off")
	h := hold("PATCH " + logi.WebService)
	s.transport = h
	manager := s.manager()
	name := s.regression("inc", "{category: Outage}")
	s.look(manager, name, "Render is told", h.hangs)
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.look(manager, name, "the resolution", func() bool { return s.condition(name, "Resolved") == "True Succeeded" })
	for range 3 {
		s.lookOnce(manager, name)
	}
	s.expect(name, "AutoDeployRestored Unknown Looking")
	close(h.letGo)
	s.look(manager, name, "the end", func() bool { return s.condition(name, "Ready") == "True Succeeded" })
	s.rollbacks(0)
	if got := s.Server.Render().Counts().AutoDeployPatches; got != 2 || !s.Server.Render().AutoDeploy(logi.WebService) {
		t.Errorf("auto-deploy was switched %d times", got)
	}
	if !s.told(name, "auto-deploy of web was switched off") || !s.told(name, "auto-deploy of web is on again") {
		t.Errorf("the timeline has %+v", s.get(name).Status.Timeline)
	}
}

// An Incident that is deleted while the public is told leaves no notice behind.
func TestANoticeThatIsBeingPublishedIsResolvedWhereTheIncidentIsDeleted(t *testing.T) {
	s := newScene(t, "slow-deleted")
	h := hold("POST /incidents")
	s.transport = h
	manager := s.manager()
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, notice: Publish, outage: {rollback: Never}}")
	s.look(manager, name, "the notice is on its way", h.hangs)
	if err := admin.Delete(s.ctx, s.get(name)); err != nil {
		t.Fatal(err)
	}
	// Another manager has the object now, and finds no notice. It waits until the call must have ended.
	s.transport = nil
	other := s.manager()
	for range 3 {
		if s.lookOnce(other, name); s.gone(name) {
			t.Fatal("the object went while its notice was on its way")
		}
	}
	s.offset += 31 * time.Second
	if s.lookOnce(other, name); !s.gone(name) {
		t.Fatal("the object is still there")
	}
	// This one took longer than it may.
	close(h.letGo)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		got := s.Services.Notices()
		if len(got) == 1 && got[0].Status == "resolved" && s.platform().Status.Notice == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the status page has %+v, and the Platform %+v", got, s.platform().Status.Notice)
		}
	}
}

// A look at the status page may be older than what another manager published since.
func TestAnOldLookAtTheStatusPagePublishesNoSecondNotice(t *testing.T) {
	s := newScene(t, "slow-old")
	h := hold("GET /incidents/unresolved")
	h.answered = true
	s.transport = h
	slow := s.manager()
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, notice: Publish, outage: {rollback: Never}}")
	s.look(slow, name, "the answer is held", h.hangs)
	// The other one has published, and does not know it yet.
	published := hold("POST /incidents")
	published.answered = true
	s.transport = published
	s.offset += 31 * time.Second
	s.look(s.manager(), name, "the other manager publishes", published.hangs)
	close(h.letGo)
	for range 5 {
		time.Sleep(min(s.lookOnce(slow, name), 100*time.Millisecond))
	}
	close(published.letGo)
	s.expect(name, "Announced Unknown Published")
	if got := s.Services.Notices(); len(got) != 1 {
		t.Errorf("the status page has %+v", got)
	}
}

func (s *scene) gone(name string) bool {
	s.Helper()
	var list v1alpha1.IncidentList
	if err := admin.List(s.ctx, &list); err != nil {
		s.Fatal(err)
	}
	for _, i := range list.Items {
		if i.Name == name {
			return false
		}
	}
	return true
}

// A manager that stops waits for the one call that must not be made twice. It also writes down a refusal, which the
// next manager could not read from Render's deploys.
func TestAManagerThatIsBeingStoppedWaitsForItsRollback(t *testing.T) {
	for name, c := range map[string]struct {
		fault []logi.RenderFault
		held  []v1alpha1.RollbackState
	}{
		// The last pass may have taken the answer.
		"slow-stop": {held: []v1alpha1.RollbackState{v1alpha1.RollbackRequested, v1alpha1.RollbackDeploying}},
		"slow-stop-refused": {
			fault: []logi.RenderFault{{Method: http.MethodPost, Path: "/rollback", Status: http.StatusForbidden,
				Body: `{"message":"forbidden"}`, Times: 1}},
			held: []v1alpha1.RollbackState{v1alpha1.RollbackRefused},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, name)
			h := hold("POST /rollback")
			s.transport = h
			name := s.regression("inc", "{category: Outage}")
			s.Server.Render().SetFaults(c.fault...)
			s.stopsWhile(h, name)
			if got := s.platform().Status.Rollbacks; len(got) != 1 || !slices.Contains(c.held, got[0].State) {
				t.Fatalf("the Platform holds %+v", got)
			}
			s.transport = nil
			s.until(name, "RolledBack True Succeeded")
			s.rollbacks(1)
		})
	}
}

// stopsWhile runs a real manager, and stops it while its call is held. The call goes on after that.
func (s *scene) stopsWhile(h *holding, name string) {
	s.Helper()
	only := cache.ByObject{Field: fields.OneTermEqualSelector("metadata.name", name)}
	mgr, err := ctrl.NewManager(w.ControlPlane.Config(), ctrl.Options{
		Scheme: kube.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"},
		// Another test's manager has the name.
		Controller: config.Controller{SkipNameValidation: new(true)},
		// The Incidents of other tests are not this manager's.
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{&v1alpha1.Incident{}: only},
			DefaultNamespaces: map[string]cache.Config{world.Namespace: {}}},
	})
	if err != nil {
		s.Fatal(err)
	}
	reconciler := s.manager()
	reconciler.Client, reconciler.APIReader = mgr.GetClient(), mgr.GetAPIReader()
	if err := reconciler.SetupWithManager(mgr); err != nil {
		s.Fatal(err)
	}
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	select {
	case <-h.arrived:
	case <-time.After(time.Minute):
		s.Fatal("Render was not asked")
	}
	// Longer than a pass waits, so that the pass that asked is over.
	time.AfterFunc(time.Second, stop)
	time.AfterFunc(2*time.Second, func() { close(h.letGo) })
	if err := <-ended; err != nil {
		s.Error(err)
	}
}
