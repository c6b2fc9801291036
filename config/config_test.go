package config_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const deadline = time.Minute

var (
	w    *world.World // with config/default installed
	kube *kubernetes.Clientset
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "config-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		w, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true})
	}
	if err == nil {
		defer func() { _ = w.Stop(ctx) }() // the folder goes with it
		kube, err = kubernetes.NewForConfig(w.ControlPlane.Config())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestApplyingTheInstallAgainChangesNothing(t *testing.T) {
	t.Parallel()
	out := strings.TrimSpace(kubectl(t, "apply", "-k", "default"))
	lines := strings.Split(out, "\n")
	for _, line := range lines {
		if !strings.HasSuffix(line, " unchanged") {
			t.Error(line)
		}
	}
	if len(lines) < 10 {
		t.Errorf("the install has %d objects:\n%s", len(lines), out)
	}
}

func TestTheKindsAreServedAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	var crds struct {
		Items []struct {
			Metadata metav1.ObjectMeta
			Status   struct{ Conditions []metav1.Condition }
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "crds", "-o", "json")), &crds); err != nil {
		t.Fatal(err)
	}
	if len(crds.Items) != 4 {
		t.Errorf("%d kinds are installed", len(crds.Items))
	}
	for _, crd := range crds.Items {
		is := map[string]metav1.ConditionStatus{}
		for _, c := range crd.Status.Conditions {
			is[c.Type] = c.Status
		}
		if is["Established"] != metav1.ConditionTrue || is["NamesAccepted"] != metav1.ConditionTrue ||
			is["NonStructuralSchema"] == metav1.ConditionTrue {
			t.Errorf("%s: %v", crd.Metadata.Name, is)
		}
	}
}

func TestKubectlExplainsEachField(t *testing.T) {
	t.Parallel()
	for field, want := range map[string][]string{
		"dlqreplay.spec": {"platformRef", "applicationID", "selector", "mode", "canary", "breaker", "maxInFlight",
			"approvals", "-required-", "enum: "},
		"dlqr.spec.selector":     {"deadAfter", "deadBefore", "causes", "entryIDs"},
		"platform.spec":          {"url", "automation", "database", "adminAPI", "relyingParties", "requireApproval"},
		"platform.spec.database": {"secretRef", "readOnlySecretRef"},
		"dlqreplay.status":       {"conditions"},
		"keyc.spec":              {"platformRef", "applicationID", "kid", "reason", "approvals", "-required-"},
		"keycompromise.status":   {"conditions", "exposedUntil", "successorKid"},
		"inc.spec": {"platformRef", "category", "severity", "acknowledgement", "resolution", "-required-",
			"enum: "},
		"incident.status":            {"conditions", "respondBy", "timeline", "notice"},
		"platform.status.conditions": {"lastTransitionTime"},
	} {
		out := explain(t, field)
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("kubectl explain %s has no %q:\n%s", field, text, out)
			}
		}
		if strings.Contains(out, "<no description>") {
			t.Errorf("kubectl explain %s leaves something undescribed:\n%s", field, out)
		}
	}
}

// explain waits for the field: the API server publishes the schema of each kind some time after it serves the kind.
func explain(t *testing.T, field string) string {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(100 * time.Millisecond) {
		out, err := w.Kubectl(t.Context(), "explain", field)
		if err == nil {
			return out
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestEachSampleAppliesAsItIs(t *testing.T) {
	t.Parallel()
	for _, sample := range samples(t) {
		// A test's manager would act on them.
		kubectl(t, "apply", "--dry-run=server", "-f", sample)
		text, err := os.ReadFile(sample)
		if err != nil {
			t.Fatal(err)
		}
		misspelt := strings.Replace(string(text), "\n  platformRef:", "\n  platfromRef:", 1)
		misspelt = strings.Replace(misspelt, "\n  database:", "\n  databsae:", 1)
		if misspelt == string(text) {
			t.Errorf("%s has no Platform and refers to none", sample)
		}
		if out, err := w.KubectlInput(t.Context(), misspelt, "apply", "--dry-run=server", "-f", "-"); err == nil {
			t.Errorf("%s is also accepted with a misspelt field:\n%s", sample, out)
		}
	}
}

// A Secret that such a Platform may read can't be labelled.
func TestAPlatformsNameFitsALabel(t *testing.T) {
	t.Parallel()
	for length, fits := range map[int]bool{63: true, 64: false} {
		out, err := w.KubectlInput(t.Context(), fmt.Sprintf(`
apiVersion: playbook.1pass.dev/v1alpha1
kind: Platform
metadata: {name: %s, namespace: %s}
spec: {url: https://api.example.com}`, strings.Repeat("p", length), world.Namespace),
			"apply", "--dry-run=server", "-f", "-")
		if (err == nil) != fits || !fits && !strings.Contains(out, "write a shorter name") {
			t.Errorf("%d characters: %v\n%s", length, err, out)
		}
	}
}

func TestKubectlGetShowsWhatIsAskedAtNight(t *testing.T) {
	t.Parallel()
	const replay = `{apiVersion: playbook.1pass.dev/v1alpha1, kind: DLQReplay, ` +
		`metadata: {name: seen, namespace: default}, spec: {platformRef: {name: p}, applicationID: "42"}}`
	if _, err := w.KubectlInput(t.Context(), replay, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	progress := `{"status": {"plan": {"total": 5}, ` +
		`"progress": {"requeued": 4, "delivered": 3, "failing": 1, "diedAgain": 0}}}`
	kubectl(t, "patch", "dlqr", "seen", "--subresource=status", "--type=merge", "--patch="+progress)
	got := regexp.MustCompile(`  +`).ReplaceAllString(kubectl(t, "get", "dlqreplays"), "|")
	want := regexp.MustCompile(`^NAME\|APP\|STATE\|REPLAYED\|DELIVERED\|FAILING\|DIED AGAIN\|TOTAL\|AGE\n` +
		`seen\|42\|4\|3\|1\|0\|5\|\d+s\n$`)
	if !want.MatchString(got) {
		t.Errorf("kubectl get dlqreplays shows\n%s", got)
	}
	if out := kubectl(t, "get", "playbook"); !strings.Contains(out, "dlqreplay.playbook.1pass.dev/seen") {
		t.Errorf("kubectl get playbook shows\n%s", out)
	}
}

func deployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	d, err := kube.AppsV1().Deployments(world.Namespace).Get(t.Context(), "playbook-manager", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The API server admits a Deployment without checking its pods. A pod that breaks its namespace's rule is refused
// later, when nobody looks.
func TestTheManagersPodKeepsToItsNamespacesRestrictedRule(t *testing.T) {
	t.Parallel()
	template := deployment(t).Spec.Template
	admit := func(spec corev1.PodSpec) error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "playbook-manager-", Labels: template.Labels},
			Spec: spec}
		_, err := kube.CoreV1().Pods(world.Namespace).Create(t.Context(), pod,
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	if err := admit(template.Spec); err != nil {
		t.Errorf("the pod is refused: %v", err)
	}
	for name, spoil := range map[string]func(*corev1.PodSpec){
		"may be root":          func(s *corev1.PodSpec) { s.SecurityContext.RunAsNonRoot = nil },
		"no seccomp":           func(s *corev1.PodSpec) { s.SecurityContext.SeccompProfile = nil },
		"privilege escalation": func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil },
		"capabilities":         func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.Capabilities = nil },
		"the host's network":   func(s *corev1.PodSpec) { s.HostNetwork = true },
	} {
		spec := template.Spec.DeepCopy()
		spoil(spec)
		if err := admit(*spec); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

func TestTheManagerRunsAsTheDeploymentSays(t *testing.T) {
	t.Parallel()
	container := deployment(t).Spec.Template.Spec.Containers[0]
	manager, err := w.Manager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.CommandContext(t.Context(), manager, "-h").CombinedOutput()
	if err != nil {
		t.Fatalf("manager -h: %v\n%s", err, help)
	}
	var args []string
	elects := false
	for _, arg := range container.Args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !regexp.MustCompile(`(?m)^  -` + regexp.QuoteMeta(name) + `( |$)`).Match(help) {
			t.Errorf("the manager has no flag %s:\n%s", arg, help)
		}
		elects = elects || arg == "--leader-elect"
		args = append(args, strings.ReplaceAll(arg, "$(NAMESPACE)", world.Namespace))
	}
	if *deployment(t).Spec.Replicas > 1 && !elects {
		t.Errorf("several managers without --leader-elect: %v", container.Args)
	}
	// The README's overlay replaces this one.
	if !strings.HasPrefix(container.Args[1], "--namespaces=") {
		t.Errorf("args/1 is %q", container.Args[1])
	}
	if text := fmt.Sprintf(`(default ":%d")`, container.Ports[0].ContainerPort); !strings.Contains(string(help), text) {
		t.Errorf("the probes' port is not the manager's default, %s:\n%s", text, help)
	}

	port, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	process, err := w.StartManager(t.Context(), "manager-probed", append(args, "--health-probe-bind-address="+address)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
		err := process.AwaitReady(ctx, func(context.Context) error {
			response, err := http.Get("http://" + address + probe.HTTPGet.Path)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s answers %s", probe.HTTPGet.Path, response.Status)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// may asks the API server, as `kubectl auth can-i --as` does.
func may(t *testing.T, user, namespace, verb, resource string) bool {
	t.Helper()
	resource, subresource, _ := strings.Cut(resource, "/")
	group := "playbook.1pass.dev"
	if resource == "secrets" {
		group = ""
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:   user,
		Groups: []string{"system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: verb, Group: group, Resource: resource, Subresource: subresource,
		},
	}}
	got, err := kube.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Status.Allowed
}

func TestEachPersonMayWhatTheirRoleSays(t *testing.T) {
	t.Parallel()
	const namespace = "identity-team"
	kubectl(t, "create", "namespace", namespace)
	type act struct{ verb, resource string }
	look := []act{{"get", "dlqreplays"}, {"list", "dlqreplays"}, {"watch", "dlqreplays"}, {"list", "keycompromises"},
		{"get", "platforms"}, {"list", "platforms"}, {"watch", "platforms"}}
	run := []act{{"create", "dlqreplays"}, {"update", "dlqreplays"}, {"patch", "dlqreplays"}, {"delete", "dlqreplays"},
		{"create", "keycompromises"}, {"patch", "keycompromises"}}
	own := []act{{"create", "platforms"}, {"update", "platforms"}, {"patch", "platforms"}, {"delete", "platforms"}}
	nobody := []act{{"get", "secrets"}, {"patch", "dlqreplays/status"}, {"patch", "keycompromises/status"},
		{"patch", "platforms/status"}, {"deletecollection", "dlqreplays"}}
	for role, c := range map[string]struct {
		may, mayNot [][]act
		builtIn     string
	}{
		"playbook-viewer":    {[][]act{look}, [][]act{run, own, nobody}, "view"},
		"playbook-responder": {[][]act{look, run}, [][]act{own, nobody}, "edit"},
		"playbook-owner":     {[][]act{look, run, own}, [][]act{nobody}, "admin"},
	} {
		user := "a-" + role
		kubectl(t, "create", "rolebinding", user, "--namespace="+namespace, "--clusterrole="+role, "--user="+user)
		awaitMay(t, user, namespace, "get", "dlqreplays")
		for want, lists := range map[bool][][]act{true: c.may, false: c.mayNot} {
			for _, acts := range lists {
				for _, a := range acts {
					if got := may(t, user, namespace, a.verb, a.resource); got != want {
						t.Errorf("%s may %s %s: %v, want %v", role, a.verb, a.resource, got, want)
					}
				}
			}
		}
		if may(t, user, "default", "get", "dlqreplays") {
			t.Errorf("%s reaches into another namespace", role)
		}
		aggregated(t, role, c.builtIn)
	}
	if out := kubectl(t, "auth", "can-i", "create", "dlqreplays", "--as=a-playbook-responder", "--namespace="+
		namespace); strings.TrimSpace(out) != "yes" {
		t.Errorf("kubectl auth can-i says %q", out)
	}
}

// awaitMay waits until the authorizer lets a user do something: it sees a binding a moment after it was created.
func awaitMay(t *testing.T, user, namespace, verb, resource string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !may(t, user, namespace, verb, resource); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s may not %s %s in %s", user, verb, resource, namespace)
		}
	}
}

// aggregated checks that a built-in role selects ours: the controller that adds its rules runs in real clusters only.
func aggregated(t *testing.T, role, builtIn string) {
	t.Helper()
	get := func(name string) *rbacv1.ClusterRole {
		r, err := kube.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ours := get(role)
	for _, s := range get(builtIn).AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			t.Fatal(err)
		}
		if selector.Matches(labels.Set(ours.Labels)) {
			return
		}
	}
	t.Errorf("%s is not part of %s: %v", role, builtIn, ours.Labels)
}

func TestTheManagerMayNothingBeyondTheNamespacesThatItWatches(t *testing.T) {
	t.Parallel()
	const manager = "system:serviceaccount:playbook-system:playbook-manager"
	awaitMay(t, manager, world.Namespace, "list", "platforms")
	for _, resource := range []string{"dlqreplays", "keycompromises", "platforms"} {
		for verb, want := range map[string]bool{"list": true, "watch": true, "create": resource != "platforms",
			"update": false, "delete": false} {
			if got := may(t, manager, world.Namespace, verb, resource); got != want {
				t.Errorf("the manager may %s %s: %v, want %v", verb, resource, got, want)
			}
			if may(t, manager, "default", verb, resource) || may(t, manager, "", verb, resource) {
				t.Errorf("the manager may %s %s in another namespace", verb, resource)
			}
		}
	}
	for verb, want := range map[string]bool{"get": true, "list": false, "watch": false, "create": false, "update": false,
		"delete": false} {
		if got := may(t, manager, world.Namespace, verb, "secrets"); got != want {
			t.Errorf("the manager may %s secrets: %v, want %v", verb, got, want)
		}
	}
	bindings, err := kube.RbacV1().ClusterRoleBindings().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, binding := range bindings.Items {
		for _, subject := range binding.Subjects {
			if subject.Name == world.ServiceAccount {
				t.Errorf("the manager is bound cluster-wide by %s", binding.Name)
			}
		}
	}
}

// As the README says: config/rbac/watched is a base of its own.
func TestAnotherNamespaceIsWatchedByAnOverlay(t *testing.T) {
	t.Parallel()
	const namespace = "identity"
	kubectl(t, "create", "namespace", namespace)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Rel(dir, filepath.Join(here, "rbac", "watched"))
	if err != nil {
		t.Fatal(err)
	}
	overlay := fmt.Sprintf("namespace: %s\nresources:\n- %s\n", namespace, base)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o644); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-k", dir)
	const manager = "system:serviceaccount:playbook-system:playbook-manager"
	for verb, resource := range map[string]string{"list": "platforms", "patch": "dlqreplays/status", "get": "secrets"} {
		awaitMay(t, manager, namespace, verb, resource)
	}
}
