package crashmatrix_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/keycompromise"
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
		WITH released AS (DELETE FROM logi_test.held RETURNING *) INSERT INTO webhook_outbox_entries SELECT * FROM released $$;
	GRANT USAGE ON SCHEMA logi_test TO PUBLIC; GRANT SELECT, INSERT ON logi_test.held TO playbook_signer`

// newKeySlot makes a platform with five dead webhooks and two that wait, and remembers it for the runs to come.
func (s *stage) newKeySlot(ctx context.Context, name string) (_ *slot, err error) {
	o := &slot{stage: s, name: name, deadline: runDeadline}
	// No answer may be kept, or each run would wait for caches.
	if o.site, err = s.NewSite(ctx, name, logi.Config{ManualDispatch: true, Workers: 1,
		JWKSMaxAge: time.Nanosecond}); err != nil {
		return nil, err
	}
	if o.db, err = pgx.Connect(ctx, o.site.URLAs("")); err != nil {
		return nil, err
	}
	if err := o.site.CreateApplication(ctx, application, "acme"); err != nil {
		return nil, err
	}
	if _, err := o.site.SeedDead(ctx, application, 5, "HTTP 503: Service Unavailable", 7); err != nil {
		return nil, err
	}
	if _, err := o.site.Enqueue(ctx, application, 2); err != nil {
		return nil, err
	}
	// The same kid in each slot, so that runs can be compared.
	if _, err := o.db.Exec(ctx, `UPDATE webhook_signing_keys SET kid = 'whk_leaked'; UPDATE webhook_outbox_entries SET kid = 'whk_leaked';
		CREATE TABLE logi_test.seed AS TABLE webhook_outbox_entries; CREATE TABLE logi_test.keys AS TABLE webhook_signing_keys;
		`+heldSQL); err != nil {
		return nil, err
	}
	for _, object := range []client.Object{
		o.secret("database", map[string]string{"url": o.site.URLAs("playbook_operator")}),
		o.secret("signing", map[string]string{"url": o.site.URLAs("playbook_signer")}),
		&v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}, Spec: v1alpha1.PlatformSpec{
			URL: o.site.URL(),
			Database: &v1alpha1.PlatformDatabase{
				SecretRef:        v1alpha1.SecretReference{Name: name + "-database"},
				SigningSecretRef: &v1alpha1.SecretReference{Name: name + "-signing"},
			},
		}},
	} {
		if err := s.admin.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("applying the Platform: %w", err)
		}
	}
	return o, nil
}

// putBack puts the platform back to where each run begins, and applies the manifest.
func (s *slot) putBack(ctx context.Context, object client.ObjectKey) error {
	s.site.Forget()
	// The relying party does not know the successor at first.
	s.site.SetFault(application, logi.Fault{Status: http.StatusUnauthorized})
	s.rakes = len(s.site.RakeRuns())
	if s.bare {
		// The objects are its memory.
		if err := s.forget(ctx); err != nil {
			return fmt.Errorf("deleting earlier runs: %w", err)
		}
	}
	if _, err := s.db.Exec(ctx, `DELETE FROM webhook_outbox_entries; DELETE FROM webhook_signing_keys; DELETE FROM playbook.event_requeues;
		DELETE FROM playbook.command_runs; DELETE FROM playbook.key_revocations; DELETE FROM playbook.operations; DELETE FROM logi_test.requeues; DELETE FROM logi_test.held;
		INSERT INTO webhook_signing_keys TABLE logi_test.keys; INSERT INTO webhook_outbox_entries TABLE logi_test.seed`); err != nil {
		return fmt.Errorf("putting the platform back: %w", err)
	}
	return s.admin.Create(ctx, &v1alpha1.KeyCompromise{
		ObjectMeta: metav1.ObjectMeta{Namespace: object.Namespace, Name: object.Name},
		Spec: v1alpha1.KeyCompromiseSpec{
			PlatformRef: v1alpha1.PlatformReference{Name: s.name}, ApplicationID: strconv.Itoa(application), Kid: "whk_leaked", Reason: "found in a log", Via: s.via,
		},
	})
}

// keyManager puts a manager together as cmd/manager does, with everything that leaves it going over the wire.
func (s *slot) keyManager(wire *crashmatrix.Wire, v variant, stale bool) (*keycompromise.Reconciler, error) {
	config := rest.CopyConfig(s.manager)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		next = wire.Transport(next, kubernetesWrite)
		if v.kube != nil {
			next = v.kube(next)
		}
		return next
	})
	c, err := client.NewWithWatch(config, client.Options{Scheme: s.scheme, Mapper: s.mapper,
		FieldOwner: "playbook-manager"})
	if err != nil {
		return nil, err
	}
	transport := wire.Transport(&http.Transport{DisableKeepAlives: true},
		func(request *http.Request) string { return request.Method + " " + request.URL.Path })
	return &keycompromise.Reconciler{
		Client: s.cached(c, stale), APIReader: c, Recorder: &events.FakeRecorder{},
		Connections: &access.Connections{Secrets: c, Dial: wire.Dial, DialSSH: wire.DialSSH, Transport: transport},
	}, nil
}

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
		done := make(chan struct{})
		overtaking.Go(func() {
			defer other.Connections.Close()
			defer close(done)
			_, _ = other.Reconcile(ctx, request) // its errors are those of a manager that came second
		})
		// The other one may wait for a lock that this one holds.
		select {
		case <-done:
		case <-time.After(150 * time.Millisecond):
		}
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
			// What a manager waits for, or much less where that is the far side.
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

// broken says what a reader sees of the revocation that must never be: only some of what its transaction does, or
// something twice. What the platform's own rake did, the ledger learns afterwards.
func (s *slot) broken(ctx context.Context) (broken string, err error) {
	if err := s.db.QueryRow(context.WithoutCancel(ctx), `SELECT CASE
			WHEN (SELECT count(*) FROM webhook_signing_keys) > 2 THEN 'two successors'
			WHEN (SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised') > 1 THEN 'two events'
			WHEN count(DISTINCT seen) > 1 THEN 'a part of the revocation: ' || array_agg(seen)::text ELSE '' END
		FROM (VALUES
			((SELECT status = 'revoked' FROM webhook_signing_keys WHERE kid = 'whk_leaked'), false),
			(EXISTS (SELECT FROM webhook_signing_keys WHERE kid <> 'whk_leaked'), false),
			(NOT EXISTS (SELECT FROM webhook_outbox_entries WHERE kid = 'whk_leaked' AND delivered_at IS NULL), false),
			(EXISTS (SELECT FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'), false),
			(EXISTS (SELECT FROM playbook.key_revocations), true)) AS promises(seen, ledger)
		WHERE NOT ledger OR $1`, s.via != v1alpha1.CompromiseViaCommand).Scan(&broken); err != nil {
		return "", fmt.Errorf("reading what a reader sees of the revocation: %w", err)
	}
	return broken, nil
}

// platformMoves is what the platform and its relying party do between two passes, once the key is revoked.
func (s *slot) platformMoves(ctx context.Context) error {
	var revoked, requeued bool
	if err := s.db.QueryRow(ctx,
		`SELECT EXISTS (SELECT FROM playbook.key_revocations), EXISTS (SELECT FROM logi_test.requeues)`).Scan(&revoked, &requeued); err != nil || !revoked {
		return err
	}
	if requeued {
		s.site.SetFault(application, logi.Fault{})
	}
	if _, err := s.site.DispatchOnce(ctx); err != nil {
		return err
	}
	// Time passes: a dead event has rested long enough by the next pass.
	_, err := s.db.Exec(ctx, `UPDATE webhook_outbox_entries SET dlq_at = dlq_at - interval '1 hour'
		WHERE event_type = 'webhook_key.compromised' AND dlq_at > clock_timestamp()::timestamp - interval '1 minute'`)
	return err
}

// left reads what a run left behind; obj is empty where the object is gone.
func (s *slot) left(ctx context.Context, obj *v1alpha1.KeyCompromise, reason string) (*leak, error) {
	got := &leak{
		Reason: reason, Keys: map[string]int{}, Undelivered: map[bool]int{}, Received: s.site.ReceivedKeys(application),
		Rakes: len(s.site.RakeRuns()) - s.rakes,
	}
	if obj.Status.ResignedEntries != nil {
		got.Resigned = *obj.Status.ResignedEntries
	}
	var status string
	var successor bool
	var n int
	for _, q := range []struct {
		sql  string
		args []any
		into []any
		each func()
	}{
		{`SELECT status, count(*) FROM webhook_signing_keys GROUP BY 1`, nil, []any{&status, &n},
			func() { got.Keys[status] = n }},
		{`SELECT kid = $1, count(*) FROM webhook_outbox_entries WHERE delivered_at IS NULL GROUP BY 1`,
			[]any{obj.Status.SuccessorKid}, []any{&successor, &n}, func() { got.Undelivered[successor] = n }},
		{`SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'`, nil,
			[]any{&got.Events}, func() {}},
		{`SELECT count(*) FROM playbook.event_requeues`, nil, []any{&got.Requeues}, func() {}},
		{`SELECT count(*) FROM logi_test.requeues`, nil, []any{&got.Revivals}, func() {}},
		{`SELECT coalesce(outcome, 'open') FROM playbook.operations`, nil, []any{&got.Outcome}, func() {}},
		{`SELECT count(*) FILTER (WHERE at < opened_at), count(*) FILTER (WHERE at > closed_at) FROM playbook.operations,
			(SELECT revoked_at AT TIME ZONE 'UTC' FROM playbook.key_revocations UNION ALL SELECT requeued_at FROM logi_test.requeues) effects(at)`,
			nil, []any{&got.Before, &got.After}, func() {}},
	} {
		rows, err := s.db.Query(ctx, q.sql, q.args...)
		if err == nil {
			_, err = pgx.ForEachRow(rows, q.into, func() error { q.each(); return nil })
		}
		if err != nil {
			return nil, fmt.Errorf("reading what the run left behind: %w", err)
		}
	}
	var replays v1alpha1.DLQReplayList
	if err := s.admin.List(ctx, &replays, client.InNamespace(world.Namespace)); err != nil {
		return nil, fmt.Errorf("reading what the run left behind: %w", err)
	}
	for i := range replays.Items {
		if metav1.IsControlledBy(&replays.Items[i], obj) {
			got.Replays++
		}
	}
	return got, nil
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
		return rewrite(`^begin$`, "begin; SELECT logi_test.release()")(sql)
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
	// A slow clean run makes a pass more than a fast one: those effects are further ones of a kind that has its plans, and
	// few.
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
