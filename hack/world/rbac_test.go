package world_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// managerRoles are the Roles that config/default binds to the manager's ServiceAccount.
var managerRoles = []string{"playbook-leader-election", "playbook-manager"}

// permission is the smallest part of a Role that can be taken away.
type permission struct{ role, group, resource, verb string }

func (p permission) String() string {
	return strings.TrimSuffix(p.verb+" "+p.resource+"."+p.group, ".")
}

// refusal is the API server's message for a missing permission.
func (p permission) refusal() string {
	return fmt.Sprintf("cannot %s resource %q in API group %q", p.verb, p.resource, p.group)
}

// Each permission of the manager is taken away in turn, in a namespace of its own. If everything still works, the
// permission is not needed.
func TestTheManagerNeedsEachPermissionThatItHas(t *testing.T) {
	expectNoOtherBindings(t)
	var roles []rbacv1.Role
	var permissions []permission
	for _, name := range managerRoles {
		role := rbacv1.Role{}
		if err := kube.Get(t.Context(), client.ObjectKey{Namespace: world.Namespace, Name: name}, &role); err != nil {
			t.Fatal(err)
		}
		roles = append(roles, role)
		permissions = append(permissions, split(role)...)
	}
	kubeconfig, err := theWorld.ControlPlane.KubeconfigForServiceAccount(t.Context(), world.Namespace,
		world.ServiceAccount)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is dispatched, so a replay waits when all its entries are in flight.
	site := newSite(t, "rbac", logi.Config{ManualDispatch: true})

	var group sync.WaitGroup
	turn := make(chan struct{}, 5)
	for i, without := range append([]permission{{}}, permissions...) {
		turn <- struct{}{}
		group.Go(func() {
			defer func() { <-turn }()
			name := "without " + without.String()
			if without == (permission{}) {
				name = "with all permissions"
			}
			t.Run(name, func(t *testing.T) {
				trial := &trial{site: site, kubeconfig: kubeconfig, without: without, namespace: fmt.Sprintf("rbac-%d", i),
					application: int64(100 + i)}
				t.Cleanup(func() {
					for _, manager := range trial.managers {
						if err := manager.Stop(context.Background()); err != nil {
							t.Error(err)
						}
					}
				})
				if err := trial.prepare(t.Context(), roles); err != nil {
					t.Fatal(err)
				}
				chapter, err := trial.run(t.Context())
				switch {
				case without == (permission{}) && err != nil:
					t.Fatalf("%s: %v\n%s", chapter, err, trial.said(t.Context()))
				case without == (permission{}):
				case err == nil:
					t.Error("nothing failed: the permission is not needed")
				case !trial.refused(t.Context()):
					t.Errorf("%s: %v: that failed, and not because the API server refused\n%s", chapter, err, trial.said(t.Context()))
				case trial.unsaid != nil:
					t.Error(trial.unsaid)
				default:
					t.Logf("fails: %s: %v", chapter, err)
				}
			})
		})
	}
	group.Wait()
}

// expectNoOtherBindings fails if the ServiceAccount has permissions by other Roles than those that are tried.
func expectNoOtherBindings(t *testing.T) {
	t.Helper()
	isManager := func(s rbacv1.Subject) bool { return s.Name == world.ServiceAccount }
	var clusterwide rbacv1.ClusterRoleBindingList
	var bindings rbacv1.RoleBindingList
	if err := errors.Join(kube.List(t.Context(), &clusterwide), kube.List(t.Context(), &bindings)); err != nil {
		t.Fatal(err)
	}
	for _, b := range clusterwide.Items {
		if slices.ContainsFunc(b.Subjects, isManager) {
			t.Errorf("ClusterRoleBinding %s gives the manager rights in all namespaces", b.Name)
		}
	}
	var bound []string
	for _, b := range bindings.Items {
		if slices.ContainsFunc(b.Subjects, isManager) {
			bound = append(bound, b.RoleRef.Name)
		}
	}
	if slices.Sort(bound); !slices.Equal(bound, managerRoles) {
		t.Errorf("the manager is bound to %v rather than %v", bound, managerRoles)
	}
}

func split(role rbacv1.Role) []permission {
	var all []permission
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all = append(all, permission{role.Name, group, resource, verb})
				}
			}
		}
	}
	return all
}

// trial is the scenario in a namespace where the manager lacks one permission.
type trial struct {
	site        *world.Site
	kubeconfig  string
	without     permission
	namespace   string
	application int64
	managers    []*servers.Process
	replay      *v1alpha1.DLQReplay
	refusedAt   time.Time
	// unsaid is why an object did not say what the missing permission means for it; nil where it said that.
	unsaid error
}

// prepare makes the namespace with the Roles, the Platform and two dead entries.
func (s *trial) prepare(ctx context.Context, roles []rbacv1.Role) error {
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}}
	for _, role := range roles {
		granted := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: role.Name}}
		for _, rule := range role.Rules {
			for _, p := range split(rbacv1.Role{ObjectMeta: role.ObjectMeta, Rules: []rbacv1.PolicyRule{rule}}) {
				if p != s.without {
					granted.Rules = append(granted.Rules, rbacv1.PolicyRule{
						APIGroups: []string{p.group}, Resources: []string{p.resource}, Verbs: []string{p.verb},
						ResourceNames: rule.ResourceNames,
					})
				}
			}
		}
		objects = append(objects, granted, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: world.Namespace, Name: world.ServiceAccount}},
		})
	}
	for _, object := range objects {
		if err := kube.Create(ctx, object); err != nil {
			return err
		}
	}
	if err := s.site.CreateApplication(ctx, s.application, s.namespace); err != nil {
		return err
	}
	_, err := s.site.SeedDead(ctx, s.application, 2, "HTTP 503: Service Unavailable", 7)
	return err
}

// run goes through the whole life of a replay, a key and an Incident. It returns the chapter that failed.
func (s *trial) run(ctx context.Context) (chapter string, err error) {
	for _, c := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"a manager leads", s.lead},
		{"the Platform becomes ready", s.connect},
		{"a replay is suspended", s.create},
		{"it goes on", func(ctx context.Context) error {
			return s.change(ctx, `{"spec":{"suspend":false}}`, v1alpha1.ReasonRequeuing)
		}},
		{"it is suspended again", func(ctx context.Context) error {
			return s.change(ctx, `{"spec":{"suspend":true}}`, v1alpha1.ReasonSuspended)
		}},
		{"it goes on again", func(ctx context.Context) error {
			return s.change(ctx, `{"spec":{"suspend":false}}`, v1alpha1.ReasonRequeuing)
		}},
		{"the red button stops it",
			func(ctx context.Context) error { return s.press(ctx, "ObserveOnly", v1alpha1.ReasonAutomationOff) }},
		{"the red button is released",
			func(ctx context.Context) error { return s.press(ctx, "Enabled", v1alpha1.ReasonRequeuing) }},
		{"another manager takes over", s.takeOver},
		{"it goes on there", func(ctx context.Context) error {
			return s.change(ctx, `{"spec":{"maxInFlight":2}}`, v1alpha1.ReasonDelivering)
		}},
		{"a leaked key is ended", s.endKey},
		{"the replay is deleted", s.remove},
		{"the platform is down, and an Incident opens", s.fall},
	} {
		if err := c.run(ctx); err != nil {
			return c.name, err
		}
	}
	return "", nil
}

// start starts a manager. It uses list and watch as with an API server that can't stream a list, since only then are
// both permissions needed.
func (s *trial) start(ctx context.Context) error {
	binary, err := theWorld.Manager(ctx)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%d", s.namespace, len(s.managers))
	cmd := exec.Command(binary, "--kubeconfig="+s.kubeconfig, "--namespaces="+s.namespace, "--leader-elect",
		"--leader-election-namespace="+s.namespace, "--health-probe-bind-address=0")
	cmd.Env = []string{"KUBE_FEATURE_WatchListClient=false"}
	manager, err := servers.StartProcess(name, cmd, filepath.Join(theWorld.Dir, name+".log"))
	if err == nil {
		s.managers = append(s.managers, manager)
	}
	return err
}

func (s *trial) lead(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		return err
	}
	// If a watch is refused, the manager sees objects only in the lists after the first one.
	if err := s.await(ctx, "the controllers to work", func() bool {
		return strings.Count(s.managers[0].Log(), "Starting workers") == 6
	}); err != nil {
		return err
	}
	return s.await(ctx, "an event that says who leads", func() bool {
		var list corev1.EventList
		return kube.List(ctx, &list, client.InNamespace(s.namespace)) == nil &&
			slices.ContainsFunc(list.Items, func(e corev1.Event) bool { return e.Reason == "LeaderElection" })
	})
}

func (s *trial) held(ctx context.Context) bool {
	lease := &coordinationv1.Lease{}
	err := kube.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: "playbook-manager"}, lease)
	return err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != ""
}

func (s *trial) takeOver(ctx context.Context) error {
	if err := s.managers[0].Stop(ctx); err != nil {
		return err
	}
	if err := s.await(ctx, "the lease to be released", func() bool { return !s.held(ctx) }); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	return s.await(ctx, "the lease to be held", func() bool { return s.held(ctx) })
}

func (s *trial) connect(ctx context.Context) error {
	manifest := strings.ReplaceAll(s.site.Manifest(), "namespace: "+world.Namespace, "namespace: "+s.namespace)
	if _, err := theWorld.KubectlInput(ctx, manifest, "apply", "-f", "-"); err != nil {
		return err
	}
	if err := s.await(ctx, "the Platform to be Ready", func() bool {
		platform := &v1alpha1.Platform{}
		err := kube.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: s.site.Name}, platform)
		return err == nil && meta.IsStatusConditionTrue(platform.Status.Conditions, v1alpha1.ConditionReady)
	}); err != nil {
		return err
	}
	return s.await(ctx, "an event that says so", func() bool {
		var list eventsv1.EventList
		return kube.List(ctx, &list, client.InNamespace(s.namespace)) == nil &&
			slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
				return e.Regarding.Kind == "Platform" && e.Reason == v1alpha1.ReasonSucceeded
			})
	})
}

func (s *trial) create(ctx context.Context) error {
	s.replay = &v1alpha1.DLQReplay{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "replay"},
		Spec: v1alpha1.DLQReplaySpec{
			PlatformRef: v1alpha1.PlatformReference{Name: s.site.Name}, ApplicationID: fmt.Sprint(s.application),
			Suspend: new(true), MaxInFlight: 1, Canary: v1alpha1.ReplayCanary{Entries: new(int32(0))},
		},
	}
	if err := kube.Create(ctx, s.replay); err != nil {
		return err
	}
	return s.awaitReason(ctx, v1alpha1.ReasonSuspended)
}

func (s *trial) change(ctx context.Context, patch, reason string) error {
	if err := kube.Patch(ctx, s.replay, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		return err
	}
	return s.awaitReason(ctx, reason)
}

func (s *trial) press(ctx context.Context, automation, reason string) error {
	platform := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.site.Name}}
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"automation":%q}}`, automation))
	if err := kube.Patch(ctx, platform, patch); err != nil {
		return err
	}
	return s.awaitReason(ctx, reason)
}

func (s *trial) awaitReason(ctx context.Context, reason string) error {
	return s.await(ctx, "the replay to be "+reason, func() bool {
		if kube.Get(ctx, client.ObjectKeyFromObject(s.replay), s.replay) != nil {
			return false
		}
		ready := meta.FindStatusCondition(s.replay.Status.Conditions, v1alpha1.ConditionReady)
		return ready != nil && ready.Reason == reason
	})
}

// await waits for a condition. After the API server has refused the missing permission, the wait is short: what still
// works takes only seconds.
func (s *trial) await(ctx context.Context, what string, holds func() bool) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if holds() {
			return nil
		}
		if s.refusedAt.IsZero() && s.refused(ctx) {
			s.refusedAt = time.Now()
		}
		if now := time.Now(); now.After(end) || !s.refusedAt.IsZero() && now.After(s.refusedAt.Add(5*time.Second)) {
			return errors.New("did not happen in time: " + what)
		}
	}
}

func (s *trial) refused(ctx context.Context) bool {
	return strings.Contains(s.said(ctx), s.without.refusal())
}

// said is what the managers wrote to their logs and to conditions.
func (s *trial) said(ctx context.Context) string {
	var b strings.Builder
	for _, manager := range s.managers {
		b.WriteString(manager.Log())
	}
	platform := &v1alpha1.Platform{}
	if kube.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: s.site.Name}, platform) == nil {
		for _, c := range platform.Status.Conditions {
			b.WriteString(c.Message + "\n")
		}
	}
	return strings.ReplaceAll(b.String(), `\"`, `"`)
}
