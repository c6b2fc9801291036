package dlqreplay_test

import (
	"fmt"
	"maps"
	"regexp"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// outbox is a digest of all rows of the outbox, for tests of what must not change.
const outbox = `SELECT coalesce(md5(string_agg(o::text, '' ORDER BY id)), '') FROM webhook_outbox_entries o`

func TestAPlanCountsByCauseAndChangesNothing(t *testing.T) {
	s := newScene(t, "plan", manual)
	for _, dead := range []struct {
		n         int
		lastError string
		attempts  int
	}{
		{3, "HTTP 503: Service Unavailable", 7},
		{2, "Errno::ECONNREFUSED: Failed to open TCP connection", 7},
		{2, "Net::ReadTimeout: Net::ReadTimeout", 7},
		{1, "HTTP 429: slow down", 7},
		{2, "HTTP 408", 7},
		{4, "HTTP 401: unknown kid", 1},
		{3, "HTTP 409: already processed", 2},
		{1, "HTTP 409: already processed", 1}, // nothing was delivered before a first attempt
		{1, "HTTP 422: no", 1},
		{1, "HTTP 4099: no status at all", 2},
		{1, "HTTP 50: no status at all", 2},
		{2, "Acme::Error: upstream said HTTP 503: oops, HTTP 409: again", 2}, // the relying party's own digits
		{1, "http 503: not the dispatcher's spelling", 2},
		{1, "\nHTTP 503: not the first line", 2},
		{1, "HTTP 503: left over from another life", 0},
	} {
		s.seed(dead.n, dead.lastError, dead.attempts)
	}
	silent := s.seed(1, "", 3)
	s.Exec(`UPDATE webhook_outbox_entries SET last_error = NULL WHERE id = ANY ($1)`, silent)
	want := map[v1alpha1.DeadLetterCause]int64{
		"ServerError": 5, "Timeout": 2, "RateLimited": 3, "SignatureRejected": 4, "IdempotencyConflict": 3, "ClientError": 2,
		"Unknown": 8,
	}
	// None of these is dead, and none counts.
	if _, err := s.Enqueue(s.Ctx, acme, 5); err != nil {
		t.Fatal(err)
	}
	before := stage.Query[string](s.Scene, outbox)

	r := s.AwaitReady(s.apply("all", "{mode: Plan}"))
	if reason(r) != v1alpha1.ReasonPlanOnly {
		t.Errorf("the reason is %s", reason(r))
	}
	plan := r.Status.Plan
	got := map[v1alpha1.DeadLetterCause]int64{}
	for _, c := range plan.Causes {
		got[c.Cause] = value(c.Entries)
	}
	if !maps.Equal(got, want) || value(plan.Total) != 27 {
		t.Errorf("the plan has %d entries, %v; it should have 27, %v", value(plan.Total), got, want)
	}
	oldest := stage.Query[time.Time](s.Scene,
		`SELECT min(enqueued_at) FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL`)
	newest := stage.Query[time.Time](s.Scene,
		`SELECT max(enqueued_at) FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL`)
	if !plan.OldestEnqueued.UTC().Equal(oldest.Truncate(time.Second)) ||
		!plan.NewestEnqueued.UTC().Equal(newest.Truncate(time.Second)) {
		t.Errorf("the plan spans %s to %s and should span %s to %s", plan.OldestEnqueued, plan.NewestEnqueued, oldest, newest)
	}
	if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(plan.Digest) {
		t.Errorf("the digest is %q", plan.Digest)
	}

	// Each cause selects what the plan counted for it.
	digests := map[string]bool{plan.Digest: true}
	for cause, n := range want {
		r := s.AwaitReady(s.apply(fmt.Sprintf("only-%d", len(digests)), fmt.Sprintf("{mode: Plan, selector: {causes: "+
			"[%s]}}", cause)))
		if value(r.Status.Plan.Total) != n {
			t.Errorf("%d entries are selected by the cause %s, and %d died of it", value(r.Status.Plan.Total), cause, n)
		}
		digests[r.Status.Plan.Digest] = true
	}
	if len(digests) != 1+len(want) {
		t.Error("different plans have the same digest")
	}
	if stage.Query[string](s.Scene, outbox) != before || s.requeues() != 0 {
		t.Error("a plan changed the outbox")
	}
}

func TestIdsAbove2To53AreExact(t *testing.T) {
	s := newScene(t, "bigids", quick)
	const application, first = 9007199254740993, 9223372036854775000 // a float64 has neither
	s.Exec(`SELECT setval('webhook_outbox_entries_id_seq', $1, false)`, int64(first))
	if err := s.CreateApplication(s.Ctx, application, "giant"); err != nil {
		t.Fatal(err)
	}
	ids, err := s.SeedDead(s.Ctx, application, 5, "HTTP 503: down", 7)
	if err != nil {
		t.Fatal(err)
	}
	name := s.apply("r", fmt.Sprintf(`{applicationID: "%d", selector: {entryIDs: ["%d", "%d"]}}`, application, ids[1],
		ids[3]))
	r := s.AwaitReady(name)
	s.progress(r, map[string]int64{"requeued": 2, "delivered": 2})
	got := stage.Query[[]int64](s.Scene, `SELECT array_agg(entry_id ORDER BY entry_id) FROM logi_test.requeues`)
	if fmt.Sprint(got) != fmt.Sprint([]int64{first + 1, first + 3}) {
		t.Errorf("%v were requeued, and %d and %d should have been", got, first+1, first+3)
	}
}

func TestAPlanThatIsTooLargeStalls(t *testing.T) {
	s := newScene(t, "toolarge", manual)
	s.seed(12, "HTTP 503: down", 7)
	before := stage.Query[string](s.Scene, outbox)
	name := s.apply("r", "{maxEntries: 11}")
	r := s.AwaitStalled(name, v1alpha1.ReasonPlanTooLarge)
	if got := message(r); !regexp.MustCompile(`12 entries are selected and maxEntries is 11`).MatchString(got) {
		t.Errorf("the message is %q", got)
	}
	if s.count(`SELECT count(*) FROM playbook.replay_pages`) != 0 || stage.Query[string](s.Scene, outbox) != before {
		t.Error("a plan that is too large left something behind")
	}
	s.progress(s.AwaitReason(s.apply("fits", "{maxEntries: 12, maxInFlight: 12, canary: {entries: 0}}"),
		v1alpha1.ReasonDelivering), map[string]int64{"requeued": 12, "waiting": 12})
}

func TestAReplayOfNothingSaysSo(t *testing.T) {
	s := newScene(t, "nothing", manual)
	s.seed(1, "HTTP 503: down", 7)
	r := s.AwaitReady(s.apply("r", `{selector: {eventTypes: [never.sent]}}`))
	if reason(r) != v1alpha1.ReasonSucceeded || message(r) != "no dead entry is selected" {
		t.Errorf("%s: %s", reason(r), message(r))
	}
	s.eachOnce(0)
}
