package platform_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/platform"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// sshSecret has a key, and a key of the host.
func sshSecret(t *testing.T) map[string]string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	known, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"privateKey": string(pem.EncodeToMemory(block)),
		"knownHosts": "rails.example.com " + string(ssh.MarshalAuthorizedKey(known))}
}

func ref(name string) v1alpha1.SecretReference { return v1alpha1.SecretReference{Name: name} }

// reachingAll is a Platform that names every far side that has a Secret, and the Secrets' content by their names.
func reachingAll(t *testing.T, namespace, name string) (*v1alpha1.Platform, map[string]map[string]string) {
	t.Helper()
	p := platformOf(namespace, name)
	p.Spec.Database.SigningSecretRef = new(ref(name + "-signing"))
	p.Spec.AdminAPI = &v1alpha1.PlatformAdminAPI{SecretRef: ref(name + "-admin")}
	p.Spec.Render = &v1alpha1.PlatformRender{SecretRef: ref(name + "-render"),
		Services: []v1alpha1.RenderService{{Name: "web", ServiceID: "srv-" + name}}}
	p.Spec.Oncall = &v1alpha1.PlatformOncall{Tiers: []v1alpha1.OncallTier{
		{Name: "oncall-engineer", Notify: []v1alpha1.Channel{{Type: "PagerDuty", SecretRef: ref(name + "-pagerduty")},
			{Type: "Slack", SecretRef: ref(name + "-slack")}}},
		{Name: "project-owner", Notify: []v1alpha1.Channel{{Type: "Webhook", SecretRef: ref(name + "-webhook")}}},
	}}
	p.Spec.StatusPage = &v1alpha1.PlatformStatusPage{PageID: name, SecretRef: new(ref(name + "-statuspage"))}
	p.Spec.Commands = &v1alpha1.PlatformCommands{Type: v1alpha1.CommandTypeSSH,
		SSH: &v1alpha1.PlatformSSH{Host: "rails.example.com", User: "rails", SecretRef: ref(name + "-ssh")}}
	p.Spec.Probes = &v1alpha1.PlatformProbes{TokenSecretRef: new(ref(name + "-probe"))}
	return p, map[string]map[string]string{
		name:                 {"url": "postgres://playbook_operator:change-me@127.0.0.1:1/identity"},
		name + "-signing":    {"url": "postgres://playbook_signer:change-me@127.0.0.1:1/identity"},
		name + "-admin":      {"token": "t0ken"},
		name + "-render":     {"apiKey": "rnd_key"},
		name + "-pagerduty":  {"routingKey": strings.Repeat("a", 32)},
		name + "-slack":      {"url": "https://hooks.slack.com/services/T/B/secret"},
		name + "-webhook":    {"url": "https://pager.example.com/hook", "secret": "whsec_" + strings.Repeat("A", 32)},
		name + "-statuspage": {"apiKey": "page-key"},
		name + "-ssh":        sshSecret(t),
		name + "-probe":      {"clientID": "probe", "clientSecret": "s3cret"},
	}
}

func secretOf(p *v1alpha1.Platform, name string, data map[string]string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name,
		Labels: map[string]string{v1alpha1.LabelPlatform: p.Name}}, StringData: data}
}

// configure looks once at what is configured, and fails where that calls anybody.
func configure(t *testing.T, r *platform.Reconciler, p *v1alpha1.Platform) (*v1alpha1.Platform, time.Duration) {
	t.Helper()
	result, err := r.ReconcileConfiguration(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	if err != nil {
		t.Fatal(err)
	}
	return read(t, p), result.RequeueAfter
}

func calls(t *testing.T) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		t.Errorf("%s was called", r.URL.Host)
		return nil, errors.New("nobody is to be called")
	})
}

// Each Secret in turn is missing, unlabelled and without what it needs. That is said, and so is that it was mended.
func TestASecretThatAnOutageWouldMissIsSaidNow(t *testing.T) {
	t.Parallel()
	p, secrets := reachingAll(t, unwatched, "far-sides")
	r := reconciler(t)
	r.Connections.Transport = calls(t)
	for name, data := range secrets {
		create(t, secretOf(p, name, data))
	}
	create(t, p)
	got, after := configure(t, r, p)
	if got.Status.Configuration != "ok" || after != time.Minute {
		t.Fatalf("%q, again after %v\n%s", got.Status.Configuration, after, describe(got))
	}
	expectConfigured(t, got)
	for _, c := range []struct {
		secret, condition string
		wrong             map[string]string // nil: it is deleted
		says              string
	}{
		{"signing", "SigningConfigured", nil, `there is no Secret "far-sides-signing"`},
		{"signing", "SigningConfigured", map[string]string{"url": "postgres://%zz"}, "can't be parsed"},
		{"admin", "AdminAPIConfigured", nil, `there is no Secret "far-sides-admin"`},
		{"admin", "AdminAPIConfigured", map[string]string{"Token": "x"}, `has no key "token"`},
		{"render", "RenderConfigured", map[string]string{"apiKey": ""}, `has no key "apiKey"`},
		{"pagerduty", "PagersConfigured", nil, `oncall-engineer by PagerDuty: there is no Secret "far-sides-pagerduty"`},
		{"pagerduty", "PagersConfigured", map[string]string{"routingKey": "short"},
			`key "routingKey" must be the 32 letters`},
		{"slack", "PagersConfigured", map[string]string{"url": "hooks.slack.com/services"},
			"does not have the form https://host/path"},
		{"webhook", "PagersConfigured", map[string]string{"url": "https://x.example.com"},
			`project-owner by Webhook: Secret "far-sides-webhook": key "secret"`},
		{"statuspage", "StatusPageConfigured", nil, `there is no Secret "far-sides-statuspage"`},
		{"statuspage", "StatusPageConfigured", map[string]string{"apiKey": "k", "url": "nowhere"}, `key "url" can't be used`},
		{"ssh", "CommandsConfigured", nil, `there is no Secret "far-sides-ssh"`},
		{"ssh", "CommandsConfigured", map[string]string{"privateKey": "a", "knownHosts": "b"},
			"privateKey is not a private key in PEM"},
		{"ssh", "CommandsConfigured", map[string]string{"privateKey": secrets["far-sides-ssh"]["privateKey"],
			"knownHosts": strings.Replace(secrets["far-sides-ssh"]["knownHosts"], "rails", "other", 1)},
			"knownHosts has no key of rails.example.com"},
		{"probe", "ProbeClientConfigured", map[string]string{"clientID": "cl13nt"}, `has no key "clientSecret"`},
	} {
		name := p.Name + "-" + c.secret
		if err := kube.Delete(t.Context(), secretOf(p, name, nil)); err != nil {
			t.Fatal(err)
		}
		if c.wrong != nil {
			create(t, secretOf(p, name, c.wrong))
		}
		got, after := configure(t, r, p)
		is := condition(got, c.condition)
		summary := "unusable: " + strings.TrimSuffix(c.condition, "Configured")
		if is.Status != metav1.ConditionFalse || is.Reason != v1alpha1.ReasonSecretUnusable ||
			!strings.Contains(is.Message, c.says) || got.Status.Configuration != summary || after != 10*time.Second {
			t.Errorf("%s %v: %q, again after %v\n%s", name, c.wrong, got.Status.Configuration, after, describe(got))
		}
		for _, value := range c.wrong {
			if len(value) > 4 && strings.Contains(describe(got), value) {
				t.Errorf("it repeats what is in %s:\n%s", name, describe(got))
			}
		}
		if again, _ := configure(t, r, p); again.ResourceVersion != got.ResourceVersion {
			t.Errorf("%s: it was written though nothing changed", name)
		}
		mended := secretOf(p, name, secrets[name])
		if c.wrong == nil {
			// Mended in two steps, as people do: the label is forgotten first.
			mended.Labels = nil
			create(t, mended)
			if got, _ = configure(t, r, p); !strings.Contains(condition(got, c.condition).Message,
				"kubectl -n unwatched label secret "+name) {
				t.Errorf("%s has no label:\n%s", name, describe(got))
			}
			mended = secretOf(p, name, secrets[name])
		}
		if err := kube.Update(t.Context(), mended); err != nil {
			t.Fatal(err)
		}
		got, _ = configure(t, r, p)
		expectConfigured(t, got)
	}
	awaitEvent(t, p, "Warning", v1alpha1.ReasonSecretUnusable)
	awaitEvent(t, p, "Normal", v1alpha1.ReasonSucceeded)
}

func expectConfigured(t *testing.T, p *v1alpha1.Platform) {
	t.Helper()
	for _, name := range []string{"AdminAPI", "Render", "Pagers", "StatusPage", "Commands", "Signing", "ProbeClient"} {
		if is := condition(p, name+"Configured"); is.Status != metav1.ConditionTrue {
			t.Errorf("%sConfigured is not True:\n%s", name, describe(p))
		}
	}
}

// A far side that the spec no longer names has no condition. A Platform with all that it can have fits its status.
func TestAFarSideThatIsNotNamedHasNoCondition(t *testing.T) {
	t.Parallel()
	p, _ := reachingAll(t, unwatched, "unnamed")
	create(t, p)
	r := reconciler(t)
	got, _ := configure(t, r, p)
	if want := "unusable: AdminAPI, Render, Pagers, StatusPage, Commands, Signing, " +
		"ProbeClient"; got.Status.Configuration != want {
		t.Errorf("%q, want %q", got.Status.Configuration, want)
	}
	if is := condition(got, "PagersConfigured"); !strings.HasPrefix(is.Message, "NOBODY CAN BE PAGED: ") {
		t.Errorf("%+v", is)
	}
	got.Spec = v1alpha1.PlatformSpec{URL: p.Spec.URL, Database: &v1alpha1.PlatformDatabase{SecretRef: ref(p.Name)}}
	if err := kube.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if got, _ = configure(t, r, p); got.Status.Configuration != "ok" || len(got.Status.Conditions) != 0 {
		t.Errorf("%q\n%s", got.Status.Configuration, describe(got))
	}
}

// unreadable fails each read of a Secret.
type unreadable struct{ client.Reader }

func (unreadable) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errors.New("the API server is away")
}

// Nothing is known of a Secret that can't be read at the moment, so nothing is said.
func TestASecretThatCantBeReadChangesNothing(t *testing.T) {
	t.Parallel()
	p, secrets := reachingAll(t, unwatched, "unreadable")
	for name, data := range secrets {
		create(t, secretOf(p, name, data))
	}
	create(t, p)
	r := reconciler(t)
	before, _ := configure(t, r, p)
	r.Connections.Secrets = unreadable{kube}
	_, err := r.ReconcileConfiguration(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	if err == nil || !strings.Contains(err.Error(), "the API server is away") {
		t.Errorf("the error is %v", err)
	}
	if got := read(t, p); got.ResourceVersion != before.ResourceVersion {
		t.Errorf("it was written:\n%s", describe(got))
	}
}

// The row shows it, beside a database that is ready, and playbooks that need nothing else run.
func TestTheRowShowsWhatCantBeUsed(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	p := platformOf(world.Namespace, "row")
	p.Spec.Oncall = &v1alpha1.PlatformOncall{Tiers: []v1alpha1.OncallTier{{Name: "oncall-engineer",
		Notify: []v1alpha1.Channel{{Type: "Slack", SecretRef: ref("row-slack")}}}}}
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), p)
	await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")
	await(t, p, "PagersConfigured", metav1.ConditionFalse, v1alpha1.ReasonSecretUnusable)
	awaitEvent(t, p, "Warning", v1alpha1.ReasonSecretUnusable)
	table, err := w.Kubectl(t.Context(), "-n", world.Namespace, "get", "platforms", p.Name)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(table, "\n")
	if !strings.HasPrefix(strings.Join(strings.Fields(rows[0]), " "), "NAME READY AUTOMATION CONFIGURATION SIGNALS") ||
		!strings.HasPrefix(strings.Join(strings.Fields(rows[1]), " "), "row True Enabled unusable: Pagers") {
		t.Errorf("the row is\n%s", table)
	}
	create(t, secretOf(p, "row-slack", map[string]string{"url": "https://hooks.slack.com/services/T/B/secret"}))
	await(t, p, "PagersConfigured", metav1.ConditionTrue, "Succeeded")
}
