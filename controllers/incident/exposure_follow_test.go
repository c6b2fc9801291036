package incident_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// byHand applies a KeyCompromise as a person does.
func (s *scene) byHand(name, application, kid string) *v1alpha1.KeyCompromise {
	s.Helper()
	k := &v1alpha1.KeyCompromise{}
	k.Namespace, k.Name = world.Namespace, s.Name+"-"+name
	k.Spec = v1alpha1.KeyCompromiseSpec{PlatformRef: v1alpha1.PlatformReference{Name: s.Name}, ApplicationID: application,
		Kid: kid, Reason: "found in a log"}
	if err := admin.Create(s.ctx, k); err != nil {
		s.Fatal(err)
	}
	return k
}

func (s *scene) deleteKey(k *v1alpha1.KeyCompromise) {
	s.Helper()
	if err := admin.Delete(s.ctx, k); err != nil {
		s.Fatal(err)
	}
}

// follows fails where an Incident follows another KeyCompromise.
func (s *scene) follows(name string, k *v1alpha1.KeyCompromise) {
	s.Helper()
	if got := s.get(name).Status.KeyCompromise; got == nil || got.Name != k.Name || got.UID != string(k.UID) {
		s.Errorf("it follows %+v rather than %s, %s", got, k.Name, k.UID)
	}
}

// To take one on changes nothing: no approval, and no red button, holds that up.
func TestAKeyCompromiseThatIsThereForTheKeyIsTakenOn(t *testing.T) {
	s := newScene(t, "taken").endsKeys()
	s.spec(`{"automation":"ObserveOnly"}`)
	s.byHand("other-application", "41", whk1)
	s.byHand("other-kid", "42", "whk_0")
	theirs := s.byHand("theirs", "42", whk1)
	name := s.alert("inc")
	s.pass(name)
	s.follows(name, theirs)
	s.expect(name, "KeyCompromised Unknown EndingKey")
	if got := len(s.compromises(s.ctx)); got != 3 {
		t.Errorf("there are %d KeyCompromises", got)
	}
	// One that waits for an approval shows its own command.
	s.report(theirs, "{conditions: "+is("Ready False WaitingForApproval: To approve: kubectl patch keycompromise "+
		"theirs")+"}")
	s.pass(name)
	s.expect(name, "KeyCompromised Unknown WaitingForApproval", "Ready False WaitingForApproval")
	if got := s.message(name, "Ready"); !strings.Contains(got, "To approve: kubectl patch keycompromise theirs") {
		t.Errorf("the row says %q", got)
	}
}

// Of several, the one that ends the key now.
func TestOfSeveralKeyCompromisesTheOneIsTakenOnThatWorks(t *testing.T) {
	s := newScene(t, "taken-which").endsKeys()
	stalled := s.byHand("a-stalled", "42", whk1)
	s.report(stalled, "{conditions: "+is("Stalled True UnknownKid: no", "Ready False UnknownKid: no")+"}")
	done := s.byHand("b-ready", "42", whk1)
	s.report(done, ready(time.Now().Add(-time.Hour)))
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	s.follows(name, done)
	s.expect(name, "KeyCompromised True Succeeded", "Resolved True Succeeded")
	working := s.byHand("c-working", "42", whk1)
	name = s.open("second", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	s.follows(name, working)
}

func TestAStalledKeyCompromiseShowsInTheIncidentWithItsMessage(t *testing.T) {
	s := newScene(t, "child-stalled").endsKeys()
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	s.report(s.one(), "{conditions: "+is("Stalled True UnknownKid: application 42 has no key of kid",
		"Ready False UnknownKid: application 42 has no key of kid")+"}")
	s.pass(name)
	s.expect(name, "KeyCompromised Unknown KeyCompromiseStalled", "Ready False KeyCompromiseStalled", "Stalled none")
	if got := s.message(name, "Ready"); !strings.Contains(got, "UnknownKid: application 42 has no key of kid") {
		t.Errorf("the row says %q", got)
	}
	// After the revocation, too.
	s.report(s.one(), `{revokedAt: "2026-11-27T06:00:00Z", conditions: `+is("Stalled True StillPublished: purge the CDN",
		"Ready False StillPublished: purge the CDN")+"}")
	s.pass(name)
	s.expect(name, "KeyCompromised True Succeeded", "Resolved Unknown KeyCompromiseStalled",
		"Ready False KeyCompromiseStalled")
	if got := s.message(name, "Ready"); !strings.Contains(got, "StillPublished: purge the CDN") {
		t.Errorf("the row says %q", got)
	}
}

// Somebody who deletes it may have had a reason.
func TestADeletedKeyCompromiseIsReportedAndNotMadeAgain(t *testing.T) {
	s := newScene(t, "child-gone").endsKeys()
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	made := s.one()
	s.deleteKey(made)
	for range 3 {
		s.after(time.Hour, name)
		s.none()
	}
	s.expect(name, "KeyCompromised Unknown ChildDeleted", "Ready False ChildDeleted")
	if got := s.message(name, "Ready"); !strings.Contains(got, "somebody deleted KeyCompromise "+made.Name) ||
		!strings.Contains(got, `Apply a KeyCompromise of application 42 and kid "whk_1"`) ||
		!strings.Contains(got, "kubectl") {
		t.Errorf("the row says %q", got)
	}
	if !s.warned(name, v1alpha1.ReasonChildDeleted, "somebody deleted KeyCompromise "+made.Name) {
		t.Errorf("no Warning says so: %q", s.events)
	}
	theirs := s.byHand("theirs", "42", whk1)
	s.pass(name)
	s.follows(name, theirs)
	s.report(theirs, `{revokedAt: "2026-11-27T06:00:00Z", conditions: `+is("Ready False WatchingJWKS: looks")+"}")
	s.pass(name)
	s.deleteKey(theirs)
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised True Succeeded", "Resolved Unknown ChildDeleted", "Ready False ChildDeleted")
	if got := s.message(name, "Ready"); !strings.Contains(got, "the key is revoked, and nobody proves") {
		t.Errorf("the row says %q", got)
	}
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(name)
	s.expect(name, "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}

func TestItClosesNotBeforeNoCacheMayHoldTheKey(t *testing.T) {
	s := newScene(t, "exposed-until").endsKeys()
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	s.report(s.one(), ready(until))
	after := s.pass(name)
	s.expect(name, "KeyCompromised True Succeeded", "Resolved Unknown WaitingForCaches", "Ready False WaitingForCaches")
	if got := s.message(name, "Ready"); !strings.Contains(got, until.UTC().Format(time.RFC3339)) {
		t.Errorf("the row says %q", got)
	}
	if left := time.Until(until); after > left+time.Second {
		t.Errorf("it comes back after %s, and caches are clear in %s", after, left)
	}
	s.after(59*time.Minute, name)
	s.expect(name, "Ready False WaitingForCaches")
	s.after(61*time.Second, name)
	s.expect(name, "Ready True Succeeded", "Resolved True Succeeded")
	s.expectPages("oncall 1 resolved")
}

func TestADeafRelyingPartyAloneLetsAPersonCloseIt(t *testing.T) {
	s := newScene(t, "exposed-deaf").endsKeys()
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	clear := time.Now().Add(time.Hour).Truncate(time.Second)
	says := func(published string) string {
		return fmt.Sprintf(`{revokedAt: "2026-11-27T06:00:00Z", exposedUntil: %q, conditions: %s}`,
			clear.UTC().Format(time.RFC3339), is("Ready False Notifying: acme answered 500", "Revoked True Succeeded: yes",
				"ReSigned True Succeeded: yes", "Published "+published, "RelyingPartyNotified Unknown Notifying: no",
				"Verified Unknown Pending: no", "CachesExpired Unknown Pending: no"))
	}
	s.report(s.one(), says("True Succeeded: yes"))
	s.pass(name)
	s.expect(name, "Resolved Unknown EndingKey")
	s.offset = time.Hour + time.Second
	s.report(s.one(), says("Unknown WatchingJWKS: a stale replica"))
	s.pass(name)
	s.expect(name, "Resolved Unknown EndingKey") // JWKS is ours
	s.report(s.one(), says("True Succeeded: yes"))
	s.pass(name)
	s.expect(name, "Resolved Unknown CachesClear", "Ready False CachesClear")
	for _, text := range []string{"caches clear since " + clear.UTC().Format(time.RFC3339), "acme answered 500",
		"patch incident " + name} {
		if got := s.message(name, "Ready"); !strings.Contains(got, text) {
			t.Errorf("the row does not say %q: %s", text, got)
		}
	}
	s.patch(name, `{"spec":{"resolution":{"by":"dana","summary":"acme is gone"}}}`)
	s.pass(name)
	s.expect(name, "Ready True Succeeded", "KeyCompromised True Succeeded")
	if got := s.one(); !got.DeletionTimestamp.IsZero() {
		t.Error("the KeyCompromise went with it")
	}
}

func TestAResolutionBeginsNothingAndLeavesWhatWasBegun(t *testing.T) {
	s := newScene(t, "exposed-resolved").endsKeys()
	name := s.alert("asked")
	s.pass(name)
	s.patch(name, fmt.Sprintf(`{"spec":{"resolution":{"by":"dana"},"approvals":[{"step":"KeyCompromised","digest":%q,
		"by":"dana"}]}}`, digest.FindString(s.message(name, "KeyCompromised"))))
	s.pass(name)
	s.none()
	s.expect(name, "Ready True Succeeded", "KeyCompromised False NotNeeded")
	name = s.open("begun", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	made := s.one()
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(name)
	s.expect(name, "Ready True Succeeded", "KeyCompromised False NotNeeded")
	if got := s.message(name, "KeyCompromised"); !strings.Contains(got, made.Name+" goes on by itself") {
		t.Errorf("it says %q", got)
	}
	s.one()
}

// Nobody knows what it did before. A KeyCompromise that is there says it; else a person has to.
func TestAKeyExposureThatLostItsStatusTakesOnWhatItMadeOrAsks(t *testing.T) {
	s := newScene(t, "exposed-wiped").endsKeys()
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	s.pass(name)
	made := s.one()
	s.wipe(name)
	s.pass(name)
	s.expect(name, "StatusLost True StatusLost", "KeyCompromised Unknown EndingKey")
	s.follows(name, made)
	s.deleteKey(made)
	s.wipe(name)
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised Unknown WaitingForApproval")
	if got := s.message(name, "Ready"); !strings.Contains(got, "status was lost") {
		t.Errorf("it says %q", got)
	}
	s.approveKey(name, digest.FindString(s.message(name, "KeyCompromised")))
	s.pass(name)
	s.one()
}

// What the release before this one began keeps the steps that it began with.
func TestAKeyExposureThatWasBegunWithoutTheStepEndsNoKey(t *testing.T) {
	s := newScene(t, "exposed-older").endsKeys()
	name := s.open("inc", fmt.Sprintf(exposed, whk1))
	obj := s.get(name)
	text := `{"status":{"conditions":[` + strings.Join([]string{earlier("Ready", "False", "Pending"),
		earlier("Classified", "Unknown", "Pending"), earlier("Escalated", "Unknown", "Pending"),
		earlier("Acknowledged", "Unknown", "Pending"), earlier("Triaged", "Unknown", "Pending"),
		earlier("Resolved", "Unknown", "Pending")}, ",") + `]}}`
	if err := admin.Status().Patch(s.ctx, obj, client.RawPatch(types.MergePatchType, []byte(text))); err != nil {
		t.Fatal(err)
	}
	s.pass(name)
	s.none()
	s.expect(name, "KeyCompromised none", "Resolved Unknown AwaitingResolution", "Triaged True Succeeded")
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(name)
	s.expect(name, "Ready True Succeeded")
}

func earlier(condition, status, reason string) string {
	return fmt.Sprintf(`{"type":%q,"status":%q,"reason":%q,"message":"","lastTransitionTime":"2026-11-01T00:00:00Z"}`,
		condition, status, reason)
}
