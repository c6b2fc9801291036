package crashmatrix_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// leak is what the end of a key left behind, at the far sides and in the object.
type leak struct {
	Reason   string
	Resigned int64
	// Keys by status, and undelivered entries by whether they are under the successor.
	Keys        map[string]int
	Undelivered map[bool]int
	// Events of the compromise in the outbox; how often the ledger says that it was requeued, and how often it was.
	Events, Requeues, Revivals int
	// Received is how often the relying party accepted each webhook.
	Received map[string]int
	// Replays that the object made.
	Replays int
	// Outcome of the operation in the ledger.
	Outcome string
	// Broken is what a reader saw between two passes that must never be.
	Broken string
	// Before the operation was opened, or after it was closed, by the database's clock: effects that nobody ordered.
	Before, After int
	// Rakes is how often the platform's own rake was started.
	Rakes int
}

// heldSQL is where a manager that is broken on purpose keeps what it writes in a later transaction than it should.
const heldSQL = `CREATE TABLE logi_test.held (LIKE webhook_outbox_entries INCLUDING ALL);
	CREATE FUNCTION logi_test.release() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
		WITH released AS (DELETE FROM logi_test.held RETURNING *)
		INSERT INTO webhook_outbox_entries SELECT * FROM released $$;
	GRANT USAGE ON SCHEMA logi_test TO PUBLIC; GRANT SELECT, INSERT ON logi_test.held TO playbook_signer`

// endKey plays the end of a key once, under a plan or none: the relying party refuses the event and two webhooks, and
// later accepts the event. Where deleted is set, a manager is overtaken by the object's deletion.
func (s *slot) endKey(ctx context.Context, plan *crashmatrix.Plan, v variant, stale, deleted bool) (got *leak,
	effects []crashmatrix.Recorded, fired bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()
	object := client.ObjectKey{Namespace: world.Namespace, Name: fmt.Sprintf("run-%d", s.runs.Add(1))}
	if err := s.putBack(ctx, object); err != nil {
		return nil, nil, false, err
	}
	// The platform's rake, where it is used, takes long enough for a manager that takes over to find the key as it was.
	// One that must be caught has to find it so on a slow machine, too.
	hang := 300 * time.Millisecond
	if v.name != "" {
		hang = 2 * time.Second
	}
	s.site.SetRakeFault(logi.RakeFault{Hang: hang})
	request := ctrl.Request{NamespacedName: object}
	wire := &crashmatrix.Wire{Plan: plan, Rewrite: v.rewrite}
	var overtaking sync.WaitGroup
	wire.Overtake = func() {
		if deleted {
			if err := s.admin.Delete(ctx, &v1alpha1.KeyCompromise{ObjectMeta: metav1.ObjectMeta{Namespace: object.Namespace,
				Name: object.Name}}); err != nil {
				panic(err)
			}
		}
		other, err := s.keyManager(&crashmatrix.Wire{Rewrite: v.rewrite}, v, stale)
		if err != nil {
			panic(err)
		}
		meanwhile(&overtaking, func() {
			defer other.Connections.Close()
			_, _ = other.Reconcile(ctx, request) // its errors are those of a manager that came second
		})
	}
	manager, err := s.keyManager(wire, v, stale)
	if err != nil {
		return nil, nil, false, err
	}
	defer func() { manager.Connections.Close() }()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errNotEnded, err)
		}
	}()
	for {
		_, passErr := manager.Reconcile(ctx, request)
		overtaking.Wait()
		if wire.Dead() {
			manager.Connections.Close()
			if manager, err = s.keyManager(&crashmatrix.Wire{Rewrite: v.rewrite}, v, stale); err != nil {
				return nil, nil, false, err
			}
		} else if passErr != nil && plan == nil && v.name == "" {
			return nil, nil, false, fmt.Errorf("a clean pass failed: %w", passErr)
		}
		broken, err := s.broken(ctx)
		if err != nil {
			return nil, nil, false, err
		}
		obj := &v1alpha1.KeyCompromise{}
		err = s.admin.Get(ctx, object, obj)
		if client.IgnoreNotFound(err) != nil {
			return nil, nil, false, err
		}
		if broken != "" || err != nil {
			if got, err = s.left(ctx, obj, ""); err == nil {
				got.Broken = broken
			}
			return got, wire.Effects(), wire.Fired(), err
		}
		ready := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && (ready.Status == metav1.ConditionTrue || meta.IsStatusConditionTrue(obj.Status.Conditions,
			v1alpha1.ConditionStalled)) {
			// Once more, as after a restart: a finished object runs nothing.
			if _, err := manager.Reconcile(ctx, request); err != nil && v.name == "" {
				return nil, nil, false, fmt.Errorf("a pass after the end: %w", err)
			}
			got, err := s.left(ctx, obj, ready.Reason)
			return got, wire.Effects(), wire.Fired(), err
		}
		if ready != nil && (ready.Reason == v1alpha1.ReasonWaitingForCaches || ready.Reason == v1alpha1.ReasonRevoking) {
			// A run waits as long as the manager asks, and much less where it waits for the far side.
			after := 50 * time.Millisecond
			if until := obj.Status.ExposedUntil; until != nil {
				after = time.Until(until.Time)
			}
			select {
			case <-ctx.Done():
			case <-time.After(after):
			}
		}
		if err := s.age(ctx, obj); err != nil {
			return nil, nil, false, err
		}
		// Not under the run's deadline, which would break the connection for the runs to come.
		if err := s.platformMoves(context.WithoutCancel(ctx)); err != nil {
			return nil, nil, false, err
		}
		if ctx.Err() != nil {
			return nil, nil, wire.Fired(), fmt.Errorf("the run did not end within %s: %v", s.deadline, ready)
		}
	}
}

// errNotEnded says that a run did not come to its end.
var errNotEnded = errors.New("not ended")

// keyVariant is a manager that is broken on purpose, and the fault that shows it, at the effects whose name begins so:
// a hint that saves time.
type keyVariant struct {
	variant
	fault   crashmatrix.Fault
	at      string
	deleted bool
}

var keyVariants = []keyVariant{
	{variant: variant{name: "a revocation that asks neither the ledger nor the key's row",
		rewrite: func(sql string) string {
			sql = rewrite(`(FROM playbook\.key_revocations WHERE application_id = \$1 AND kid = \$2) FOR UPDATE`,
				"$1 AND false FOR UPDATE")(sql)
			sql = rewrite(`SELECT status, algorithm FROM`, "SELECT 'active', algorithm FROM")(sql)
			return rewrite(`(?s)(INSERT INTO playbook\.key_revocations.*\$10\))`, "$1 ON CONFLICT DO NOTHING")(sql)
		}}, fault: crashmatrix.Overtaken, at: "SQL begin"},
	{variant: variant{name: "a revocation whose event is another one each time", rewrite: func(sql string) string {
		sql = rewrite(`(FROM playbook\.key_revocations WHERE application_id = \$1 AND kid = \$2) FOR UPDATE`,
			"$1 AND false FOR UPDATE")(sql)
		sql = rewrite(`(?s)(INSERT INTO webhook_outbox_entries.*\$3::jsonb, )\$4`, "$1$$4::text || clock_timestamp()")(sql)
		sql = rewrite(`SELECT id FROM webhook_outbox_entries WHERE idempotency_key = \$1`,
			"SELECT max(id) FROM webhook_outbox_entries WHERE idempotency_key LIKE $$1 || '%'")(sql)
		return rewrite(`(?s)(INSERT INTO playbook\.key_revocations.*\$10\))`, "$1 ON CONFLICT DO NOTHING")(sql)
	}}, fault: crashmatrix.Overtaken, at: "SQL begin"},
	{variant: variant{name: "a revocation without its ledger row",
		rewrite: rewrite(`(?s)INSERT INTO playbook\.key_revocations.*\$10\)`,
			"SELECT $$1::bigint, $$2::text, $$3::bigint, $$4::text, $$5::text, $$6::timestamp, $$7::bigint, $$8::boolean, "+
				"$$9::bigint, $$10::bigint",
		)}, fault: crashmatrix.ReplyLost, at: "SQL commit"},
	{variant: variant{name: "a revocation that commits before it signs anew",
		rewrite: rewrite(`^DECLARE unsigned`, "commit; begin; DECLARE unsigned")},
		fault: crashmatrix.DiedBefore, at: "SQL FETCH"},
	{variant: variant{name: "a ledger row in a transaction of its own", rewrite: rewrite(`^CLOSE unsigned`,
		"CLOSE unsigned; commit; begin")},
		fault: crashmatrix.DiedBefore, at: "SQL INSERT INTO playbook.key_revocations"},
	{variant: variant{name: "an event in a transaction of its own", rewrite: func(sql string) string {
		sql = rewrite(`(?s)INSERT INTO webhook_outbox_entries(.* ON CONFLICT DO NOTHING)`,
			"INSERT INTO logi_test.held$1")(sql)
		sql = rewrite(`SELECT id FROM webhook_outbox_entries WHERE idempotency_key = \$1`,
			"SELECT id FROM logi_test.held WHERE idempotency_key = $$1")(sql)
		return rewrite(`^(SELECT pg_advisory_xact_lock\w*\(hashtextextended\('playbook\.application', application_id\)\))`,
			"$1, logi_test.release()")(sql)
	}}, fault: crashmatrix.DiedBefore, at: "SQL UPDATE playbook.key_revocations SET open_transactions"},
	{variant: variant{name: "the time of a local clock, which is behind",
		rewrite: rewrite(`(?s)(UPDATE webhook_signing_keys .* ELSE clock_timestamp\(\))`,
			"$1 - interval '1 hour'",
		)}, fault: crashmatrix.DiedBefore, at: "SQL UPDATE webhook_signing_keys"},
	{variant: variant{name: "a requeue of the event without its ledger row", rewrite: rewrite(
		`(?s)INSERT INTO playbook\.event_requeues .* FROM dead RETURNING entry_id, requeued_at`, "SELECT id AS entry_id, "+
			"now AS requeued_at FROM dead",
	)}, fault: crashmatrix.ReplyLost, at: "SQL WITH dead"},
	{variant: variant{name: "no check that the operation is open", rewrite: rewrite(
		`(?s)^SELECT (.*?) closed_at, (.* FROM playbook\.operations WHERE uid = .*)$`, "SELECT $1 NULL::timestamptz AS "+
			"closed_at, $2",
	)}, fault: crashmatrix.Overtaken, at: "SQL begin", deleted: true},
	{variant: variant{name: "no finalizer", kube: swallow(func(path, body string) bool {
		return !strings.HasSuffix(path, "/status") && strings.Contains(body, "finalizers")
	})}, fault: crashmatrix.Overtaken, deleted: true},
}

// afterDeletion says what is wrong where the object was deleted in the middle: the revocation is there as a whole or
// not at all, and nothing was done once the operation was closed.
func afterDeletion(got *leak) error {
	revoked := got.Keys["revoked"] == 1 && got.Keys["active"] == 1 && got.Events == 1
	untouched := got.Keys["revoked"] == 0 && got.Keys["active"] == 1 && got.Events == 0 && got.Undelivered[true] == 0
	switch {
	case got.Outcome == "open" || got.Outcome == "" && !untouched:
		return fmt.Errorf("the operation was left open: %+v", got)
	case got.Broken != "" || !revoked && !untouched || got.Requeues != got.Revivals || got.Before+got.After > 0:
		return fmt.Errorf("neither all nor nothing, or too late: %+v", got)
	}
	for key, n := range got.Received {
		if n > 1 {
			return fmt.Errorf("%s was accepted %d times", key, n)
		}
	}
	return nil
}

func TestCrashMatrixKeyCompromise(t *testing.T) {
	s := newStage(t)
	playKeyMatrix(t, "KeyCompromise", s.newKeySlots(t), keyVariants, afterDeletion, func(clean, got *leak) error {
		if !reflect.DeepEqual(clean, got) {
			return fmt.Errorf("differs from the clean run:\n%+v\n%+v", clean, got)
		}
		return nil
	})
}

func (s *stage) newKeySlots(t *testing.T) []*slot {
	t.Helper()
	slots := make([]*slot, parallel)
	for i := range slots {
		var err error
		if slots[i], err = s.newKeySlot(t.Context(), fmt.Sprintf("key-slot-%d", i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := slots[i].close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return slots
}

// playKeyMatrix plays the end of a key with each fault at each effect of a clean run, and compares. Where afterDeletion
// is not nil, it also plays it with the object deleted in the middle.
func playKeyMatrix(t *testing.T, name string, slots []*slot, variants []keyVariant, afterDeletion func(*leak) error,
	check func(clean, got *leak) error) {
	t.Helper()
	ctx := context.Background()
	began := time.Now()
	clean, recorded, _, err := slots[0].endKey(ctx, nil, never, false, false)
	if err != nil {
		t.Fatalf("the clean run: %v", err)
	}
	t.Logf("%d effects; %+v", len(recorded), clean)
	compare := func(got *leak) error { return check(clean, got) }
	stale, _, _, err := slots[0].endKey(ctx, nil, never, true, false)
	if err == nil {
		err = compare(stale)
	}
	if err != nil {
		t.Errorf("with stale reads: %v", err)
	}
	var plans []crashmatrix.Plan
	for _, effect := range recorded {
		for _, fault := range faultsAt(effect) {
			plans = append(plans, crashmatrix.Plan{Effect: effect.Effect, Fault: fault})
		}
	}
	var deletions []crashmatrix.Plan
	for _, plan := range plans {
		// Once at each kind of effect, and at each transaction.
		if afterDeletion != nil && plan.Fault == crashmatrix.Overtaken && (plan.Nth == 1 || plan.What == "SQL begin" ||
			plan.What == "SQL commit") {
			deletions = append(deletions, plan)
		}
	}
	try := func(s *slot, plan crashmatrix.Plan, v variant, deleted bool) error {
		for range 5 {
			got, _, fired, err := s.endKey(ctx, &plan, v, false, deleted)
			switch {
			case err != nil:
			case !deleted:
				err = compare(got)
			case fired:
				err = afterDeletion(got)
			}
			if err != nil || fired {
				return err
			}
		}
		return errNoEffect
	}
	var failed, absent atomic.Int64
	judge := func(s *slot, plan crashmatrix.Plan, deleted bool) bool {
		switch err := try(s, plan, never, deleted); {
		case errors.Is(err, errNoEffect) && plan.Nth > 1:
			absent.Add(1)
		case err != nil:
			failed.Add(1)
			t.Errorf("deleted %t, %s %s #%d: %v", deleted, plan.Fault, plan.What, plan.Nth, err)
		}
		return failed.Load() < 20
	}
	each(slots, plans, func(s *slot, plan crashmatrix.Plan) bool { return judge(s, plan, false) })
	each(slots, deletions, func(s *slot, plan crashmatrix.Plan) bool { return judge(s, plan, true) })
	t.Logf("%s for %d plans and %d deletions", time.Since(began), len(plans), len(deletions))
	// A slow clean run makes one pass more than a fast one. Its further effects are few, and of kinds that have their
	// plans.
	played := len(plans) + len(deletions) + 1
	if absent.Load()*20 > int64(played) {
		t.Errorf("%d of %d planned faults found no effect", absent.Load(), played)
	}
	caught := 0
	for _, v := range variants {
		var found atomic.Bool
		each(slots, plans, func(s *slot, plan crashmatrix.Plan) bool {
			if !found.Load() && plan.Fault == v.fault && strings.HasPrefix(plan.What, v.at) {
				// One that does not end is not caught: the oracle must say what is wrong.
				err := try(s, plan, v.variant, v.deleted)
				if err != nil && !errors.Is(err, errNoEffect) && !errors.Is(err, errNotEnded) && !found.Swap(true) {
					t.Logf("a manager with %s, %s %s #%d: %v", v.name, plan.Fault, plan.What, plan.Nth, err)
				}
			}
			return !found.Load()
		})
		if found.Load() {
			caught++
		} else {
			t.Errorf("a manager with %s passes", v.name)
		}
	}
	fmt.Printf("crash matrix %s: %d effects, %d plans, %d/%d variants caught\n", name, len(recorded),
		played-int(absent.Load()), caught, len(variants))
}
