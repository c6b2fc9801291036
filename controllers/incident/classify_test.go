package incident_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// opened applies an Incident as the Opener does for what signals say.
func (s *scene) opened(name, spec string, severity v1alpha1.Severity, condition string) string {
	s.Helper()
	name = s.open(name, spec)
	s.patch(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:%q,%q:%q}}}`,
		v1alpha1.AnnotationSeenSeverity, severity, v1alpha1.AnnotationSeenBy, condition))
	return name
}

// Whoever opens it passes on what was seen: a signal that is good again a second later changes neither the severity nor
// who is paged.
func TestWhatWasSeenWhenItOpenedCountsAlsoIfItIsGoodByNow(t *testing.T) {
	s := newScene(t, "classify-seen")
	s.good()
	name := s.opened("inc", "{category: Outage, summary: /up answers HTTP 502}", v1alpha1.Sev1,
		v1alpha1.ConditionUpAnswers)
	s.pass(name)
	obj := s.get(name)
	if obj.Status.Severity != v1alpha1.Sev1 || obj.Status.ConfirmedBy != v1alpha1.ConditionUpAnswers {
		t.Errorf("it is %s, confirmed by %q", obj.Status.Severity, obj.Status.ConfirmedBy)
	}
	s.expectPages("oncall 1 triggered")
	s.untouched("good")
	s.after(299*time.Second, name)
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	s.after(2*time.Second, name)
	s.expect(name, "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}

// Of a category only its own signals count; an Unclassified Incident may be about anything.
func TestOnlyTheSignalsOfItsOwnCategoryRaiseAnIncident(t *testing.T) {
	s := newScene(t, "classify-own")
	s.Server.Render().Push(logi.WebService, "new")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	for category, want := range map[v1alpha1.IncidentCategory]v1alpha1.Severity{
		v1alpha1.CategoryWebhookDelivery: v1alpha1.Sev3, v1alpha1.CategoryMergeInconsistency: v1alpha1.Sev3,
		v1alpha1.CategoryKeyMismatch: v1alpha1.Sev3, v1alpha1.CategoryKeyExposure: v1alpha1.Sev2,
		v1alpha1.CategoryUnclassified: v1alpha1.Sev1,
	} {
		facts := ""
		if category == v1alpha1.CategoryKeyExposure {
			facts = `, affected: {applicationIDs: ["42"], kid: whk_1}`
		}
		name := s.open(strings.ToLower(string(category)), fmt.Sprintf("{category: %s%s}", category, facts))
		s.pass(name)
		obj := s.get(name)
		if obj.Status.Severity != want || obj.Status.ConfirmedAt != nil {
			t.Errorf("%s is %s, confirmed at %v; want %s", category, obj.Status.Severity, obj.Status.ConfirmedAt, want)
		}
	}
	// The sev2 of KeyExposure, and the sev1 of Unclassified.
	s.expectPages("oncall 1 triggered", "oncall 1 triggered")
	s.untouched("new")
}

// A person's severity is final for the object. It confirms only by what is as severe.
func TestAPersonsSeverityIsFinalAndALesserSignalConfirmsNothing(t *testing.T) {
	s := newScene(t, "classify-person")
	s.sees(s.signal(v1alpha1.ConditionLatencyGood, metav1.ConditionFalse, v1alpha1.Sev2))
	name := s.open("inc", "{category: Outage, severity: sev1}")
	s.pass(name)
	if got := s.get(name).Status; got.Severity != v1alpha1.Sev1 || got.ConfirmedAt != nil {
		t.Errorf("it is %s, confirmed at %v", got.Severity, got.ConfirmedAt)
	}
	s.sees(s.signal(v1alpha1.ConditionLatencyGood, metav1.ConditionTrue, v1alpha1.Sev2))
	s.after(time.Hour, name)
	s.expect(name, "Mitigated Unknown NotConfirmed", "Resolved Unknown Pending")
	// An alert that fires, however late, confirms; what confirmed it first is written once.
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	s.pass(name)
	at := s.get(name).Status.ConfirmedAt
	s.after(time.Minute, name)
	if got := s.get(name).Status; got.ConfirmedBy != v1alpha1.ConditionUpAnswers || at == nil ||
		!got.ConfirmedAt.Equal(at) {
		t.Errorf("confirmed by %q at %v, and before that at %v", got.ConfirmedBy, got.ConfirmedAt, at)
	}
}
