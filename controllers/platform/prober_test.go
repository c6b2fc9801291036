package platform_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/opening"
	"github.com/1pass-dev/playbook-operator/controllers/platform"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// quiet is the summary when all is well, and no webhook was sent.
const quiet = "unknown: WebhooksDelivered"

// looked is how many requests a look makes.
const looked = 12

// probedOf is a Platform that is looked at each second. Two looks make a verdict: the many paths give enough answers
// for latency.
func probedOf(namespace, name, url string) *v1alpha1.Platform {
	p := platformOf(namespace, name)
	p.Spec.URL = url
	p.Spec.Probes = &v1alpha1.PlatformProbes{IntervalSeconds: 1, Failures: 2, WindowSeconds: 10}
	for i := range looked - 3 {
		p.Spec.Probes.Paths = append(p.Spec.Probes.Paths, fmt.Sprintf("/_control/counts?%d", i))
	}
	return p
}

func condition(p *v1alpha1.Platform, name string) metav1.Condition {
	if c := meta.FindStatusCondition(p.Status.Conditions, name); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// awaitSummary waits until the SIGNALS column says so.
func awaitSummary(t *testing.T, p *v1alpha1.Platform, want string) *v1alpha1.Platform {
	t.Helper()
	var got *v1alpha1.Platform
	eventually(t, fmt.Sprintf("the signals of %s are %q", p.Name, want), func() bool {
		got = read(t, p)
		return got.Status.Signals != nil && got.Status.Signals.Summary == want
	}, func() string {
		if got.Status.Signals == nil {
			return "without signals\n" + describe(got)
		}
		return got.Status.Signals.Summary + "\n" + describe(got)
	})
	return got
}

// proxy stands in front of a platform, and counts requests. answer may answer first.
func proxy(t *testing.T, to string, answer func(w http.ResponseWriter, r *http.Request) bool) (url string,
	requests *atomic.Int64) {
	t.Helper()
	target := parse(t, to)
	onward := httputil.NewSingleHostReverseProxy(target)
	requests = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if !answer(w, r) {
			onward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, requests
}

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// newPlatform is a site that publishes a key. A good commit is live, and some other commits are bad.
func newPlatform(t *testing.T) *world.Site {
	t.Helper()
	site := newDatabase(t)
	for _, application := range []int64{41, 42} {
		if err := site.CreateApplication(t.Context(), application, "rp"); err != nil {
			t.Fatal(err)
		}
	}
	site.RegisterClient("probe", "pa55word")
	render := site.Render()
	render.BreakCommit("bad", logi.Breakage{})
	render.BreakCommit("bad-tokens", logi.Breakage{Tokens: true})
	render.BreakCommit("bad-jwks", logi.Breakage{JWKS: true})
	render.Push(logi.WebService, "good")
	return site
}

// Each signal is made bad by a real fault, and is mended.
func TestWhatIsBadIsSaidAndMended(t *testing.T) {
	t.Parallel()
	const unresolved = "/statuspage/v1/pages/p/incidents/unresolved"
	push := func(commit string) func(*testing.T, *world.Site) {
		return func(_ *testing.T, site *world.Site) { site.Render().Push(logi.WebService, commit) }
	}
	tokens := func(f logi.TokenFault) func(*testing.T, *world.Site) {
		return func(_ *testing.T, site *world.Site) { site.SetTokenFault(f) }
	}
	fault := func(f logi.ServiceFault) func(*testing.T, *world.Site) {
		return func(_ *testing.T, site *world.Site) { site.Services.SetFault(logi.Statuspage, f) }
	}
	for name, c := range map[string]struct {
		spoil, mend func(*testing.T, *world.Site)
		summary     string
		conditions  []string
	}{
		"up": {push("bad"), push("good"), "sev1: /up answers HTTP 502", []string{v1alpha1.ConditionUpAnswers}},
		"tokens": {push("bad-tokens"), push("good"), "sev1: /up answers HTTP 502; /oauth/token answers HTTP 502",
			[]string{v1alpha1.ConditionUpAnswers, v1alpha1.ConditionTokensIssued}},
		"jwks": {push("bad-jwks"), push("good"), "sev1: /up answers HTTP 502; /.well-known/jwks.json answers HTTP 502",
			[]string{v1alpha1.ConditionUpAnswers, v1alpha1.ConditionJWKSServed}},
		"refused": {tokens(logi.TokenFault{Status: 403, Error: "access_denied"}), tokens(logi.TokenFault{}),
			"sev1: /oauth/token answers HTTP 403 to a known client and to an unknown one",
			[]string{v1alpha1.ConditionTokensIssued}},
		"token-key": {tokens(logi.TokenFault{JWT: true, Unpublished: true}), tokens(logi.TokenFault{JWT: true}),
			`sev1: JWKS lacks the key "tok_1", by which a token was just signed`, []string{v1alpha1.ConditionJWKSServed}},
		"endpoints": {fault(logi.ServiceFault{Status: 503}), fault(logi.ServiceFault{}), "sev2: " + unresolved +
			" answers HTTP 503", []string{v1alpha1.ConditionEndpointsAnswer}},
		"latency": {fault(logi.ServiceFault{DelayMilliseconds: 800}), fault(logi.ServiceFault{}),
			"sev2: the 95th percentile of latency has been over 700 ms for 10 s", []string{v1alpha1.ConditionLatencyGood}},
		"webhooks": {func(t *testing.T, site *world.Site) {
			for _, application := range []int64{41, 42} {
				site.SetFault(application, logi.Fault{Status: 503})
				if _, err := site.Enqueue(t.Context(), application, 3); err != nil {
					t.Fatal(err)
				}
			}
			// They stay within the window of ten seconds for as long as the test takes.
			execute(t, site.URLAs(""), `CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS
					'BEGIN NEW.updated_at = localtimestamp + interval ''1 hour''; RETURN NEW; END';
				CREATE TRIGGER later BEFORE UPDATE ON webhook_outbox_entries FOR EACH ROW EXECUTE FUNCTION later()`)
			if _, err := site.DispatchOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, site *world.Site) {
			execute(t, site.URLAs(""),
				`UPDATE webhook_outbox_entries SET delivered_at = localtimestamp, enqueued_at = localtimestamp + interval '1 hour'`)
		}, "sev2: no webhook reaches applications 41, 42", []string{v1alpha1.ConditionWebhooksDelivered}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := newPlatform(t)
			p := probedOf(world.Namespace, "signals-"+name, site.URL())
			p.Spec.Probes.Paths, p.Spec.Probes.LatencyMilliseconds = append(p.Spec.Probes.Paths, unresolved), 700
			p.Spec.Probes.TokenSecretRef = &v1alpha1.SecretReference{Name: p.Name + "-client"}
			p.Spec.AutoOpen = []v1alpha1.IncidentCategory{v1alpha1.CategoryWebhookDelivery}
			create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), clientSecret(p, "pa55word"), p)
			got := awaitSummary(t, p, quiet)
			if got.Status.Signals.BadSince != nil || got.Status.Signals.Severity != "" ||
				condition(got, v1alpha1.ConditionTokensIssued).Message != "/oauth/token issues tokens" {
				t.Errorf("%+v\n%s", got.Status.Signals, describe(got))
			}
			c.spoil(t, site)
			got = awaitSummary(t, p, c.summary)
			for _, name := range c.conditions {
				if is := condition(got, name); is.Status != metav1.ConditionFalse || is.Reason != v1alpha1.ReasonSignalBad {
					t.Errorf("%+v", is)
				}
			}
			if s := got.Status.Signals; string(s.Severity) != c.summary[:4] || s.BadSince == nil {
				t.Errorf("%+v", s)
			}
			if !meta.IsStatusConditionTrue(got.Status.Conditions, v1alpha1.ConditionReady) {
				t.Errorf("not Ready, which is about the database:\n%s", describe(got))
			}
			noSecretIn(t, describe(got))
			c.mend(t, site)
			// In this case webhooks were delivered, so the signal is known. In the others nothing was ever sent.
			mended := map[string]string{"webhooks": "ok"}[name]
			if got := awaitSummary(t, p, cmp.Or(mended, quiet)); got.Status.Signals.BadSince != nil {
				t.Errorf("bad since %v", got.Status.Signals.BadSince)
			}
			awaitEvent(t, p, "Warning", v1alpha1.ReasonSignalBad)
			awaitEvent(t, p, "Normal", v1alpha1.ReasonSignalGood)
			// Only one category opens by itself here.
			opened := 0
			for _, i := range incidents(t, world.Namespace) {
				if i.Spec.PlatformRef.Name != p.Name {
					continue
				}
				opened++
				if i.Spec.Category != v1alpha1.CategoryWebhookDelivery || i.Spec.Summary != "no webhook reaches applications "+
					"41, 42" {
					t.Errorf("%+v", i.Spec)
				}
				if err := kube.Delete(t.Context(), &i); err != nil {
					t.Error(err)
				}
			}
			if want := map[string]int{"webhooks": 1}[name]; opened != want {
				t.Errorf("%d Incidents opened, want %d", opened, want)
			}
		})
	}
}

func TestAPlatformWithoutADatabaseIsProbedAndOk(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	p := probedOf(world.Namespace, "signals-bare", site.URL())
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), p)
	eventually(t, "webhooks are a signal", func() bool {
		return condition(read(t, p),
			v1alpha1.ConditionWebhooksDelivered).Type != ""
	}, func() string { return describe(read(t, p)) })
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"database":null}}`))
	if err := kube.Patch(t.Context(), read(t, p), patch); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is well, and webhooks are no signal", func() bool {
		got := read(t, p)
		return got.Status.Signals != nil && got.Status.Signals.Summary == "ok" &&
			condition(got, v1alpha1.ConditionWebhooksDelivered).Type == ""
	}, func() string { return describe(read(t, p)) })
	site.Render().Push(logi.WebService, "bad")
	awaitSummary(t, p, "sev1: /up answers HTTP 502")
	site.Render().Push(logi.WebService, "good")
	awaitSummary(t, p, "ok")
}

// clientSecret is for the client that asks for tokens.
func clientSecret(p *v1alpha1.Platform, password string) *corev1.Secret {
	s := secret(p.Namespace, p.Spec.Probes.TokenSecretRef.Name, "")
	s.Labels[v1alpha1.LabelPlatform] = p.Name
	s.StringData = map[string]string{"clientID": "probe", "clientSecret": password}
	return s
}

func TestAClientThatIsRefusedIsOurOwnMistake(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	p := probedOf(world.Namespace, "signals-client", site.URL())
	p.Spec.Probes.TokenSecretRef = &v1alpha1.SecretReference{Name: "signals-client-client"}
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), p)
	got := awaitSummary(t, p, "unknown: TokensIssued, WebhooksDelivered")
	if message := condition(got, v1alpha1.ConditionTokensIssued).Message; !strings.Contains(message,
		`there is no Secret "signals-client-client"`) {
		t.Errorf("it says %q", message)
	}
	create(t, clientSecret(p, "wr0ng-password"))
	eventually(t, "it says whose mistake it is", func() bool {
		got = read(t, p)
		return strings.Contains(condition(got, v1alpha1.ConditionTokensIssued).Message,
			"the clientSecret in its Secret is wrong")
	}, func() string { return describe(got) })
	noSecretIn(t, describe(got))
	out, err := w.Kubectl(t.Context(), "get", "platform", p.Name, "-n", world.Namespace)
	if err != nil || !strings.Contains(out, "SIGNALS") || !strings.Contains(out,
		"unknown: TokensIssued, WebhooksDelivered") {
		t.Errorf("%v\n%s", err, out)
	}

	// Without probes, the status has no signals.
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"probes":null}}`))
	if err := kube.Patch(t.Context(), read(t, p), patch); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the signals are gone", func() bool {
		got = read(t, p)
		return got.Status.Signals == nil && len(got.Status.Conditions) == len(whenReady)
	}, func() string { return describe(got) })
}

func TestADatabaseThatIsDownLeavesWebhooksUnknownAndNothingElse(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	u := parse(t, site.URLAs("playbook_operator"))
	backend := u.Host
	u.Host = "127.0.0.1:" + strconv.Itoa(port)
	p := probedOf(world.Namespace, "signals-without-database", site.URL())
	down := forward(t, u.Host, backend)
	create(t, secret(world.Namespace, p.Name, u.String()), p)
	got := awaitSummary(t, p, quiet)
	if message := condition(got, v1alpha1.ConditionTokensIssued).Message; !strings.Contains(message,
		"not proved without probes.tokenSecretRef") {
		t.Errorf("without a client it says %q", message)
	}
	down()
	eventually(t, "it says that the database is down", func() bool {
		got = read(t, p)
		return strings.Contains(condition(got, v1alpha1.ConditionWebhooksDelivered).Message, "could not be counted")
	}, func() string { return describe(got) })
	for _, name := range []string{v1alpha1.ConditionUpAnswers, v1alpha1.ConditionTokensIssued,
		v1alpha1.ConditionJWKSServed, v1alpha1.ConditionLatencyGood} {
		if is := condition(got, name); is.Status != metav1.ConditionTrue {
			t.Errorf("%+v", is)
		}
	}
	site.Render().Push(logi.WebService, "bad")
	awaitSummary(t, p, "sev1: /up answers HTTP 502")
}

func TestAutoDeployThatAnIncidentSwitchedOffIsSaid(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	p := platformOf(world.Namespace, "auto-deploy")
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), p)
	await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")
	at := metav1.NewTime(time.Date(2026, 11, 23, 3, 12, 0, 0, time.UTC))
	claim := func(state v1alpha1.AutoDeployState) {
		t.Helper()
		var err error
		for range 10 {
			got := read(t, p)
			base := got.DeepCopy()
			got.Status.Rollbacks = []v1alpha1.ServiceRollback{{Service: "web", Incident: "api-502", IncidentUID: "u", At: &at,
				From: "dep-b", FromCommit: "b1", To: "dep-a", ToCommit: "a1",
				State: v1alpha1.RollbackLive, AutoDeploy: state}}
			got.Status.Notice = &v1alpha1.NoticeClaim{Incident: "api-502", IncidentUID: "u", At: &at}
			if err = kube.Status().Patch(t.Context(), got, client.MergeFromWithOptions(base,
				client.MergeFromWithOptimisticLock{})); err == nil {
				return
			}
		}
		t.Fatal(err)
	}
	claim(v1alpha1.AutoDeployOff)
	got := await(t, p, v1alpha1.ConditionAutoDeployOff, metav1.ConditionTrue, v1alpha1.ReasonSwitchedOff)
	for _, says := range []string{`service "web" since 2026-11-23T03:12:00Z, by Incident "api-502"`, "commit b1",
		"deploy a commit that mends the outage, or set the Incident's spec.resolution"} {
		if message := condition(got, v1alpha1.ConditionAutoDeployOff).Message; !strings.Contains(message, says) {
			t.Errorf("it does not say %q: %s", says, message)
		}
	}
	expect(t, got, append([]string{"AutoDeployOff=True/SwitchedOff"}, whenReady...)...)
	claim(v1alpha1.AutoDeployRestored)
	eventually(t, "the condition is gone", func() bool {
		got = read(t, p)
		return meta.FindStatusCondition(got.Status.Conditions, v1alpha1.ConditionAutoDeployOff) == nil
	}, func() string { return describe(got) })
	if len(got.Status.Rollbacks) != 1 || got.Status.Notice == nil {
		t.Errorf("what belongs to Incidents was touched: %+v", got.Status)
	}
}

// managed runs the Platform controllers for one namespace in this process. writes counts their writes to the API
// server.
func managed(t *testing.T, namespace string) (stop func(), writes *atomic.Int64) {
	t.Helper()
	writes = new(atomic.Int64)
	c := rest.CopyConfig(w.ControlPlane.Config())
	c.QPS = -1
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/events") {
				writes.Add(1)
			}
			return next.RoundTrip(r)
		})
	})
	mgr, err := ctrl.NewManager(c, ctrl.Options{
		Scheme: scheme, Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
		Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	connections := &access.Connections{Secrets: mgr.GetAPIReader()}
	prober := &signals.Prober{Cache: mgr.GetCache(), Connections: connections}
	r := &platform.Reconciler{Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Connections: connections,
		Recorder: mgr.GetEventRecorder("platform"), Prober: prober,
		Opener: &opening.Opener{Claims: claims.Claims{Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(),
			Now: time.Now}, Recorder: mgr.GetEventRecorder("platform")}}
	// Nobody reads this channel, as if the Incident controller hung.
	prober.Changes()
	if err := mgr.Add(prober); err != nil {
		t.Fatal(err)
	}
	if err := r.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		connections.Close()
	}
	t.Cleanup(stop)
	return stop, writes
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func newNamespace(t *testing.T, name string) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}}
	if err := kube.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return namespace.Name
}
