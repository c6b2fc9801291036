package crashmatrix_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// delivery is what an Incident about webhooks left behind.
type delivery struct {
	// Made is how many DLQReplays there are, and Operations is how many began.
	Made, Operations int
	// Settled entries by the ledger, and what it did Else. Requeued is how many were sent again, as the audit trigger
	// counted them. Dead entries are left.
	Settled, Else, Requeued, Dead int
	// Told is how often the relying party was told that its webhooks die, and Over how often that it is over.
	Told, Over int
	// Again says that it was told once more after the Platform knew that it had accepted.
	Again bool
	// Foreign says that it was told something of another relying party.
	Foreign bool
	// Known is what the Platform remembers of that.
	Known string
	// Conditions as "Status Reason".
	Conditions map[string]string
}

// deaf is one run: a relying party fails, has a webhook already, and recovers. A person resolves the Incident.
type deaf struct {
	*emergency
	got delivery
	// known is how often it had been told when the Platform knew that it accepted; 0 before.
	known int
	// calm is how many passes were made undisturbed since it is settled and told. recovered says that it receives again.
	calm      int
	recovered bool
}

// endure plays a run under a plan or none.
func (s *slot) endure(ctx context.Context, plan *crashmatrix.Plan, v variant) (got *delivery,
	effects []crashmatrix.Recorded, fired bool, err error) {
	d := &deaf{emergency: &emergency{slot: s, object: client.ObjectKey{Namespace: world.Namespace,
		Name: fmt.Sprintf("run-%d", s.runs.Add(1))}}}
	if err := d.open(ctx); err != nil {
		return nil, nil, false, err
	}
	defer func() { err = errors.Join(err, d.forgetReplays(context.WithoutCancel(ctx))) }()
	wire := &crashmatrix.Wire{Plan: plan}
	wire.Overtake = func() {
		other, err := d.start(&crashmatrix.Wire{}, v)
		if err != nil {
			panic(err)
		}
		_, _ = d.pass(ctx, other) // its errors are those of a manager that came second
	}
	manager, err := d.start(wire, v)
	if err != nil {
		return nil, nil, false, err
	}
	for range maxSteps {
		after, passErr := d.pass(ctx, manager)
		calm := passErr == nil && !manager.wire.Dead()
		switch {
		case manager.wire.Dead():
			if manager, err = d.start(&crashmatrix.Wire{}, v); err != nil {
				return nil, nil, false, err
			}
		case passErr != nil && plan == nil && v.name == "":
			return nil, nil, false, fmt.Errorf("a clean pass failed: %w", passErr)
		}
		obj := &v1alpha1.Incident{}
		if err := errors.Join(d.admin.Get(ctx, d.object, obj), d.look(ctx, obj)); err != nil {
			return nil, nil, false, err
		}
		// What may not be is reported at once: a broken manager need not come to an end.
		if meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionReady) || d.got.Made > 1 || d.got.Again ||
			d.got.Told > 2 {
			return &d.got, wire.Effects(), wire.Fired(), nil
		}
		if err := d.happens(ctx, obj, calm); err != nil {
			return nil, nil, false, err
		}
		d.wait(d.now().Add(max(after, time.Second)))
	}
	return nil, nil, wire.Fired(), fmt.Errorf("%w: %+v", errNotEnded, d.got)
}

// pass lets a manager look at the Incident and at its DLQReplays until it has nothing to do now.
func (d *deaf) pass(ctx context.Context, manager *process) (after time.Duration, err error) {
	for range maxSteps {
		result, err := manager.incident.Reconcile(ctx, ctrl.Request{NamespacedName: d.object})
		if err != nil {
			return time.Second, err
		}
		// It comes back for what it has under way, as at a far side that is slow on a busy machine.
		if after = result.RequeueAfter; after == 0 || after > underWay {
			break
		}
	}
	made, err := d.replays(ctx)
	if err != nil {
		return time.Second, err
	}
	for i := range made {
		for range maxSteps {
			request := ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&made[i])}
			if _, err := manager.replay.Reconcile(ctx, request); err != nil {
				return time.Second, err
			}
			if err := d.admin.Get(ctx, request.NamespacedName, &made[i]); err != nil {
				return time.Second, err
			}
			if playbook.Finished(&made[i]) || playbook.Stalled(&made[i]) {
				break
			}
		}
	}
	return after, nil
}

// happens is what the relying party and people do between two passes.
func (d *deaf) happens(ctx context.Context, obj *v1alpha1.Incident, calm bool) error {
	done := func(step string) bool { return meta.IsStatusConditionTrue(obj.Status.Conditions, step) }
	if calm && done(v1alpha1.StepConflictsSettled) && done(v1alpha1.StepRelyingPartyTold) {
		d.calm++
	}
	switch {
	case d.calm == 1 && !d.recovered:
		d.recovered = true
		return d.deliver(ctx, application)
	case done(v1alpha1.StepRecovered) && obj.Spec.Resolution == nil:
		return d.admin.Patch(ctx, obj.DeepCopy(), client.RawPatch(types.MergePatchType,
			[]byte(`{"spec":{"resolution":{"by":"dana"}}}`)))
	}
	return nil
}

// judgeDelivery says what is wrong with what a run left behind, by the class of each effect.
func judgeDelivery(clean, got *delivery, plan crashmatrix.Plan) error {
	repeated := max(got.Told-1, 0) + max(got.Over-1, 0)
	switch {
	case got.Made != 1 || got.Operations != 1:
		return fmt.Errorf("%d DLQReplays of which %d began, rather than one:\n%+v", got.Made, got.Operations, got)
	case got.Settled != 1 || got.Else != 0 || got.Requeued != 0 || got.Dead != 1:
		return fmt.Errorf("other entries were settled or sent:\n%+v", got)
	case got.Told == 0 || got.Over == 0:
		return fmt.Errorf("the relying party was told %d times, and %d times that it is over:\n%+v", got.Told, got.Over,
			got)
	case got.Again:
		return fmt.Errorf("the relying party was told again, and it was known that it accepted:\n%+v", got)
	case repeated > 1 || repeated == 1 && !unknownTold(plan):
		return fmt.Errorf("%d messages were repeated:\n%+v", repeated, got)
	case got.Foreign:
		return fmt.Errorf("the relying party was told of another one:\n%+v", got)
	case got.Known != clean.Known || !maps.Equal(got.Conditions, clean.Conditions):
		return fmt.Errorf("the objects say something else:\n%+v\n%+v", clean, got)
	}
	return nil
}

// unknownTold says whether a plan can leave a message of which nobody can tell whether it was accepted, so that it is
// sent again.
func unknownTold(plan crashmatrix.Plan) bool {
	switch {
	case strings.HasPrefix(plan.What, "POST /slack"):
		return plan.Fault != crashmatrix.DiedBefore
	case plan.What == tellAccepted, plan.What == tellOver:
		// That it was accepted was not written down, or not yet.
		return plan.Fault == crashmatrix.DiedBefore || plan.Fault == crashmatrix.Overtaken
	}
	return false
}

const (
	tellClaim    = "PATCH /platforms/status Telling"
	tellAccepted = "PATCH /platforms/status Accepted"
	tellOver     = "PATCH /platforms/status Over"
)

// deliveryMistakes are managers that are broken on purpose.
var deliveryMistakes = []mistake{
	{variant{name: "a DLQReplay whose name is not the Incident's own", kube: body(http.MethodPost, "/dlqreplays",
		func(text string) string {
			return regexp.MustCompile(`"name":"run-[^"]*-42-[^"]*"`).ReplaceAllString(text,
				`"name":"run-1-42-`+strings.ToLower(rand.Text())+`"`)
		})}, crashmatrix.KilledAfter, "POST /dlqreplays"},
	{variant{name: "a message of which nobody writes down that it was accepted",
		kube: swallow(patching("platforms", `"state":"Accepted"`))}, crashmatrix.KilledAfter, "POST /slack"},
	{variant{name: "a message that is written down as accepted before it is sent",
		kube: body(http.MethodPatch, "/platforms/", func(text string) string {
			return strings.Replace(text, `"state":"Telling"`,
				`"state":"Accepted","acceptedAt":"`+time.Now().UTC().Format(time.RFC3339)+`"`, 1)
		})}, crashmatrix.DiedBefore, "POST /dlqreplays"},
	{variant{name: "a claim to tell somebody that has no optimistic lock",
		kube: only(http.MethodPatch, "/platforms/", unlocked)}, crashmatrix.Overtaken, tellClaim},
}

func TestCrashMatrixWebhookDelivery(t *testing.T) {
	ctx := context.Background()
	s := newStage(t)
	slots := make([]*slot, parallel)
	for i := range slots {
		var err error
		if slots[i], err = s.newDeliverySlot(ctx, fmt.Sprintf("deaf-slot-%d", i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := slots[i].close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	began := time.Now()
	clean, recorded, _, err := slots[0].endure(ctx, nil, never)
	if err == nil {
		err = judgeDelivery(clean, clean, crashmatrix.Plan{})
	}
	if err != nil {
		t.Fatalf("the clean run: %v", err)
	}
	recorded = slices.DeleteFunc(recorded, elsewhere)
	t.Logf("%s for %d effects: %+v", time.Since(began), len(recorded), clean)
	var plans []crashmatrix.Plan
	for _, effect := range recorded {
		for _, fault := range faultsAt(effect) {
			// A manager that is killed after an effect is one that died before the next, unless it is a far side's.
			if fault != crashmatrix.KilledAfter || strings.HasPrefix(effect.What, "POST ") {
				plans = append(plans, crashmatrix.Plan{Effect: effect.Effect, Fault: fault})
			}
		}
	}
	try := func(s *slot, plan crashmatrix.Plan, v variant) error {
		got, _, fired, err := s.endure(ctx, &plan, v)
		switch {
		case err != nil:
			return err
		case !fired:
			return errNoEffect
		}
		return judgeDelivery(clean, got, plan)
	}
	var failed atomic.Int64
	each(slots, plans, func(s *slot, plan crashmatrix.Plan) bool {
		if err := try(s, plan, never); err != nil {
			failed.Add(1)
			t.Errorf("%s %s #%d: %v", plan.Fault, plan.What, plan.Nth, err)
		}
		return failed.Load() < 20
	})
	t.Logf("%s for %d plans", time.Since(began), len(plans))
	caught := 0
	for _, m := range deliveryMistakes {
		if err := catchDelivery(slots, plans, m, try); err != nil {
			t.Logf("a manager with %s, %v", m.name, err)
			caught++
		} else {
			t.Errorf("a manager with %s passes", m.name)
		}
	}
	fmt.Printf("crash matrix WebhookDelivery: %d effects, %d plans, %d/%d variants caught\n", len(recorded), len(plans),
		caught, len(deliveryMistakes))
}

// elsewhere says that an effect is played elsewhere: by the matrix of DLQReplay, or as the query of a transaction that
// only reads. A query that is made again in the same way is played once.
func elsewhere(effect crashmatrix.Recorded) bool {
	return strings.HasPrefix(effect.What, "PATCH /dlqreplays") || effect.What == "SQL begin read only" ||
		effect.What == "SQL commit" || strings.HasPrefix(effect.What, "SQL ") && effect.Nth > 1
}

// catchDelivery returns what is wrong with what a broken manager left behind; nil where nothing is. One that does not
// end is not caught: the oracle must say what is wrong.
func catchDelivery(slots []*slot, plans []crashmatrix.Plan, m mistake,
	try func(*slot, crashmatrix.Plan, variant) error) error {
	var found atomic.Pointer[error]
	each(slots, plans, func(s *slot, plan crashmatrix.Plan) bool {
		if found.Load() == nil && plan.Fault == m.fault && strings.HasPrefix(plan.What, m.at) {
			err := try(s, plan, m.variant)
			if err != nil && !errors.Is(err, errNoEffect) && !errors.Is(err, errNotEnded) {
				err = fmt.Errorf("%s %s #%d: %w", plan.Fault, plan.What, plan.Nth, err)
				found.CompareAndSwap(nil, &err)
			}
		}
		return found.Load() == nil
	})
	if err := found.Load(); err != nil {
		return *err
	}
	return nil
}
