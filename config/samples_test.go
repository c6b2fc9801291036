package config_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// samples are the paths of all samples.
func samples(t *testing.T) []string {
	t.Helper()
	safe, err := filepath.Glob("samples/*.yaml")
	acting, err2 := filepath.Glob("samples/playbooks/*.yaml")
	if err := errors.Join(err, err2); err != nil || len(safe) == 0 || len(acting) < 4 {
		t.Fatalf("%v, %v, %v", safe, acting, err)
	}
	return append(safe, acting...)
}

// They belong to the person on call: an apply from Git must take none of them back.
func TestNoSampleHasAnEmergencyControl(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, sample := range samples(t) {
		file, err := os.Open(sample)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for decoder := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
			obj := &unstructured.Unstructured{}
			if err := decoder.Decode(&obj.Object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", sample, err)
			}
			seen[obj.GetKind()] = true
			for _, control := range []string{"suspend", "automation", "approvals", "acknowledgement", "resolution"} {
				if _, found, _ := unstructured.NestedFieldNoCopy(obj.Object, "spec", control); found {
					t.Errorf("%s: %s %s has spec.%s", sample, obj.GetKind(), obj.GetName(), control)
				}
			}
			if platform := platformOf(obj); platform != "sample" {
				t.Errorf("%s: %s %s is about the Platform %q, which may be somebody's", sample, obj.GetKind(), obj.GetName(),
					platform)
			}
		}
	}
	for _, kind := range []string{"Platform", "Secret", "Incident", "DLQReplay", "KeyCompromise"} {
		if !seen[kind] {
			t.Errorf("there is no sample of a %s", kind)
		}
	}
}

// platformOf is the name of the Platform that an object is, belongs to or refers to.
func platformOf(obj *unstructured.Unstructured) string {
	switch obj.GetKind() {
	case "Platform":
		return obj.GetName()
	case "Secret":
		return obj.GetLabels()["playbook.1pass.dev/platform"]
	}
	name, _, _ := unstructured.NestedString(obj.Object, "spec", "platformRef", "name")
	return name
}

// filledIn is a folder with the samples that are applied together. Their placeholders are replaced by what reaches the
// Site: the worst case is that somebody did that before applying all of them.
func filledIn(t *testing.T, site *world.Site) (dir string) {
	t.Helper()
	dir = t.TempDir()
	paths, err := filepath.Glob("samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const database = ".db.example.com:5432/identity?sslmode=verify-full"
	replacements := []string{
		"postgres://playbook_operator:change-me@primary" + database, site.URLAs("playbook_operator"),
		"postgres://playbook_monitor:change-me@replica" + database, site.URLAs("playbook_monitor"),
		"postgres://playbook_signer:change-me@primary" + database, site.URLAs("playbook_signer"),
		"token: change-me", "token: " + site.AdminToken(),
		"apiKey: change-me", "apiKey: " + site.Render().Key(),
		"routingKey: 0123456789abcdef0123456789abcdef", "url: " + site.URL() + "/pagerduty/v2/enqueue\n  routingKey: " +
			world.RoutingKey,
		"https://hooks.slack.com/services/change/me", site.URL() + "/slack/services/T0000/B0000/oncall",
		"https://api.example.com", site.URL(),
		"    services:\n", "    url: " + site.URL() + logi.RenderPath + "\n    services:\n",
		"srv-change-me", logi.WebService,
	}
	var all strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
		filled := strings.NewReplacer(replacements...).Replace(string(text))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), []byte(filled), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < len(replacements); i += 2 {
		if !strings.Contains(all.String(), replacements[i]) {
			t.Errorf("the samples no longer have %q", replacements[i])
		}
	}
	return dir
}

func TestApplyingTheSamplesTogetherChangesNothing(t *testing.T) {
	t.Parallel()
	const application, dead = 42, 20
	site, err := w.NewSite(t.Context(), "sample", logi.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = site.Close(context.Background()) }) // the World goes with it
	if err := site.CreateApplication(t.Context(), application, "acme"); err != nil {
		t.Fatal(err)
	}
	if _, err := site.SeedDead(t.Context(), application, dead, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(t.Context(), site.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	before := tables(t, db)
	kubectl(t, "apply", "--server-side", "-f", filledIn(t, site))
	manager, err := w.StartManager(t.Context(), "manager-samples")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := manager.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	namespace := "--namespace=" + world.Namespace
	for _, object := range []string{"platform/sample", "dlqreplay/acme-plan"} {
		if _, err := w.Kubectl(t.Context(), "wait", namespace, "--for=condition=Ready", object, "--timeout=60s"); err != nil {
			t.Fatalf("%v\n%s\n%s", err, kubectl(t, "get", namespace, object, "-o", "yaml"), manager.Log())
		}
	}
	if got := kubectl(t, "get", namespace, "dlqreplay/acme-plan", "-o", "jsonpath={.status.plan.total}"); got != "20" {
		t.Errorf("the plan counts %s", got)
	}
	got := kubectl(t, "get", namespace, "incidents,dlqreplays,keycompromises", "-o", "name")
	if strings.TrimSpace(got) != "dlqreplay.playbook.1pass.dev/acme-plan" {
		t.Errorf("more than the plan is there:\n%s", got)
	}
	if after := tables(t, db); after != before {
		t.Errorf("the platform's tables were changed:\n%s\n%s", before, after)
	}
	counts := site.Render().Counts()
	if counts.Rollbacks+counts.AutoDeployPatches+counts.Jobs > 0 {
		t.Errorf("Render was asked for a change: %+v", counts)
	}
	if p, c := site.Services.Pages(), site.Services.Chats(); len(p)+len(c)+len(site.Services.Notices()) > 0 {
		t.Errorf("people were told: %+v, %+v, %+v", p, c, site.Services.Notices())
	}
}

// tables is the content of the platform's tables.
func tables(t *testing.T, db *pgx.Conn) (text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := db.QueryRow(ctx, `SELECT concat((SELECT json_agg(o ORDER BY id) FROM webhook_outbox_entries o),
		(SELECT json_agg(k ORDER BY id) FROM webhook_signing_keys k), (SELECT json_agg(r) FROM logi_test.requeues r))`).
		Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}
