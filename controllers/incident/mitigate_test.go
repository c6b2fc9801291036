package incident_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	upAnswers    = v1alpha1.ConditionUpAnswers
	tokensIssued = v1alpha1.ConditionTokensIssued
	latencyGood  = v1alpha1.ConditionLatencyGood
)

// A signal that became unknown keeps the incident open, and its row says what a person can do.
func TestASignalThatBecameUnknownKeepsTheIncidentOpen(t *testing.T) {
	for name, then := range map[string]func(*scene){
		"what was bad": func(s *scene) {
			s.sees(s.signal(upAnswers, metav1.ConditionUnknown, v1alpha1.Sev1), s.signal(tokensIssued, metav1.ConditionTrue,
				v1alpha1.Sev1))
		},
		"what was good": func(s *scene) {
			s.sees(s.signal(upAnswers, metav1.ConditionTrue, v1alpha1.Sev1), s.signal(tokensIssued, metav1.ConditionUnknown,
				v1alpha1.Sev1))
		},
		"one that is not asked any more": func(s *scene) { s.sees(s.signal(upAnswers, metav1.ConditionTrue, v1alpha1.Sev1)) },
		"probes that were removed":       func(s *scene) { s.spec(`{"probes":null}`); s.sees() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "mitigate-"+strings.ReplaceAll(name, " ", "-"))
			s.sees(s.signal(upAnswers, metav1.ConditionFalse, v1alpha1.Sev1), s.signal(tokensIssued, metav1.ConditionTrue,
				v1alpha1.Sev1))
			inc := s.open("inc", "{category: Outage, outage: {rollback: Never}, notice: Withhold}")
			s.pass(inc)
			then(s)
			s.pass(inc)
			s.after(10*time.Minute, inc)
			s.expect(inc, "Mitigated Unknown SignalsUnknown", "Ready False SignalsUnknown")
			s.expectPages("oncall 1 triggered")
			if row := s.row(inc); !strings.Contains(row, "unknown now") || !strings.Contains(row, "patch incident "+inc) {
				t.Errorf("the row is %s", row)
			}
			s.patch(inc, `{"spec":{"resolution":{"by":"dana"}}}`)
			s.pass(inc)
			s.expect(inc, "Mitigated False NotNeeded", "Ready True Succeeded")
			s.expectPages("oncall 1 resolved")
		})
	}
}

// What was unknown since before the onset says nothing about this outage.
func TestASignalThatWasUnknownAllAlongHoldsNothingUp(t *testing.T) {
	s := newScene(t, "mitigate-never-known")
	unknown := s.signal(latencyGood, metav1.ConditionUnknown, v1alpha1.Sev2)
	s.sees(s.signal(upAnswers, metav1.ConditionFalse, v1alpha1.Sev1), unknown)
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	s.offset += time.Minute
	s.sees(s.signal(upAnswers, metav1.ConditionTrue, v1alpha1.Sev1), unknown)
	s.after(299*time.Second, name)
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	s.after(2*time.Second, name)
	s.expect(name, "Mitigated True Succeeded", "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}

// After a restart all is unknown at first, and the time that it has to be good begins anew.
func TestARestartBeginsTheWaitForGoodSignalsAnew(t *testing.T) {
	s := newScene(t, "mitigate-restart")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	s.good()
	s.after(299*time.Second, name)
	s.sees(s.signal(upAnswers, metav1.ConditionUnknown, v1alpha1.Sev1))
	s.after(10*time.Second, name)
	s.expect(name, "Mitigated Unknown SignalsUnknown")
	s.good()
	s.after(299*time.Second, name)
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	s.expectPages("oncall 1 triggered")
	s.after(2*time.Second, name)
	s.expect(name, "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}

// What no signal ever confirmed waits for a person, and its row has the command.
func TestAnOutageThatOnlyAPersonSawWaitsForAPerson(t *testing.T) {
	s := newScene(t, "mitigate-reported")
	s.good()
	s.offset += time.Hour
	name := s.open("inc", "{category: Outage, summary: customers call}")
	s.pass(name)
	s.after(24*time.Hour, name)
	s.expect(name, "Mitigated Unknown NotConfirmed", "Resolved Unknown Pending")
	command := "kubectl -n " + world.Namespace + " patch incident " + name + ` --type=merge -p '{"spec":{"resolution":`
	if row := s.row(name); !strings.Contains(row, command) {
		t.Errorf("the row has no command: %s", row)
	}
	s.expectPages("oncall 1 triggered")
	s.untouched("good")
	s.patch(name, `{"spec":{"resolution":{"by":"dana"}}}`)
	s.pass(name)
	s.expect(name, "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}

// An alert that fires later confirms it, and from then on it closes by itself.
func TestAnOutageThatAnAlertConfirmsLaterClosesByItself(t *testing.T) {
	s := newScene(t, "mitigate-later")
	s.good()
	name := s.open("inc", "{category: Outage, outage: {rollback: Never}}")
	s.pass(name)
	s.after(time.Hour, name)
	s.expect(name, "Mitigated Unknown NotConfirmed")
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	s.pass(name)
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	s.good()
	s.after(299*time.Second, name)
	s.expect(name, "Mitigated Unknown AwaitingMitigation")
	s.after(2*time.Second, name)
	s.expect(name, "Mitigated True Succeeded", "Ready True Succeeded")
	s.expectPages("oncall 1 resolved")
}
