package bench

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	incidents = 100
	// base is the commit of the manager that the present one is compared with, unless BASE names another commit. It is the
	// release that stored the objects of hack/upgrade.
	base = "d571d10"
	// openIncidents on one Platform.
	openIncidents = 100
	// quiet is how long nothing must be written before the rest is measured, and atRest how long it is measured.
	quiet  = 30 * time.Second
	atRest = time.Minute
	// patience with what takes seconds.
	patience = 5 * time.Minute
	// perClock is the unit of a process's time in /proc: USER_HZ, which is 100 on all systems that Go supports.
	perClock = 10 * time.Millisecond
)

// response is a control plane with the real manager, and an administrator's client.
type response struct {
	*world.World
	client.Client
	manager *servers.Process
}

func newResponse(b *testing.B, name, tree string) *response {
	b.Helper()
	ctx := b.Context()
	w, err := world.StartFrom(ctx, tree, filepath.Join(dir, name), servers.PostgresOptions{Fast: true})
	check(b, err)
	b.Cleanup(func() { check(b, w.Stop(context.Background())) })
	scheme := runtime.NewScheme()
	check(b, clientgoscheme.AddToScheme(scheme))
	check(b, v1alpha1.AddToScheme(scheme))
	r := &response{World: w}
	r.Client, err = client.New(w.ControlPlane.Config(), client.Options{Scheme: scheme})
	check(b, err)
	r.manager, err = w.StartManager(ctx, name)
	check(b, err)
	b.Cleanup(func() { check(b, r.manager.Stop(context.Background())) })
	return r
}

// until waits for a condition.
func until(b *testing.B, what string, done func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// farSide is a platform with its Render and its pager. They answer at once. It records when a measured request arrived.
type farSide struct {
	*httptest.Server
	name   string
	render *logi.Render
	jwks   []byte
	down   atomic.Bool

	mu                       sync.Mutex
	sawDown, paged, rollback time.Time // the first each
	reads                    []time.Time
}

// newFarSide makes a farSide on which a bad commit followed a good one. It also makes the Secrets and the Platform for
// it.
func newFarSide(b *testing.B, r *response, name, probes string) *farSide {
	b.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	check(b, err)
	f := &farSide{name: name, render: logi.NewRender()}
	f.jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "whk_1", Algorithm: "EdDSA",
		Use: "sig"}}})
	check(b, err)
	f.render.AddDeploy(logi.WebService, "good", "live", "new_commit", time.Now().Add(-10*time.Hour))
	f.render.AddDeploy(logi.WebService, "bad", "live", "new_commit", time.Now().Add(-10*time.Minute))
	mux := http.NewServeMux()
	mux.HandleFunc("/up", func(w http.ResponseWriter, _ *http.Request) {
		if f.down.Load() {
			f.note(&f.sawDown)
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	mux.HandleFunc("/oauth/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error": "invalid_client"}`))
	})
	mux.HandleFunc("/.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(f.jwks)
	})
	services := logi.NewServices()
	mux.HandleFunc("/pagerduty/", func(w http.ResponseWriter, r *http.Request) {
		f.note(&f.paged)
		services.ServeHTTP(w, r)
	})
	mux.Handle(logi.RenderPath+
		"/", http.StripPrefix(logi.RenderPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet:
			f.mu.Lock()
			f.reads = append(f.reads, time.Now())
			f.mu.Unlock()
		case strings.HasSuffix(r.URL.Path, "/rollback"):
			f.note(&f.rollback)
		}
		f.render.ServeHTTP(w, r)
	})))
	f.Server = httptest.NewServer(mux)
	b.Cleanup(f.Close)
	_, err = r.KubectlInput(b.Context(), fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-pagerduty, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {routingKey: R0utingKeyOfTheOncallEngineer000, url: %[3]s/pagerduty/v2/enqueue}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-render, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {apiKey: %[4]s}
---
apiVersion: playbook.1pass.dev/v1alpha1
kind: Platform
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  url: %[3]s
  database: {secretRef: {name: %[1]s-database}}
  render:
    secretRef: {name: %[1]s-render}
    url: %[3]s%[5]s
    services: [{name: web, serviceID: %[6]s}]
  rollback: {service: web}
  oncall: {tiers: [{name: oncall-engineer, notify: [{type: PagerDuty, secretRef: {name: %[1]s-pagerduty}}]}]}
%[7]s`, name, world.Namespace, f.URL, f.render.Key(), logi.RenderPath, logi.WebService, probes), "apply", "-f", "-")
	check(b, err)
	return f
}

// note records when something happened first.
func (f *farSide) note(at *time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.IsZero() {
		*at = time.Now()
	}
}

// signalsUp says whether the Prober knows that the platform is up.
func (f *farSide) signalsUp(b *testing.B, r *response) bool {
	p := &v1alpha1.Platform{}
	check(b, r.Get(b.Context(), types.NamespacedName{Namespace: world.Namespace, Name: f.name}, p))
	return meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionUpAnswers)
}

// checkout puts the tree of a commit into a folder of its own.
func checkout(b *testing.B, commit string) (tree string) {
	b.Helper()
	tree = b.TempDir()
	archive := exec.CommandContext(b.Context(), "git", "-C", world.Root(), "archive", "--output="+tree+".tar", commit)
	out, err := archive.CombinedOutput()
	if err != nil {
		b.Fatalf("reading commit %s, which needs the project's history: %v\n%s", commit, err, out)
	}
	check(b, exec.CommandContext(b.Context(), "tar", "-xf", tree+".tar", "-C", tree).Run())
	return tree
}

// BenchmarkIncident lets platforms go down one after the other. It measures the time from the look that detects it to
// the page, and to the request for a rollback. The manager of an earlier commit is measured in turns with the present
// one.
func BenchmarkIncident(b *testing.B) {
	ours := newResponse(b, "incident", world.Root())
	theirs := newResponse(b, "base", checkout(b, cmp.Or(os.Getenv("BASE"), base)))
	var took, baseTook spans
	for i := range incidents {
		took.add(ours.goesDown(b, fmt.Sprintf("site-%d", i)))
		baseTook.add(theirs.goesDown(b, fmt.Sprintf("site-%d", i)))
	}
	b.ReportMetric(median(took.toPage), "detect-to-page-ms")
	b.ReportMetric(quantile(took.toPage, 0.99), "detect-to-page-p99-ms")
	b.ReportMetric(median(took.toPage)/median(baseTook.toPage), "page-x-base")
	b.ReportMetric(median(took.toRollback), "detect-to-rollback-ms")
	b.ReportMetric(quantile(took.toRollback, 0.99), "detect-to-rollback-p99-ms")
	b.ReportMetric(median(took.toRollback)/median(baseTook.toRollback), "rollback-x-base")
	b.ReportMetric(0, "ns/op")
}

// spans are in milliseconds, from the look that finds a platform down.
type spans struct{ toPage, toRollback []float64 }

func (s *spans) add(f *farSide) {
	s.toPage = append(s.toPage, milliseconds(f.paged.Sub(f.sawDown)))
	s.toRollback = append(s.toRollback, milliseconds(f.rollback.Sub(f.sawDown)))
}

// goesDown lets a platform go down, waits until its Incident has paged and asked for the rollback, and cleans up.
func (r *response) goesDown(b *testing.B, name string) *farSide {
	b.Helper()
	ctx := b.Context()
	// Here one bad look makes the verdict. The Platform decides how many it takes, and that is not the manager's own time.
	f := newFarSide(b, r, name, "  probes: {intervalSeconds: 1, failures: 1}\n  autoOpen: [Outage]\n")
	until(b, f.name+" is up", func() bool { return f.signalsUp(b, r) })
	f.down.Store(true)
	until(b, f.name+" is rolled back", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.rollback.IsZero() && !f.paged.IsZero()
	})
	// The cleanup must not disturb the next outage.
	in := client.InNamespace(world.Namespace)
	platform := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: f.name}}
	check(b, r.Patch(ctx, platform,
		client.RawPatch(types.MergePatchType, []byte(`{"spec": {"probes": null, "autoOpen": null}}`))))
	check(b, r.DeleteAllOf(ctx, &v1alpha1.Incident{}, in))
	until(b, f.name+" is cleaned up", func() bool {
		var left v1alpha1.IncidentList
		check(b, r.List(ctx, &left, in))
		return len(left.Items) == 0
	})
	check(b, r.Delete(ctx, platform))
	check(b, r.DeleteAllOf(ctx, &corev1.Secret{}, in, client.MatchingLabels{"playbook.1pass.dev/platform": f.name}))
	f.CloseClientConnections()
	return f
}

// BenchmarkOpenIncidents opens a hundred Incidents at once on one Platform that stays down. It measures their requests
// to a Render with its real limits, and then their cost while nothing changes.
func BenchmarkOpenIncidents(b *testing.B) {
	ctx := b.Context()
	r := newResponse(b, "open", world.Root())
	f := newFarSide(b, r, "site", "  probes: {intervalSeconds: 10}\n")
	f.render.LimitRates(400, 30)
	until(b, "the platform is up", func() bool { return f.signalsUp(b, r) })
	f.down.Store(true)
	for i := range openIncidents {
		check(b, r.Create(ctx, &v1alpha1.Incident{
			ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: fmt.Sprintf("open-%d", i)},
			Spec: v1alpha1.IncidentSpec{
				PlatformRef: v1alpha1.PlatformReference{Name: f.name}, Category: v1alpha1.CategoryOutage, Severity: v1alpha1.Sev1,
				Summary: "the platform is down",
			},
		}))
	}
	// After a minute, the Incident says that the rollback did not help. Its message may change until then.
	writes, since := r.writes(b), time.Now()
	until(b, "nothing is written any more", func() bool {
		if now := r.writes(b); now != writes {
			writes, since = now, time.Now()
		}
		time.Sleep(time.Second)
		return time.Since(since) > quiet
	})
	for i := range openIncidents {
		incident := &v1alpha1.Incident{}
		check(b, r.Get(ctx, types.NamespacedName{Namespace: world.Namespace, Name: fmt.Sprintf("open-%d", i)}, incident))
		if incident.Status.PagedAt == nil || incident.Status.ResolvedAt != nil ||
			meta.FindStatusCondition(incident.Status.Conditions, v1alpha1.ConditionStalled) != nil {
			b.Fatalf("%s is not as it should be: %+v", incident.Name, incident.Status)
		}
	}
	reads, used, began := f.readsUntilNow(), r.cpu(b), time.Now()
	time.Sleep(atRest)
	minutes := time.Since(began).Minutes()
	b.ReportMetric(float64(r.writes(b)-writes), "writes-at-rest")
	b.ReportMetric(float64(len(f.readsUntilNow())-len(reads))/minutes, "render-reads/min-at-rest")
	b.ReportMetric(float64(most(f.readsUntilNow(), time.Minute)), "render-reads/min-most")
	b.ReportMetric(float64(f.render.Counts().Limited), "render-429s")
	b.ReportMetric(float64((r.cpu(b)-used).Milliseconds())/minutes/600, "cpu-percent-at-rest")
	b.ReportMetric(float64(memory(b, r.manager, "VmRSS"))/1024, "rss-mib")
	b.ReportMetric(0, "ns/op")
}

func (f *farSide) readsUntilNow() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.reads)
}

// most of them within any span of that length.
func most(times []time.Time, span time.Duration) (n int) {
	first := 0
	for i, t := range times {
		for t.Sub(times[first]) >= span {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

// writes is how many requests so far wrote one of the operator's kinds or an event, by the API server's count.
func (r *response) writes(b *testing.B) (n int) {
	b.Helper()
	metrics, err := r.Kubectl(b.Context(), "get", "--raw", "/metrics")
	check(b, err)
	for line := range strings.Lines(metrics) {
		labels, count, ok := strings.Cut(strings.TrimPrefix(line, "apiserver_request_total{"), "} ")
		if !ok || !strings.HasPrefix(line, "apiserver_request_total{") ||
			!strings.Contains(labels, `group="playbook.1pass.dev"`) && !strings.Contains(labels, `resource="events"`) {
			continue
		}
		if slices.ContainsFunc([]string{"APPLY", "DELETE", "PATCH", "POST", "PUT"},
			func(verb string) bool { return strings.Contains(labels, `verb="`+verb+`"`) }) {
			var requests float64
			_, err := fmt.Sscan(count, &requests)
			check(b, err)
			n += int(requests)
		}
	}
	return n
}

// cpu is the time that the manager has used so far, in user and system mode.
func (r *response) cpu(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.manager.Pid()))
	check(b, err)
	// The second field is the program's name in parentheses. The name may contain any character.
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	var user, system int
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	check(b, err)
	return time.Duration(user+system) * perClock
}
