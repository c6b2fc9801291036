package keycompromise_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestARelyingPartyThatRefusesTheEventIsNamedAndHoldsUpNothingElse(t *testing.T) {
	s := newScene(t, "refuses", logi.Config{JWKSMaxAge: time.Second, Backoff: []time.Duration{time.Hour}})
	kid := s.kid()
	s.SetFault(acme, logi.Fault{Status: http.StatusUnauthorized, Body: "secret-words"})
	name := s.apply("key", kid, "notifyTimeoutSeconds: 5")
	s.Await(name, "revoked", func(k *v1alpha1.KeyCompromise) bool { return k.Status.SuccessorKid != "" })
	if _, err := s.Enqueue(s.Ctx, acme, 3); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitStalled(name, v1alpha1.ReasonNotNotified)
	message := stage.Condition(k, v1alpha1.StepRelyingPartyNotified).Message
	if !strings.Contains(message, "acme") || !strings.Contains(message, "+1 555 0100") ||
		!strings.Contains(message, "401") || strings.Contains(message, "secret-words") {
		t.Error(message)
	}
	for _, step := range []string{v1alpha1.StepPublished, v1alpha1.StepCachesExpired} {
		if c := stage.Condition(k, step); c.Status != metav1.ConditionTrue {
			t.Errorf("%s is %s: %s", step, c.Status, c.Message)
		}
	}
	if c := stage.Condition(k, v1alpha1.StepVerified); c.Status != metav1.ConditionUnknown {
		t.Errorf("Verified is %s: %s", c.Status, c.Message)
	}
	requeues := stage.Query[int64](s.Scene, `SELECT count(*) FROM playbook.event_requeues`)
	revived := stage.Query[int64](s.Scene, `SELECT count(*) FROM logi_test.requeues WHERE entry_id = $1::bigint`,
		k.Status.EventEntryID)
	if requeues == 0 || requeues != revived {
		t.Errorf("%d requeues in the ledger, %d in fact", requeues, revived)
	}
	s.SetFault(acme, logi.Fault{})
	s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"notifyTimeoutSeconds":600}}`)
	s.request(name, "again")
	k = s.AwaitReady(name)
	if outcome := stage.Query[string](s.Scene,
		`SELECT outcome FROM playbook.operations WHERE kind = 'KeyCompromise'`); outcome != "complete" {
		t.Errorf("the operation is %s", outcome)
	}
	if k.Status.ReplayRef == nil {
		t.Fatal("the refused webhooks got no replay")
	}
	stage.Eventually(t, "the refused webhooks are delivered", func() bool {
		return stage.Query[int64](s.Scene, `SELECT count(*) FROM webhook_outbox_entries WHERE delivered_at IS NULL`) == 0
	})
	for key, n := range s.ReceivedKeys(acme) {
		if n != 1 {
			t.Errorf("%s was accepted %d times", key, n)
		}
	}
}
