package platform_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/zapr"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	deadline = 5 * time.Minute
	// unwatched is a namespace that the manager does not watch. Only the test's own Reconciler works there.
	unwatched = "unwatched"
)

var (
	w         *world.World
	kube      client.Client
	scheme    = runtime.NewScheme()
	databases atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	silent := zapr.NewLogger(zap.NewNop())
	ctrl.SetLogger(silent)
	klog.SetLogger(silent)
	dir, err := os.MkdirTemp("", "platform-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		w, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true})
	}
	if err == nil {
		defer func() { _ = w.Stop(ctx) }() // the folder goes with it
		err = clientgoscheme.AddToScheme(scheme)
	}
	if err == nil {
		err = v1alpha1.AddToScheme(scheme)
	}
	if err == nil {
		kube, err = client.New(w.ControlPlane.Config(), client.Options{Scheme: scheme})
	}
	if err == nil {
		err = kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unwatched}})
	}
	var manager *servers.Process
	if err == nil {
		manager, err = w.StartManager(ctx, "manager")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = manager.Stop(ctx) }()
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "The manager's log:\n%s\n", manager.Log())
	}
	return code
}

// newDatabase has the platform's tables, the ledger and its roles. Nothing delivers from it.
func newDatabase(t *testing.T) *world.Site {
	t.Helper()
	site, err := w.NewSite(t.Context(), fmt.Sprintf("site-%d", databases.Add(1)), logi.Config{ManualDispatch: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := site.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return site
}

func operatorURL(database string) string {
	return w.Postgres.URLFor("playbook_operator", w.OperatorPassword, database)
}

func execute(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// secret is for the Platform called name, and has the same name.
func secret(namespace, name, url string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name,
			Labels: map[string]string{v1alpha1.LabelPlatform: name}},
		StringData: map[string]string{"url": url},
	}
}

func platformOf(namespace, name string) *v1alpha1.Platform {
	return &v1alpha1.Platform{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.PlatformSpec{
			URL:      "https://api.example.com",
			Database: &v1alpha1.PlatformDatabase{SecretRef: v1alpha1.SecretReference{Name: name}},
		},
	}
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, obj := range objects {
		if err := kube.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := kube.Delete(context.Background(), obj); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		})
	}
}

func read(t *testing.T, p *v1alpha1.Platform) *v1alpha1.Platform {
	t.Helper()
	got := &v1alpha1.Platform{}
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(p), got); err != nil {
		t.Fatal(err)
	}
	return got
}

func eventually(t *testing.T, what string, condition func() bool, now func() string) {
	t.Helper()
	for end := time.Now().Add(deadline); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s; it is\n%s", deadline, what, now())
		}
	}
}

// await waits until a condition has the status and reason, and returns the Platform.
func await(t *testing.T, p *v1alpha1.Platform, condition string, status metav1.ConditionStatus,
	reason string) *v1alpha1.Platform {
	t.Helper()
	var got *v1alpha1.Platform
	eventually(t, fmt.Sprintf("%s has %s=%s/%s", p.Name, condition, status, reason), func() bool {
		got = read(t, p)
		c := meta.FindStatusCondition(got.Status.Conditions, condition)
		return c != nil && c.Status == status && c.Reason == reason
	}, func() string { return describe(got) })
	return got
}

func describe(p *v1alpha1.Platform) string {
	var b strings.Builder
	for _, c := range p.Status.Conditions {
		fmt.Fprintf(&b, "%s=%s/%s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	return b.String()
}

// expect compares all conditions of the Platform with lines "Type=Status/Reason", in any order.
func expect(t *testing.T, p *v1alpha1.Platform, want ...string) {
	t.Helper()
	got := map[string]bool{}
	for _, c := range p.Status.Conditions {
		got[fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason)] = true
		if c.ObservedGeneration != p.Generation {
			t.Errorf("%s is of generation %d, and the Platform's is %d", c.Type, c.ObservedGeneration, p.Generation)
		}
	}
	missing := false
	for _, line := range want {
		missing = missing || !got[line]
	}
	if missing || len(got) != len(want) {
		t.Errorf("the conditions are\n%swant %v", describe(p), want)
	}
	if p.Status.ObservedGeneration != p.Generation {
		t.Errorf("observedGeneration is %d, want %d", p.Status.ObservedGeneration, p.Generation)
	}
}

var whenReady = []string{"DatabaseReachable=True/Succeeded", "LedgerReady=True/Succeeded", "Ready=True/Succeeded"}

// awaitEvent waits for an event about the Platform.
func awaitEvent(t *testing.T, p *v1alpha1.Platform, kind, reason string) {
	t.Helper()
	var seen []string
	eventually(t, fmt.Sprintf("a %s event %s about %s", kind, reason, p.Name), func() bool {
		var list eventsv1.EventList
		if err := kube.List(t.Context(), &list, client.InNamespace(p.Namespace)); err != nil {
			t.Fatal(err)
		}
		seen = nil
		for _, e := range list.Items {
			if e.Regarding.Kind != "Platform" || e.Regarding.Name != p.Name {
				continue
			}
			seen = append(seen, e.Type+" "+e.Reason)
			if e.Type == kind && e.Reason == reason {
				return true
			}
		}
		return false
	}, func() string { return strings.Join(seen, "\n") })
}
