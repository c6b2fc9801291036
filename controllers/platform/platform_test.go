package platform_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/platform"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// Each fault is seen. Its message says what to do, an event reports it, and it is over once it is mended.
func TestATroubledPlatformSaysWhyAndRecovers(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	good := site.URLAs("playbook_operator")
	const namespace = world.Namespace
	// The test mends their Secrets with the good URL and label.
	secretTrouble := []string{"DatabaseReachable=False/SecretUnusable", "LedgerReady=Unknown/SecretUnusable",
		"Reconciling=True/SecretUnusable", "Ready=False/SecretUnusable"}
	unreachable := []string{"DatabaseReachable=False/DatabaseUnreachable", "LedgerReady=Unknown/DatabaseUnreachable",
		"Reconciling=True/DatabaseUnreachable", "Ready=False/DatabaseUnreachable"}
	for name, c := range map[string]struct {
		secret func(name string) *corev1.Secret // nil: none
		want   []string
		says   string
	}{
		"secret-missing": {nil, secretTrouble,
			`there is no Secret "secret-missing" in namespace "playbook-system": create it with the label ` +
				`playbook.1pass.dev/platform=secret-missing`},
		"secret-unlabelled": {func(name string) *corev1.Secret {
			s := secret(namespace, name, good)
			s.Labels = nil
			return s
		}, secretTrouble, "kubectl -n playbook-system label secret secret-unlabelled " +
			"playbook.1pass.dev/platform=secret-unlabelled"},
		"secret-of-another": {func(name string) *corev1.Secret {
			s := secret(namespace, name, good)
			s.Labels[v1alpha1.LabelPlatform] = "another"
			return s
		}, secretTrouble, "is not labelled for this Platform and was not used"},
		"no-key": {func(name string) *corev1.Secret {
			s := secret(namespace, name, "")
			s.StringData = map[string]string{"URL": good}
			return s
		}, secretTrouble, `has no key "url"`},
		"empty-key": {func(name string) *corev1.Secret { return secret(namespace, name, "") }, secretTrouble,
			`has no key "url"`},
		"malformed": {func(name string) *corev1.Secret {
			return secret(namespace, name, "postgres://playbook_operator:%zz"+w.OperatorPassword+"@127.0.0.1/x")
		}, secretTrouble, "can't be parsed: write postgres://user:password@host:5432/database"},
		"wrong-password": {func(name string) *corev1.Secret {
			return secret(namespace, name, w.Postgres.URLFor("playbook_operator", "wr0ng-password", site.Name))
		}, unreachable, "password authentication failed"},
		"no-database": {func(name string) *corev1.Secret {
			return secret(namespace, name,
				operatorURL("no_such_database"))
		}, unreachable, `database "no_such_database" does not exist`},
		"no-tls": {func(name string) *corev1.Secret {
			return secret(namespace, name, strings.Replace(good, "sslmode=disable", "sslmode=require", 1))
		}, unreachable, "TLS"},
		"no-host": {func(name string) *corev1.Secret {
			return secret(namespace, name, "postgres://playbook_operator:pa55word@db.invalid:5432/identity")
		}, unreachable, "no such host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := platformOf(namespace, name)
			if c.secret != nil {
				create(t, c.secret(name))
			}
			create(t, p)
			got := await(t, p, "Ready", metav1.ConditionFalse, strings.Split(c.want[3], "/")[1])
			expect(t, got, c.want...)
			if text := describe(got); !strings.Contains(text, c.says) {
				t.Errorf("it says\n%swant %q", text, c.says)
			}
			noSecretIn(t, describe(got))
			awaitEvent(t, p, "Warning", strings.Split(c.want[3], "/")[1])

			if c.secret == nil {
				create(t, secret(namespace, name, good))
			} else if err := kube.Update(t.Context(), secret(namespace, name, good)); err != nil {
				t.Fatal(err)
			}
			expect(t, await(t, p, "Ready", metav1.ConditionTrue, "Succeeded"), whenReady...)
			awaitEvent(t, p, "Normal", "Succeeded")
		})
	}
}

func noSecretIn(t *testing.T, text string) {
	t.Helper()
	for _, password := range []string{w.OperatorPassword, w.MonitorPassword, "wr0ng-password", "pa55word"} {
		if strings.Contains(text, password) {
			t.Errorf("it repeats a password:\n%s", text)
		}
	}
}

func TestAPlatformWithoutALedgerIsReadyOnceItIsMigrated(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const database = "without_ledger"
	if err := w.Postgres.CreateDatabase(ctx, database, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Postgres.DropDatabase(context.Background(), database); err != nil {
			t.Error(err)
		}
	})
	if err := logi.Migrate(ctx, w.Postgres.URL(database)); err != nil {
		t.Fatal(err)
	}
	p := platformOf(world.Namespace, "without-ledger")
	create(t, secret(world.Namespace, p.Name, operatorURL(database)), p)
	got := await(t, p, "LedgerReady", metav1.ConditionFalse, "LedgerNotReady")
	if text := describe(got); !strings.Contains(text, "run `manager migrate`") {
		t.Errorf("it says\n%s", text)
	}
	if _, err := platformdb.Migrate(ctx, w.Postgres.URL(database)); err != nil {
		t.Fatal(err)
	}
	expect(t, await(t, p, "Ready", metav1.ConditionTrue, "Succeeded"), whenReady...)
}

func TestAPlatformWithoutADatabaseSaysWhatItCanDo(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	p := platformOf(unwatched, "no-database")
	create(t, secret(unwatched, p.Name, site.URLAs("playbook_operator")), p)
	r := reconciler(t)
	expect(t, look(t, r, p), whenReady...)

	changed := read(t, p)
	changed.Spec.Database = nil
	if err := kube.Update(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	got := look(t, r, p)
	expect(t, got, "Ready=True/Succeeded")
	if text := describe(got); !strings.Contains(text, "Without spec.database, only Incidents can run") ||
		got.Status.DeadLetters != nil {
		t.Errorf("%s%+v", text, got.Status.DeadLetters)
	}
	if n, _ := gauges(t, "playbook_platform_dead_letters_all", p.Name); n != 0 {
		t.Errorf("%d series of dead letters that nobody counts", n)
	}
	got.Spec.Automation = v1alpha1.AutomationObserveOnly
	got.Spec.Commands = &v1alpha1.PlatformCommands{Type: v1alpha1.CommandTypeSSH,
		SSH: &v1alpha1.PlatformSSH{Host: "h", User: "u", SecretRef: v1alpha1.SecretReference{Name: "no-database-ssh"}}}
	if err := kube.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	got = look(t, r, p)
	expect(t, got, "Ready=True/Succeeded")
	if text := describe(got); !strings.Contains(text, "ObserveOnly") || !strings.Contains(text,
		"only Incidents and KeyCompromises via: Command can run") {
		t.Error(text)
	}
	if again := look(t, r, p); again.ResourceVersion != got.ResourceVersion {
		t.Error("it was written though nothing changed")
	}

	got.Spec.Probes = &v1alpha1.PlatformProbes{IntervalSeconds: 1}
	got.Spec.AutoOpen = []v1alpha1.IncidentCategory{v1alpha1.CategoryWebhookDelivery}
	if err := kube.Update(t.Context(), got); err == nil || !strings.Contains(err.Error(),
		"needs database: only the database shows whether webhooks are delivered") {
		t.Errorf("webhooks that nobody can count would open Incidents: %v", err)
	}

	got = read(t, p)
	got.Spec.Database = &v1alpha1.PlatformDatabase{SecretRef: v1alpha1.SecretReference{Name: p.Name}}
	if err := kube.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	expect(t, look(t, r, p), whenReady...)
}

func TestObserveOnlyIsSaidWhenReady(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	p := platformOf(world.Namespace, "observe-only")
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), p)
	await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")
	patched := read(t, p)
	patched.Spec.Automation = v1alpha1.AutomationObserveOnly
	if err := kube.Update(t.Context(), patched); err != nil {
		t.Fatal(err)
	}
	var got *v1alpha1.Platform
	eventually(t, "it says ObserveOnly", func() bool {
		got = read(t, p)
		return strings.Contains(describe(got), "Ready=True/Succeeded: ObserveOnly: playbooks plan and report, and change "+
			"nothing")
	}, func() string { return describe(got) })
	expect(t, got, whenReady...)
}

func TestMonitoringThatFailsIsToldApart(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	p := platformOf(world.Namespace, "monitor")
	p.Spec.Database.ReadOnlySecretRef = &v1alpha1.SecretReference{Name: "monitor-read-only"}
	readOnly := secret(world.Namespace, "monitor-read-only", w.Postgres.URLFor("playbook_monitor", "wr0ng-password",
		site.Name))
	readOnly.Labels[v1alpha1.LabelPlatform] = p.Name
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), readOnly, p)
	got := await(t, p, "Ready", metav1.ConditionFalse, "DatabaseUnreachable")
	expect(t, got, "DatabaseReachable=True/Succeeded", "LedgerReady=True/Succeeded",
		"Reconciling=True/DatabaseUnreachable", "Ready=False/DatabaseUnreachable")
	if text := describe(got); !strings.Contains(text, "playbooks can run, but monitoring can't") {
		t.Errorf("it says\n%s", text)
	}
	noSecretIn(t, describe(got))
	mended := readOnly.DeepCopy()
	mended.ResourceVersion, mended.Data = "", nil
	mended.StringData = map[string]string{"url": site.URLAs("playbook_monitor")}
	if err := kube.Update(t.Context(), mended); err != nil {
		t.Fatal(err)
	}
	expect(t, await(t, p, "Ready", metav1.ConditionTrue, "Succeeded"), whenReady...)
}

// The database is down at first, then up, and then down again.
func TestADatabaseThatIsDownAndUpAndDown(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(site.URLAs("playbook_operator"))
	if err != nil {
		t.Fatal(err)
	}
	backend := u.Host
	u.Host = "127.0.0.1:" + strconv.Itoa(port)
	p := platformOf(world.Namespace, "down-up-down")
	create(t, secret(world.Namespace, p.Name, u.String()), p)
	got := await(t, p, "DatabaseReachable", metav1.ConditionFalse, "DatabaseUnreachable")
	if text := describe(got); !strings.Contains(text, "connection refused") {
		t.Errorf("it says\n%s", text)
	}
	down := forward(t, u.Host, backend)
	await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")
	down()
	got = await(t, p, "Ready", metav1.ConditionFalse, "DatabaseUnreachable")
	noSecretIn(t, describe(got))
}

// forward carries connections between two addresses until the test ends or down is called, which breaks them.
func forward(t *testing.T, from, to string) (down func()) {
	t.Helper()
	listener, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	down = func() {
		listener.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range open {
			conn.Close()
		}
	}
	t.Cleanup(down)
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1]) // until either end closes
					pair[0].Close()
					pair[1].Close()
				}()
			}
		}
	}()
	return down
}

// reconciler belongs to the test. It is for Platforms in a namespace that the manager does not watch.
func reconciler(t *testing.T) *platform.Reconciler {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(w.ControlPlane.Config())
	if err != nil {
		t.Fatal(err)
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: clientset.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	connections := &access.Connections{Secrets: kube}
	t.Cleanup(connections.Close)
	return &platform.Reconciler{Client: kube, Connections: connections, Recorder: broadcaster.NewRecorder(scheme,
		"platform")}
}

func look(t *testing.T, r *platform.Reconciler, p *v1alpha1.Platform) *v1alpha1.Platform {
	t.Helper()
	result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	if err != nil {
		t.Fatal(err)
	}
	if result.RequeueAfter == 0 {
		t.Fatal("it is not looked at again")
	}
	return read(t, p)
}

func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	t.Parallel()
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		url   func(*world.Site) string
		spoil string
		want  string
	}{
		"quiet-ready": {want: "Succeeded"},
		"quiet-refused": {url: func(*world.Site) string { return fmt.Sprintf("postgres://a:b@127.0.0.1:%d/x", port) },
			want: "DatabaseUnreachable"},
		"quiet-no-password": {url: func(s *world.Site) string { return w.Postgres.URLFor("playbook_operator", "", s.Name) },
			want: "DatabaseUnreachable"},
		"quiet-no-secret": {url: func(*world.Site) string { return "" }, want: "SecretUnusable"},
		"quiet-no-index":  {spoil: `DROP INDEX index_webhook_outbox_entries_dead`, want: "LedgerNotReady"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := newDatabase(t)
			if c.spoil != "" {
				execute(t, site.URLAs(""), c.spoil)
			}
			at := site.URLAs("playbook_operator")
			if c.url != nil {
				at = c.url(site)
			}
			p := platformOf(unwatched, name)
			create(t, secret(unwatched, name, at), p)
			r := reconciler(t)
			first := look(t, r, p)
			if text := describe(first); !strings.Contains(text, "/"+c.want) {
				t.Fatalf("it is\n%swant %s", text, c.want)
			}
			for range 3 {
				if again := look(t, r, p); again.ResourceVersion != first.ResourceVersion {
					t.Fatalf("written though nothing changed:\n%sand then\n%s", describe(first), describe(again))
				}
			}
		})
	}
}
