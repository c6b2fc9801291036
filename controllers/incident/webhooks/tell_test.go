package webhooks_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// notify gives acme these Slack channels.
func (s *scene) notify(channels ...string) {
	s.Helper()
	var all []string
	for _, channel := range channels {
		all = append(all, fmt.Sprintf(`{"type":"Slack","secretRef":{"name":%q}}`, s.slack(channel, channel)))
	}
	s.platform(fmt.Sprintf(`{"spec":{"relyingParties":[{"applicationID":"42","name":"acme","notify":[%s]},`+
		`{"applicationID":"43","name":"initech"}]}}`, strings.Join(all, ",")))
}

// othersReceive lets initech receive a webhook.
func (s *scene) othersReceive() {
	s.Helper()
	s.enqueue(initech)
	stage.Eventually(s.T, "initech receives", func() bool { return len(s.ReceivedKeys(initech)) > 0 })
}

// told opens an Incident, and waits until acme's on-call was told.
func (s *scene) told() (name string) {
	s.Helper()
	s.notify("acme-oncall")
	s.dead(acme, 1, inBulk, 7)
	s.othersReceive()
	name = s.open("inc", "{}")
	s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonSucceeded)
	return name
}

func TestARelyingPartyIsToldOnlyWhileOthersReceive(t *testing.T) {
	s := newScene(t, "tell")
	s.notify("acme-oncall")
	s.SetFault(acme, logi.Fault{Status: 503})
	s.dead(acme, 12, inBulk, 7)
	s.dead(initech, 3, inBulk, 7)
	name := s.open("inc", "{}")
	s.says(s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonNotTelling), "may be the platform's")
	if got := s.chats("acme-oncall"); len(got) != 0 {
		t.Fatalf("acme was told %q", got)
	}
	s.othersReceive()
	s.says(s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonSucceeded), "acme was told of ServerError at ",
		"nobody can tell application 43")
	got := s.chats("acme-oncall")
	if len(got) != 1 {
		t.Fatalf("acme was told %q", got)
	}
	s.says(got[0], "could not deliver webhooks to acme (application 42) since", "answers HTTP 5xx", "12")
	for _, secret := range []string{world.Namespace, "initech", "application 43", "kubectl", inBulk, name} {
		if strings.Contains(got[0], secret) {
			t.Errorf("it says %q: %q", secret, got[0])
		}
	}
	// Within a day nobody is told the same again.
	s.resolve(name)
	again := s.open("again", "{}")
	s.says(s.step(again, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonSucceeded), "acme was told of ServerError at ")
	if got := s.chats("acme-oncall"); len(got) != 1 {
		t.Errorf("acme was told again: %q", got)
	}
}

func TestARelyingPartyIsToldWhenItIsOver(t *testing.T) {
	s := newScene(t, "tell-over")
	name := s.told()
	s.enqueue(acme)
	s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonSucceeded)
	s.resolve(name)
	got := s.chats("acme-oncall")
	if len(got) != 2 {
		t.Fatalf("acme was told %q", got)
	}
	s.says(got[1], "delivers webhooks to acme (application 42) again")
}

// That webhooks arrived before is not over: acme breaks again before a person closes the Incident. The next one, with
// which they arrive, says so.
func TestARelyingPartyThatBrokeAgainIsNotToldThatItIsOver(t *testing.T) {
	s := newScene(t, "tell-again")
	name := s.told()
	s.enqueue(acme)
	s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonSucceeded)
	s.SetFault(acme, logi.Fault{Status: 503})
	s.enqueue(acme)
	stage.Eventually(t, "another one dies", func() bool {
		return s.count(`SELECT count(*) FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL`) == 2
	})
	s.resolve(name)
	if got := s.chats("acme-oncall"); len(got) != 1 {
		t.Fatalf("acme was told %q", got)
	}
	s.SetFault(acme, logi.Fault{})
	name = s.open("next", "{}")
	s.enqueue(acme)
	s.step(name, v1alpha1.StepRecovered, v1alpha1.ReasonSucceeded)
	s.resolve(name)
	if got := s.chats("acme-oncall"); len(got) != 2 {
		t.Errorf("acme was told %q", got)
	}
}

// Whoever closes it by hand while acme is down does not make it over.
func TestARelyingPartyThatIsStillDownIsNotToldThatItIsOver(t *testing.T) {
	s := newScene(t, "tell-down")
	name := s.told()
	s.resolve(name)
	if got := s.chats("acme-oncall"); len(got) != 1 {
		t.Errorf("acme was told %q", got)
	}
	if timeline := fmt.Sprint(s.Get(name).Status.Timeline); !strings.Contains(timeline, "is not told that it is over") {
		t.Errorf("nobody learns that: %s", timeline)
	}
}

// What dies after the Incident was opened is told and settled, too: retries take hours.
func TestWhatDiesLaterIsToldAndSettled(t *testing.T) {
	s := newScene(t, "tell-later")
	s.notify("acme-oncall")
	s.othersReceive()
	name := s.open("inc", "{}")
	s.says(s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonNotTelling), "so far")
	s.dead(acme, 1, inBulk, 7)
	s.dead(acme, 1, conflict, 2)
	s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonSucceeded)
	s.step(name, v1alpha1.StepConflictsSettled, v1alpha1.ReasonSucceeded)
}

func TestWithoutAContactTheMessageNamesWhomNobodyCouldTell(t *testing.T) {
	s := newScene(t, "tell-nobody")
	s.dead(acme, 1, inBulk, 7)
	s.othersReceive()
	name := s.open("inc", "{}")
	s.says(s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonNotNeeded), "nobody can tell application 42",
		"relyingParties[].notify", "on call there: identity team at acme", "Call them")
}

// Years of dead letters wake nobody.
func TestNobodyIsToldOfWhatDiedLongAgo(t *testing.T) {
	s := newScene(t, "tell-old")
	s.notify("acme-oncall")
	s.dead(acme, 1, inBulk, 7)
	s.Exec(`UPDATE webhook_outbox_entries SET dlq_at = dlq_at - interval '2 days'`)
	s.othersReceive()
	name := s.open("inc", "{}")
	s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonNotTelling)
	s.resolve(name)
	if got := s.chats("acme-oncall"); len(got) != 0 {
		t.Errorf("acme was told %q", got)
	}
}

// One whose channel is down keeps no other from being told.
func TestEachRelyingPartyIsToldForItself(t *testing.T) {
	s := newScene(t, "tell-each")
	s.platform(fmt.Sprintf(`{"spec":{"relyingParties":[`+
		`{"applicationID":"42","name":"acme","notify":[{"type":"Slack","secretRef":{"name":"nowhere"}}]},`+
		`{"applicationID":"43","name":"initech","notify":[{"type":"Slack","secretRef":{"name":%q}}]}]}}`,
		s.slack("initech", "initech-oncall")))
	s.dead(acme, 2, inBulk, 7)
	s.dead(initech, 1, inBulk, 7)
	s.enqueue(acme)
	s.enqueue(initech)
	name := s.open("inc", "{}")
	stage.Eventually(t, "initech is told", func() bool { return len(s.chats("initech-oncall")) == 1 })
	s.says(s.step(name, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonTelling), "acme could not be told yet", "nowhere")
}

// A message whose answer is lost is sent again; a channel that refuses it is passed over.
func TestARelyingPartyIsToldAtLeastOnce(t *testing.T) {
	for name, c := range map[string]struct {
		fault logi.ServiceFault
		tells int
	}{
		"lost-reply": {logi.ServiceFault{LoseReply: true, Times: 1}, 2},
		"refused":    {logi.ServiceFault{Status: 404, Times: 1}, 1},
		"down":       {logi.ServiceFault{Status: 503, Times: 2}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "tell-"+name)
			s.notify("first", "second")
			s.Services.SetFault(logi.Slack, c.fault)
			s.dead(acme, 1, inBulk, 7)
			s.othersReceive()
			inc := s.open("inc", "{}")
			s.step(inc, v1alpha1.StepRelyingPartyTold, v1alpha1.ReasonSucceeded)
			if got := len(s.chats("first")) + len(s.chats("second")); got != c.tells {
				t.Errorf("acme was told %d times, want %d: %q, %q", got, c.tells, s.chats("first"), s.chats("second"))
			}
			if name == "refused" && len(s.chats("second")) != 1 {
				t.Errorf("the second channel has %q", s.chats("second"))
			}
		})
	}
}
