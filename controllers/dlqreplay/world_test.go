package dlqreplay_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

var (
	w       *world.World
	kube    client.WithWatch
	manager *servers.Process
	// metricsURL is where the manager serves its metrics.
	metricsURL string
)

// deadline is how long a test waits for what must happen: long enough for a busy machine.
const deadline = 5 * time.Minute

// acme is the application that most tests are about.
const acme = 42

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait far more than they work.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// runTests runs the tests in one World, with one manager.
func runTests(m *testing.M) (code int, err error) {
	ctx := context.Background()
	ctrl.SetLogger(logr.Discard()) // the manager's is in a file
	dir, err := os.MkdirTemp("", "playbook-dlqreplay-")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the servers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if w, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true, Settings: map[string]string{"max_connections": "400"}}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Stop(ctx)) }()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return 0, err
	}
	if kube, err = client.NewWithWatch(w.ControlPlane.Config(), client.Options{Scheme: scheme}); err != nil {
		return 0, fmt.Errorf("making a client: %w", err)
	}
	port, err := servers.FreePort()
	if err != nil {
		return 0, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	metricsURL = "http://" + address + "/metrics"
	if manager, err = w.StartManager(ctx, "manager", "--metrics-bind-address="+address); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, manager.Stop(ctx)) }()
	return m.Run(), nil
}

// A scene is a platform of the test's own, with its Platform applied and the application acme registered.
type scene struct {
	*testing.T
	*world.Site
	ctx context.Context
	db  *pgxpool.Pool // as the database's owner
}

// quick is a platform whose dispatcher gives up after a fraction of a second.
var quick = logi.Config{Workers: 2, Backoff: []time.Duration{50 * time.Millisecond, 50 * time.Millisecond}}

// manual is a platform whose dispatcher works when the test says so.
var manual = logi.Config{ManualDispatch: true, Backoff: []time.Duration{time.Hour}}

// newScene makes a scene whose Platform has the given name, and which ends with the test.
func newScene(t *testing.T, name string, config logi.Config) *scene {
	t.Helper()
	s := newBareScene(t, name, config)
	if err := s.Apply(s.ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// newBareScene is newScene without the Platform object.
func newBareScene(t *testing.T, name string, config logi.Config) *scene {
	t.Helper()
	t.Parallel()
	return newSceneIn(t, w, name, config)
}

func newSceneIn(t *testing.T, w *world.World, name string, config logi.Config) *scene {
	t.Helper()
	ctx := t.Context()
	site, err := w.NewSite(ctx, name, config)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, Site: site, ctx: ctx}
	s.Cleanup(s.end)
	poolConfig, err := pgxpool.ParseConfig(site.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	poolConfig.ConnConfig.RuntimeParams["TimeZone"] = "UTC"
	if s.db, err = pgxpool.NewWithConfig(ctx, poolConfig); err != nil {
		t.Fatal(err)
	}
	if err := site.CreateApplication(ctx, acme, "acme"); err != nil {
		t.Fatal(err)
	}
	return s
}

// end takes away what the scene put into the control plane, and the platform. A failed test shows what it left.
func (s *scene) end() {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var replays v1alpha1.DLQReplayList
	if err := kube.List(ctx, &replays, client.InNamespace(world.Namespace)); err != nil {
		s.Errorf("listing what to clean up: %v", err)
	}
	for i := range replays.Items {
		r := &replays.Items[i]
		if r.Spec.PlatformRef.Name != s.Name {
			continue
		}
		if s.Failed() {
			s.Logf("%s", asJSON(r))
		}
		err := errors.Join(client.IgnoreNotFound(kube.Delete(ctx, r)),
			client.IgnoreNotFound(kube.Patch(ctx, r, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))))
		if err != nil {
			s.Errorf("cleaning up: %v", err)
		}
	}
	if s.Failed() {
		for line := range strings.Lines(manager.Log()) {
			if strings.Contains(line, `"`+s.Name) {
				s.Log(line)
			}
		}
	}
	platform := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.Name}}
	if err := client.IgnoreNotFound(kube.Delete(ctx, platform)); err != nil {
		s.Errorf("cleaning up: %v", err)
	}
	if s.db != nil {
		s.db.Close()
	}
	if err := s.Close(ctx); err != nil {
		s.Errorf("closing the platform: %v", err)
	}
}

func asJSON(v any) string {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// seed puts n dead webhooks of acme into the outbox.
func (s *scene) seed(n int, lastError string, attempts int) []int64 {
	s.Helper()
	ids, err := s.SeedDead(s.ctx, acme, n, lastError, attempts)
	if err != nil {
		s.Fatal(err)
	}
	return ids
}

// exec runs SQL as the database's owner.
func (s *scene) exec(sql string, args ...any) {
	s.Helper()
	if _, err := s.db.Exec(s.ctx, sql, args...); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
}

// count is the number that an SQL query returns.
func (s *scene) count(sql string, args ...any) int64 {
	s.Helper()
	return query[int64](s, sql, args...)
}

// query is the one value that an SQL query returns.
func query[V any](s *scene, sql string, args ...any) V {
	s.Helper()
	rows, err := s.db.Query(s.ctx, sql, args...)
	if err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[V])
	if err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
	return value
}

// requeues is how often a dead entry was revived, by the platform's own count.
func (s *scene) requeues() int64 {
	s.Helper()
	return s.count(`SELECT count(*) FROM logi_test.requeues`)
}

// dispatch lets the dispatcher attempt what is due.
func (s *scene) dispatch() {
	s.Helper()
	if _, err := s.DispatchOnce(s.ctx); err != nil {
		s.Fatal(err)
	}
}

// manifest of a replay of acme; spec is YAML, indented by nothing.
func (s *scene) manifest(name, spec string) *unstructured.Unstructured {
	s.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		s.Fatalf("%s: %v", spec, err)
	}
	for key, value := range map[string]any{"platformRef": map[string]any{"name": s.Name}, "applicationID": "42"} {
		if _, ok := content[key]; !ok {
			content[key] = value
		}
	}
	obj := &unstructured.Unstructured{Object: map[string]any{"spec": content}}
	obj.SetAPIVersion(v1alpha1.GroupVersion.String())
	obj.SetKind("DLQReplay")
	obj.SetNamespace(world.Namespace)
	obj.SetName(s.Name + "-" + name)
	return obj
}

// apply creates a replay and returns its full name.
func (s *scene) apply(name, spec string) string {
	s.Helper()
	obj := s.manifest(name, spec)
	if err := kube.Create(s.ctx, obj, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
		s.Fatal(err)
	}
	return obj.GetName()
}

// patch merges JSON into an object.
func (s *scene) patch(obj client.Object, name, merge string) {
	s.Helper()
	obj.SetNamespace(world.Namespace)
	obj.SetName(name)
	if err := kube.Patch(s.ctx, obj, client.RawPatch(types.MergePatchType, []byte(merge))); err != nil {
		s.Fatal(err)
	}
}

// change merges JSON into a replay.
func (s *scene) change(name, merge string) *v1alpha1.DLQReplay {
	s.Helper()
	r := &v1alpha1.DLQReplay{}
	s.patch(r, name, merge)
	return r
}

// automation sets the Platform's red button.
func (s *scene) automation(a v1alpha1.Automation) {
	s.Helper()
	s.patch(&v1alpha1.Platform{}, s.Name, fmt.Sprintf(`{"spec":{"automation":%q}}`, a))
}

// request asks a stalled replay to go on.
func (s *scene) request(name, value string) {
	s.Helper()
	s.change(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationRequestedAt, value))
}

func (s *scene) get(name string) *v1alpha1.DLQReplay {
	s.Helper()
	r := &v1alpha1.DLQReplay{}
	if err := kube.Get(s.ctx, types.NamespacedName{Namespace: world.Namespace, Name: name}, r); err != nil {
		s.Fatal(err)
	}
	return r
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !cond(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for this: %s", what)
		}
	}
}

// await waits until cond holds for a replay, and returns it.
func (s *scene) await(name, what string, cond func(*v1alpha1.DLQReplay) bool) *v1alpha1.DLQReplay {
	s.Helper()
	var r *v1alpha1.DLQReplay
	eventually(s.T, name+": "+what, func() bool { r = s.get(name); return cond(r) })
	return r
}

// reason is the root condition's.
func reason(r *v1alpha1.DLQReplay) string {
	if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}

// message is the root condition's.
func message(r *v1alpha1.DLQReplay) string {
	if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		return c.Message
	}
	return ""
}

// awaitReason waits until the root condition has a reason, seen for the newest spec, while the replay goes on or waits.
func (s *scene) awaitReason(name, want string) *v1alpha1.DLQReplay {
	s.Helper()
	r := s.await(name, "reason "+want, func(r *v1alpha1.DLQReplay) bool {
		return reason(r) == want && r.Status.ObservedGeneration == r.Generation
	})
	s.healthy(r, status.InProgressStatus)
	return r
}

// awaitStalled waits until a replay needs a person, for this reason and no other.
func (s *scene) awaitStalled(name, want string) *v1alpha1.DLQReplay {
	s.Helper()
	r := s.await(name, "stalled", func(r *v1alpha1.DLQReplay) bool { return ended(r) && reason(r) == want })
	if !meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionStalled) {
		s.Fatalf("%s is %s without being stalled", name, want)
	}
	s.healthy(r, status.FailedStatus)
	return r
}

// healthy compares what Flux and Argo CD make of a replay, unless its spec was changed since the manager looked.
func (s *scene) healthy(r *v1alpha1.DLQReplay, want status.Status) {
	s.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		s.Fatal(err)
	}
	got, err := status.Compute(&unstructured.Unstructured{Object: content})
	if err != nil {
		s.Fatal(err)
	}
	if changed := r.Generation > r.Status.ObservedGeneration && r.Status.ObservedGeneration > 0; got.Status != want && !changed {
		s.Errorf("%s is %s (%s), and should be %s: %s", r.Name, got.Status, got.Message, want, asJSON(r.Status))
	}
}

// awaitReady waits until a replay is complete.
func (s *scene) awaitReady(name string) *v1alpha1.DLQReplay {
	s.Helper()
	r := s.await(name, "complete or stalled", ended)
	if !meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionReady) {
		s.Fatalf("%s stalled: %s: %s", name, reason(r), message(r))
	}
	s.healthy(r, status.CurrentStatus)
	return r
}

func ended(r *v1alpha1.DLQReplay) bool {
	return meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionReady) ||
		meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionStalled)
}

// nudge makes the manager look at a replay with a change that means nothing, and waits until it has.
func (s *scene) nudge(name string) *v1alpha1.DLQReplay {
	s.Helper()
	generation := s.change(name, fmt.Sprintf(`{"spec":{"deliveryTimeoutSeconds":%d}}`, s.get(name).Spec.DeliveryTimeoutSeconds-1)).Generation
	return s.await(name, "another look", func(r *v1alpha1.DLQReplay) bool { return r.Status.ObservedGeneration >= generation })
}

// delete deletes a replay and waits until it is gone.
func (s *scene) delete(name string) {
	s.Helper()
	r := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}}
	if err := kube.Delete(s.ctx, r); err != nil {
		s.Fatal(err)
	}
	eventually(s.T, name+" is gone", func() bool { return s.gone(name) })
}

func (s *scene) gone(name string) bool {
	s.Helper()
	err := kube.Get(s.ctx, types.NamespacedName{Namespace: world.Namespace, Name: name}, &v1alpha1.DLQReplay{})
	if client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	return err != nil
}

// statuses records each status that a replay is seen with, from now until stop is called.
func (s *scene) statuses(name string) (stop func() []v1alpha1.DLQReplay) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	watcher, err := kube.Watch(ctx, &v1alpha1.DLQReplayList{}, client.InNamespace(world.Namespace), client.MatchingFields{"metadata.name": name})
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
		"delivered": value(p.Delivered), "failing": value(p.Failing), "diedAgain": value(p.DiedAgain), "waiting": value(p.Waiting),
	}
}

// addsUp says whether the counts of a status fit each other.
func addsUp(r *v1alpha1.DLQReplay) bool {
	c := counts(r)
	total := int64(0)
	if r.Status.Plan != nil {
		total = value(r.Status.Plan.Total)
	}
	return total == c["requeued"]+c["settled"]+c["left"]+c["parked"]+c["unpublished"]+c["gone"]+c["changed"]+c["remaining"] &&
		c["requeued"] == c["delivered"]+c["failing"]+c["diedAgain"]+c["waiting"]
}
