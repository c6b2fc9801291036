package dlqreplay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestACanaryThatFailsLeavesTheRestAlone(t *testing.T) {
	s := newScene(t, "canary", quick)
	s.SetFault(acme, logi.Fault{Status: 503, Body: "Service Unavailable"})
	s.seed(120, "HTTP 502: Bad Gateway", 7)
	name := s.apply("r", "{}")
	r := s.AwaitStalled(name, v1alpha1.ReasonCanaryFailed)
	for _, part := range []string{"10 of 10 canary entries failed", "503 ×10", "the other 110 entries were not touched",
		"kubectl -n playbook-system annotate dlqreplay " + name} {
		if !strings.Contains(message(r), part) {
			t.Errorf("the message lacks %q: %s", part, message(r))
		}
	}
	if f := r.Status.Failures; len(f) != 1 || f[0].Answer != "503" || value(f[0].Entries) != 10 {
		t.Errorf("the failures are %s", stage.JSON(f))
	}
	onlyCanaries := func(n int64) {
		t.Helper()
		if got := s.requeues(); got != n {
			t.Errorf("%d requeues happened, and %d canary entries", got, n)
		}
		if got := s.count(`SELECT count(*) FROM webhook_outbox_entries
			WHERE last_error = 'HTTP 502: Bad Gateway' AND dlq_at IS NOT NULL AND attempts = 7`); got != 120-n {
			t.Errorf("%d entries are as they were, and %d should be", got, 120-n)
		}
	}
	onlyCanaries(10)

	stalledAgain := func(request string) {
		t.Helper()
		s.Await(name, "stalled again", func(r *v1alpha1.DLQReplay) bool {
			return r.Status.LastHandledRequestedAt == request && reason(r) == v1alpha1.ReasonCanaryFailed && stage.Ended(r)
		})
	}
	s.request(name, "first")
	stalledAgain("first")
	onlyCanaries(20)

	// The same request together with a change that makes the manager look: it was acted on once.
	generation := s.Change(name,
		fmt.Sprintf(`{"metadata":{"annotations":{%q:"first"}},"spec":{"deliveryTimeoutSeconds":1000}}`,
			v1alpha1.AnnotationRequestedAt)).Generation
	s.Await(name, "another look", func(r *v1alpha1.DLQReplay) bool { return r.Status.ObservedGeneration == generation })
	stalledAgain("first")
	onlyCanaries(20)

	// To take it away asks for nothing, and it is still the one that was acted on when it is back.
	for i, annotations := range []string{`null`, fmt.Sprintf(`{%q:"first"}`, v1alpha1.AnnotationRequestedAt)} {
		generation := s.Change(name, fmt.Sprintf(`{"metadata":{"annotations":%s},"spec":{"deliveryTimeoutSeconds":%d}}`,
			annotations, 1001+i)).Generation
		s.Await(name, "another look", func(r *v1alpha1.DLQReplay) bool { return r.Status.ObservedGeneration == generation })
		stalledAgain("first")
		onlyCanaries(20)
	}

	// A canary entry that the dispatcher still tries would be delivered.
	stage.Eventually(t, "all canary entries died again",
		func() bool { return s.count(`SELECT count(*) FROM webhook_outbox_entries WHERE dlq_at IS NULL`) == 0 })
	s.SetFault(acme, logi.Fault{})
	second := "second " + strings.Repeat("é", 300) // longer than the status has room for
	s.request(name, second)
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool {
		handled := r.Status.LastHandledRequestedAt
		return handled != "first" && strings.HasPrefix(second, handled)
	})
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 120, "delivered": 100, "diedAgain": 20})
	s.eachOnce(120)
}

// eachOnce says that n entries were requeued, each once.
func (s *scene) eachOnce(n int64) {
	s.Helper()
	if all, distinct := s.requeues(), s.count(`SELECT count(DISTINCT entry_id) FROM logi_test.requeues`); all != n ||
		distinct != n {
		s.Errorf("%d requeues of %d entries happened; it should be %d, each once", all, distinct, n)
	}
}

// dispatchUntil lets the dispatcher work until cond holds for a replay.
func (s *scene) dispatchUntil(name, what string, cond func(*v1alpha1.DLQReplay) bool) *v1alpha1.DLQReplay {
	s.Helper()
	return s.Await(name, what, func(r *v1alpha1.DLQReplay) bool {
		s.dispatch()
		return cond(r)
	})
}

func TestACanaryThatNobodyDispatchesTimesOut(t *testing.T) {
	s := newScene(t, "canary-timeout", manual)
	s.seed(30, "HTTP 503: down", 7)
	name := s.apply("r", "{canary: {entries: 5, timeoutSeconds: 1}}")
	r := s.AwaitStalled(name, v1alpha1.ReasonCanaryTimedOut)
	if !strings.Contains(message(r), "5 of 5 canary entries were not attempted within 1 s") {
		t.Errorf("the message is %q", message(r))
	}
	s.eachOnce(5)
	s.Change(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:"now"}},"spec":{"canary":{"timeoutSeconds":3600}}}`,
		v1alpha1.AnnotationRequestedAt))
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt == "now" })
	r = s.dispatchUntil(name, "complete", stage.Ended)
	s.progress(r, map[string]int64{"requeued": 30, "delivered": 30})
	s.eachOnce(30)
}

func TestACanaryMayFailAsOftenAsTheSpecSays(t *testing.T) {
	s := newScene(t, "canary-may", logi.Config{ManualDispatch: true, Backoff: []time.Duration{}})
	s.seed(40, "HTTP 503: down", 7)
	s.SetFault(acme, logi.Fault{Status: 500, EveryKth: 5})
	r := s.dispatchUntil(s.apply("r", "{canary: {maxFailures: 2}, breaker: {maxFailurePercent: 100}}"), "stage.Ended",
		stage.Ended)
	s.progress(r, map[string]int64{"requeued": 40, "delivered": 32, "diedAgain": 8})
	s.eachOnce(40)
}

func TestTheBreakerOpensWhenTheRelyingPartyFailsAgain(t *testing.T) {
	s := newScene(t, "breaker", logi.Config{ManualDispatch: true, Backoff: []time.Duration{}})
	s.seed(300, "HTTP 502: Bad Gateway", 7)
	name := s.apply("r", "{maxInFlight: 40, ratePerSecond: 20}") // slow enough not to be complete before the second outage
	s.dispatchUntil(name, "a good start", func(r *v1alpha1.DLQReplay) bool {
		return r.Status.Progress != nil && value(r.Status.Progress.Delivered) >= 40
	})
	s.SetFault(acme, logi.Fault{Status: 503})
	r := s.dispatchUntil(name, "the end", stage.Ended)
	if reason(r) != v1alpha1.ReasonBreakerOpen || !strings.Contains(message(r), "503 ×") {
		t.Fatalf("%s: %s", reason(r), message(r))
	}
	opened := s.requeues()
	if opened >= 300 || opened < 40 {
		t.Fatalf("%d of 300 entries were requeued before the breaker opened", opened)
	}
	s.SetFault(acme, logi.Fault{})
	s.nudge(name)
	if got := s.requeues(); got != opened {
		t.Errorf("%d entries were requeued after the breaker had opened", got-opened)
	}
	s.Change(name, `{"spec":{"ratePerSecond":null}}`)
	s.request(name, "well again")
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt == "well again" })
	r = s.dispatchUntil(name, "complete", stage.Ended)
	if reason(r) != v1alpha1.ReasonSucceeded {
		t.Fatalf("%s: %s", reason(r), message(r))
	}
	died := s.count(`SELECT count(*) FROM webhook_outbox_entries WHERE last_error LIKE 'HTTP 503%' AND dlq_at IS NOT NULL`)
	s.progress(r, map[string]int64{"requeued": 300, "delivered": 300 - died, "diedAgain": died})
	if died == 0 {
		t.Error("no entry died of the second outage")
	}
	s.eachOnce(300)
}

// A webhook that is refused with 5xx is tried for hours before it dies, so a replay that counts deaths would see
// nothing.
func TestAnAttemptThatWillBeRepeatedIsAFailure(t *testing.T) {
	for name, c := range map[string]struct {
		spec, reason      string
		requeued, failing int64
	}{
		"canary": {"{canary: {entries: 5}}", v1alpha1.ReasonCanaryFailed, 5, 5},
		// It may open while the dispatcher is at work, and what was attempted has been replaced by then.
		"breaker": {"{canary: {entries: 0}, maxInFlight: 30}", v1alpha1.ReasonBreakerOpen, 30, 20},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "failing-"+name, manual) // tries again after an hour
			s.seed(100, "HTTP 502: Bad Gateway", 7)
			s.SetFault(acme, logi.Fault{Status: 503})
			name := s.apply("r", c.spec)
			s.Await(name, "the first in flight", func(*v1alpha1.DLQReplay) bool { return s.requeues() == c.requeued })
			s.dispatch()
			r := s.AwaitStalled(name, c.reason)
			if got := counts(r); got["failing"] < c.failing || got["requeued"] < c.requeued || got["remaining"] == 0 ||
				got["delivered"]+got["diedAgain"] > 0 || !addsUp(r) {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestACanaryIsSpreadOverCausesAndAge(t *testing.T) {
	s := newScene(t, "canary-spread", manual)
	many := s.seed(2500, "HTTP 503: down", 7) // in the old order, and more than a page of the plan
	few := s.seed(3, "Net::ReadTimeout", 7)
	one := s.seed(1, "HTTP 422: no", 1)
	name := s.apply("r", "{canary: {entries: 8}}")
	s.Await(name, "the canary in flight", func(*v1alpha1.DLQReplay) bool { return s.requeues() == 8 })
	chosen := stage.Query[[]int64](s.Scene, `SELECT canary_entries FROM playbook.operations`)
	among := func(ids []int64) (n int) {
		for _, id := range ids {
			if slices.Contains(chosen, id) {
				n++
			}
		}
		return n
	}
	if among(many) != 4 || among(few) != 3 || among(one) != 1 {
		t.Errorf("of the three causes %d, %d and %d entries were chosen, and it should be 4, 3 and 1: %v", among(many),
			among(few), among(one), chosen)
	}
	if among(many[:500]) == 0 || among(many[500:2000]) == 0 || among(many[2000:]) == 0 {
		t.Errorf("those of one cause are not spread over their ages: %v of %d to %d", chosen, many[0], many[2499])
	}
}
