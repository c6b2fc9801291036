package dlqreplay_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const inFlight = `SELECT count(*) FROM webhook_outbox_entries
	WHERE dlq_at IS NULL AND delivered_at IS NULL AND attempts = 0`

func TestNoMoreAreInFlightThanTheSpecSays(t *testing.T) {
	s := newScene(t, "inflight", manual)
	s.seed(60, "HTTP 503: down", 7)
	name := s.apply("r", "{maxInFlight: 7, canary: {entries: 0}}")
	// reaches waits until exactly n are in flight, and fails if more ever were.
	reaches := func(n int64) {
		t.Helper()
		stage.Eventually(t, fmt.Sprintf("%d in flight", n), func() bool {
			got := s.count(inFlight)
			if got > n {
				t.Fatalf("%d are in flight, and maxInFlight is %d", got, n)
			}
			return got == n
		})
	}
	reaches(7)
	s.dispatch()
	reaches(7)
	if got := s.requeues(); got < 14 {
		t.Errorf("%d were requeued, and two rounds of 7 should have been", got)
	}
	s.Change(name, `{"spec":{"maxInFlight":20}}`)
	reaches(20)
	generation := s.Change(name, `{"spec":{"maxInFlight":3}}`).Generation
	s.Await(name, "the new maximum", func(r *v1alpha1.DLQReplay) bool { return r.Status.ObservedGeneration == generation })
	s.dispatch()
	reaches(3)
	s.Change(name, `{"spec":{"maxInFlight":1000}}`)
	s.progress(s.dispatchUntil(name, "complete", stage.Ended), map[string]int64{"requeued": 60, "delivered": 60})
	s.eachOnce(60)
}

func TestNoMoreAreRequeuedInASecondThanTheSpecSays(t *testing.T) {
	s := newScene(t, "rate", manual)
	const rate, entries = 50, 300
	s.seed(entries, "HTTP 503: down", 7)
	name := s.apply("r", fmt.Sprintf("{ratePerSecond: %d, maxInFlight: 1000, canary: {entries: 0}}", rate))
	s.Await(name, "all requeued", func(*v1alpha1.DLQReplay) bool { return s.requeues() == entries })
	// By the database's clock: what the platform saw between any two requeues is at most the rate, a second's worth that
	// may be made up for, and another for the time between a batch's look at the clock and its writes.
	worst := s.count(`SELECT max((b.n - a.n + 1) - $1 * (extract(epoch FROM b.requeued_at - a.requeued_at) + 2))::bigint
		FROM (SELECT *, row_number() OVER (ORDER BY id) AS n FROM logi_test.requeues) a
		JOIN (SELECT *, row_number() OVER (ORDER BY id) AS n FROM logi_test.requeues) b ON b.n >= a.n`, rate)
	if worst > 0 {
		t.Errorf("%d more were requeued than %d a second", worst, rate)
	}
}

// held bounds how many tests hold a batch, since each keeps one of the manager's workers busy.
var held = make(chan struct{}, 2)

// holdBatch starts a replay of 3000 entries without a limit of pace, stops it in its first batch of 1000, before the
// batch has written anything, and returns how to release it.
func (s *scene) holdBatch() (name string, release func()) {
	s.Helper()
	s.seed(3000, "HTTP 503: down", 7)
	held <- struct{}{}
	s.Cleanup(func() { <-held })
	release = s.lock(`LOCK TABLE playbook.replay_entries IN EXCLUSIVE MODE`)
	name = s.apply("r", "{maxInFlight: 1000000, canary: {entries: 0}}")
	stage.Eventually(s.T, "a batch waits for the lock", func() bool {
		return s.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'playbook-operator' AND wait_event_type = 'Lock'`) == 1
	})
	return name, release
}

// lock runs SQL in a transaction that stays open until release is called, or the test ends.
func (s *scene) lock(sql string, args ...any) (release func()) {
	s.Helper()
	tx, err := s.DB.Begin(s.Ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // where the test did not get to release it
	if _, err := tx.Exec(s.Ctx, sql, args...); err != nil {
		s.Fatal(err)
	}
	return func() {
		s.Helper()
		if err := tx.Rollback(s.Ctx); err != nil {
			s.Fatal(err)
		}
	}
}

func TestWhatChangesHoldsFromTheNextBatchOn(t *testing.T) {
	for change, c := range map[string]struct {
		do, undo func(s *scene, name string)
		reason   string
	}{
		"suspend": {
			func(s *scene, name string) { s.Change(name, `{"spec":{"suspend":true}}`) },
			func(s *scene, name string) { s.Change(name, `{"spec":{"suspend":false}}`) },
			v1alpha1.ReasonSuspended,
		},
		"observeonly": {
			func(s *scene, _ string) { s.automation(v1alpha1.AutomationObserveOnly) },
			func(s *scene, _ string) { s.automation(v1alpha1.AutomationEnabled) },
			v1alpha1.ReasonAutomationOff,
		},
		"maxinflight": {
			func(s *scene, name string) { s.Change(name, `{"spec":{"maxInFlight":1000}}`) },
			func(s *scene, name string) { s.Change(name, `{"spec":{"maxInFlight":3000}}`) },
			v1alpha1.ReasonRequeuing,
		},
	} {
		t.Run(change, func(t *testing.T) {
			s := newScene(t, "hold-"+change, manual)
			name, release := s.holdBatch()
			c.do(s, name)
			s.seenByManager(c.reason == v1alpha1.ReasonAutomationOff)
			release()
			s.AwaitReason(name, c.reason)
			s.Await(name, "the batch that was under way", func(*v1alpha1.DLQReplay) bool { return s.requeues() >= 1000 })
			s.nudge(name)
			s.eachOnce(1000)
			c.undo(s, name)
			s.Await(name, "all requeued", func(*v1alpha1.DLQReplay) bool { return s.requeues() >= 3000 })
			s.eachOnce(3000)
		})
	}
}

// seenByManager waits until the manager's cache has the changes made before: it has when it acts on a replay made after
// them, or, where the change was the red button, does not act for that reason.
func (s *scene) seenByManager(observeOnly bool) {
	s.Helper()
	if observeOnly {
		sentinel := s.apply("sentinel", "{canary: {entries: 0}}")
		s.AwaitReason(sentinel, v1alpha1.ReasonAutomationOff)
		s.Delete(sentinel)
		return
	}
	s.AwaitReady(s.apply("sentinel", "{mode: Plan}"))
}

func TestARatePutOnHoldsFromTheNextBatchOn(t *testing.T) {
	s := newScene(t, "hold-rate", manual)
	name, release := s.holdBatch()
	s.Change(name, `{"spec":{"ratePerSecond":1}}`)
	s.seenByManager(false)
	release()
	s.Await(name, "the batch that was under way", func(*v1alpha1.DLQReplay) bool { return s.requeues() >= 1000 })
	s.nudge(name)
	if got := s.requeues(); got > 1200 {
		t.Errorf("%d were requeued, and one a second may be after the first 1000", got)
	}
	s.Change(name, `{"spec":{"ratePerSecond":null}}`)
	s.Await(name, "all requeued", func(*v1alpha1.DLQReplay) bool { return s.requeues() >= 3000 })
	s.eachOnce(3000)
}

func TestARunningReplayThatIsDeletedStopsAtOnce(t *testing.T) {
	s := newScene(t, "hold-delete", manual)
	name, release := s.holdBatch()
	r := s.Get(name)
	if err := shared.Kube.Delete(s.Ctx, &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace,
		Name: name}}); err != nil {
		t.Fatal(err)
	}
	s.seenByManager(false)
	release()
	stage.Eventually(t, name+" is gone", func() bool {
		return client.IgnoreNotFound(shared.Kube.Get(s.Ctx, client.ObjectKeyFromObject(r), r)) == nil && s.Gone(name)
	})
	// The deletion interrupts the batch, which is rolled back, or it was too late for that.
	before := s.requeues()
	if before != 0 && before != 1000 {
		t.Errorf("%d entries were requeued, which is part of a batch", before)
	}
	s.eachOnce(before)
	if got := stage.Query[string](s.Scene, `SELECT outcome FROM playbook.operations WHERE uid = $1::uuid`,
		r.UID); got != "deleted" {
		t.Errorf("the outcome in the ledger is %q", got)
	}
	if got := s.count(`SELECT count(*) FROM playbook.replay_pages p
		JOIN playbook.operations o ON o.id = p.operation_id WHERE uid = $1::uuid`, r.UID); got != 0 {
		t.Errorf("%d pages of the plan are left", got)
	}

	// Applied again under the same name, it goes on with what is still dead, and touches nothing twice.
	again := s.apply("r", "{maxInFlight: 1000000, canary: {entries: 0}}")
	r = s.Await(again, "all requeued", func(r *v1alpha1.DLQReplay) bool {
		return r.Status.Progress != nil && value(r.Status.Progress.Requeued) == 3000-before
	})
	s.progress(r, map[string]int64{"requeued": 3000 - before, "waiting": 3000 - before})
	s.eachOnce(3000)
}

// suspended applies a replay that has planned and waits.
func (s *scene) suspended(name, spec string) string {
	s.Helper()
	name = s.apply(name, "{suspend: true, "+strings.TrimPrefix(spec, "{"))
	s.AwaitReason(name, v1alpha1.ReasonSuspended)
	return name
}

func TestWhatOthersDidMeanwhileIsLeftAsItIs(t *testing.T) {
	s := newScene(t, "others", manual)
	ids := s.seed(20, "HTTP 503: down", 7)
	pending, err := s.Enqueue(s.Ctx, acme, 3)
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(`UPDATE webhook_outbox_entries
		SET next_retry_at = clock_timestamp() + interval '1 day', attempts = 1, last_error = 'HTTP 503: down'
		WHERE id = ANY ($1)`, pending)
	name := s.suspended("r", "{canary: {entries: 0}}")

	s.Exec(`DELETE FROM webhook_outbox_entries WHERE id = ANY ($1)`, ids[:3])
	s.Exec(`UPDATE webhook_outbox_entries
		SET dlq_at = NULL, attempts = 0, next_retry_at = clock_timestamp() + interval '1 day' WHERE id = $1`, ids[3])
	s.Exec(`UPDATE webhook_outbox_entries SET delivered_at = clock_timestamp() WHERE id = $1`, ids[4])
	s.Exec(`UPDATE webhook_outbox_entries SET dlq_at = clock_timestamp() WHERE id = $1`,
		ids[5]) // revived, and dead again after the cutoff
	late := s.seed(4, "HTTP 503: down", 7)
	s.Exec(`UPDATE webhook_outbox_entries SET dlq_at = clock_timestamp() WHERE id = ANY ($1)`, late[:2])
	untouched := append(append([]int64{}, ids[3:6]...), append(pending, late...)...)
	const rows = `SELECT md5(string_agg(o::text, '' ORDER BY id)) FROM webhook_outbox_entries o WHERE id = ANY ($1)`
	before, already := stage.Query[string](s.Scene, rows, untouched), s.requeues()

	s.Change(name, `{"spec":{"suspend":false}}`)
	s.progress(s.AwaitReason(name, v1alpha1.ReasonDelivering), map[string]int64{"requeued": 14, "waiting": 14, "gone": 3,
		"changed": 3})
	if got := stage.Query[string](s.Scene, rows, untouched); got != before {
		t.Error("entries that were revived, delivered, pending, or died after the cutoff were changed")
	}
	if got := s.requeues() - already; got != 14 {
		t.Errorf("%d entries were requeued", got)
	}
	s.Exec(`DELETE FROM webhook_outbox_entries WHERE id = ANY ($1)`, ids[18:])
	r := s.dispatchUntil(name, "complete", stage.Ended)
	s.progress(r, map[string]int64{"requeued": 12, "delivered": 12, "gone": 5, "changed": 3})
	if !addsUp(r) {
		t.Error("the counts do not add up")
	}
}

func TestAnEntryLockedByAnotherSessionIsTriedUntilItIsFree(t *testing.T) {
	s := newScene(t, "locked", manual)
	ids := s.seed(10, "HTTP 503: down", 7)
	release := s.lock(`SELECT FROM webhook_outbox_entries WHERE id = ANY ($1) FOR UPDATE`, ids[2:5])
	name := s.apply("r", "{canary: {entries: 0}}")
	r := s.Await(name, "all but the locked ones", func(r *v1alpha1.DLQReplay) bool {
		return strings.Contains(message(r), "3 entries are locked by another session")
	})
	s.progress(r, map[string]int64{"requeued": 7, "waiting": 7, "remaining": 3})
	release()
	s.progress(s.dispatchUntil(name, "complete", stage.Ended), map[string]int64{"requeued": 10, "delivered": 10})
	s.eachOnce(10)
}

func TestAnEntryThatKeepsDyingIsParked(t *testing.T) {
	s := newScene(t, "parked", quick)
	s.seed(5, "HTTP 503: down", 7)
	s.SetFault(acme, logi.Fault{Status: 422, Body: "poison"})
	for i := range 2 {
		s.progress(s.AwaitReady(s.apply(fmt.Sprint("try-", i), "{maxReplaysPerEntry: 2, canary: {entries: 0}}")),
			map[string]int64{"requeued": 5, "diedAgain": 5})
	}
	before := stage.Query[string](s.Scene, outbox)
	s.progress(s.AwaitReady(s.apply("poison", "{maxReplaysPerEntry: 2}")), map[string]int64{"parked": 5})
	if stage.Query[string](s.Scene, outbox) != before || s.requeues() != 10 {
		t.Error("parked entries were changed")
	}
	s.SetFault(acme, logi.Fault{})
	s.progress(s.AwaitReady(s.apply("once-more", "{maxReplaysPerEntry: 3}")),
		map[string]int64{"requeued": 5, "delivered": 5})
}

// seedUnpublished puts five entries of acme into the outbox under kids that are not published, four under kids in
// grace, and then three under the active one.
func (s *scene) seedUnpublished() {
	s.Helper()
	for _, key := range []struct{ kid, status, graceUntil string }{
		{"whk_revoked", "revoked", "NULL"}, {"whk_over", "grace", "clock_timestamp() - interval '1 second'"},
		{"whk_grace", "grace", "clock_timestamp() + interval '1 day'"}, {"whk_open", "grace", "NULL"},
	} {
		ids := s.seed(2, "HTTP 401: unknown kid", 1)
		s.Exec(`INSERT INTO webhook_signing_keys
				(oauth_application_id, kid, algorithm, public_key, private_key, status, grace_until)
			SELECT oauth_application_id, $1, algorithm, public_key, private_key, $2, `+key.graceUntil+`
			FROM webhook_signing_keys WHERE status = 'active'`, key.kid, key.status)
		s.Exec(`UPDATE webhook_outbox_entries SET kid = $1 WHERE id = ANY ($2)`, key.kid, ids)
	}
	s.Exec(`UPDATE webhook_outbox_entries SET kid = 'whk_nobody_knows' WHERE id = ANY ($1)`,
		s.seed(1, "HTTP 401: unknown kid", 1))
	s.seed(3, "HTTP 503: down", 7)
}

func TestAnEntryUnderAKidThatIsNotPublishedIsLeft(t *testing.T) {
	s := newScene(t, "unpublished", quick)
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"database":{"signingSecretRef":null}}}`)
	s.seedUnpublished()
	r := s.AwaitReady(s.apply("r", "{}"))
	s.progress(r, map[string]int64{"requeued": 7, "delivered": 7, "unpublished": 5})
	if got := s.count(`SELECT count(*) FROM webhook_outbox_entries
		WHERE kid IN ('whk_revoked', 'whk_over', 'whk_nobody_knows') AND dlq_at IS NOT NULL
			AND last_error = 'HTTP 401: unknown kid'`); got != 5 {
		t.Errorf("%d entries under kids that are not published are as they were", got)
	}
	s.eachOnce(7)
}

func TestAnEntryUnderAKidThatIsNotPublishedIsSignedAnewInItsBatch(t *testing.T) {
	s := newScene(t, "resigned", manual)
	s.seedUnpublished()
	kids := stage.Query[string](s.Scene, `SELECT string_agg(kid, ' ' ORDER BY id) FROM webhook_outbox_entries
		WHERE kid IN ('whk_revoked', 'whk_over', 'whk_nobody_knows')`)
	name := s.apply("r", "{canary: {entries: 0}}")
	s.Await(name, "requeued all", func(*v1alpha1.DLQReplay) bool { return s.requeues() == 12 })
	if got := s.count(`SELECT count(*) FROM (
			SELECT w.enqueued_at <= lag(w.enqueued_at) OVER (ORDER BY e.enqueued_at, e.entry_id) AS wrong
			FROM webhook_outbox_entries w JOIN playbook.replay_entries e ON e.entry_id = w.id
		) o WHERE wrong`); got != 0 {
		t.Errorf("%d entries are not in the old order", got)
	}
	s.dispatch()
	r := s.AwaitReady(name)
	s.progress(r, map[string]int64{"requeued": 12, "delivered": 12})
	if got := r.Status.Progress.Resigned; got == nil || *got != 5 {
		t.Errorf("%d were signed anew, by status.progress.resigned", value(got))
	}
	if got := stage.Query[string](s.Scene,
		`SELECT string_agg(former_kid, ' ' ORDER BY entry_id) FROM playbook.replay_entries`); got != kids {
		t.Errorf("the ledger has the former kids %s, and they were %s", got, kids)
	}
	s.eachOnce(12)
}

// The canary tries entries that are signed anew too; where there is no key to sign them by, nothing is done.
func TestEntriesThatCanNotBeSignedAnewStallTheReplay(t *testing.T) {
	s := newScene(t, "unsignable", quick)
	ids := s.seed(3, "HTTP 401: unknown kid", 1)
	s.Exec(`UPDATE webhook_outbox_entries SET kid = 'whk_nobody_knows' WHERE id = ANY ($1)`, ids)
	s.Exec(`UPDATE webhook_signing_keys SET private_key = reverse(private_key)`) // as good as encrypted
	name := s.apply("r", "{canary: {entries: 1}}")
	r := s.AwaitStalled(name, v1alpha1.ReasonSpecInvalid)
	if got := s.requeues(); got != 0 {
		t.Errorf("%d were requeued", got)
	}
	if got := message(r); !strings.Contains(got, "may be encrypted") || !strings.Contains(got, "signingSecretRef") {
		t.Errorf("the message does not say what to do: %s", got)
	}
	s.Exec(`UPDATE webhook_signing_keys SET private_key = reverse(private_key)`)
	s.request(name, "again")
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool { return reason(r) != v1alpha1.ReasonSpecInvalid })
	r = s.AwaitReady(name)
	if got := r.Status.Progress.Resigned; got == nil || *got != 3 {
		t.Errorf("%d were signed anew, by status.progress.resigned", value(got))
	}
	s.eachOnce(3)
}

func TestConflictsAreSettledLeftOrReplayed(t *testing.T) {
	s := newScene(t, "conflicts", quick)
	replays := map[string]*v1alpha1.DLQReplay{}
	const dead = `SELECT md5(string_agg(
			format('%s %s %s %s %s', id, dlq_at, delivered_at, attempts, last_error), '' ORDER BY id))
		FROM webhook_outbox_entries WHERE id = ANY ($1)`
	var conflicts []int64 // of the application whose replay settles them
	var before string
	for i, c := range []struct {
		policy string
		want   map[string]int64
	}{
		{"Settle", map[string]int64{"settled": 5, "requeued": 5, "delivered": 5}},
		{"Leave", map[string]int64{"left": 5, "requeued": 5, "delivered": 5}},
		{"Replay", map[string]int64{"requeued": 10, "delivered": 10}},
	} {
		application := int64(100 + i)
		if err := s.CreateApplication(s.Ctx, application, c.policy); err != nil {
			t.Fatal(err)
		}
		seed := func(n int, lastError string, attempts int) []int64 {
			ids, err := s.SeedDead(s.Ctx, application, n, lastError, attempts)
			if err != nil {
				t.Fatal(err)
			}
			return ids
		}
		ids := seed(5, "HTTP 409: already processed", 2)
		seed(3, "HTTP 409: already processed", 1)
		seed(2, "HTTP 503: down", 7)
		if c.policy == "Settle" {
			conflicts, before = ids, stage.Query[string](s.Scene, dead, ids)
		}
		r := s.AwaitReady(s.apply(strings.ToLower(c.policy), fmt.Sprintf(`{applicationID: "%d", idempotencyConflicts: %s}`,
			application, c.policy)))
		s.progress(r, c.want)
		replays[c.policy] = r
		if got := s.Counts()[application].Received; int64(got) != c.want["delivered"] {
			t.Errorf("%s: the relying party received %d webhooks", c.policy, got)
		}
	}
	if got := s.count(`SELECT count(*) FROM webhook_outbox_entries WHERE id = ANY ($1) AND delivered_at IS NOT NULL`,
		conflicts); got != 5 {
		t.Errorf("%d entries were marked delivered", got)
	}

	for _, want := range []string{"5 entries are dead letters again\n", "0 entries are dead letters again\n"} {
		if got := s.subcommand("undo-settlement", "--uid="+string(replays["Settle"].UID)); got != want {
			t.Errorf("undo-settlement printed %q and should print %q", got, want)
		}
		if stage.Query[string](s.Scene, dead, conflicts) != before {
			t.Error("the entries are not as they were before they were settled")
		}
	}
	// They can be settled again.
	s.progress(s.AwaitReady(s.apply("again", `{applicationID: "100"}`)), map[string]int64{"settled": 5})
}

// subcommand runs one of the manager's as the role playbook_operator.
func (s *scene) subcommand(args ...string) string {
	s.Helper()
	path, err := shared.World.Manager(s.Ctx)
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Ctx, path, args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.URLAs("playbook_operator"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("manager %s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

func TestAConflictAfterAnEarlierReplayIsOneThoughItsAttemptsWereReset(t *testing.T) {
	s := newScene(t, "conflict-later", quick)
	ids := s.seed(4, "HTTP 503: down", 7)
	s.SetFault(acme, logi.Fault{Status: 409, Body: "already processed"})
	s.progress(s.AwaitReady(s.apply("first", "{canary: {entries: 0}}")), map[string]int64{"requeued": 4, "diedAgain": 4})
	if got := s.count(`SELECT count(*) FROM webhook_outbox_entries WHERE id = ANY ($1) AND attempts = 1`, ids); got != 4 {
		t.Fatalf("%d of 4 entries died of their first attempt", got)
	}
	s.progress(s.AwaitReady(s.apply("second", "{}")), map[string]int64{"settled": 4})
	s.eachOnce(4)
}

func TestTwoReplaysOverTheSameEntriesRequeueEachOnce(t *testing.T) {
	s := newScene(t, "twins", quick)
	s.seed(1200, "HTTP 503: down", 7)
	names := []string{s.suspended("a", "{maxInFlight: 10000}"), s.suspended("b", "{maxInFlight: 10000}")}
	for _, name := range names {
		s.Change(name, `{"spec":{"suspend":false}}`)
	}
	var requeued, changed int64
	for _, name := range names {
		r := s.AwaitReady(name)
		requeued += value(r.Status.Progress.Requeued)
		changed += value(r.Status.Progress.Changed)
		if !addsUp(r) {
			t.Errorf("the counts of %s do not add up", name)
		}
	}
	if requeued != 1200 || changed != 1200 {
		t.Errorf("together they requeued %d and found %d changed; both should be 1200", requeued, changed)
	}
	s.eachOnce(1200)
	if c := s.Counts()[acme]; c.Received != 1200 || c.Duplicates != 0 {
		t.Errorf("the relying party received %d, and %d twice", c.Received, c.Duplicates)
	}
}
