package webhooks_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

const undelivered = `SELECT count(*) FROM webhook_outbox_entries WHERE delivered_at IS NULL`

func TestOnlyAFreshDeliveryProvesThatARelyingPartyReceives(t *testing.T) {
	s := newScene(t, "recover")
	s.SetFault(acme, logi.Fault{Status: 503})
	// What is dead for long is another story, and holds nothing up.
	s.dead(initech, 1, inBulk, 7)
	s.Exec(`UPDATE webhook_outbox_entries SET dlq_at = dlq_at - interval '2 days'`)
	s.dead(acme, 3, inBulk, 7)
	s.dead(acme, 2, conflict, 2)
	name := s.open("inc", "{}")
	// What was settled is the operator's own write, and proves nothing.
	s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSucceeded)
	s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonSignalsUnknown)
	s.enqueue(acme)
	s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonRelyingPartyDown)
	s.SetFault(acme, logi.Fault{})
	s.enqueue(acme)
	message := s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonSucceeded)
	s.says(message, "fresh webhooks arrive: application 42 at ", "is not sent again by itself")
	if got := s.count(undelivered); got != 5 {
		t.Fatalf("%d are undelivered, want the old one, the 3 that were dead and the one that died meanwhile", got)
	}
	s.typeIn(message)
	stage.Eventually(t, "all are delivered", func() bool { return s.count(undelivered) == 0 })
	s.step(name, v1alpha1.StepResolved, v1alpha1.ReasonAwaitingResolution)
	s.resolve(name)
}

func TestWithoutADatabaseNobodyKnowsWhetherItReceives(t *testing.T) {
	s := newScene(t, "recover-blind")
	s.platform(`{"spec":{"database":null}}`)
	name := s.open("inc", "{}")
	s.says(s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonNotNeeded), "has no spec.database")
	s.step(name, v1alpha1.StepResolved, v1alpha1.ReasonAwaitingResolution)
}

// Bulk failure that the signals confirm opens an Incident, which closes once nothing is dead that died since.
func TestBulkFailureClosesOnItsOwnEvidence(t *testing.T) {
	s := newScene(t, "recover-bulk")
	name := s.failInBulk()
	s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonRelyingPartyDown)
	s.SetFault(acme, logi.Fault{})
	s.SetFault(initech, logi.Fault{})
	s.enqueue(acme)
	s.enqueue(initech)
	s.typeIn(s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonSucceeded))
	// Without an attempt in its window the signal is Unknown, and closes nothing.
	stage.Eventually(t, "it is over", func() bool {
		s.enqueue(initech)
		return meta.IsStatusConditionTrue(s.Get(name).Status.Conditions, v1alpha1.ConditionReady)
	})
	stage.Eventually(t, "all are delivered", func() bool { return s.count(undelivered) == 0 })
	obj := s.Get(name)
	if obj.Status.MitigatedAt == nil || obj.Spec.Resolution != nil {
		t.Errorf("it ended as %+v", obj.Status)
	}
}

// An RP whose webhooks are only retried, and one whose dead letters somebody requeued, have not recovered: others that
// receive make the signal good, and say nothing of them.
func TestWhatOthersReceiveClosesNothing(t *testing.T) {
	s := newScene(t, "recover-others")
	name := s.failInBulk()
	s.Await(name, "both were seen", func(i *v1alpha1.Incident) bool { return len(i.Status.Applications) == 2 })
	// Nothing of acme is dead any more, as after a retry in the admin UI.
	s.Exec(`UPDATE webhook_outbox_entries SET dlq_at = NULL, attempts = 1,
		next_retry_at = localtimestamp + interval '1 hour' WHERE oauth_application_id = 42`)
	s.SetFault(initech, logi.Fault{})
	for range 3 {
		s.enqueue(initech)
	}
	s.Await(name, "initech receives, and acme does not", func(i *v1alpha1.Incident) bool {
		message := stage.Condition(i, v1alpha1.StepRecovered).Message
		return strings.Contains(message, "application 42") && !strings.Contains(message, "application 43")
	})
	if obj := s.Get(name); obj.Status.ResolvedAt != nil || obj.Status.MitigatedAt != nil {
		t.Errorf("it is over: %+v", obj.Status)
	}
}

// The signal is about all relying parties, and says nothing of one.
func TestAnIncidentAboutOneRelyingPartyIsNotConfirmedByOthers(t *testing.T) {
	s := newScene(t, "recover-one")
	s.platform(`{"spec":{"probes":{"intervalSeconds":1,"failures":1,"windowSeconds":10,"clearSeconds":2}}}`)
	s.SetFault(acme, logi.Fault{Status: 503})
	s.SetFault(initech, logi.Fault{Status: 503})
	s.enqueue(acme)
	s.enqueue(initech)
	stage.Eventually(t, "the signal is bad", func() bool {
		return meta.IsStatusConditionFalse(s.platform(`{}`).Status.Conditions, v1alpha1.ConditionWebhooksDelivered)
	})
	name := s.open("inc", `{affected: {applicationIDs: ["41"]}}`)
	s.step(name, v1alpha1.StepResolved, v1alpha1.ReasonAwaitingResolution)
	if status := s.Get(name).Status; status.ConfirmedAt != nil || status.Severity != v1alpha1.Sev3 {
		t.Errorf("it is %s, confirmed by %s", status.Severity, status.ConfirmedBy)
	}
}

// failInBulk lets both relying parties fail, and returns the Incident that opens for it.
func (s *scene) failInBulk() (name string) {
	s.Helper()
	s.platform(`{"spec":{"autoOpen":["WebhookDelivery"],` +
		`"probes":{"intervalSeconds":1,"failures":1,"windowSeconds":10,"clearSeconds":2}}}`)
	s.SetFault(acme, logi.Fault{Status: 503})
	s.SetFault(initech, logi.Fault{Status: 503})
	s.enqueue(acme)
	s.enqueue(initech)
	stage.Eventually(s.T, "an Incident opens", func() bool {
		for _, slot := range s.platform(`{}`).Status.Incidents {
			// The name is there before the Incident is.
			if slot.Category == v1alpha1.CategoryWebhookDelivery && slot.IncidentUID != "" {
				name = slot.Incident
			}
		}
		return name != ""
	})
	return name
}
