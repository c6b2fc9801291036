package crashmatrix_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	application = 42
	// parallel is how many runs go on at once. Each waits for its servers most of the time.
	parallel = 4
	// runDeadline ends a run that does not come to an end: a broken variant, or a bug.
	runDeadline = 45 * time.Second
)

// stage is what all runs share.
type stage struct {
	*world.World
	admin   client.Client
	manager *rest.Config // the manager's ServiceAccount
	mapper  meta.RESTMapper
	scheme  *runtime.Scheme
	runs    atomic.Int64
}

// scenario is a run of a replay from its manifest to its end.
type scenario struct {
	name string
	spec v1alpha1.DLQReplaySpec
	// fault of the relying party in the beginning.
	fault logi.Fault
	// refused are the entries that the platform's database refuses, each by one of refusals.
	refused map[int64]string
	// meanwhile is what people and the platform do between passes; it is called after each.
	meanwhile func(ctx context.Context, r *run, obj *v1alpha1.DLQReplay) error
	// overtaking is what people do while a manager is overtaken, before the other one's pass; nil for nothing.
	overtaking func(ctx context.Context, r *run) error
	// done says whether the run has come to its end; obj is nil when the object is gone.
	done func(obj *v1alpha1.DLQReplay) bool
	// check compares with the clean run by the class of each effect; it returns what is wrong.
	check func(clean, got *result, plan crashmatrix.Plan) error
}

// result is what a run left behind, at the far sides and in the object.
type result struct {
	Reason   string
	Progress v1alpha1.ReplayProgress
	// Requeues of each entry, as the audit trigger counted them.
	Requeues map[int64]int
	// Received is how often the relying party accepted each webhook.
	Received map[string]int
	// Entries is the ledger's action by entry.
	Entries map[int64]string
	// Outcome of the operation in the ledger.
	Outcome string
	// Late requeues came after the operation was closed.
	Late int
	// Refusals are what the object says of refused entries.
	Refusals []v1alpha1.Refusal
	// Calls to the admin API that reached it, by entry.
	Calls map[string]int
}

// slot is a platform that one run after another has to itself.
type slot struct {
	*stage
	name string
	site *world.Site
	db   *pgx.Conn

	// Where a key is ended: what ends it, whether its Platform has no database, how long a run may take, and how often the
	// rake had been started before it.
	via      v1alpha1.CompromiseVia
	bare     bool
	deadline time.Duration
	rakes    int
}

// run is one run of a scenario.
type run struct {
	*slot
	scenario
	object client.ObjectKey
	acted  map[string]bool
	calls  struct {
		sync.Mutex
		byEntry map[string]int
	}
}

// variant is a manager that is broken on purpose.
type variant struct {
	name    string
	rewrite func(sql string) string
	// carry changes how the manager's requests travel.
	kube, http func(next http.RoundTripper) http.RoundTripper
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

var objectName = regexp.MustCompile(`/run-\d+`)

var replays = []scenario{
	{
		// The canary fails, an entry dies again during the replay, and a person lets the replay go on.
		name:  "replay",
		fault: logi.Fault{Status: http.StatusUnauthorized},
		spec: v1alpha1.DLQReplaySpec{MaxInFlight: 5, Canary: v1alpha1.ReplayCanary{Entries: new(int32(2))},
			Breaker: v1alpha1.ReplayBreaker{MaxFailurePercent: new(int32(100))}},
		meanwhile: func(ctx context.Context, r *run, obj *v1alpha1.DLQReplay) error {
			if !stalled(obj) {
				return nil
			}
			return r.once("resume", func() error {
				r.site.SetFault(application, logi.Fault{})
				if _, err := r.db.Exec(ctx, `UPDATE webhook_outbox_entries SET dlq_at = clock_timestamp()
					WHERE id = (SELECT max(id) FROM webhook_outbox_entries o
						WHERE last_error LIKE 'HTTP 503%' AND kid <> 'whk_forgotten'
							AND NOT EXISTS (SELECT FROM playbook.replay_entries e WHERE e.entry_id = o.id))`); err != nil {
					return err
				}
				patched := obj.DeepCopy()
				patched.Annotations = map[string]string{v1alpha1.AnnotationRequestedAt: "once"}
				return r.admin.Patch(ctx, patched, client.MergeFrom(obj))
			})
		},
		done:  ready,
		check: exactlyOnce,
	},
	{
		name: "deleted",
		spec: v1alpha1.DLQReplaySpec{MaxInFlight: 3, Canary: v1alpha1.ReplayCanary{Entries: new(int32(0))}},
		meanwhile: func(ctx context.Context, r *run, obj *v1alpha1.DLQReplay) error {
			var requeued int
			if err := r.db.QueryRow(ctx,
				`SELECT coalesce(sum(requeued), 0) FROM playbook.operations`).Scan(&requeued); err != nil || requeued < 6 {
				return err
			}
			return r.delete(ctx)
		},
		overtaking: func(ctx context.Context, r *run) error { return r.delete(ctx) },
		done:       func(obj *v1alpha1.DLQReplay) bool { return obj == nil },
		check: func(_, got *result, _ crashmatrix.Plan) error {
			requeued := 0
			for id, action := range got.Entries {
				if action == "requeued" {
					requeued++
					if got.Requeues[id] != 1 {
						return fmt.Errorf("entry %d was requeued %d times and the ledger says once", id, got.Requeues[id])
					}
				}
			}
			untouched := got.Outcome == "" && len(got.Requeues) == 0 // deleted before anything was done
			if requeued != len(got.Requeues) || got.Late > 0 || got.Outcome != "deleted" && !untouched {
				return fmt.Errorf("outcome %s, %d requeues after it was closed; %d requeues in the ledger and %d in fact",
					got.Outcome, got.Late, requeued, len(got.Requeues))
			}
			return nil
		},
	},
	{
		// The database refuses one of a batch of two at the commit, so that the batch is halved. It refuses one of the next
		// at once.
		name: "refused",
		spec: v1alpha1.DLQReplaySpec{MaxInFlight: 2, Canary: v1alpha1.ReplayCanary{Entries: new(int32(0))},
			Selector: &v1alpha1.ReplaySelector{EntryIDs: []string{"1", "2", "3", "4"}}},
		refused:   map[int64]string{2: atCommit, 3: atOnce},
		meanwhile: func(context.Context, *run, *v1alpha1.DLQReplay) error { return nil },
		done:      ready,
		check:     exactlyOnce,
	},
	{
		name:      "plan",
		spec:      v1alpha1.DLQReplaySpec{Mode: v1alpha1.ReplayModePlan},
		meanwhile: func(context.Context, *run, *v1alpha1.DLQReplay) error { return nil },
		done:      ready,
		check:     exactlyOnce,
	},
	{
		name: "admin API",
		spec: v1alpha1.DLQReplaySpec{
			Via: v1alpha1.ReplayViaAdminAPI, AdminAPI: &v1alpha1.ReplayAdminAPI{},
			Selector: &v1alpha1.ReplaySelector{EntryIDs: []string{"1", "2"}},
		},
		meanwhile: func(ctx context.Context, r *run, obj *v1alpha1.DLQReplay) error {
			// Time passes: an intent whose call left no trace is old by the next pass.
			aged := obj.DeepCopy()
			for i := range aged.Status.AdminRetries {
				if a := &aged.Status.AdminRetries[i]; a.State == v1alpha1.AdminRetryIntended {
					a.At = metav1.NewMicroTime(time.Now().Add(-time.Hour))
				}
			}
			return r.admin.Status().Patch(ctx, aged, client.MergeFrom(obj))
		},
		done: func(obj *v1alpha1.DLQReplay) bool { return ready(obj) || obj != nil && stalled(obj) },
		// At most once: no entry is asked for twice, and one whose call can't be told stalls as unknown.
		check: func(clean, got *result, plan crashmatrix.Plan) error {
			for entry, n := range got.Calls {
				if n > 1 {
					return fmt.Errorf("the admin API was called %d times for entry %s", n, entry)
				}
			}
			if got.Reason == v1alpha1.ReasonOutcomeUnknown && leavesIntent(plan) && len(got.Calls) < len(clean.Calls) {
				return nil
			}
			return exactlyOnce(clean, got, plan)
		},
	},
}

// leavesIntent says whether a plan can leave an intent without its call, so that whoever comes next can't tell whether
// it was made: the manager ended between the two, or did not learn that the intent was written.
func leavesIntent(plan crashmatrix.Plan) bool {
	switch plan.Fault {
	case crashmatrix.DiedBefore, crashmatrix.KilledAfter:
		return true
	case crashmatrix.ReplyLost:
		return strings.HasPrefix(plan.What, "PATCH /dlqreplays/status")
	case crashmatrix.Overtaken:
	}
	return false
}

// never is a manager without fault.
var never = variant{}

func TestCrashMatrixDLQReplay(t *testing.T) {
	ctx := context.Background()
	s := newStage(t)
	slots := make([]*slot, parallel)
	for i := range slots {
		var err error
		if slots[i], err = s.newSlot(ctx, fmt.Sprintf("slot-%d", i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := slots[i].close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	effects, plans := 0, 0
	var targets []target
	for _, sc := range replays {
		clean, recorded, _, err := slots[0].play(ctx, sc, nil, never, false)
		if err != nil {
			t.Fatalf("%s: the clean run: %v", sc.name, err)
		}
		t.Logf("%s: %d effects; %s", sc.name, len(recorded), describe(clean))
		stale, _, _, err := slots[0].play(ctx, sc, nil, never, true)
		if err == nil {
			err = sc.check(clean, stale, crashmatrix.Plan{})
		}
		if err != nil {
			t.Errorf("%s with stale reads: %v", sc.name, err)
		}
		plans++
		effects += len(recorded)
		for _, effect := range recorded {
			for _, fault := range faultsAt(effect) {
				targets = append(targets, target{sc, clean, crashmatrix.Plan{Effect: effect.Effect, Fault: fault}})
			}
		}
	}
	plans += len(targets)
	var failed, absent atomic.Int64
	each(slots, targets, func(s *slot, target target) bool {
		switch err := s.try(ctx, target, never); {
		case errors.Is(err, errNoEffect) && target.plan.Nth > 1:
			absent.Add(1)
		case err != nil:
			failed.Add(1)
			t.Errorf("%s, %s %s #%d: %v", target.name, target.plan.Fault, target.plan.What, target.plan.Nth, err)
		}
		return failed.Load() < 20
	})
	// A slow clean run writes a status or looks at the outbox once more than a fast one: those effects are further ones of
	// a kind that has its plans, and few.
	plans -= int(absent.Load())
	if absent.Load()*50 > int64(plans) {
		t.Errorf("%d effects of the clean runs occurred in no other run", absent.Load())
	}
	caught := 0
	for _, v := range variants {
		var found atomic.Bool
		each(slots, targets, func(s *slot, target target) bool {
			if !found.Load() && v.shows(target) {
				if err := s.try(ctx, target, v.variant); err != nil && !errors.Is(err, errNoEffect) && !found.Swap(true) {
					t.Logf("a manager with %s, %s %s #%d: %v", v.name, target.plan.Fault, target.plan.What, target.plan.Nth, err)
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
	fmt.Printf("crash matrix DLQReplay: %d effects, %d plans, %d/%d variants caught\n", effects, plans, caught,
		len(variants))
}

type target struct {
	scenario
	clean *result
	plan  crashmatrix.Plan
}

// errNoEffect says that the effect of a plan did not occur.
var errNoEffect = errors.New("the effect did not occur in this run")

// try plays a target. What a pass does depends a little on how fast the machine is, so an effect that did not occur is
// waited for in a few more runs.
func (s *slot) try(ctx context.Context, target target, v variant) error {
	for range 5 {
		got, _, fired, err := s.play(ctx, target.scenario, &target.plan, v, false)
		if err == nil {
			err = target.check(target.clean, got, target.plan)
		}
		if err != nil || fired {
			return err
		}
	}
	return errNoEffect
}

// broken is a variant, and the targets at which it shows: a hint that saves time, since one that is caught nowhere
// fails the test.
type broken struct {
	variant
	shows func(target) bool
}

var variants = []broken{
	{variant{name: "no ledger row", rewrite: rewrite(
		`(?s)INSERT INTO playbook\.replay_entries \([^)]*\)\s*SELECT (\$\d+), id, (\$\d+), action,.*?`+
			`FROM judged WHERE (.*?)\s*RETURNING entry_id, action, acted_at`,
		"SELECT id AS entry_id, action, acted_at FROM judged WHERE ($3) AND $1::bigint IS NOT NULL AND $2::integer IS NOT "+
			"NULL",
	)}, in("replay")},
	{variant{name: "no check that the operation is open", rewrite: rewrite(
		`(?s)^SELECT (.*?) closed_at, (.* FROM playbook\.operations WHERE uid = .*)$`, "SELECT $1 NULL::timestamptz AS "+
			"closed_at, $2",
	)}, in("deleted", crashmatrix.Overtaken)},
	{variant{name: "a cutoff by a local clock, which is ahead", rewrite: rewrite(
		`(?s)(INSERT INTO playbook\.operations .* )clock_timestamp\(\)\)`, "${1}clock_timestamp() + interval '1 hour')",
	)}, in("replay")},
	{variant{name: "entries that are not judged again when they are locked", rewrite: rewrite(
		`(?s)\) IS NOT TRUE THEN 'changed'`, ") IS NULL AND false THEN 'changed'",
	)}, in("replay")},
	{variant{name: "a refused entry that is counted twice", rewrite: rewrite(
		`refused = refused \+ (\$\d+)`, "refused = refused + 2 * $1, total = total + $1",
	)}, in("refused")},
	{variant{name: "no ledger row for a refused entry", rewrite: rewrite(
		`(?s)INSERT INTO playbook\.replay_entries\s*\([^)]*\)\s*`+
			`SELECT (\$1), id, (\$3), 'refused', (\$4), (\$5), .*\sFROM webhook`,
		"SELECT $1::bigint, $2::integer, $3::text, $4::timestamp FROM webhook",
	)}, in("refused")},
	{variant{name: "no finalizer", kube: swallow(func(path, body string) bool {
		return !strings.HasSuffix(path, "/status") && strings.Contains(body, "finalizers")
	})}, in("deleted")},
	{variant{name: "a call before its intent", kube: swallow(func(path, body string) bool {
		return strings.HasSuffix(path, "/status") && strings.Contains(body, `"state":"Intended"`)
	})}, in("admin API", crashmatrix.ReplyLost)},
	{variant{name: "a call that is repeated when its reply is lost", http: repeat},
		in("admin API", crashmatrix.ReplyLost)},
}

// in picks the targets of a scenario, with one of the faults where any are given.
func in(scenario string, faults ...crashmatrix.Fault) func(target) bool {
	return func(target target) bool {
		return target.name == scenario && (len(faults) == 0 || slices.Contains(faults, target.plan.Fault))
	}
}
