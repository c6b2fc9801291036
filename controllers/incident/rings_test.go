package incident_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func (s *scene) removeSecret(suffix string) {
	s.Helper()
	if err := admin.Delete(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace,
		Name: s.Name + "-" + suffix}}); err != nil {
		s.Fatal(err)
	}
}

// dedupKey is the key of PagerDuty's only alert.
func (s *scene) dedupKey() string {
	s.Helper()
	pages := s.Services.Pages()
	if len(pages) != 1 {
		s.Fatalf("PagerDuty has %+v", pages)
	}
	return pages[0].DedupKey
}

// An alert that can't be resolved any more stays at PagerDuty. The Incident says which, and what to do: where the
// Secret went, where the Platform no longer names the channel, and where it pages nobody.
func TestAnAlertThatStaysTriggeredIsNamed(t *testing.T) {
	for name, lose := range map[string]func(*scene){
		"secret": func(s *scene) { s.removeSecret("pagerduty") },
		"channel": func(s *scene) {
			s.spec(`{"oncall":{"tiers":[{"name":"other","notify":[{"type":"Slack","secretRef":{"name":"` + s.Name +
				`-slack"}}]}]}}`)
		},
		"oncall": func(s *scene) { s.spec(`{"oncall":null}`) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "rings-"+name)
			inc := s.open("inc", "{category: MergeInconsistency, severity: sev1}")
			s.pass(inc)
			key := s.dedupKey()
			lose(s)
			s.patch(inc, `{"spec":{"resolution":{"by":"dana"}}}`)
			s.pass(inc)
			s.after(61*time.Second, inc)
			s.expect(inc, "Ready True Succeeded")
			s.expectPages("oncall 1 triggered")
			if !s.warned(inc, v1alpha1.ReasonStillRings, "oncall-engineer", "with the dedup key "+key, "resolve it there") {
				t.Errorf("no Warning names %q: %q", key, s.events)
			}
			n := 0
			for _, e := range s.events {
				if strings.Contains(e, v1alpha1.ReasonStillRings) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("it is said %d times", n)
			}
		})
	}
}

// Where the namespace is torn down, the Secrets may go first, and the Platform, too.
func TestAnAlertOfADeletedIncidentThatStaysTriggeredIsNamed(t *testing.T) {
	for name, lose := range map[string]func(*scene){
		"secret":   func(s *scene) { s.removeSecret("pagerduty") },
		"platform": func(s *scene) { s.deletePlatform() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "rings-gone-"+name)
			inc := s.open("inc", "{category: MergeInconsistency, severity: sev1}")
			s.pass(inc)
			key := s.dedupKey()
			lose(s)
			if err := admin.Delete(s.ctx, s.get(inc)); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(2 * time.Minute); ; s.pass(inc) {
				select {
				case e := <-s.recorder.Events:
					if strings.HasPrefix(e, "Warning ") && strings.Contains(e, "with the dedup key "+key) {
						s.applyPlatform("") // the scene's end takes it away
						return
					}
				case <-time.After(time.Second):
				}
				if time.Now().After(end) {
					t.Fatalf("no Warning names %q", key)
				}
			}
		})
	}
}
