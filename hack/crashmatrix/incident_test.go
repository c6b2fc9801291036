package crashmatrix_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// When things happen in an outage, since its Incident was opened. The clock goes from one to the next without waiting.
const (
	// approvalAfter is when a person approves the rollback, which crosses a migration of the database.
	approvalAfter   = 20 * time.Second
	secondTierAfter = 30 * time.Second
	thirdTierAfter  = 60 * time.Second
	noticeAfter     = 90 * time.Second
	goodAfter       = 120 * time.Second
	clearAfter      = 60 * time.Second
	// personAfter is when somebody looks at a response that stalled.
	personAfter = 240 * time.Second
	fixAfter    = 300 * time.Second
	// underWay is how soon a manager comes back for a call that it has under way.
	underWay = 100 * time.Millisecond
	// maxSteps ends a run that does not come to an end.
	maxSteps = 300
)

// outage is what an incident left behind, at the far sides and in the object.
type outage struct {
	// Rollbacks that Render did, and whether auto-deploy is on.
	Rollbacks  int
	AutoDeploy bool
	// Unasked says that Render was asked to roll back before a person had approved it.
	Unasked bool
	// Pages by tier: triggers of the alert, messages, deliveries of the webhook.
	Pages map[string]int
	// Alerts that PagerDuty has, by their state.
	Alerts map[string]int
	// Resolved says by tier whether it was told that it is over, for tiers whose channel keeps no state.
	Resolved map[string]bool
	// Notices that the public read, each as its statuses, the oldest first.
	Notices []string
	// Held is what the incident still holds in the Platform's status.
	Held string
	// Conditions as "Status Reason".
	Conditions map[string]string
	// Unknown says that the object reported that the outcome of the rollback is unknown.
	Unknown bool
	// Repeated is a text that the public was told twice.
	Repeated string
}

// emergency is one run of an outage: a bad deploy, until its fix is live.
type emergency struct {
	*slot
	object client.ObjectKey

	// mu guards what managers read: what one asks beside its passes may let another go first.
	mu   sync.Mutex
	time time.Time
	seen signals.Signals
	// connections of its managers.
	connections []*access.Connections
}

func (e *emergency) now() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.time
}

func (e *emergency) wait(until time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.time = until
}

func (e *emergency) signals(client.ObjectKey) signals.Signals {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen
}

func (e *emergency) see(s signals.Signals) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = s
}

// respond plays an outage once, under a plan or none. Where deleted is set, a person deletes the object when a manager
// is overtaken.
func (s *slot) respond(ctx context.Context, plan *crashmatrix.Plan, v variant, stale, deleted bool) (got *outage,
	effects []crashmatrix.Recorded, fired bool, err error) {
	e := &emergency{slot: s, object: client.ObjectKey{Namespace: world.Namespace,
		Name: fmt.Sprintf("run-%d", s.runs.Add(1))}}
	if err := e.begin(ctx); err != nil {
		return nil, nil, false, err
	}
	defer func() { err = errors.Join(err, e.forget(context.WithoutCancel(ctx))) }()
	request := ctrl.Request{NamespacedName: e.object}
	wire := &crashmatrix.Wire{Plan: plan, Rewrite: v.rewrite}
	wire.Overtake = func() {
		if deleted {
			if err := e.admin.Delete(ctx, &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: e.object.Namespace,
				Name: e.object.Name}}); err != nil {
				panic(err)
			}
		}
		other, err := e.newManager(&crashmatrix.Wire{Rewrite: v.rewrite}, v, stale)
		if err != nil {
			panic(err)
		}
		// It comes back for what it has under way, as at a far side that is slow on a busy machine. Its errors are those of
		// a manager that came second.
		for range maxSteps {
			result, err := other.Reconcile(ctx, request)
			if err != nil || result.RequeueAfter == 0 || result.RequeueAfter > underWay {
				break
			}
		}
	}
	manager, err := e.newManager(wire, v, stale)
	if err != nil {
		return nil, nil, false, err
	}
	began, unknown, unasked, current := e.now(), false, false, wire
	next := 0
	happens := []struct {
		after time.Duration
		do    func() error
	}{
		{approvalAfter, func() error {
			unasked = e.site.Render().Counts().Rollbacks > 0
			obj := &v1alpha1.Incident{}
			if err := e.admin.Get(ctx, e.object, obj); err != nil || obj.Status.Rollback == nil {
				return client.IgnoreNotFound(err)
			}
			return client.IgnoreNotFound(e.admin.Patch(ctx, obj, client.RawPatch(types.MergePatchType,
				fmt.Appendf(nil, `{"spec":{"approvals":[{"step":"RolledBack","digest":%q,"by":"dana"}]}}`,
					obj.Status.Rollback.Digest))))
		}},
		{goodAfter, func() error { e.see(good(e.now())); return nil }},
		{personAfter, func() error {
			if !unknown {
				return nil
			}
			obj := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: e.object.Namespace, Name: e.object.Name}}
			return e.admin.Patch(ctx, obj, client.RawPatch(types.MergePatchType,
				[]byte(`{"spec":{"resolution":{"by":"dana"}}}`)))
		}},
		{fixAfter, func() error {
			e.site.Render().AddDeploy(logi.WebService, "fix", "live", "manual", e.now())
			return nil
		}},
	}
	for range maxSteps {
		result, passErr := manager.Reconcile(ctx, request)
		after := result.RequeueAfter
		switch {
		case current.Dead():
			current = &crashmatrix.Wire{Rewrite: v.rewrite}
			if manager, err = e.newManager(current, v, stale); err != nil {
				return nil, nil, false, err
			}
			after = time.Second
		case passErr != nil && plan == nil && v.name == "":
			return nil, nil, false, fmt.Errorf("a clean pass failed: %w", passErr)
		case passErr != nil:
			after = time.Second
		}
		obj := &v1alpha1.Incident{}
		if err := e.admin.Get(ctx, e.object, obj); client.IgnoreNotFound(err) != nil {
			return nil, nil, false, err
		} else if err != nil {
			obj = nil
		}
		if obj == nil || meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionReady) {
			// Once more, as after a restart: a finished object runs nothing.
			if _, err := manager.Reconcile(ctx, request); err != nil && v.name == "" {
				return nil, nil, false, fmt.Errorf("a pass after the end: %w", err)
			}
			got, err := e.left(ctx, obj, unknown)
			if got != nil {
				got.Unasked = unasked
			}
			return got, wire.Effects(), wire.Fired(), err
		}
		if c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionStalled); c != nil {
			unknown = unknown || c.Reason == v1alpha1.ReasonOutcomeUnknown
		}
		if next < len(happens) && (after == 0 || !e.now().Add(after).Before(began.Add(happens[next].after))) {
			e.wait(began.Add(happens[next].after))
			if err := happens[next].do(); err != nil {
				return nil, nil, false, err
			}
			next++
			continue
		}
		if after == 0 && obj.DeletionTimestamp.IsZero() {
			break // nothing will ever wake it
		}
		e.wait(e.now().Add(after))
	}
	return nil, nil, wire.Fired(), errNotEnded
}

var (
	noticeID = regexp.MustCompile(`/incidents/[a-z0-9]+$`)
	// Each slot has a page of its own: of Platforms that share one, the oldest alone tells the public.
	pageID = regexp.MustCompile(`/pages/[^/]+/`)
)

// unknownOutcome says whether a plan can leave a rollback of which nobody can tell whether Render was asked for it: the
// manager ended between the intent and the call, or did not learn that the intent was written.
func unknownOutcome(plan crashmatrix.Plan) bool {
	switch plan.What {
	case "PATCH /platforms/status":
		return plan.Fault == crashmatrix.ReplyLost || plan.Fault == crashmatrix.KilledAfter
	case "PATCH /incidents/status":
		// The Incident repeats what its Platform says, before Render is asked.
		return plan.Fault == crashmatrix.DiedBefore || plan.Fault == crashmatrix.KilledAfter
	case askRollback:
		return plan.Fault == crashmatrix.DiedBefore
	}
	return false
}

// unknownPage says whether a plan can leave a page of which nobody can tell whether it arrived, so that it is sent
// again.
func unknownPage(plan crashmatrix.Plan) bool {
	switch {
	case plan.What == "PATCH /incidents/status":
		// What became of the page was not written down, or not yet.
		return plan.Fault == crashmatrix.DiedBefore || plan.Fault == crashmatrix.Overtaken
	case strings.HasPrefix(plan.What, "POST /pagerduty"), strings.HasPrefix(plan.What,
		"POST /slack"), strings.HasPrefix(plan.What, "POST /hooks"):
		return plan.Fault != crashmatrix.DiedBefore
	}
	return false
}

// judge says what is wrong with what a run left behind, by the class of each effect.
func judge(clean, got *outage, plan crashmatrix.Plan) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf(format+":\n%+v\n%+v", append(args, clean, got)...)
	}
	want := maps.Clone(clean.Conditions)
	held := clean.Held
	if got.Unknown {
		if !unknownOutcome(plan) {
			return fail("the rollback's outcome is unknown, and why")
		}
		// At most once: it was not asked for, and nobody can tell that. The incident closes when the signals stay good.
		want[v1alpha1.StepRolledBack] = "False NotNeeded"
		held = "Requested Restored"
	}
	repetitions := 0
	for tier, n := range clean.Pages {
		if got.Pages[tier] < n {
			return fail("a page to the %s tier was lost", tier)
		}
		repetitions += got.Pages[tier] - n
	}
	switch {
	case got.Unknown && got.Rollbacks != 0, !got.Unknown && got.Rollbacks != 1:
		return fail("%d rollbacks", got.Rollbacks)
	case got.Unasked && (!strings.HasPrefix(plan.What, "SQL ") || plan.Fault != crashmatrix.ReplyLost):
		// A schema that can't be looked at holds up nothing; one that could be is for a person.
		return fail("a rollback across a migration that nobody approved")
	case !got.AutoDeploy:
		return fail("auto-deploy is off")
	case repetitions > 1, repetitions == 1 && !unknownPage(plan):
		return fail("%d pages were repeated", repetitions)
	case !reflect.DeepEqual(got.Alerts, clean.Alerts), !reflect.DeepEqual(got.Resolved, clean.Resolved):
		return fail("other alerts, or other channels that know that it is over")
	case len(got.Notices) != 1, !strings.HasSuffix(got.Notices[0], "resolved"):
		return fail("the public read %d notices", len(got.Notices))
	case got.Repeated != "":
		return fail("the public was told the same twice")
	case got.Held != held:
		return fail("the Platform holds %q", got.Held)
	case !maps.Equal(got.Conditions, want):
		return fail("other conditions")
	}
	return nil
}

// afterDeletedIncident says what is wrong where a person deleted the object in the middle: nobody is left with an alert
// or a notice.
func afterDeletedIncident(got *outage) error {
	switch {
	case got.Rollbacks > 1:
		return fmt.Errorf("%d rollbacks:\n%+v", got.Rollbacks, got)
	case got.Alerts["triggered"]+got.Alerts["acknowledged"] > 0:
		return fmt.Errorf("an alert was left open:\n%+v", got)
	case len(got.Notices) > 1, len(got.Notices) == 1 && !strings.HasSuffix(got.Notices[0], "resolved"):
		return fmt.Errorf("a notice was left open:\n%+v", got)
	case strings.HasPrefix(got.Held, "notice"):
		return fmt.Errorf("the Platform's notice is still taken:\n%+v", got)
	case !got.AutoDeploy && !strings.HasSuffix(got.Held, string(v1alpha1.AutoDeployOff)):
		return fmt.Errorf("auto-deploy is off, and the Platform does not say so:\n%+v", got)
	}
	return nil
}

// mistake is a manager that is broken on purpose, and the plans that show it: a hint that saves time.
type mistake struct {
	variant
	fault crashmatrix.Fault
	at    string
}

const (
	askRollback = "POST " + logi.RenderPath + "/services/" + logi.WebService + "/rollback"
	setService  = "PATCH " + logi.RenderPath + "/services/" + logi.WebService
	addNotice   = "POST /statuspage/v1/pages/:page/incidents"
)

var mistakes = []mistake{
	{variant{name: "a rollback without its intent", kube: body(http.MethodPatch, "/platforms/", func(text string) string {
		return strings.ReplaceAll(text, `"state":"Requested"`, `"state":"Preparing"`)
	})}, crashmatrix.Overtaken, askRollback},
	{variant{name: "a rollback that does not see the migration", rewrite: func(sql string) string {
		return strings.ReplaceAll(sql, "> $1", "> '9' || $1")
	}}, crashmatrix.Overtaken, askRollback},
	{variant{name: "an intent without the optimistic lock", kube: only(http.MethodPatch, "/platforms/", unlocked)},
		crashmatrix.Overtaken, "PATCH /platforms/status"},
	{variant{name: "a rollback that is asked for again when its answer is lost",
		http: only(http.MethodPost, "/rollback", repeat)}, crashmatrix.ReplyLost, askRollback},
	{variant{name: "an auto-deploy of which nobody knows who switched it off",
		kube: swallow(patching("platforms", `"autoDeploy":"Off"`))}, crashmatrix.KilledAfter, setService},
	{variant{name: "a page that is written down as accepted before it is sent",
		kube: body(http.MethodPatch, "/status", func(text string) string {
			if strings.Contains(text, `"state":"Sending"`) {
				text = strings.Replace(text, `"status":{`, `"status":{"pagedAt":"2026-01-01T00:00:00Z",`, 1)
			}
			return strings.ReplaceAll(text, `"state":"Sending"`, `"state":"Accepted"`)
		})}, crashmatrix.DiedBefore, "POST /"},
	{variant{name: "a page of which nobody writes down that it was accepted",
		kube: swallow(patching("incidents", `"state":"Accepted"`))}, crashmatrix.DiedBefore, "POST /"},
	{variant{name: "another alert for each attempt", http: body(http.MethodPost, "/pagerduty/", func(text string) string {
		return strings.Replace(text, `"dedup_key":"`, `"dedup_key":"`+rand.Text(), 1)
	})}, crashmatrix.ReplyLost, "POST /pagerduty"},
	{variant{name: "a notice that is published without looking for it", http: answering("/incidents/unresolved", "[]")},
		crashmatrix.ReplyLost, addNotice},
	{variant{name: "a notice whose intent has no optimistic lock", kube: only(http.MethodPatch, "/incidents/",
		unlocked)}, crashmatrix.Overtaken, "PATCH /incidents/status"},
}

func TestCrashMatrixIncident(t *testing.T) {
	ctx := context.Background()
	s := newStage(t)
	slots := make([]*slot, parallel)
	for i := range slots {
		var err error
		if slots[i], err = s.newOutageSlot(ctx, fmt.Sprintf("inc-slot-%d", i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := slots[i].site.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	began := time.Now()
	clean, recorded, _, err := slots[0].respond(ctx, nil, never, false, false)
	if err != nil {
		t.Fatalf("the clean run: %v", err)
	}
	t.Logf("%s for %d effects: %+v", time.Since(began), len(recorded), clean)
	if err := judge(clean, clean, crashmatrix.Plan{}); err != nil {
		t.Fatalf("the clean run: %v", err)
	}
	stale, _, _, err := slots[0].respond(ctx, nil, never, true, false)
	if err == nil {
		err = judge(clean, stale, crashmatrix.Plan{})
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
	var failed, unknown atomic.Int64
	try := func(s *slot, plan crashmatrix.Plan, v variant, deleted bool) error {
		got, _, fired, err := s.respond(ctx, &plan, v, false, deleted)
		switch {
		case err != nil:
			return err
		case !fired:
			return errNoEffect
		case deleted:
			return afterDeletedIncident(got)
		}
		if got.Unknown && v.name == "" {
			unknown.Add(1)
		}
		return judge(clean, got, plan)
	}
	play := func(deleted bool) func(*slot, crashmatrix.Plan) bool {
		return func(s *slot, plan crashmatrix.Plan) bool {
			if err := try(s, plan, never, deleted); err != nil {
				failed.Add(1)
				t.Errorf("deleted %t, %s %s #%d: %v", deleted, plan.Fault, plan.What, plan.Nth, err)
			}
			return failed.Load() < 20
		}
	}
	each(slots, plans, play(false))
	// Another manager finds the object deleted.
	deletions := slices.DeleteFunc(slices.Clone(plans), func(plan crashmatrix.Plan) bool {
		return plan.Fault != crashmatrix.Overtaken
	})
	each(slots, deletions, play(true))
	t.Logf("%s for %d plans and %d deletions", time.Since(began), len(plans), len(deletions))
	if n := unknown.Load(); n == 0 || n > 8 {
		t.Errorf("%d outcomes could not be told", n)
	}
	caught := 0
	for _, v := range mistakes {
		var found atomic.Bool
		each(slots, plans, func(s *slot, plan crashmatrix.Plan) bool {
			if !found.Load() && plan.Fault == v.fault && strings.HasPrefix(plan.What, v.at) {
				// One that does not end is not caught: the oracle must say what is wrong.
				err := try(s, plan, v.variant, false)
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
	fmt.Printf("crash matrix Incident: %d effects, %d plans, %d/%d variants caught\n", len(recorded),
		len(plans)+len(deletions)+1, caught, len(mistakes))
}
