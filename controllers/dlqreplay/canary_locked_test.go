package dlqreplay_test

import (
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

func TestALockedCanaryEntryGivesWayToAnother(t *testing.T) {
	for name, c := range map[string]struct {
		spec   string
		locked int // of 20, the oldest
	}{
		"oldest": {"{canary: {entries: 1}}", 1},
		"most":   {"{canary: {entries: 2}}", 15},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "locked-"+name, quick)
			ids := s.seed(20, "HTTP 503: down", 7)
			release := s.lock(`SELECT FROM webhook_outbox_entries WHERE id = ANY ($1) FOR UPDATE`, ids[:c.locked])
			name := s.apply("r", c.spec)
			s.Await(name, "the others delivered", func(r *v1alpha1.DLQReplay) bool {
				return counts(r)["delivered"] == int64(20-c.locked) && strings.Contains(message(r), "locked by another session")
			})
			release()
			s.progress(s.AwaitReady(name), map[string]int64{"requeued": 20, "delivered": 20})
			s.eachOnce(20)
		})
	}
}

func TestACanaryOfWhichEachEntryIsLockedSaysSoAndTimesOut(t *testing.T) {
	s := newScene(t, "locked-all", quick)
	ids := s.seed(20, "HTTP 503: down", 7)
	release := s.lock(`SELECT FROM webhook_outbox_entries WHERE id = ANY ($1) FOR UPDATE`, ids)
	name := s.apply("r", "{canary: {entries: 1, timeoutSeconds: 4}}")
	s.Await(name, "the lock is said", func(r *v1alpha1.DLQReplay) bool {
		return reason(r) == v1alpha1.ReasonCanaryInFlight &&
			strings.Contains(message(r), "locked by another session of the database")
	})
	r := s.AwaitStalled(name, v1alpha1.ReasonCanaryTimedOut)
	if !strings.Contains(message(r), "locked by another session of the database") ||
		!strings.Contains(message(r), "pg_stat_activity") {
		t.Errorf("the message is %q", message(r))
	}
	s.eachOnce(0)
	release()
	s.request(name, "released")
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt == "released" })
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 20, "delivered": 20})
	s.eachOnce(20)
}

// While a replay is suspended, the canary's time does not run: it begins anew afterwards, however long that was.
func TestACanaryThatWasSuspendedForLongDoesNotTimeOutAtOnce(t *testing.T) {
	for name, locked := range map[string]bool{"locked": true, "in-flight": false} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "suspended-"+name, manual)
			ids, release := s.seed(5, "HTTP 503: down", 7), func() {}
			if locked {
				release = s.lock(`SELECT FROM webhook_outbox_entries WHERE id = ANY ($1) FOR UPDATE`, ids)
			}
			name := s.apply("r", "{canary: {entries: 1, timeoutSeconds: 60}}")
			s.Await(name, "its time runs", func(r *v1alpha1.DLQReplay) bool {
				return reason(r) == v1alpha1.ReasonCanaryInFlight &&
					s.count(`SELECT count(canary_since) FROM playbook.operations`) == 1
			})
			s.Change(name, `{"spec":{"suspend":true}}`)
			s.AwaitReason(name, v1alpha1.ReasonSuspended)
			// Hours pass.
			s.Exec(`UPDATE playbook.operations
				SET canary_at = canary_at - interval '2 hours', canary_since = canary_since - interval '2 hours'`)
			s.nudge(name)
			s.Change(name, `{"spec":{"suspend":false}}`)
			if r := s.Await(name, "a canary or its end", func(r *v1alpha1.DLQReplay) bool {
				return reason(r) != v1alpha1.ReasonSuspended
			}); reason(r) != v1alpha1.ReasonCanaryInFlight {
				t.Fatalf("the reason is %s: %s", reason(r), message(r))
			}
			release()
			s.dispatchUntil(name, "the end", func(r *v1alpha1.DLQReplay) bool { return counts(r)["delivered"] == 5 })
			s.eachOnce(5)
			s.AwaitReady(name)
		})
	}
}
