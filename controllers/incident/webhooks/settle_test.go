package webhooks_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

const settled = `SELECT count(*) FROM webhook_outbox_entries WHERE delivered_at IS NOT NULL`

func TestWhatARelyingPartyHasIsSettledWhileItIsDown(t *testing.T) {
	s := newScene(t, "settle")
	s.SetFault(acme, logi.Fault{Status: 503})
	s.dead(acme, 5, conflict, 2)
	s.dead(acme, 3, inBulk, 7)
	s.dead(initech, 2, conflict, 3)
	name := s.open("inc", "{}")
	s.says(s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSucceeded), "DLQReplay "+name+"-42-",
		"DLQReplay "+name+"-43-")
	if got := s.count(settled); got != 7 {
		t.Errorf("%d are delivered, want the 7 that they have", got)
	}
	if got := len(s.ReceivedKeys(acme)) + len(s.ReceivedKeys(initech)); got != 0 {
		t.Errorf("%d webhooks were sent", got)
	}
	made := s.replays()
	if len(made) != 2 || !metav1.IsControlledBy(&made[0], s.Get(name)) {
		t.Errorf("the replays are %+v", made)
	}
	s.resolve(name)
}

func TestRecommendMakesNoReplayAndShowsItsManifest(t *testing.T) {
	s := newScene(t, "settle-recommend")
	s.dead(acme, 2, conflict, 2)
	name := s.open("inc", "{webhookDelivery: {replay: Recommend}}")
	message := s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonNotNeeded)
	s.says(message, "Recommend", "To settle them: ")
	if got := s.replays(); len(got) != 0 {
		t.Fatalf("it made %+v", got)
	}
	s.typeIn(message)
	stage.Eventually(t, "what they have is settled", func() bool { return s.count(settled) == 2 })
}

func TestNothingIsSettledWithoutLeave(t *testing.T) {
	s := newScene(t, "settle-leave")
	s.platform(`{"spec":{"automation":"ObserveOnly"}}`)
	outage := s.Create(s.Object("outage", "{category: Outage}", map[string]any{}))
	s.dead(acme, 2, conflict, 2)
	name := s.open("inc", "{}")
	s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonAutomationOff)
	s.platform(`{"spec":{"automation":"Enabled"}}`)
	s.says(s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonWaitingForOutage), outage)
	if got := s.replays(); len(got) != 0 {
		t.Fatalf("it made %+v", got)
	}
	s.resolve(outage)
	s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSucceeded)
}

// Whoever opened it by itself needs evidence. What is less severe than the incident confirms nothing.
func TestAnAlertThatNothingConfirmsSettlesNothing(t *testing.T) {
	s := newScene(t, "settle-alert")
	s.dead(acme, 2, conflict, 2)
	alert := s.Object("inc", "{severity: sev2}", map[string]any{"category": "WebhookDelivery"})
	alert.SetAnnotations(map[string]string{v1alpha1.AnnotationSeenBy: v1alpha1.ConditionWebhooksDelivered,
		v1alpha1.AnnotationSeenSeverity: "sev3"})
	s.step(s.Create(alert), v1alpha1.StepConflictsSettled, v1alpha1.ReasonNotConfirmed)
	if got := s.replays(); len(got) != 0 {
		t.Fatalf("it made %+v", got)
	}
}

func TestAReplayThatWasDeletedIsReportedAndNotMadeAgain(t *testing.T) {
	s := newScene(t, "settle-deleted")
	s.waitForApprovals()
	s.dead(acme, 2, conflict, 2)
	name := s.open("inc", "{}")
	s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSettling)
	made := s.replays()[0]
	if err := shared.Kube.Delete(s.Ctx, &made); err != nil {
		t.Fatal(err)
	}
	s.says(s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonNotNeeded), "was deleted", "is not made again")
	if got := s.replays(); len(got) != 0 {
		t.Errorf("it made %+v", got)
	}
	if got := s.count(settled); got != 0 {
		t.Errorf("%d are delivered", got)
	}
}

// The Incident's status is lost after the Create: the next pass finds the one that it made.
func TestAReplayThatWasMadeIsFoundAgain(t *testing.T) {
	s := newScene(t, "settle-again")
	s.waitForApprovals()
	s.dead(acme, 2, conflict, 2)
	name := s.open("inc", "{}")
	s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSettling)
	before := s.replays()
	s.forgetReplays(name)
	s.Change(name, `{"spec":{"severity":"sev2"}}`)
	s.Await(name, "the replay again", func(i *v1alpha1.Incident) bool { return len(i.Status.Replays) == 1 })
	if after := s.replays(); len(before) != 1 || len(after) != 1 || before[0].UID != after[0].UID {
		t.Errorf("there was %+v, and is %+v", before, after)
	}
}

func TestAnApplicationHasOneReplayAtATime(t *testing.T) {
	s := newScene(t, "settle-one")
	s.waitForApprovals()
	s.dead(acme, 2, conflict, 2)
	first := s.open("first", `{affected: {applicationIDs: ["42"]}}`)
	s.step(first, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSettling)
	second := s.open("second", "{}")
	s.says(s.step(second, v1alpha1.StepConflictsSettled, v1alpha1.ReasonWaitingForOther), "of Incident/"+first)
	if got := s.replays(); len(got) != 1 {
		t.Fatalf("there are %+v", got)
	}
	s.platform(`{"spec":{"requireApproval":null}}`)
	s.step(first, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSucceeded)
	// Its own has nothing left to settle, or it sees before that nothing is dead of it any more.
	s.Await(second, "the end of its step", func(i *v1alpha1.Incident) bool {
		c := stage.Condition(i, v1alpha1.StepConflictsSettled)
		return c.Reason == v1alpha1.ReasonSucceeded || c.Reason == v1alpha1.ReasonPending
	})
	if got := s.count(settled); got != 2 {
		t.Errorf("%d are delivered", got)
	}
}

// waitForApprovals holds each DLQReplay up.
func (s *scene) waitForApprovals() {
	s.Helper()
	s.platform(`{"spec":{"requireApproval":[{"kind":"DLQReplay","step":"Requeued"}]}}`)
}

// forgetReplays takes what an Incident made out of its status.
func (s *scene) forgetReplays(name string) {
	s.Helper()
	out, err := shared.Kubectl(s.Ctx, "-n", s.Get(name).Namespace, "patch", "incident", name, "--subresource=status",
		"--type=merge", "-p", `{"status":{"replays":null}}`)
	if err != nil || !strings.Contains(out, "patched") {
		s.Fatalf("%s: %v", out, err)
	}
}

// No application has an id beyond a bigint. The row says so, and a person closes the Incident.
func TestAnApplicationThatCanNotExistIsNamed(t *testing.T) {
	s := newScene(t, "settle-id")
	name := s.open("inc", `{affected: {applicationIDs: ["9999999999999999999"]}}`)
	s.says(s.step(name, v1alpha1.StepDiagnosed, v1alpha1.ReasonSpecInvalid), "9999999999999999999", "oauth_applications")
	s.resolve(name)
}
