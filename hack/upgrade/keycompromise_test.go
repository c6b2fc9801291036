package upgrade_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// patience is how long an object may take that waits for nobody.
const patience = 45 * time.Second

// play lets managers, the dispatcher and time go on until the object is complete, or a person's word is needed.
func (s *scene) play() {
	s.Helper()
	s.patient(func(string) bool { return false })
}

// patient is play. It also ends when enough accepts the Ready condition.
func (s *scene) patient(enough func(ready string) bool) {
	s.Helper()
	for end := time.Now().Add(patience); ; {
		after, err := s.pass()
		ready := s.condition(v1alpha1.ConditionReady)
		switch {
		case s.waits(ready), err == nil && (strings.HasPrefix(ready, "True ") ||
			strings.HasPrefix(s.condition(v1alpha1.ConditionStalled), "True ") || enough(ready)):
			return
		case time.Now().After(end):
			s.Fatalf("after %s Ready is %s, and the last error is %v", patience, ready, err)
		}
		if s.hurry && ready == "False "+v1alpha1.ReasonVerifying {
			// The platform goes on: without a webhook under the successor nothing can be verified.
			if _, err := s.Enqueue(s.ctx, acme, 1); err != nil {
				s.Fatal(err)
			}
		}
		s.dispatch()
		time.Sleep(min(max(after, 20*time.Millisecond), 300*time.Millisecond))
	}
}

// waits says whether an object with this reason waits for a person.
func (s *scene) waits(ready string) bool {
	for _, reason := range []string{v1alpha1.ReasonWaitingForApproval, v1alpha1.ReasonSuspended,
		v1alpha1.ReasonAutomationOff, v1alpha1.ReasonSecretUnusable} {
		if ready == "False "+reason {
			return true
		}
	}
	return false
}

// dispatch lets the dispatcher attempt what is due. What died has rested for long enough the next time.
func (s *scene) dispatch() {
	s.Helper()
	if s.hurry {
		s.exec(`UPDATE webhook_outbox_entries SET next_retry_at = clock_timestamp() WHERE next_retry_at > clock_timestamp()`)
	}
	if _, err := s.DispatchOnce(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.exec(`UPDATE webhook_outbox_entries SET dlq_at = dlq_at - interval '1 hour'
		WHERE event_type = 'webhook_key.compromised' AND dlq_at > clock_timestamp()::timestamp - interval '1 minute'`)
}

// exec runs SQL as the database's owner.
func (s *scene) exec(sql string) {
	s.Helper()
	if _, err := s.db.Exec(s.ctx, sql); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
}

// count is the number that an SQL query returns.
func (s *scene) count(sql string) (n int) {
	s.Helper()
	if err := s.db.QueryRow(s.ctx, sql).Scan(&n); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
	return n
}

// request lets a stalled object go on.
func (s *scene) request() {
	s.Helper()
	s.patch(fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationRequestedAt, "the upgrade"))
}

func TestKeyCompromisesOfThePreviousReleaseAreFinished(t *testing.T) {
	each(t, "keycompromise", finishKeyCompromise)
}

// finishKeyCompromise lets this release go on with a KeyCompromise. Where it stalled, a person has mended what kept
// it, and asks it to go on.
func finishKeyCompromise(s *scene, stored *state) {
	was := &v1alpha1.KeyCompromise{}
	if err := s.get(s.ctx, was); err != nil {
		s.Fatal(err)
	}
	delivered := s.deliveredKeys()
	revoked := s.count(`SELECT count(*) FROM webhook_signing_keys WHERE status = 'revoked'`)
	s.hurry = true
	s.play()
	stalled := s.condition(v1alpha1.ConditionStalled)
	if strings.HasPrefix(stalled, "True ") {
		// Ten looks take five seconds, and more on a busy machine.
		s.patch(`{"spec":{"publishTimeoutSeconds":600}}`)
		s.request()
		s.play()
	}
	ready := s.condition(v1alpha1.ConditionReady)
	jobs := len(s.Render().Saved(logi.WebService).Jobs)
	switch {
	case jobs > 2 || jobs > 1 && stalled != "True "+v1alpha1.ReasonCommandFailed:
		s.Errorf("the platform's own rake was started as %d jobs", jobs)
	case s.count(`SELECT count(*) FROM webhook_signing_keys`) > 2:
		s.Error("there are two successors")
	case s.count(`SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'`) > 1:
		s.Error("there are two events")
	case s.count(`SELECT count(*) FROM logi_test.requeues`) > s.count(`SELECT count(*) FROM playbook.event_requeues`):
		s.Error("the event was requeued without a word in the ledger")
	case s.count(`SELECT count(*) FROM playbook.operations`) > 1:
		s.Error("there are two operations")
	}
	for key := range s.ReceivedKeys(acme) {
		if delivered[key] {
			s.Errorf("%s was delivered again", key)
		}
	}
	if s.waits(ready) || ready == "False "+v1alpha1.ReasonOutcomeUnknown {
		if s.count(`SELECT count(*) FROM webhook_signing_keys WHERE status = 'revoked'`) > revoked {
			s.Errorf("a key was revoked, and Ready is %s", ready)
		}
		return
	}
	s.settled(was.Status.Conditions)
	if n := s.count(`SELECT count(*) FROM webhook_signing_keys WHERE status = 'active'`); n != 1 {
		s.Errorf("%d keys are active in the end", n)
	}
	if n := s.count(`SELECT count(*) FROM playbook.operations WHERE closed_at IS NULL`); n > 0 {
		s.Error("the operation is open in the end")
	}
}

// deliveredKeys are the idempotency keys of what was delivered.
func (s *scene) deliveredKeys() map[string]bool {
	s.Helper()
	rows, err := s.db.Query(s.ctx, `SELECT idempotency_key FROM webhook_outbox_entries WHERE delivered_at IS NOT NULL`)
	if err != nil {
		s.Fatal(err)
	}
	keys := map[string]bool{}
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			s.Fatal(err)
		}
		keys[key] = true
	}
	if err := rows.Err(); err != nil {
		s.Fatal(err)
	}
	return keys
}
