package stage

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// Object is of the kind that a scene is about.
type Object interface {
	client.Object
	GetConditions() *[]metav1.Condition
	PlatformName() string
}

// Scene is a platform of a test's own, for objects of one kind.
type Scene[O Object] struct {
	*testing.T
	*world.Site
	Ctx context.Context
	DB  *pgxpool.Pool // as the database's owner

	stage *Stage
}

// New makes a scene with a platform in w, which may be another World than the stage's. The scene has no application and
// no Platform object yet. It ends with the test.
func New[O Object](t *testing.T, stage *Stage, w *world.World, name string, config logi.Config) *Scene[O] {
	t.Helper()
	s := &Scene[O]{T: t, Ctx: t.Context(), stage: stage}
	var err error
	if s.Site, err = w.NewSite(s.Ctx, name, config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	pool, err := pgxpool.ParseConfig(s.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	pool.ConnConfig.RuntimeParams["TimeZone"] = "UTC"
	if s.DB, err = pgxpool.NewWithConfig(s.Ctx, pool); err != nil {
		t.Fatal(err)
	}
	return s
}

// end removes the scene's objects from the control plane, and the platform. If the test failed, it logs the objects
// first.
func (s *Scene[O]) end() {
	ctx, cancel := context.WithTimeout(context.Background(), Deadline)
	defer cancel()
	for _, o := range s.objects(ctx) {
		if s.Failed() {
			s.Logf("%s", JSON(o))
		}
		err := errors.Join(client.IgnoreNotFound(s.stage.Kube.Delete(ctx, o)),
			client.IgnoreNotFound(s.stage.Kube.Patch(ctx, o,
				client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))))
		if err != nil {
			s.Errorf("cleaning up: %v", err)
		}
	}
	if s.Failed() {
		for line := range strings.Lines(s.stage.Manager.Log()) {
			if strings.Contains(line, `"`+s.Site.Name) {
				s.Log(line)
			}
		}
	}
	platform := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.Site.Name}}
	err := errors.Join(client.IgnoreNotFound(s.stage.Kube.Delete(ctx, platform)),
		s.stage.Kube.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(world.Namespace),
			client.MatchingLabels{v1alpha1.LabelPlatform: s.Site.Name}))
	if err != nil {
		s.Errorf("cleaning up: %v", err)
	}
	if s.DB != nil {
		s.DB.Close()
	}
	if err := s.Close(ctx); err != nil {
		s.Errorf("closing the platform: %v", err)
	}
}

// objects of the scene's Platform.
func (s *Scene[O]) objects(ctx context.Context) []O {
	s.Helper()
	gvk, err := apiutil.GVKForObject(newObject[O](), s.stage.Kube.Scheme())
	if err != nil {
		s.Fatal(err)
	}
	list, err := s.stage.Kube.Scheme().New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	if err != nil {
		s.Fatal(err)
	}
	if err := s.stage.Kube.List(ctx, list.(client.ObjectList), client.InNamespace(world.Namespace)); err != nil {
		s.Errorf("listing what to clean up: %v", err)
	}
	var objects []O
	_ = meta.EachListItem(list, func(item runtime.Object) error { // the function never fails
		if o := item.(O); o.PlatformName() == s.Site.Name {
			objects = append(objects, o)
		}
		return nil
	})
	return objects
}

func newObject[O Object]() O { return reflect.New(reflect.TypeFor[O]().Elem()).Interface().(O) }

// JSON of a value, for a test that failed.
func JSON(v any) string {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Exec runs SQL as the database's owner.
func (s *Scene[O]) Exec(sql string, args ...any) {
	s.Helper()
	if _, err := s.DB.Exec(s.Ctx, sql, args...); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
}

// Query runs an SQL query that returns one value.
func Query[V any, O Object](s *Scene[O], sql string, args ...any) V {
	s.Helper()
	rows, err := s.DB.Query(s.Ctx, sql, args...)
	if err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[V])
	if err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
	return value
}

// Object is an object for the scene's Platform. Its full name begins with the Platform's name. spec is YAML without
// indentation. Fields that it leaves out are taken from defaults.
func (s *Scene[O]) Object(name, spec string, defaults map[string]any) *unstructured.Unstructured {
	s.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		s.Fatalf("%s: %v", spec, err)
	}
	defaults["platformRef"] = map[string]any{"name": s.Site.Name}
	for key, value := range defaults {
		if _, ok := content[key]; !ok {
			content[key] = value
		}
	}
	gvk, err := apiutil.GVKForObject(newObject[O](), s.stage.Kube.Scheme())
	if err != nil {
		s.Fatal(err)
	}
	obj := &unstructured.Unstructured{Object: map[string]any{"spec": content}}
	obj.SetGroupVersionKind(gvk)
	obj.SetNamespace(world.Namespace)
	obj.SetName(s.Site.Name + "-" + name)
	return obj
}

// Create creates the object of a manifest, and returns its name. A field that the API does not have is refused.
func (s *Scene[O]) Create(manifest *unstructured.Unstructured) string {
	s.Helper()
	if err := s.stage.Kube.Create(s.Ctx, manifest, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
		s.Fatal(err)
	}
	return manifest.GetName()
}

// CreateSecret creates a Secret of the scene's platform, and returns its name.
func (s *Scene[O]) CreateSecret(suffix string, data map[string]string) string {
	s.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.Site.Name + "-" +
			suffix, Labels: map[string]string{v1alpha1.LabelPlatform: s.Site.Name}},
		StringData: data,
	}
	if err := s.stage.Kube.Create(s.Ctx, secret); err != nil {
		s.Fatal(err)
	}
	return secret.Name
}

// Patch merges JSON into an object of any kind, and reads it.
func (s *Scene[O]) Patch(obj client.Object, name, merge string) {
	s.Helper()
	obj.SetNamespace(world.Namespace)
	obj.SetName(name)
	if err := s.stage.Kube.Patch(s.Ctx, obj, client.RawPatch(types.MergePatchType, []byte(merge))); err != nil {
		s.Fatal(err)
	}
}

// Change merges JSON into an object of the scene's kind.
func (s *Scene[O]) Change(name, merge string) O {
	s.Helper()
	o := newObject[O]()
	s.Patch(o, name, merge)
	return o
}

// Get reads an object.
func (s *Scene[O]) Get(name string) O {
	s.Helper()
	o := newObject[O]()
	if err := s.stage.Kube.Get(s.Ctx, types.NamespacedName{Namespace: world.Namespace, Name: name}, o); err != nil {
		s.Fatal(err)
	}
	return o
}

// Delete deletes an object, and waits until it is gone.
func (s *Scene[O]) Delete(name string) {
	s.Helper()
	if err := s.stage.Kube.Delete(s.Ctx, s.Get(name)); err != nil {
		s.Fatal(err)
	}
	Eventually(s.T, name+" is gone", func() bool { return s.Gone(name) })
}

// Gone says whether an object is gone.
func (s *Scene[O]) Gone(name string) bool {
	s.Helper()
	err := s.stage.Kube.Get(s.Ctx, types.NamespacedName{Namespace: world.Namespace, Name: name}, newObject[O]())
	if client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	return err != nil
}

// Eventually waits until cond holds.
func Eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(Deadline); !cond(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for this: %s", what)
		}
	}
}

// Await waits until cond holds for an object, and returns it.
func (s *Scene[O]) Await(name, what string, cond func(O) bool) O {
	s.Helper()
	var o O
	Eventually(s.T, name+": "+what, func() bool { o = s.Get(name); return cond(o) })
	return o
}

// Condition is a condition of an object. It is empty if the object does not have it.
func Condition(o Object, name string) metav1.Condition {
	if c := meta.FindStatusCondition(*o.GetConditions(), name); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// Ended says whether an object is complete or stalled.
func Ended[O Object](o O) bool {
	return Condition(o, v1alpha1.ConditionReady).Status == metav1.ConditionTrue ||
		Condition(o, v1alpha1.ConditionStalled).Status == metav1.ConditionTrue
}

// AwaitReason waits until Ready has a reason for the newest spec, and the object is neither complete nor stalled.
func (s *Scene[O]) AwaitReason(name, want string) O {
	s.Helper()
	o := s.Await(name, "reason "+want, func(o O) bool {
		return Condition(o, v1alpha1.ConditionReady).Reason == want && s.observed(o) == o.GetGeneration()
	})
	s.Healthy(o, status.InProgressStatus)
	return o
}

// AwaitStalled waits until an object is stalled. It must be stalled for this reason.
func (s *Scene[O]) AwaitStalled(name, want string) O {
	s.Helper()
	o := s.Await(name, "stalled as "+
		want, func(o O) bool { return Ended(o) && Condition(o, v1alpha1.ConditionReady).Reason == want })
	if Condition(o, v1alpha1.ConditionStalled).Status != metav1.ConditionTrue {
		s.Fatalf("%s is %s without being stalled", name, want)
	}
	s.Healthy(o, status.FailedStatus)
	return o
}

// AwaitReady waits until an object is complete.
func (s *Scene[O]) AwaitReady(name string) O {
	s.Helper()
	o := s.Await(name, "complete or stalled", Ended[O])
	if ready := Condition(o, v1alpha1.ConditionReady); ready.Status != metav1.ConditionTrue {
		s.Fatalf("%s stalled: %s: %s", name, ready.Reason, ready.Message)
	}
	s.Healthy(o, status.CurrentStatus)
	return o
}

// observed is the generation that the manager has seen. It is -1 or 0 if it has seen none.
func (s *Scene[O]) observed(o O) int64 {
	s.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		s.Fatal(err)
	}
	generation, _, err := unstructured.NestedInt64(content, "status", "observedGeneration")
	if err != nil {
		s.Fatal(err)
	}
	return generation
}

// Healthy checks the health that kstatus computes for an object, unless the manager has not seen the newest spec yet.
func (s *Scene[O]) Healthy(o O, want status.Status) {
	s.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		s.Fatal(err)
	}
	got, err := status.Compute(&unstructured.Unstructured{Object: content})
	if err != nil {
		s.Fatal(err)
	}
	if observed := s.observed(o); got.Status != want && (observed == o.GetGeneration() || observed <= 0) {
		s.Errorf("%s is %s (%s), and should be %s: %s", o.GetName(), got.Status, got.Message, want, JSON(content["status"]))
	}
}
