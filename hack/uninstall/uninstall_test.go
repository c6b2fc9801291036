package uninstall_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// ending is how long an uninstall may take: a minute for what can't be closed, and what the API server takes.
const ending = 3 * time.Minute

// Whatever is taken away first, an uninstall ends. Where nobody is left who can let objects go, `manager cleanup` does.
func TestAnUninstallEndsInAnyOrder(t *testing.T) {
	t.Parallel()
	install := filepath.Join(world.Root(), "config/default")
	kubectl := func(args ...string) func(*scene) { return func(s *scene) { s.kubectl(args...) } }
	rest := func(s *scene) {
		if _, err := s.Kubectl(s.Context(), "delete", "-k", install, "--ignore-not-found", "--wait=false"); err != nil {
			s.Fatal(err)
		}
	}
	for _, order := range []struct {
		name  string
		steps []func(*scene)
		// powerless says that a manager that runs can't let objects go either.
		powerless bool
	}{
		{"all at once", []func(*scene){rest}, true},
		{"CRDs first", []func(*scene){kubectl("delete", "crd", "--all", "--wait=false"), (*scene).awaitNoPlaybooks, rest},
			false},
		{"Secrets first", []func(*scene){kubectl("delete", "secrets", "--all"),
			kubectl("delete", "incidents,dlqreplays,keycompromises", "--all", "--wait=false"), (*scene).awaitNoPlaybooks,
			rest}, false},
		{"the namespace first", []func(*scene){kubectl("delete", "namespace", world.Namespace, "--wait=false"), rest}, true},
		{"RBAC first", []func(*scene){kubectl("delete", "rolebindings,roles", "--all"), (*scene).awaitManagersEnd, rest},
			true},
	} {
		for _, runs := range []bool{true, false} {
			name := order.name + ", the manager runs"
			if !runs {
				name = order.name + ", the manager is gone"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				if !runs {
					s.killManager()
				}
				for i, step := range order.steps {
					if !runs && i == len(order.steps)-1 {
						s.expectHeld()
					}
					step(s)
				}
				if order.powerless || !runs {
					s.awaitManagersEnd()
					s.expectHeld()
					s.cleanup(0, "objects were freed in playbook-system")
				}
				s.awaitEnd()
				s.cleanup(0, "0 objects were freed in playbook-system")
			})
		}
	}
}

// The README's order takes back what was begun.
func TestTheREADMEsUninstallTakesBackWhatWasBegun(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.cleanup(1, "a manager runs", "Nothing was changed", "--replicas=0", "--force")
	s.expectHeld()
	s.runREADME()
	s.awaitEnd()
	for _, page := range s.site.Services.Pages() {
		if !strings.Contains(page.DedupKey, "/oncall-engineer/") {
			continue // its Platform was gone
		}
		if page.State != "resolved" {
			t.Errorf("%s is %s", page.DedupKey, page.State)
		}
	}
	var open []string
	if err := s.db.QueryRow(t.Context(), `SELECT coalesce(array_agg(name), '{}') FROM playbook.operations
		WHERE closed_at IS NULL AND name NOT LIKE '%-held' AND name NOT LIKE '%-orphaned'`).Scan(&open); err != nil {
		t.Fatal(err)
	}
	if len(open) > 0 {
		t.Errorf("the operations of %v are still open", open)
	}
}

// Where the manager is gone, the README says to clean up first. It is told what stays undone.
func TestCleanupSaysWhatIsLeftUndone(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.killManager()
	s.pretend()
	out := s.cleanup(0, "14 objects", "waiting up to 15s to see whether it still runs")
	for object, undone := range map[string][]string{
		"incident playbook-system/incident-running": {
			"oncall-engineer was paged by production-pagerduty at sev1 (Accepted), and is not told that it is over"},
		"incident playbook-system/incident-waiting": {
			"oncall-engineer was paged by production-pagerduty at sev2 ("},
		"incident playbook-system/incident-orphaned": {
			`the public reads "api.1pass.dev is unavailable" at the status page (Identified, 3f9)`,
			"the rollback of web from bad0bad to 900d900 is under way", "kid whk_exposed is not ended by this Incident",
			"auto-deploy of web is off since 2026-11-23T03:00:00Z, to keep bad0bad from coming back"},
		"dlqreplay playbook-system/replay-running":   {"is still open in the ledger", "of its entries were not looked at"},
		"dlqreplay playbook-system/replay-waiting":   {"of its entries were not looked at, and are still dead"},
		"dlqreplay playbook-system/replay-orphaned":  {"the admin API may have been asked to retry entry 7"},
		"keycompromise playbook-system/key-orphaned": {"the platform's rake may be running, on a job of web"},
		"keycompromise playbook-system/key-running": {
			"is revoked, and a relying party may believe it until 20"},
		"keycompromise playbook-system/key-waiting": {"is not revoked"},
		"platform playbook-system/production": {
			"auto-deploy of worker is off since 2026-11-23T03:00:00Z, to keep bad0bad from coming back"},
	} {
		_, said, found := strings.Cut(out, object+"\n")
		said, _, _ = strings.Cut(said, "playbook-system/")
		if !found {
			t.Errorf("nothing is said of %s:\n%s", object, out)
		}
		for _, text := range undone {
			if !strings.Contains(said, "  left undone: ") || !strings.Contains(said, text) {
				t.Errorf("%s: %q is not said:\n%s", object, text, said)
			}
		}
	}
	if held := s.held(s.Context()); len(held) > 0 {
		t.Errorf("held: %v", held)
	}
	s.runREADME()
	s.awaitEnd()
}

// pretend writes what a rollback, a public notice, a call and a command leave in a status.
func (s *scene) pretend() {
	s.Helper()
	const rollback = `"incident": "incident-orphaned", "incidentUID": %q, "at": "2026-11-23T03:00:00Z", ` +
		`"from": "dep-2", "fromCommit": "bad0bad", "to": "dep-1", "toCommit": "900d900", "state": %q, "autoDeploy": "Off"`
	orphaned, err := s.object(s.Context(), "incident-orphaned")
	if err != nil {
		s.Fatal(err)
	}
	s.status(orphaned, `{"notice": {"state": "Identified", "published": "Identified", "pageIncidentID": "3f9", `+
		`"title": "api.1pass.dev is unavailable", "startedAt": "2026-11-23T03:00:00Z", "updates": [`+
		`{"at": "2026-11-23T03:00:00Z", "state": "Identified", "text": "We know the cause."}]}, `+
		`"rollback": {"service": "web", "from": "dep-2", "fromCommit": "bad0bad", "to": "dep-1", "toCommit": "900d900", `+
		`"digest": "sha256:0", `+
		`"claim": {"service": "web", `+fmt.Sprintf(rollback, orphaned.GetUID(), "Deploying")+`}}}`)
	for name, status := range map[string]string{
		"replay-orphaned": `{"adminRetries": [{"entryID": "7", "state": "Intended", "at": "2026-11-23T03:00:00.000000Z", ` +
			`"sawEnqueuedAt": "2026-11-23T02:00:00.000000Z"}]}`,
		"key-orphaned": `{"command": {"startedAt": "2026-11-23T03:00:00.000000Z", "target": "a job of web"}}`,
	} {
		obj, err := s.object(s.Context(), name)
		if err != nil {
			s.Fatal(err)
		}
		s.status(obj, status)
	}
	production := &v1alpha1.Platform{}
	production.Namespace, production.Name = world.Namespace, "production"
	s.status(production, `{"rollbacks": [{"service": "web", `+fmt.Sprintf(rollback, orphaned.GetUID(), "Deploying")+
		`}, {"service": "worker", `+fmt.Sprintf(rollback, "of-one-that-is-gone", "Live")+`}]}`)
}

func (s *scene) status(obj client.Object, merge string) {
	s.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"status":`+merge+`}`))
	if err := s.admin.Status().Patch(s.Context(), obj, patch); err != nil {
		s.Fatal(err)
	}
}

// runREADME runs the commands of config/README.md's section, in their order.
func (s *scene) runREADME() {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(world.Root(), "config/README.md"))
	if err != nil {
		s.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Uninstalling\n")
	_, block, opened := strings.Cut(section, "```\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !opened || !closed {
		s.Fatal("config/README.md has no uninstall")
	}
	path, err := s.ControlPlane.Kubectl(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), ending)
	defer cancel()
	shell := exec.CommandContext(ctx, "sh", "-ec", `kubectl() { "$KUBECTL" "$@"; }; `+block)
	shell.Dir = world.Root()
	shell.Env = append(os.Environ(), "KUBECTL="+path, "KUBECONFIG="+s.ControlPlane.Kubeconfig())
	if out, err := shell.CombinedOutput(); err != nil {
		s.Fatalf("%v: %s\n%s", err, block, out)
	}
}

// cleanup runs `manager cleanup` as the cluster's administrator.
func (s *scene) cleanup(code int, says ...string) string {
	s.Helper()
	program, err := s.Manager(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "cleanup", "--namespaces="+world.Namespace,
		"--kubeconfig="+s.ControlPlane.Kubeconfig())
	cmd.Env = []string{"HOME=" + s.TempDir()}
	out, _ := cmd.CombinedOutput() // the exit code says it
	if cmd.ProcessState.ExitCode() != code {
		s.Fatalf("exit code %d:\n%s", cmd.ProcessState.ExitCode(), out)
	}
	for _, text := range says {
		if !strings.Contains(string(out), text) {
			s.Errorf("cleanup does not say %q:\n%s", text, out)
		}
	}
	return string(out)
}

// killManager ends the manager so that it can't give its lease up.
func (s *scene) killManager() {
	s.Helper()
	if err := s.manager.Signal(syscall.SIGKILL); err != nil {
		s.Fatal(err)
	}
	<-s.manager.Done()
}

// awaitManagersEnd waits until a manager that lost its rights or its pod is gone.
func (s *scene) awaitManagersEnd() {
	s.Helper()
	select {
	case <-s.manager.Done():
	case <-time.After(time.Minute):
		s.Fatalf("the manager still runs:\n%s", s.manager.Log())
	}
}
