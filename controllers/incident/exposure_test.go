package incident_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/keycompromise"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	// exposed is what a person reports of a key.
	exposed = `{category: KeyExposure, summary: private key found in a CI log,
		affected: {applicationIDs: ["42"], kid: %s}}`
	whk1 = "whk_1"
)

// compromises are the KeyCompromises of the scene's Platform.
func (s *scene) compromises(ctx context.Context) (found []v1alpha1.KeyCompromise) {
	s.Helper()
	var list v1alpha1.KeyCompromiseList
	if err := admin.List(ctx, &list, client.InNamespace(world.Namespace)); err != nil {
		s.Errorf("listing KeyCompromises: %v", err)
	}
	for _, k := range list.Items {
		if k.Spec.PlatformRef.Name == s.Name {
			found = append(found, k)
		}
	}
	return found
}

// one is the only KeyCompromise of the scene's Platform.
func (s *scene) one() *v1alpha1.KeyCompromise {
	s.Helper()
	found := s.compromises(s.ctx)
	if len(found) != 1 {
		s.Fatalf("there are %d KeyCompromises rather than one", len(found))
	}
	return &found[0]
}

// none fails where the key is ended by anything.
func (s *scene) none() {
	s.Helper()
	if found := s.compromises(s.ctx); len(found) != 0 {
		s.Errorf("there are %d KeyCompromises, such as %s", len(found), found[0].Name)
	}
}

// report patches what a KeyCompromise says of itself. status is YAML.
func (s *scene) report(k *v1alpha1.KeyCompromise, status string) {
	s.Helper()
	text, err := yaml.YAMLToJSON([]byte("{status: " + status + "}"))
	if err == nil {
		err = admin.Status().Patch(s.ctx, k, client.RawPatch(types.MergePatchType, text))
	}
	if err != nil {
		s.Fatalf("%s: %v", status, err)
	}
}

// is makes conditions, each written as "Condition Status Reason: message".
func is(conditions ...string) string {
	var texts []string
	for _, text := range conditions {
		head, message, _ := strings.Cut(text, ": ")
		words := strings.Fields(head)
		texts = append(texts, fmt.Sprintf("{type: %s, status: %q, reason: %s, message: %q, lastTransitionTime: "+
			"\"2026-11-27T06:00:00Z\"}", words[0], words[1], words[2], message))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// ready is what a KeyCompromise says that is Ready.
func ready(exposedUntil time.Time) string {
	return fmt.Sprintf(`{revokedAt: "2026-11-27T06:00:00Z", successorKid: whk_2, exposedUntil: %q, conditions: %s}`,
		exposedUntil.UTC().Format(time.RFC3339), is("Ready True Succeeded: no cache may hold it"))
}

// endsKeys lets the Platform end keys, by SQL.
func (s *scene) endsKeys() *scene {
	s.Helper()
	s.spec(fmt.Sprintf(`{"database":{"secretRef":{"name":"%[1]s-operator"},"signingSecretRef":{"name":"%[1]s-signer"}}}`,
		s.Name))
	return s
}

var digest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// approveKey approves what an Incident's message asks for.
func (s *scene) approveKey(name, digest string) {
	s.Helper()
	s.patch(name, fmt.Sprintf(`{"spec":{"approvals":[{"step":"KeyCompromised","digest":%q,"by":"dana"}]}}`, digest))
}

// alert opens a KeyExposure as an alert does.
func (s *scene) alert(name string) string {
	s.Helper()
	obj := &v1alpha1.Incident{}
	obj.Namespace, obj.Name = world.Namespace, s.Name+"-"+name
	obj.Annotations = map[string]string{v1alpha1.AnnotationSeenSeverity: "sev2", v1alpha1.AnnotationSeenBy: "KeyInLog"}
	obj.Spec = v1alpha1.IncidentSpec{
		PlatformRef: v1alpha1.PlatformReference{Name: s.Name}, Category: v1alpha1.CategoryKeyExposure,
		Affected: &v1alpha1.IncidentAffected{ApplicationIDs: []string{"42"}, Kid: whk1},
	}
	if err := admin.Create(s.ctx, obj); err != nil {
		s.Fatal(err)
	}
	return obj.Name
}

// A leaked key from the report to its proven end: on the real platform, with the real controllers of both kinds.
func TestAKeyThatAPersonReportsIsEndedAndTheIncidentClosesWhenThatIsProven(t *testing.T) {
	s := newScene(t, "exposed")
	if err := s.CreateApplication(s.ctx, 42, "acme"); err != nil {
		t.Fatal(err)
	}
	for suffix, role := range map[string]string{"operator": "playbook_operator", "signer": "playbook_signer"} {
		manifest := fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: %[1]s-%[2]s, namespace: %[3]s,
			labels: {playbook.1pass.dev/platform: %[1]s}}, stringData: {url: %[4]q}}`, s.Name, suffix, world.Namespace,
			s.URLAs(role))
		if _, err := w.KubectlInput(s.ctx, manifest, "apply", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	s.endsKeys()
	conn, err := pgx.Connect(s.ctx, s.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var kid string
	if err := conn.QueryRow(s.ctx, `SELECT kid FROM webhook_signing_keys`).Scan(&kid); err != nil {
		t.Fatal(err)
	}
	name := s.open("inc", fmt.Sprintf(exposed, kid))
	s.pass(name)
	s.expect(name, "Triaged True Succeeded", "KeyCompromised Unknown EndingKey", "Resolved Unknown EndingKey")
	s.expectPages("oncall 1 triggered")
	child := s.one()
	if len(child.OwnerReferences) > 0 || child.Labels[v1alpha1.LabelIncident] != string(s.get(name).UID) {
		t.Errorf("it has the owners %v, and the labels %v", child.OwnerReferences, child.Labels)
	}
	if got, want := child.Spec.Reason, "Incident "+name+": private key found in a CI log"; got != want {
		t.Errorf("its reason is %q, want %q", got, want)
	}
	if ref := s.get(name).Status.KeyCompromise; ref == nil || ref.Name != child.Name || ref.UID != string(child.UID) {
		t.Errorf("status.keyCompromise is %+v", ref)
	}
	connections := &access.Connections{Secrets: kube}
	t.Cleanup(connections.Close)
	keys := &keycompromise.Reconciler{Client: kube, APIReader: kube, Recorder: s.recorder, Connections: connections}
	for end := time.Now().Add(2 * time.Minute); s.condition(name, "Ready") != "True Succeeded"; {
		if time.Now().After(end) {
			t.Fatalf("it does not close: %s", s.message(name, "Ready"))
		}
		if _, err := keys.Reconcile(s.ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(child)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.DispatchOnce(s.ctx); err != nil {
			t.Fatal(err)
		}
		s.pass(name)
	}
	s.expect(name, "KeyCompromised True Succeeded", "Resolved True Succeeded")
	s.expectPages("oncall 1 resolved")
	if got := s.message(name, "Ready"); !strings.Contains(got, child.Name) ||
		!strings.Contains(got, "no cache may hold it") {
		t.Errorf("the finished row says %q", got)
	}
	var left string
	if err := conn.QueryRow(s.ctx, `SELECT concat_ws(' ',
		(SELECT string_agg(status, ',' ORDER BY id) FROM webhook_signing_keys),
		(SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'
			AND delivered_at IS NOT NULL))`).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != "revoked,active 1" {
		t.Errorf("keys, and events that the relying party accepted, are %s", left)
	}
	// The proof outlives the Incident.
	if err := admin.Delete(s.ctx, s.get(name)); err != nil {
		t.Fatal(err)
	}
	if got := s.one(); got.UID != child.UID || !got.DeletionTimestamp.IsZero() {
		t.Errorf("it went with the Incident: %+v", got.ObjectMeta)
	}
}

func TestAnAlertEndsNoKeyWithoutAnApprovalOfExactlyThat(t *testing.T) {
	s := newScene(t, "exposed-alert").endsKeys()
	name := s.alert("inc")
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised Unknown WaitingForApproval", "Ready False WaitingForApproval")
	s.expectPages("oncall 1 triggered")
	asked := s.message(name, "Ready")
	for _, text := range []string{`kid "whk_1" of application 42`, "via: Database", "an alert opened this incident",
		"kubectl -n " + world.Namespace + " patch incident " + name} {
		if !strings.Contains(asked, text) {
			t.Errorf("it does not say %q: %s", text, asked)
		}
	}
	if !s.warned(name, v1alpha1.ReasonWaitingForApproval, `the end of kid "whk_1" of application 42`) {
		t.Errorf("no Warning says so: %q", s.events)
	}
	s.approveKey(name, "sha256:"+strings.Repeat("1", 64))
	s.pass(name)
	s.none()
	if got := s.message(name, "Ready"); !strings.Contains(got, "is for another digest") {
		t.Errorf("it says %q", got)
	}
	// What would be done is something else now, so that the approval of the first is none.
	s.approveKey(name, digest.FindString(asked))
	s.spec(`{"database":{"signingSecretRef":null},"commands":{"type":"RenderJob","service":"web"}}`)
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised Unknown WaitingForApproval")
	s.approveKey(name, digest.FindString(s.message(name, "KeyCompromised")))
	s.pass(name)
	if got := s.one().Spec; got.Via != v1alpha1.CompromiseViaCommand || got.Kid != whk1 || got.ApplicationID != "42" {
		t.Errorf("made was %+v", got)
	}
}

func TestARequiredApprovalHoldsAPersonsKeyExposureToo(t *testing.T) {
	s := newScene(t, "exposed-rule").endsKeys()
	s.spec(`{"requireApproval":[{"kind":"Incident","step":"KeyCompromised"}]}`)
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised Unknown WaitingForApproval")
	if got := s.message(name, "Ready"); !strings.Contains(got, "spec.requireApproval asks for it") {
		t.Errorf("it says %q", got)
	}
	s.approveKey(name, digest.FindString(s.message(name, "Ready")))
	s.pass(name)
	s.one()
}

// The red button is read before the effect, past the cache.
func TestObserveOnlyEndsNoKeyAndSaysSo(t *testing.T) {
	s := newScene(t, "exposed-observe").endsKeys()
	s.spec(`{"automation":"ObserveOnly"}`)
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised Unknown AutomationOff", "Ready False AutomationOff")
	s.expectPages("oncall 1 triggered")
	s.spec(`{"automation":"Enabled"}`)
	s.pass(name)
	s.one()
}

func TestAnOpenOutageHoldsAnAlertsKeyExposureAndNoPersons(t *testing.T) {
	s := newScene(t, "exposed-outage").endsKeys()
	s.good()
	outage := s.open("outage", "{category: Outage, rollback: Never}")
	s.pass(outage)
	name := s.alert("alert")
	s.pass(name)
	s.approveKey(name, digest.FindString(s.message(name, "KeyCompromised")))
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised Unknown WaitingForOutage", "Ready False WaitingForOutage")
	if got := s.message(name, "Ready"); !strings.Contains(got, outage) {
		t.Errorf("it does not name the Outage: %s", got)
	}
	// A person's one of the same key does not wait, and the alert's one takes on what it made.
	person := s.open("person", fmt.Sprintf(exposed, whk1))
	s.pass(person)
	made := s.one()
	s.pass(name)
	s.expect(name, "KeyCompromised Unknown EndingKey")
	if got := s.get(name).Status.KeyCompromise; got == nil || got.Name != made.Name || got.UID != string(made.UID) {
		t.Errorf("it follows %+v", got)
	}
	s.one()
}

func TestAnAlertsKeyExposureGoesOnWhenTheOutageIsOver(t *testing.T) {
	s := newScene(t, "exposed-after").endsKeys()
	s.good()
	outage := s.open("outage", "{category: Outage, rollback: Never}")
	name := s.alert("alert")
	s.pass(name)
	s.approveKey(name, digest.FindString(s.message(name, "KeyCompromised")))
	s.pass(name)
	s.none()
	s.pass(outage)
	s.patch(outage, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(outage)
	if after := s.after(0, name); after > time.Minute {
		t.Errorf("it comes back after %s", after)
	}
	s.one()
}

func TestWhatEndsTheKeyIsWhatThePlatformHas(t *testing.T) {
	s := newScene(t, "exposed-via")
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised False NotConfigured", "Stalled True NotConfigured", "Ready False NotConfigured")
	for _, text := range []string{"spec.database.signingSecretRef", "spec.commands"} {
		if got := s.message(name, "Ready"); !strings.Contains(got, text) {
			t.Errorf("it does not name %s: %s", text, got)
		}
	}
	s.pass(name)
	s.none()
	// With both, SQL: it is one transaction. Nobody has to ask it to go on.
	s.spec(`{"commands":{"type":"RenderJob","service":"web"},"database":{"signingSecretRef":{"name":"signer"}}}`)
	s.pass(name)
	s.expect(name, "Stalled none", "KeyCompromised Unknown EndingKey")
	if got := s.one().Spec.Via; got != v1alpha1.CompromiseViaDatabase {
		t.Errorf("it is ended via %s", got)
	}
}

// What the API refuses to have made is not tried again and again.
func TestAKidThatNoKeyCompromiseTakesStallsAndSaysWhy(t *testing.T) {
	s := newScene(t, "exposed-kid")
	s.spec(`{"commands":{"type":"RenderJob","service":"web"}}`)
	name := s.open("inc", fmt.Sprintf(exposed, `"whk,1"`))
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised False SpecInvalid", "Stalled True SpecInvalid")
	if got := s.message(name, "Ready"); !strings.Contains(got, "a rake can't be given a kid with a comma") {
		t.Errorf("it says %q", got)
	}
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(name)
	s.expect(name, "Ready True Succeeded", "KeyCompromised False NotNeeded")
}
