package world_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// The page runs with the permissions of config/statuspage: its ServiceAccount may only list and watch Incidents.
func TestTheStatusPageShowsTheNoticesOfASev1AndMayReadNothingElse(t *testing.T) {
	ctx := t.Context()
	if _, err := theWorld.Kubectl(ctx, "apply", "-k", filepath.Join(world.Root(), "config/statuspage")); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "statuspage")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/statuspage")
	build.Dir = world.Root()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kubeconfig, err := theWorld.ControlPlane.KubeconfigForServiceAccount(ctx, world.Namespace, "playbook-statuspage")
	if err != nil {
		t.Fatal(err)
	}
	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--namespace="+world.Namespace, fmt.Sprintf("--listen=127.0.0.1:%d", port))
	cmd.Env = []string{"KUBECONFIG=" + kubeconfig}
	page, err := servers.StartProcess("statuspage", cmd, filepath.Join(theWorld.Dir, "statuspage.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := page.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	get := func(path string) string {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return err.Error()
		}
		return response.Status + "\n" + string(text)
	}
	eventually(t, time.Minute, "the page", func() (bool, string) {
		text := get("/")
		return strings.HasPrefix(text, "200"), text + page.Log()
	})
	if text := get("/"); !strings.Contains(text, "No incidents reported") {
		t.Errorf("without an Incident the page says:\n%s", text)
	}
	now := new(metav1.NewTime(time.Now().Truncate(time.Second)))
	for name, severity := range map[string]v1alpha1.Severity{"public": v1alpha1.Sev1, "internal": v1alpha1.Sev2} {
		incident := &v1alpha1.Incident{
			ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "statuspage-" + name},
			Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: "nowhere"}, Summary: "words for " +
				name + " use only"},
		}
		if err := kube.Create(ctx, incident); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = kube.Delete(context.Background(), incident) })
		written := incident.DeepCopy()
		incident.Status.Severity = severity
		incident.Status.Notice = &v1alpha1.IncidentNotice{
			State: v1alpha1.NoticeInvestigating, Title: "The title of " + name, StartedAt: now,
			Updates: []v1alpha1.NoticeUpdate{{At: now, State: v1alpha1.NoticeInvestigating, Text: "The text of " + name}},
		}
		if err := kube.Status().Patch(ctx, incident, client.MergeFrom(written)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, "the notice", func() (bool, string) {
		text := get("/")
		return strings.Contains(text, "The title of public") && strings.Contains(text, "The text of public"), text
	})
	for _, path := range []string{"/", "/feed.atom", "/incidents.json"} {
		text := get(path)
		for _, word := range []string{"internal", "use only", "nowhere"} {
			if strings.Contains(text, word) {
				t.Errorf("%s shows %q:\n%s", path, word, text)
			}
		}
		if !strings.Contains(text, "The text of public") {
			t.Errorf("%s does not have the notice:\n%s", path, text)
		}
	}
	gone := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "statuspage-public"}}
	if err := kube.Delete(ctx, gone); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the end of a deleted Incident's notice", func() (bool, string) {
		text, feed := get("/"), get("/feed.atom")
		return strings.Contains(text, "No incidents reported") && !strings.Contains(feed, "<entry>"), text + feed
	})
	// These are the permissions in addition to those of every ServiceAccount.
	may := func(account string) []string {
		out, err := theWorld.Kubectl(ctx, "auth", "can-i", "--list", "-n", world.Namespace, "--as=system:serviceaccount:"+
			world.Namespace+":"+account)
		if err != nil {
			t.Fatal(err)
		}
		var rights []string
		for line := range strings.Lines(out) {
			rights = append(rights, strings.Join(strings.Fields(line), " "))
		}
		return rights
	}
	everybody := may("nobody-in-particular")
	rights := slices.DeleteFunc(may("playbook-statuspage"),
		func(right string) bool { return slices.Contains(everybody, right) })
	if fmt.Sprint(rights) != "[incidents.playbook.1pass.dev [] [] [list watch]]" {
		t.Errorf("beyond what everybody may, it may: %v", rights)
	}
}
