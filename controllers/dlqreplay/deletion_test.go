package dlqreplay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestAFinishedReplayAppliedAgainIsAlreadyDone(t *testing.T) {
	s := newScene(t, "again", quick)
	ids := s.seed(20, "HTTP 503: down", 7)
	name := s.apply("r", "{maxEntries: 100}")
	first := s.AwaitReady(name)
	s.Delete(name)
	s.Exec(`UPDATE webhook_outbox_entries SET delivered_at = NULL, dlq_at = clock_timestamp() WHERE id = ANY ($1)`,
		ids[:5])
	if got := s.subcommand("purge", "--older-than=0s"); got != "cleared 20 error texts; what was done to which entry "+
		"and key stays\n" {
		t.Errorf("purge printed %q", got)
	}

	// As Git has it, with the default spelled out, and another pace.
	s.apply("r", "{maxEntries: 100, mode: Replay, ratePerSecond: 7}")
	r := s.AwaitReady(name)
	if reason(r) != v1alpha1.ReasonAlreadyDone || !strings.Contains(message(r), string(first.UID)) {
		t.Errorf("%s: %s", reason(r), message(r))
	}
	s.eachOnce(20)
	s.Delete(name)

	// Another spec, or another name, is another operation.
	s.progress(s.AwaitReady(s.apply("r", "{maxEntries: 101, selector: {entryIDs: [\""+fmt.Sprint(ids[0])+"\"]}}")),
		map[string]int64{"requeued": 1, "delivered": 1})
	s.progress(s.AwaitReady(s.apply("new-name", "{maxEntries: 100}")), map[string]int64{"requeued": 4, "delivered": 4})
	if got := s.requeues(); got != 25 {
		t.Errorf("%d requeues happened", got)
	}
}

func TestAPlanAppliedAgainIsPlannedAgain(t *testing.T) {
	s := newScene(t, "replan", manual)
	s.seed(3, "HTTP 503: down", 7)
	name := s.apply("r", "{mode: Plan}")
	s.AwaitReady(name)
	s.Delete(name)
	s.seed(2, "HTTP 503: down", 7)
	s.apply("r", "{mode: Plan}")
	if r := s.AwaitReady(name); reason(r) != v1alpha1.ReasonPlanOnly || value(r.Status.Plan.Total) != 5 {
		t.Errorf("%s with %d entries", reason(r), value(r.Status.Plan.Total))
	}
}

func TestADeletedReplayContinuesWhenAppliedAgain(t *testing.T) {
	s := newScene(t, "partial", manual)
	s.seed(30, "HTTP 503: down", 7)
	name := s.apply("r", "{maxInFlight: 12, canary: {entries: 0}}")
	s.Await(name, "12 in flight", func(*v1alpha1.DLQReplay) bool { return s.requeues() == 12 })
	s.Delete(name)
	s.eachOnce(12)
	s.apply("r", "{maxInFlight: 12, canary: {entries: 0}}")
	r := s.dispatchUntil(name, "complete", stage.Ended)
	s.progress(r, map[string]int64{"requeued": 18, "delivered": 18})
	s.eachOnce(30)
	if c := s.Counts()[acme]; c.Received != 30 || c.Duplicates != 0 {
		t.Errorf("the relying party received %d, and %d twice", c.Received, c.Duplicates)
	}
}

func TestADeletedReplayThatNamesNoPlatformGoesAtOnce(t *testing.T) {
	s := newBareScene(t, "nowhere", manual)
	name := s.apply("r", "{}")
	s.AwaitReason(name, v1alpha1.ReasonPlatformNotFound)
	if err := shared.Kube.Delete(s.Ctx, s.Get(name)); err != nil {
		t.Fatal(err)
	}
	if !s.Gone(name) {
		t.Errorf("it waits for %v", s.Get(name).Finalizers)
	}
}

func TestADeletedReplayGoesAlsoWhenItsDatabaseIsGone(t *testing.T) {
	s := newScene(t, "release", manual)
	s.seed(30, "HTTP 503: down", 7)
	name := s.apply("r", "{maxInFlight: 12, canary: {entries: 0}}")
	s.Await(name, "12 in flight", func(*v1alpha1.DLQReplay) bool { return s.requeues() == 12 })
	r := s.Get(name)
	s.databaseURL("postgres://playbook_operator:unused@127.0.0.1:1/gone")
	s.AwaitReason(name, v1alpha1.ReasonDatabaseUnreachable)
	s.Delete(name) // after a minute
	stage.Eventually(t, "an event that says so", func() bool {
		return slices.ContainsFunc(s.events(r), func(e eventsv1.Event) bool { return e.Reason == "OperationLeftOpen" })
	})
	s.eachOnce(12)
}
