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
