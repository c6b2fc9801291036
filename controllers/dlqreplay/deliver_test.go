package dlqreplay_test

import (
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestEntriesThatAreNotDeliveredInTimeStallTheReplay(t *testing.T) {
	s := newScene(t, "delivery-timeout", manual)
	s.seed(5, "HTTP 503: down", 7)
	name := s.apply("r", "{canary: {entries: 0}, deliveryTimeoutSeconds: 1}")
	r := s.AwaitStalled(name, v1alpha1.ReasonDeliveryTimedOut)
	if !strings.Contains(message(r), "5 entries were not attempted") {
		t.Errorf("the message is %q", message(r))
	}
	s.Change(name, `{"spec":{"deliveryTimeoutSeconds":3600}}`)
	s.request(name, "wait on")
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt == "wait on" })
	s.progress(s.dispatchUntil(name, "complete", stage.Ended), map[string]int64{"requeued": 5, "delivered": 5})
	s.eachOnce(5)
}

func TestASuspendedReplayStillSeesWhatBecomesOfItsEntries(t *testing.T) {
	s := newScene(t, "suspended-sees", manual)
	s.seed(60, "HTTP 503: down", 7)
	name := s.apply("r", "{maxInFlight: 20, canary: {entries: 0}}")
	s.Await(name, "20 in flight", func(*v1alpha1.DLQReplay) bool { return s.requeues() == 20 })
	s.Change(name, `{"spec":{"suspend":true}}`)
	s.AwaitReason(name, v1alpha1.ReasonSuspended)
	r := s.dispatchUntil(name, "all in flight delivered",
		func(r *v1alpha1.DLQReplay) bool { return value(r.Status.Progress.Delivered) == 20 })
	if reason(r) != v1alpha1.ReasonSuspended {
		t.Errorf("%s: %s", reason(r), message(r))
	}
	s.eachOnce(20)
}
