package uninstall_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// A scene is a cluster with objects in each state, and the manager that brought them there.
type scene struct {
	*testing.T
	*cluster
	site    *world.Site
	manager *servers.Process
	db      *pgx.Conn
	// stopNamespaces ends what plays the namespace controller.
	stopNamespaces context.CancelFunc
}

const (
	// acme's replays go on or wait, globex' key is cached for long, initech's is not.
	globex, acme, initech = 41, 42, 43
	// careful is a Platform that asks for approvals, and orphaned is one that is deleted while it is used.
	careful, orphaned = "careful", "orphaned"
)

// newScene takes a cluster, and brings objects into each state there.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, cluster: <-pool}
	var ctx context.Context
	ctx, s.stopNamespaces = context.WithCancel(context.Background())
	go s.endNamespace(ctx)
	t.Cleanup(s.end)
	var err error
	config := logi.Config{JWKSMaxAge: time.Second, Backoff: []time.Duration{time.Second}}
	if s.site, err = s.NewSite(t.Context(), "production", config); err != nil {
		t.Fatal(err)
	}
	if s.db, err = pgx.Connect(t.Context(), s.site.URLAs("")); err != nil {
		t.Fatal(err)
	}
	for id, name := range map[int64]string{globex: "globex", acme: "acme", initech: "initech"} {
		if err := s.site.CreateApplication(t.Context(), id, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.site.SeedDead(t.Context(), acme, 500, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	if s.manager, err = s.StartManager(t.Context(), "manager", "--leader-elect"); err != nil {
		t.Fatal(err)
	}
	s.apply(s.platforms() + s.playbooks())
	for name, reason := range map[string]string{
		"replay-running": v1alpha1.ReasonRequeuing, "replay-waiting": v1alpha1.ReasonSuspended,
		"replay-stalled": v1alpha1.ReasonPlanTooLarge, "replay-finished": v1alpha1.ReasonPlanOnly,
		"replay-held": v1alpha1.ReasonWaitingForApproval, "replay-orphaned": v1alpha1.ReasonWaitingForApproval,
		"key-running": v1alpha1.ReasonWaitingForCaches, "key-waiting": v1alpha1.ReasonWaitingForApproval,
		"key-stalled": v1alpha1.ReasonUnknownKid, "key-finished": v1alpha1.ReasonSucceeded,
		"key-held": v1alpha1.ReasonWaitingForApproval, "key-orphaned": v1alpha1.ReasonWaitingForApproval,
		"incident-running": "", "incident-waiting": "", "incident-finished": v1alpha1.ReasonSucceeded,
		"incident-held": "", "incident-orphaned": "",
	} {
		s.await(name, reason)
	}
	s.acknowledge("incident-waiting")
	// What was begun on it can't be closed any more, whether it is deleted now or later.
	s.kubectl("delete", "platform", orphaned)
	s.kubectl("delete", "dlqr/replay-held", "keyc/key-held", "inc/incident-held", "--wait=false")
	return s
}

// platforms are the manifests of the Platforms.
func (s *scene) platforms() string {
	manifest := strings.Replace(s.site.IncidentManifest(), "  autoOpen: [Outage]\n", "", 1)
	manifest = strings.Replace(manifest, "name: globex}", "name: globex, jwksCacheSeconds: 3600}", 1)
	for _, name := range []string{careful, orphaned} {
		copied := strings.ReplaceAll(s.site.Manifest(), "name: production", "name: "+name)
		copied = strings.ReplaceAll(copied, "platform: production", "platform: "+name)
		manifest += copied + `  requireApproval:
  - {kind: DLQReplay, step: Requeued}
  - {kind: KeyCompromise, step: Revoked}
  - {kind: Incident, step: KeyCompromised}
`
		// One pager, whose alert the Platform production's Incidents don't share.
		manifest += fmt.Sprintf(`  oncall:
    tiers: [{name: %[1]s-engineer, notify: [{type: PagerDuty, secretRef: {name: %[1]s-pagerduty}}]}]
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s-pagerduty, namespace: %[2]s, labels: {playbook.1pass.dev/platform: %[1]s}}
stringData: {routingKey: %[3]s, url: %[4]s/pagerduty/v2/enqueue}
`, name, world.Namespace, world.RoutingKey, s.site.URL())
	}
	return manifest
}

// playbooks are the manifests of the objects.
func (s *scene) playbooks() string {
	kids := map[int64]string{}
	rows, err := s.db.Query(s.Context(), `SELECT oauth_application_id, kid FROM webhook_signing_keys`)
	if err != nil {
		s.Fatal(err)
	}
	var application int64
	var kid string
	if _, err := pgx.ForEachRow(rows, []any{&application, &kid}, func() error {
		kids[application] = kid
		return nil
	}); err != nil {
		s.Fatal(err)
	}
	var all strings.Builder
	object := func(kind, name, platform, spec string, args ...any) {
		fmt.Fprintf(&all, "---\n{apiVersion: playbook.1pass.dev/v1alpha1, kind: %s, metadata: {name: %s, namespace: %s}, "+
			"spec: {platformRef: {name: %s}, %s}}\n", kind, name, world.Namespace, platform, fmt.Sprintf(spec, args...))
	}
	replay := func(name, platform, spec string) {
		object("DLQReplay", "replay-"+name, platform, `applicationID: "%d"%s`, acme, spec)
	}
	replay("running", "production", ", ratePerSecond: 1, canary: {entries: 1}")
	replay("waiting", "production", ", suspend: true")
	replay("stalled", "production", ", maxEntries: 1")
	replay("finished", "production", ", mode: Plan")
	replay("held", orphaned, "")
	replay("orphaned", orphaned, "")
	key := func(name, platform string, application int64, kid string) {
		object("KeyCompromise", "key-"+name, platform, `applicationID: "%d", kid: %q, reason: found in a log`, application,
			kid)
	}
	key("running", "production", globex, kids[globex])
	key("waiting", careful, acme, kids[acme])
	key("stalled", "production", acme, "whk_that_nobody_has")
	key("finished", "production", initech, kids[initech])
	key("held", orphaned, acme, kids[acme])
	key("orphaned", orphaned, acme, kids[acme])
	incident := func(name, platform, spec string) {
		object("Incident", "incident-"+name, platform, `summary: seen by a person, %s`, spec)
	}
	incident("running", "production", "category: Outage, severity: sev1")
	incident("waiting", "production", "category: Unclassified, severity: sev2")
	incident("finished", "production", "category: MergeInconsistency, severity: sev3, resolution: {by: dana, summary: "+
		"none}")
	incident("held", orphaned, "category: Outage, severity: sev1")
	incident("orphaned", orphaned, `category: KeyExposure, affected: {applicationIDs: ["42"], kid: whk_exposed}`)
	return all.String()
}

// acknowledge lets an Incident wait for its resolution.
func (s *scene) acknowledge(name string) {
	s.Helper()
	s.kubectl("patch", "incident", name, "--type=merge",
		`--patch={"spec":{"acknowledgement":{"by":"dana","severity":"sev2"}}}`)
	eventually(s.T, time.Minute, name+" to be acknowledged", func() (bool, string) {
		obj, err := s.object(s.Context(), name)
		if err != nil {
			s.Fatal(err)
		}
		at := obj.(*v1alpha1.Incident).Status.AcknowledgedAt
		return at != nil, "it is not"
	})
}

// object reads an object of any kind by its name, which begins with the kind.
func (s *scene) object(ctx context.Context, name string) (playbook.Object, error) {
	kind, _, _ := strings.Cut(name, "-")
	obj := map[string]playbook.Object{
		"replay": &v1alpha1.DLQReplay{}, "key": &v1alpha1.KeyCompromise{}, "incident": &v1alpha1.Incident{},
	}[kind]
	return obj, s.admin.Get(ctx, client.ObjectKey{Namespace: world.Namespace, Name: name}, obj)
}

// await waits until an object is in a state by Ready's reason. An Incident that goes on has paged somebody instead.
func (s *scene) await(name, reason string) {
	s.Helper()
	eventually(s.T, time.Minute, name+" to be "+reason, func() (bool, string) {
		obj, err := s.object(s.Context(), name)
		if err != nil {
			s.Fatal(err)
		}
		ready := meta.FindStatusCondition(*obj.GetConditions(), v1alpha1.ConditionReady)
		if ready == nil {
			return false, "no status"
		}
		holds := ready.Reason == reason
		if incident, ok := obj.(*v1alpha1.Incident); ok && reason == "" {
			holds = incident.Status.PagedAt != nil
		}
		// A finished one may keep the finalizer for a moment.
		holds = holds && len(obj.GetFinalizers()) == 1 != playbook.Finished(obj)
		return holds, fmt.Sprintf("%s: %s, finalizers %v", ready.Reason, ready.Message, obj.GetFinalizers())
	})
}

func (s *scene) apply(manifest string) {
	s.Helper()
	if _, err := s.KubectlInput(s.Context(), manifest, "apply", "-f", "-"); err != nil {
		s.Fatal(err)
	}
}

// kubectl runs in the namespace of the install.
func (s *scene) kubectl(args ...string) string {
	s.Helper()
	out, err := s.Kubectl(s.Context(), append([]string{"--namespace=" + world.Namespace}, args...)...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// eventually waits until a condition holds. The condition also returns the present state, for the failure.
func eventually(t *testing.T, deadline time.Duration, what string, holds func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(100 * time.Millisecond) {
		ok, instead := holds()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s: %s", deadline, what, instead)
		}
	}
}
