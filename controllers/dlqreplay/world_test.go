package dlqreplay_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// shared by all tests.
var shared stage.Stage

// acme is the application that most tests are about.
const acme = 42

func TestMain(m *testing.M) { stage.Main(m, &shared, map[string]string{"max_connections": "400"}) }

// A scene is a platform of the test's own, with its Platform applied and the application acme registered.
type scene struct {
	*stage.Scene[*v1alpha1.DLQReplay]
}

// quick is a platform whose dispatcher gives up after a fraction of a second.
var quick = logi.Config{Workers: 2, Backoff: []time.Duration{50 * time.Millisecond, 50 * time.Millisecond}}

// manual is a platform whose dispatcher works when the test says so.
var manual = logi.Config{ManualDispatch: true, Backoff: []time.Duration{time.Hour}}

// newScene makes a scene whose Platform has the given name, and which ends with the test.
func newScene(t *testing.T, name string, config logi.Config) *scene {
	t.Helper()
	s := newBareScene(t, name, config)
	if err := s.Apply(s.Ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// newBareScene is newScene without the Platform object.
func newBareScene(t *testing.T, name string, config logi.Config) *scene {
	t.Helper()
	t.Parallel()
	return newSceneIn(t, shared.World, name, config)
}

func newSceneIn(t *testing.T, w *world.World, name string, config logi.Config) *scene {
	t.Helper()
	s := &scene{stage.New[*v1alpha1.DLQReplay](t, &shared, w, name, config)}
	if err := s.CreateApplication(s.Ctx, acme, "acme"); err != nil {
		t.Fatal(err)
	}
	return s
}

// seed puts n dead webhooks of acme into the outbox.
func (s *scene) seed(n int, lastError string, attempts int) []int64 {
	s.Helper()
	ids, err := s.SeedDead(s.Ctx, acme, n, lastError, attempts)
	if err != nil {
		s.Fatal(err)
	}
	return ids
}

// count is the number that an SQL query returns.
func (s *scene) count(sql string, args ...any) int64 {
	s.Helper()
	return stage.Query[int64](s.Scene, sql, args...)
}

// requeues is how often a dead entry was revived, by the platform's own count.
func (s *scene) requeues() int64 {
	s.Helper()
	return s.count(`SELECT count(*) FROM logi_test.requeues`)
}

// dispatch lets the dispatcher attempt what is due.
func (s *scene) dispatch() {
	s.Helper()
	if _, err := s.DispatchOnce(s.Ctx); err != nil {
		s.Fatal(err)
	}
}

// manifest of a replay of acme; spec is YAML, indented by nothing.
func (s *scene) manifest(name, spec string) *unstructured.Unstructured {
	s.Helper()
	return s.Object(name, spec, map[string]any{"applicationID": "42"})
}

// apply creates a replay and returns its full name.
func (s *scene) apply(name, spec string) string {
	s.Helper()
	return s.Create(s.manifest(name, spec))
}

// automation sets the Platform's red button.
func (s *scene) automation(a v1alpha1.Automation) {
	s.Helper()
	s.Patch(&v1alpha1.Platform{}, s.Name, fmt.Sprintf(`{"spec":{"automation":%q}}`, a))
}

// request asks a stalled replay to go on.
func (s *scene) request(name, value string) {
	s.Helper()
	s.Change(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationRequestedAt, value))
}

// reason is the root condition's.
func reason(r *v1alpha1.DLQReplay) string { return stage.Condition(r, v1alpha1.ConditionReady).Reason }

// message is the root condition's.
func message(r *v1alpha1.DLQReplay) string {
	return stage.Condition(r, v1alpha1.ConditionReady).Message
}

// nudge makes the manager look at a replay with a change that means nothing, and waits until it has.
func (s *scene) nudge(name string) *v1alpha1.DLQReplay {
	s.Helper()
	generation := s.Change(name, fmt.Sprintf(`{"spec":{"deliveryTimeoutSeconds":%d}}`,
		s.Get(name).Spec.DeliveryTimeoutSeconds-1)).Generation
	return s.Await(name, "another look",
		func(r *v1alpha1.DLQReplay) bool { return r.Status.ObservedGeneration >= generation })
}

// statuses records each status that a replay is seen with, from now until stop is called.
func (s *scene) statuses(name string) (stop func() []v1alpha1.DLQReplay) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Ctx)
	watcher, err := shared.Kube.Watch(ctx, &v1alpha1.DLQReplayList{}, client.InNamespace(world.Namespace),
		client.MatchingFields{"metadata.name": name})
	if err != nil {
		s.Fatal(err)
	}
	var seen []v1alpha1.DLQReplay
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range watcher.ResultChan() {
			if r, ok := event.Object.(*v1alpha1.DLQReplay); ok {
				seen = append(seen, *r)
			}
		}
	}()
	return func() []v1alpha1.DLQReplay {
		cancel()
		watcher.Stop()
		<-done
		return seen
	}
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// progress compares the counts of a replay's status with what is wanted; those not mentioned must be zero.
func (s *scene) progress(r *v1alpha1.DLQReplay, want map[string]int64) {
	s.Helper()
	for name, got := range counts(r) {
		if got != want[name] {
			s.Errorf("%s: %s is %d and should be %d", r.Name, name, got, want[name])
		}
	}
}

func counts(r *v1alpha1.DLQReplay) map[string]int64 {
	p := r.Status.Progress
	if p == nil {
		p = &v1alpha1.ReplayProgress{}
	}
	return map[string]int64{
		"remaining": value(p.Remaining), "requeued": value(p.Requeued), "settled": value(p.Settled), "left": value(p.Left),
		"parked": value(p.Parked), "unpublished": value(p.Unpublished), "gone": value(p.Gone), "changed": value(p.Changed),
		"refused":   value(p.Refused),
		"delivered": value(p.Delivered), "failing": value(p.Failing), "diedAgain": value(p.DiedAgain),
		"waiting": value(p.Waiting),
	}
}

// addsUp says whether the counts of a status fit each other.
func addsUp(r *v1alpha1.DLQReplay) bool {
	c := counts(r)
	total := int64(0)
	if r.Status.Plan != nil {
		total = value(r.Status.Plan.Total)
	}
	return total == c["requeued"]+c["settled"]+c["left"]+c["parked"]+
		c["unpublished"]+c["gone"]+c["changed"]+c["refused"]+c["remaining"] &&
		c["requeued"] == c["delivered"]+c["failing"]+c["diedAgain"]+c["waiting"]
}
