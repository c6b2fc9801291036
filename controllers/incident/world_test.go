package incident_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

var (
	w     *world.World
	admin client.Client    // as the cluster's administrator
	kube  client.WithWatch // as the manager's ServiceAccount
)

const (
	routingKey      = "R0utingKeyOfTheOncallEngineer000"
	ownerRoutingKey = "R0utingKeyOfTheProjectOwner00000"
)

func TestMain(m *testing.M) {
	stage.Tests(m, func(ctx context.Context, dir string) (stop func(context.Context) error, err error) {
		w, admin, kube, err = stage.StartWorld(ctx, dir)
		return w.Stop, err
	})
}

// A scene is a platform of the test's own, with its Platform applied, whose signals and clock the test sets.
type scene struct {
	*testing.T
	*world.Site
	ctx      context.Context
	signals  signals.Signals
	offset   time.Duration
	recorder *events.FakeRecorder
	events   []string // that were read from the recorder
	// transport of HTTP requests; nil is the platform's.
	transport http.RoundTripper
}

func newScene(t *testing.T, name string) *scene {
	t.Helper()
	t.Parallel()
	return newSceneBeside(&scene{T: t}, name)
}

// newSceneBeside is another platform in the same test.
func newSceneBeside(other *scene, name string) *scene {
	t := other.T
	t.Helper()
	s := &scene{T: t, ctx: t.Context(), recorder: events.NewFakeRecorder(1000)}
	var err error
	if s.Site, err = w.NewSite(s.ctx, name, logi.Config{ManualDispatch: true,
		JWKSMaxAge: time.Second}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	s.Server.Render().AddDeploy(logi.WebService, "good", "live", "new_commit", time.Now().Add(-10*time.Hour))
	s.applyPlatform("")
	return s
}

// applyPlatform applies the Platform; more is YAML to put into its spec.
func (s *scene) applyPlatform(more string) {
	s.Helper()
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-pagerduty, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {routingKey: %[4]s, url: %[3]s/pagerduty/v2/enqueue}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-slack, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {url: %[3]s/slack/services/T/B/secret}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-owner, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {routingKey: %[5]s, url: %[3]s/pagerduty/v2/enqueue}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-render, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {apiKey: %[6]s}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-statuspage, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {apiKey: %[7]s, url: %[3]s/statuspage/v1}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-database, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {url: "%[11]s"}
---
apiVersion: playbook.1pass.dev/v1alpha1
kind: Platform
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  url: %[3]s
  database: {secretRef: {name: nowhere}}
  render:
    secretRef: {name: %[1]s-render}
    url: %[3]s%[8]s
    services: [{name: web, serviceID: %[9]s}]
  rollback: {service: web}
  probes: {}
  oncall:
    tiers:
    - name: oncall-engineer
      notify: [{type: PagerDuty, secretRef: {name: %[1]s-pagerduty}}, {type: Slack, secretRef: {name: %[1]s-slack}}]
    - {name: project-owner, notify: [{type: PagerDuty, secretRef: {name: %[1]s-owner}}]}
  statusPage: {pageID: %[1]s, secretRef: {name: %[1]s-statuspage}}
%[10]s
`, s.Name, world.Namespace, s.URL(), routingKey, ownerRoutingKey, s.Server.Render().Key(), s.Services.StatuspageKey(),
		logi.RenderPath, logi.WebService, more, s.URLAs("playbook_monitor"))
	if _, err := w.KubectlInput(s.ctx, manifest, "apply", "-f", "-"); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.remove(ctx)
	if err := s.Close(ctx); err != nil {
		s.Errorf("closing the platform: %v", err)
	}
}

// remove the Platform and its Incidents.
func (s *scene) remove(ctx context.Context) {
	var list v1alpha1.IncidentList
	if err := admin.List(ctx, &list, client.InNamespace(world.Namespace)); err != nil {
		s.Errorf("listing what to clean up: %v", err)
	}
	for i := range list.Items {
		obj := &list.Items[i]
		if obj.Spec.PlatformRef.Name != s.Name {
			continue
		}
		if s.Failed() {
			text, _ := yaml.Marshal(obj.Status)
			s.Logf("%s:\n%s", obj.Name, text)
		}
		_ = admin.Delete(ctx, obj)
		_ = admin.Patch(ctx, obj, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	}
	for _, key := range s.compromises(ctx) {
		_ = admin.Patch(ctx, &key, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
		_ = admin.Delete(ctx, &key)
	}
	if err := admin.Delete(ctx, &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace,
		Name: s.Name}}); err != nil {
		s.Errorf("cleaning up: %v", err)
	}
}

// open applies an Incident; spec is YAML, indented by nothing.
func (s *scene) open(name, spec string) string {
	s.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		s.Fatalf("%s: %v", spec, err)
	}
	content["platformRef"] = map[string]any{"name": s.Name}
	obj := &unstructured.Unstructured{Object: map[string]any{"spec": content}}
	obj.SetAPIVersion(v1alpha1.GroupVersion.String())
	obj.SetKind("Incident")
	obj.SetNamespace(world.Namespace)
	obj.SetName(s.Name + "-" + name)
	if err := admin.Create(s.ctx, obj); err != nil {
		s.Fatal(err)
	}
	return obj.GetName()
}

func (s *scene) patch(name, merge string) {
	s.Helper()
	obj := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}}
	if err := admin.Patch(s.ctx, obj, client.RawPatch(types.MergePatchType, []byte(merge))); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) get(name string) *v1alpha1.Incident {
	s.Helper()
	obj := &v1alpha1.Incident{}
	if err := admin.Get(s.ctx, types.NamespacedName{Namespace: world.Namespace, Name: name}, obj); err != nil {
		s.Fatal(err)
	}
	return obj
}

// clock is the manager's.
func (s *scene) clock() time.Time { return time.Now().Add(s.offset) }

// bad makes the signals bad since now.
func (s *scene) bad(severity v1alpha1.Severity, because string) {
	s.signals = signals.Signals{Each: []signals.Signal{{
		Condition: v1alpha1.ConditionUpAnswers, State: metav1.ConditionFalse, Severity: severity, Message: because,
		Ground: severity == v1alpha1.Sev1, Since: s.clock(), BadFrom: s.clock(), EnoughFrom: s.clock(),
	}}}
}

// good makes all signals good since now.
func (s *scene) good() {
	s.signals = signals.Signals{Each: []signals.Signal{{Condition: v1alpha1.ConditionUpAnswers,
		State: metav1.ConditionTrue, Since: s.clock()}}}
}

// manager is one that has just started.
func (s *scene) manager() *incident.Reconciler {
	connections := &access.Connections{Secrets: kube, Transport: s.transport}
	s.Cleanup(connections.Close)
	return &incident.Reconciler{
		Client: kube, APIReader: kube, Recorder: s.recorder, Connections: connections, Now: s.clock,
		Signals: func(client.ObjectKey) signals.Signals { return s.signals },
	}
}

// pass lets the manager look at an incident until it has nothing more to do now, and returns when it wants to come
// back.
func (s *scene) pass(name string) time.Duration {
	s.Helper()
	manager := s.manager()
	for range 300 {
		result, err := manager.Reconcile(s.ctx,
			ctrl.Request{NamespacedName: types.NamespacedName{Namespace: world.Namespace, Name: name}})
		if err != nil {
			s.Fatal(err)
		}
		// What a slow far side is asked goes on beside the passes, which come back for it.
		if result.RequeueAfter == 0 || result.RequeueAfter > 100*time.Millisecond {
			return result.RequeueAfter
		}
		time.Sleep(result.RequeueAfter)
	}
	s.Fatalf("%s does not come to rest", name)
	return 0
}

// after lets time pass, and then the manager look.
func (s *scene) after(d time.Duration, name string) time.Duration {
	s.Helper()
	s.offset += d
	return s.pass(name)
}

// until lets the manager look until a condition is "Condition Status Reason": what happens at the far side takes its
// time.
func (s *scene) until(name, want string) {
	s.Helper()
	condition, state, _ := strings.Cut(want, " ")
	for end := time.Now().Add(2 * time.Minute); s.condition(name, condition) != state; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("%s is %s, and was waited for to be %s", condition, s.condition(name, condition), state)
		}
		s.pass(name)
	}
}

// condition of an incident, as status and reason.
func (s *scene) condition(name, condition string) string {
	s.Helper()
	c := meta.FindStatusCondition(s.get(name).Status.Conditions, condition)
	if c == nil {
		return "none"
	}
	return string(c.Status) + " " + c.Reason
}

// message of a condition.
func (s *scene) message(name, condition string) string {
	s.Helper()
	c := meta.FindStatusCondition(s.get(name).Status.Conditions, condition)
	if c == nil {
		return ""
	}
	return c.Message
}

// platform as the API server has it.
func (s *scene) platform() *v1alpha1.Platform {
	s.Helper()
	p := &v1alpha1.Platform{}
	if err := admin.Get(s.ctx, types.NamespacedName{Namespace: world.Namespace, Name: s.Name}, p); err != nil {
		s.Fatal(err)
	}
	return p
}

// expect compares conditions, each written as "Condition Status Reason".
func (s *scene) expect(name string, want ...string) {
	s.Helper()
	for _, line := range want {
		condition, state, _ := strings.Cut(line, " ")
		if got := s.condition(name, condition); got != state {
			c := meta.FindStatusCondition(s.get(name).Status.Conditions, condition)
			s.Errorf("%s is %s, want %s: %v", condition, got, state, c)
		}
	}
}

// pages that PagerDuty has, as "routing key's owner: triggers, state".
func (s *scene) pages() []string {
	var texts []string
	for _, p := range s.Services.Pages() {
		who := map[string]string{routingKey: "oncall", ownerRoutingKey: "owner"}[p.RoutingKey]
		texts = append(texts, fmt.Sprintf("%s %d %s", who, p.Triggers, p.State))
	}
	slices.Sort(texts)
	return texts
}

func (s *scene) expectPages(want ...string) {
	s.Helper()
	if got := s.pages(); !slices.Equal(got, want) {
		s.Errorf("pages: %q, want %q", got, want)
	}
}
