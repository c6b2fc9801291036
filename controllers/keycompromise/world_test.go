package keycompromise_test

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

	"github.com/go-jose/go-jose/v4"
	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	kube    client.Client
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
	dir, err := os.MkdirTemp("", "playbook-keycompromise-")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the servers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	settings := map[string]string{"max_connections": "400", "max_prepared_transactions": "10"}
	if w, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true, Settings: settings}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Stop(ctx)) }()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return 0, err
	}
	if kube, err = client.New(w.ControlPlane.Config(), client.Options{Scheme: scheme}); err != nil {
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

// newScene makes a scene whose Platform has the given name, and which ends with the test.
func newScene(t *testing.T, name string, config logi.Config) *scene {
	t.Helper()
	t.Parallel()
	return newSceneIn(t, w, name, config, jose.EdDSA)
}

// newSceneIn is newScene in a World of the caller's, with a signing key of the algorithm.
func newSceneIn(t *testing.T, w *world.World, name string, config logi.Config, algorithm jose.SignatureAlgorithm) *scene {
	t.Helper()
	s := &scene{T: t, ctx: t.Context()}
	var err error
	if s.Site, err = w.NewSite(s.ctx, name, config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	poolConfig, err := pgxpool.ParseConfig(s.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	poolConfig.ConnConfig.RuntimeParams["TimeZone"] = "UTC"
	if s.db, err = pgxpool.NewWithConfig(s.ctx, poolConfig); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateApplicationWithKey(s.ctx, acme, "acme", algorithm); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(s.ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// end takes away what the scene put into the control plane, and the platform. A failed test shows what it left.
func (s *scene) end() {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var list v1alpha1.KeyCompromiseList
	if err := kube.List(ctx, &list, client.InNamespace(world.Namespace)); err != nil {
		s.Errorf("listing what to clean up: %v", err)
	}
	for i := range list.Items {
		k := &list.Items[i]
		if k.Spec.PlatformRef.Name != s.Name {
			continue
		}
		if s.Failed() {
			s.Logf("%s", asJSON(k))
		}
		err := errors.Join(client.IgnoreNotFound(kube.Delete(ctx, k)),
			client.IgnoreNotFound(kube.Patch(ctx, k, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))))
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

// exec runs SQL as the database's owner.
func (s *scene) exec(sql string, args ...any) {
	s.Helper()
	if _, err := s.db.Exec(s.ctx, sql, args...); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
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

// kid of acme's newest active key.
func (s *scene) kid() string {
	s.Helper()
	return query[string](s, `SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1 AND status = 'active' ORDER BY activated_at DESC LIMIT 1`, acme)
}

// apply creates a KeyCompromise of acme's kid and returns its name. spec is YAML that adds to the spec, indented by nothing.
func (s *scene) apply(name, kid, spec string) string {
	s.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		s.Fatalf("%s: %v", spec, err)
	}
	for key, value := range map[string]any{
		"platformRef": map[string]any{"name": s.Name}, "applicationID": "42", "kid": kid, "reason": "private key found in a CI log",
	} {
		if _, ok := content[key]; !ok {
			content[key] = value
		}
	}
	obj := &unstructured.Unstructured{Object: map[string]any{"spec": content}}
	obj.SetAPIVersion(v1alpha1.GroupVersion.String())
	obj.SetKind("KeyCompromise")
	obj.SetNamespace(world.Namespace)
	obj.SetName(s.Name + "-" + name)
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

// patched is patch of a KeyCompromise's spec, and returns its generation then.
func (s *scene) patched(name, merge string) int64 {
	s.Helper()
	s.patch(&v1alpha1.KeyCompromise{}, name, merge)
	return s.get(name).Generation
}

// request asks a stalled KeyCompromise to go on, and waits until it does.
func (s *scene) request(name, value string) {
	s.Helper()
	s.patch(&v1alpha1.KeyCompromise{}, name, fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationRequestedAt, value))
	s.await(name, "the request is handled", func(k *v1alpha1.KeyCompromise) bool { return k.Status.LastHandledRequestedAt == value })
}

func (s *scene) get(name string) *v1alpha1.KeyCompromise {
	s.Helper()
	k := &v1alpha1.KeyCompromise{}
	if err := kube.Get(s.ctx, types.NamespacedName{Namespace: world.Namespace, Name: name}, k); err != nil {
		s.Fatal(err)
	}
	return k
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

// await waits until cond holds for a KeyCompromise, and returns it.
func (s *scene) await(name, what string, cond func(*v1alpha1.KeyCompromise) bool) *v1alpha1.KeyCompromise {
	s.Helper()
	var k *v1alpha1.KeyCompromise
	eventually(s.T, name+": "+what, func() bool { k = s.get(name); return cond(k) })
	return k
}

// condition of an object; one that is not there is empty.
func condition(k *v1alpha1.KeyCompromise, name string) metav1.Condition {
	if c := meta.FindStatusCondition(k.Status.Conditions, name); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// awaitReason waits until the root condition has a reason, seen for the newest spec.
func (s *scene) awaitReason(name, want string) *v1alpha1.KeyCompromise {
	s.Helper()
	return s.await(name, "reason "+want, func(k *v1alpha1.KeyCompromise) bool {
		return condition(k, v1alpha1.ConditionReady).Reason == want && k.Status.ObservedGeneration == k.Generation
	})
}

// awaitStalled waits until a KeyCompromise needs a person, for this reason and no other.
func (s *scene) awaitStalled(name, want string) *v1alpha1.KeyCompromise {
	s.Helper()
	k := s.await(name, "stalled as "+want, func(k *v1alpha1.KeyCompromise) bool {
		return ended(k) && condition(k, v1alpha1.ConditionReady).Reason == want
	})
	if condition(k, v1alpha1.ConditionStalled).Status != metav1.ConditionTrue {
		s.Fatalf("%s is %s without being stalled", name, want)
	}
	return k
}

// awaitReady waits until a KeyCompromise is complete.
func (s *scene) awaitReady(name string) *v1alpha1.KeyCompromise {
	s.Helper()
	k := s.await(name, "complete or stalled", ended)
	if c := condition(k, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
		s.Fatalf("%s stalled: %s: %s", name, c.Reason, c.Message)
	}
	return k
}

func ended(k *v1alpha1.KeyCompromise) bool {
	return condition(k, v1alpha1.ConditionReady).Status == metav1.ConditionTrue || condition(k, v1alpha1.ConditionStalled).Status == metav1.ConditionTrue
}

// delete deletes a KeyCompromise and waits until it is gone.
func (s *scene) delete(name string) {
	s.Helper()
	if err := kube.Delete(s.ctx, s.get(name)); err != nil {
		s.Fatal(err)
	}
	eventually(s.T, name+" is gone", func() bool {
		err := kube.Get(s.ctx, types.NamespacedName{Namespace: world.Namespace, Name: name}, &v1alpha1.KeyCompromise{})
		return apierrors.IsNotFound(err)
	})
}
