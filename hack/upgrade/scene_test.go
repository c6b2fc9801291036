package upgrade_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	// acme is the application whose webhooks and keys the states are about.
	acme = 42
	// routingKey and ownerRoutingKey are of the two tiers.
	routingKey      = "R0utingKeyOfTheOncallEngineer000"
	ownerRoutingKey = "R0utingKeyOfTheProjectOwner00000"
)

// A scene is a platform of a test's own, with its Platform applied, and one object. The test sets the manager's clock
// and the signals.
type scene struct {
	*testing.T
	*logi.Server
	Name   string      // of the Platform
	site   *world.Site // nil for an Incident, whose Platform has no database
	ctx    context.Context
	db     *pgx.Conn // as the database's owner
	kube   client.WithWatch
	offset time.Duration
	health health
	kind   string
	hurry  bool // the dispatcher waits for no retry
	object types.NamespacedName
	uid    string
	dir    string // of the program that plays bundler
	// transport of HTTP requests; nil is net/http's.
	transport http.RoundTripper
}

// newScene makes a scene that ends with the test. settings are more YAML for the Platform's spec.
func newScene(t *testing.T, name, kind, settings string) *scene {
	t.Helper()
	s := &scene{T: t, Name: name, ctx: t.Context(), kube: kube, kind: kind,
		object: types.NamespacedName{Namespace: world.Namespace, Name: name + "-object"}}
	t.Cleanup(s.end)
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	s.dir = t.TempDir()
	if _, err := s.InstallBundle(s.dir); err != nil {
		t.Fatal(err)
	}
	s.Render().HandleJobs(func(_, command string) error { return exec.Command("/bin/sh", "-c", command).Run() })
	s.apply(settings)
	return s
}

// start starts the platform.
func (s *scene) start() (err error) {
	// No answer of JWKS is kept for longer than a moment, or each state would wait for caches.
	config := logi.Config{ManualDispatch: true, Workers: 1, Backoff: []time.Duration{time.Minute}, JWKSMaxAge: time.Second}
	if s.kind == "Incident" {
		config.DatabaseURL = shared.Postgres.URL("nowhere")
		s.Server, err = logi.Start(s.ctx, config)
		return err
	}
	if s.site, err = shared.NewSite(s.ctx, s.Name, config); err != nil {
		return err
	}
	s.Server = s.site.Server
	database, err := pgx.ParseConfig(s.site.URLAs(""))
	if err != nil {
		return fmt.Errorf("reading the database's URL: %w", err)
	}
	database.RuntimeParams["TimeZone"] = "UTC" // the platform's timestamps have no zone
	if s.db, err = pgx.ConnectConfig(s.ctx, database); err != nil {
		return fmt.Errorf("connecting as the database's owner: %w", err)
	}
	return nil
}

// apply applies the Platform and its Secrets.
func (s *scene) apply(settings string) {
	s.Helper()
	for suffix, data := range map[string]map[string]string{
		"pagerduty": {"routingKey": routingKey, "url": s.URL() + "/pagerduty/v2/enqueue"},
		"slack":     {"url": s.URL() + "/slack/services/T/B/secret"},
		"owner":     {"routingKey": ownerRoutingKey, "url": s.URL() + "/pagerduty/v2/enqueue"},
		"render":    {"apiKey": s.Render().Key()}, "statuspage": {"apiKey": s.Services.StatuspageKey(),
			"url": s.URL() + "/statuspage/v1"},
		"admin": {"token": s.AdminToken()},
	} {
		s.secret(suffix, data)
	}
	if s.site != nil {
		s.secret("database", map[string]string{"url": s.site.URLAs("playbook_operator")})
		s.secret("monitor", map[string]string{"url": s.site.URLAs("playbook_monitor")})
		s.secret("signing", map[string]string{"url": s.site.URLAs("playbook_signer")})
	}
	obj := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(strings.NewReplacer("${SITE}", s.Name, "${URL}", s.URL(), "${DIR}",
		s.dir).Replace(platformManifest+settings)), obj); err != nil {
		s.Fatal(err)
	}
	if err := admin.Create(s.ctx, obj); err != nil {
		s.Fatal(err)
	}
}

// secret creates a Secret of the Platform.
func (s *scene) secret(suffix string, data map[string]string) {
	s.Helper()
	if err := admin.Create(s.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name + "-" + suffix, Namespace: world.Namespace,
			Labels: map[string]string{v1alpha1.LabelPlatform: s.Name}},
		StringData: data,
	}); err != nil {
		s.Fatal(err)
	}
}

const platformManifest = `
apiVersion: playbook.1pass.dev/v1alpha1
kind: Platform
metadata: {name: "${SITE}", namespace: ` + world.Namespace + `}
spec:
  url: ${URL}
  adminAPI: {secretRef: {name: "${SITE}-admin"}}
  render:
    secretRef: {name: "${SITE}-render"}
    url: ${URL}` + logi.RenderPath + `
    services: [{name: web, serviceID: ` + logi.WebService + `}]
  rollback: {service: web}
  probes: {}
  oncall:
    tiers:
    - name: oncall-engineer
      notify:
      - {type: PagerDuty, secretRef: {name: "${SITE}-pagerduty"}}
      - {type: Slack, secretRef: {name: "${SITE}-slack"}}
    - {name: project-owner, notify: [{type: PagerDuty, secretRef: {name: "${SITE}-owner"}}]}
  statusPage: {pageID: "${SITE}", secretRef: {name: "${SITE}-statuspage"}}
`

// withDatabase is what the Platform of most kinds has.
const withDatabase = `  database:
    secretRef: {name: "${SITE}-database"}
    readOnlySecretRef: {name: "${SITE}-monitor"}
    signingSecretRef: {name: "${SITE}-signing"}
`

func (s *scene) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	obj := s.empty()
	err := s.get(ctx, obj)
	if err == nil && s.Failed() {
		text, _ := yaml.Marshal(obj.Object["status"])
		s.Logf("%s", text)
	}
	if err == nil {
		_ = admin.Delete(ctx, obj)
		_ = admin.Patch(ctx, obj, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	}
	err = errors.Join(client.IgnoreNotFound(err),
		client.IgnoreNotFound(admin.Delete(ctx, &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace,
			Name: s.Name}})),
		admin.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(world.Namespace),
			client.MatchingLabels{v1alpha1.LabelPlatform: s.Name}))
	if s.db != nil {
		err = errors.Join(err, s.db.Close(ctx))
	}
	switch {
	case s.site != nil:
		err = errors.Join(err, s.site.Close(ctx))
	case s.Server != nil:
		err = errors.Join(err, s.Server.Close())
	}
	if err != nil {
		s.Errorf("cleaning up: %v", err)
	}
}

func (s *scene) empty() *unstructured.Unstructured {
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion(v1alpha1.GroupVersion.String())
	obj.SetKind(s.kind)
	return obj
}

func (s *scene) get(ctx context.Context, obj client.Object) error {
	return admin.Get(ctx, s.object, obj)
}

// create creates the object of a manifest, under the scene's name.
func (s *scene) create(obj *unstructured.Unstructured) {
	s.Helper()
	obj.SetNamespace(s.object.Namespace)
	obj.SetName(s.object.Name)
	if err := admin.Create(s.ctx, obj); err != nil {
		s.Fatal(err)
	}
	s.uid = string(obj.GetUID())
}

// patch merges JSON into the object.
func (s *scene) patch(merge string) {
	s.Helper()
	obj := s.empty()
	obj.SetNamespace(s.object.Namespace)
	obj.SetName(s.object.Name)
	if err := admin.Patch(s.ctx, obj, client.RawPatch(types.MergePatchType, []byte(merge))); err != nil {
		s.Fatal(err)
	}
}

// clock is the manager's.
func (s *scene) clock() time.Time { return time.Now().Add(s.offset) }

// become changes the platform's health, now.
func (s *scene) become(severity v1alpha1.Severity) { s.health = health{severity, s.clock()} }

func (s *scene) platform() types.NamespacedName {
	return types.NamespacedName{Namespace: world.Namespace, Name: s.Name}
}

func (s *scene) names() names {
	s.Helper()
	p := &v1alpha1.Platform{}
	if err := admin.Get(s.ctx, s.platform(), p); err != nil {
		s.Fatal(err)
	}
	return names{site: s.Name, url: s.URL(), uid: s.uid, platformUID: string(p.UID), dir: s.dir}
}

// pass is one pass of a manager that has just started. A panic is a failure of the test.
func (s *scene) pass() (after time.Duration, err error) {
	s.Helper()
	byKind, closeConnections := newManager(wiring{kube: s.kube, transport: s.transport, now: s.clock,
		health: func() health { return s.health }})
	defer closeConnections()
	defer func() {
		if p := recover(); p != nil {
			s.Fatalf("a panic: %v\n%s", p, debug.Stack())
		}
	}()
	result, err := byKind[s.kind].Reconcile(s.ctx, ctrl.Request{NamespacedName: s.object})
	return result.RequeueAfter, err
}

// rest lets managers look at the object until it has nothing more to do now.
func (s *scene) rest() {
	s.Helper()
	var err error
	for range 50 {
		var after time.Duration
		if after, err = s.pass(); err == nil && (after == 0 || after > 10*time.Millisecond) {
			return
		}
	}
	s.Fatalf("%s does not come to rest; the last error is %v", s.object.Name, err)
}

// condition of the object, as "Status Reason".
func (s *scene) condition(name string) string {
	s.Helper()
	obj := s.empty()
	if err := s.get(s.ctx, obj); err != nil {
		s.Fatal(err)
	}
	conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	i := slices.IndexFunc(conditions, func(c any) bool { return c.(map[string]any)["type"] == name })
	if i < 0 {
		return "none"
	}
	c := conditions[i].(map[string]any)
	return fmt.Sprintf("%s %s", c["status"], c["reason"])
}

// load makes a scene as it was in a state, and returns that.
func load(t *testing.T, name string, plain map[string]any) (*scene, *state) {
	t.Helper()
	head, err := read(plain, names{site: name, url: "${URL}", uid: "${UID}", dir: "${DIR}"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	obj := &unstructured.Unstructured{Object: head.Object}
	s := newScene(t, name, obj.GetKind(), head.Settings)
	unstructured.RemoveNestedField(obj.Object, "status")
	s.create(obj)
	stored, err := read(plain, s.names(), obj.GetCreationTimestamp().Time)
	if err != nil {
		t.Fatal(err)
	}
	s.health = stored.Health
	s.offset = stored.Taken.Sub(obj.GetCreationTimestamp().Time)
	for i := range stored.Notices {
		stored.Notices[i].PageID = s.Name // each scene has a page of its own, and the states were stored of one
	}
	s.Services.Restore(stored.Pages, stored.Notices)
	s.fill(stored.Tables)
	for _, job := range stored.Render.Jobs {
		// What it had to do is done, and is not done again.
		if job.FinishedAt.IsZero() && s.count(`SELECT count(*) FROM webhook_signing_keys WHERE status = 'revoked'`) > 0 {
			job.Status, job.FinishedAt = "succeeded", time.Now()
		}
	}
	s.Render().Restore(logi.WebService, stored.Render)
	if stored.Platform != nil {
		p := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.Name}}
		s.status(p, stored.Platform)
	}
	s.status(obj, stored.Object["status"])
	if strings.HasPrefix(s.condition(v1alpha1.ConditionReady), "True ") {
		// The previous release left it on.
		s.patch(`{"metadata":{"finalizers":["` + v1alpha1.Finalizer + `"]}}`)
	}
	return s, stored
}

func (s *scene) status(obj client.Object, status any) {
	s.Helper()
	text, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		s.Fatal(err)
	}
	if err := admin.Status().Patch(s.ctx, obj, client.RawPatch(types.MergePatchType, text)); err != nil {
		s.Fatal(err)
	}
}

// tables that states have rows of, those first that others refer to.
var tables = []string{
	"oauth_applications", "webhook_signing_keys", "webhook_outbox_entries", "playbook.operations",
	"playbook.replay_pages", "playbook.replay_entries",
	"playbook.key_revocations", "playbook.event_requeues", "playbook.command_runs", "logi_test.requeues",
}

// fill puts rows into tables. Columns that they don't have keep their default.
func (s *scene) fill(rows map[string][]map[string]any) {
	s.Helper()
	for _, table := range tables {
		for _, row := range rows[table] {
			text, err := json.Marshal(row)
			if err != nil {
				s.Fatal(err)
			}
			var columns []string
			for column := range row {
				columns = append(columns, column)
			}
			list := strings.Join(columns, ", ")
			if _, err := s.db.Exec(s.ctx,
				fmt.Sprintf(`INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %[2]s FROM json_populate_record(NULL::%[1]s, $1)`,
					table, list), text); err != nil {
				s.Fatalf("filling %s: %v", table, err)
			}
		}
		if len(rows[table]) == 0 {
			continue
		}
		if _, err := s.db.Exec(s.ctx,
			fmt.Sprintf(`SELECT setval(q, (SELECT max(id) FROM %[1]s)) FROM pg_get_serial_sequence('%[1]s', 'id') q`,
				table)); err != nil && !strings.Contains(err.Error(), `column "id"`) {
			s.Fatalf("setting the sequence of %s: %v", table, err)
		}
	}
}
