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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// exposedFor is for how long caches hold the key after it is ended.
const exposedFor = 2 * time.Minute

// exposure is what a KeyExposure left behind.
type exposure struct {
	// Made is how many KeyCompromises there were, also those that are gone.
	Made int
	// Unasked says that one was made before a person had approved it.
	Unasked bool
	// Owned says that one would go with its Incident.
	Owned bool
	// Early says that the Incident was closed while a cache might hold the key.
	Early bool
	// Conditions as "Status Reason"; empty if the Incident is gone.
	Conditions map[string]string
}

// leaked is one run: an alert opens the Incident, a person approves, and the KeyCompromise ends the key, or is deleted.
type leaked struct {
	*emergency
	got  exposure
	made map[types.UID]bool
	// calm is how many passes were made undisturbed since the KeyCompromise is there.
	calm, passes int
	// kept is until when caches hold the key.
	kept time.Time
}

// newExposureSlot makes a Platform that can end keys. Nobody is paged: that is the outage's.
func (s *stage) newExposureSlot(ctx context.Context, name string) (_ *slot, err error) {
	o := &slot{stage: s, name: name}
	if o.site, err = s.NewSite(ctx, name, logi.Config{ManualDispatch: true, Workers: 1}); err != nil {
		return nil, err
	}
	return o, s.admin.Create(ctx, &v1alpha1.Platform{
		ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name},
		Spec: v1alpha1.PlatformSpec{
			URL: o.site.URL(), Probes: &v1alpha1.PlatformProbes{},
			Database: &v1alpha1.PlatformDatabase{SecretRef: v1alpha1.SecretReference{Name: "nowhere"},
				SigningSecretRef: &v1alpha1.SecretReference{Name: "nowhere"}},
		},
	})
}

// expose plays a run under a plan or none. gone lets a person delete the KeyCompromise; deleted lets one delete the
// Incident when a manager is overtaken.
func (s *slot) expose(ctx context.Context, plan *crashmatrix.Plan, v variant, gone, deleted bool) (got *exposure,
	effects []crashmatrix.Recorded, fired bool, err error) {
	l := &leaked{made: map[types.UID]bool{}, emergency: &emergency{slot: s, object: client.ObjectKey{
		Namespace: world.Namespace, Name: fmt.Sprintf("run-%d", s.runs.Add(1))}}}
	if err := l.open(ctx); err != nil {
		return nil, nil, false, err
	}
	defer func() { err = errors.Join(err, l.forgetKeys(context.WithoutCancel(ctx))) }()
	request := ctrl.Request{NamespacedName: l.object}
	wire := &crashmatrix.Wire{Plan: plan}
	wire.Overtake = func() {
		if deleted {
			obj := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: l.object.Namespace, Name: l.object.Name}}
			if err := l.admin.Delete(ctx, obj); err != nil {
				panic(err)
			}
		}
		other, err := l.newManager(&crashmatrix.Wire{}, v, false)
		if err != nil {
			panic(err)
		}
		_, _ = other.Reconcile(ctx, request) // its errors are those of a manager that came second
	}
	manager, err := l.newManager(wire, v, false)
	if err != nil {
		return nil, nil, false, err
	}
	current := wire
	for range maxSteps {
		result, passErr := manager.Reconcile(ctx, request)
		calm, after := passErr == nil && !current.Dead(), result.RequeueAfter
		switch {
		case current.Dead():
			current = &crashmatrix.Wire{}
			if manager, err = l.newManager(current, v, false); err != nil {
				return nil, nil, false, err
			}
		case passErr != nil && plan == nil && v.name == "":
			return nil, nil, false, fmt.Errorf("a clean pass failed: %w", passErr)
		}
		obj := &v1alpha1.Incident{}
		if err := l.admin.Get(ctx, l.object, obj); client.IgnoreNotFound(err) != nil {
			return nil, nil, false, err
		} else if err != nil {
			obj = nil
		}
		if err := l.happens(ctx, obj, gone, calm); err != nil {
			return nil, nil, false, err
		}
		// What may not be is reported at once: a broken manager need not come to an end.
		if obj == nil || meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionReady) ||
			l.got.Made > 1 || l.got.Unasked || l.got.Owned {
			return &l.got, wire.Effects(), wire.Fired(), nil
		}
		l.wait(l.now().Add(max(after, time.Second)))
	}
	return nil, nil, wire.Fired(), errNotEnded
}

// open opens the Incident as an alert does.
func (l *leaked) open(ctx context.Context) error {
	obj := &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.object.Namespace, Name: l.object.Name, Annotations: map[string]string{
			v1alpha1.AnnotationSeenBy: "KeyInLog", v1alpha1.AnnotationSeenSeverity: string(v1alpha1.Sev2)}},
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: l.slot.name},
			Category: v1alpha1.CategoryKeyExposure,
			Affected: &v1alpha1.IncidentAffected{ApplicationIDs: []string{"42"}, Kid: "whk_leaked"}},
	}
	if err := l.admin.Create(ctx, obj); err != nil {
		return fmt.Errorf("opening the incident: %w", err)
	}
	l.wait(obj.CreationTimestamp.Time)
	return nil
}

var asked = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// happens is what people, and the KeyCompromise's own controller, do between two passes.
func (l *leaked) happens(ctx context.Context, obj *v1alpha1.Incident, gone, calm bool) error {
	keys, err := l.keys(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		l.made[k.UID] = true
		l.got.Owned = l.got.Owned || len(k.OwnerReferences) > 0
	}
	l.got.Made = len(l.made)
	if obj == nil {
		return nil
	}
	approved := len(obj.Spec.Approvals) > 0
	l.got.Unasked = l.got.Unasked || !approved && len(keys) > 0
	l.got.Conditions = map[string]string{}
	for _, c := range obj.Status.Conditions {
		l.got.Conditions[c.Type] = string(c.Status) + " " + c.Reason
	}
	l.got.Early = l.got.Early || obj.Status.ResolvedAt != nil && obj.Spec.Resolution == nil && l.now().Before(l.kept)
	step := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.StepKeyCompromised)
	if len(keys) > 0 && calm {
		l.calm++
	}
	switch {
	case step != nil && step.Reason == v1alpha1.ReasonWaitingForApproval && !approved:
		return l.patch(ctx, obj, fmt.Sprintf(`{"approvals":[{"step":%q,"digest":%q,"by":"dana"}]}`, step.Type,
			asked.FindString(step.Message)))
	case gone && len(keys) > 0 && l.calm == 2: // a manager saw it by then
		return l.admin.Delete(ctx, &keys[0])
	case gone && l.calm >= 2 && len(keys) == 0:
		if l.passes++; l.passes == 5 {
			return l.patch(ctx, obj, `{"resolution":{"by":"dana"}}`)
		}
	case !gone && len(keys) > 0 && keys[0].Status.RevokedAt == nil:
		l.kept = l.now().Add(exposedFor)
		return l.admin.Status().Patch(ctx, &keys[0], client.RawPatch(types.MergePatchType, fmt.Appendf(nil,
			`{"status":{"revokedAt":%[1]q,"exposedUntil":%[2]q,"conditions":[{"type":"Ready","status":"True",
				"reason":"Succeeded","message":"it is over","lastTransitionTime":%[1]q}]}}`,
			l.now().UTC().Format(time.RFC3339), l.kept.UTC().Format(time.RFC3339))))
	}
	return nil
}

func (l *leaked) patch(ctx context.Context, obj *v1alpha1.Incident, spec string) error {
	return l.admin.Patch(ctx, obj.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec":`+spec+`}`)))
}

// keys are the KeyCompromises of the slot's Platform.
func (l *leaked) keys(ctx context.Context) ([]v1alpha1.KeyCompromise, error) {
	var list v1alpha1.KeyCompromiseList
	if err := l.admin.List(ctx, &list, client.InNamespace(world.Namespace)); err != nil {
		return nil, fmt.Errorf("reading what was made: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(k v1alpha1.KeyCompromise) bool {
		return k.Spec.PlatformRef.Name != l.slot.name
	}), nil
}

func (l *leaked) forgetKeys(ctx context.Context) error {
	keys, err := l.keys(ctx)
	for i := range keys {
		err = errors.Join(err, l.admin.Delete(ctx, &keys[i]))
	}
	return errors.Join(err, l.forget(ctx))
}

// judgeExposure says what is wrong with what a run left behind.
func judgeExposure(clean, got *exposure) error {
	switch {
	case got.Unasked:
		return fmt.Errorf("a key was ended that nobody approved:\n%+v", got)
	case got.Made != 1:
		return fmt.Errorf("%d KeyCompromises rather than one:\n%+v", got.Made, got)
	case got.Owned:
		return fmt.Errorf("the proof goes with the Incident:\n%+v", got)
	case got.Early:
		return fmt.Errorf("it closed while a cache might hold the key:\n%+v", got)
	case !maps.Equal(got.Conditions, clean.Conditions):
		return fmt.Errorf("other conditions:\n%+v\n%+v", clean, got)
	}
	return nil
}

const makeKey = "POST /keycompromises"

// exposureMistakes are managers that are broken on purpose. gone says in which scenario it shows.
var exposureMistakes = []struct {
	mistake
	gone bool
}{
	{mistake{variant{name: "a name that is not the Incident's own", kube: body(http.MethodPost, "/keycompromises",
		func(text string) string {
			return regexp.MustCompile(`"name":"run-[^"]*"`).ReplaceAllString(text,
				`"name":"run-`+strings.ToLower(rand.Text())+`"`)
		})}, crashmatrix.Overtaken, makeKey}, false},
	{mistake{variant{name: "a KeyCompromise whose UID nobody writes down",
		kube: body(http.MethodPatch, "/incidents/", func(text string) string {
			return regexp.MustCompile(`,"uid":"[^"]*"|"uid":"[^"]*",?`).ReplaceAllString(text, "")
		})}, crashmatrix.KilledAfter, makeKey}, true},
	{mistake{variant{name: "a KeyCompromise that its Incident owns", kube: body(http.MethodPost, "/keycompromises",
		func(text string) string {
			return strings.Replace(text, `"metadata":{`, `"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod",`+
				`"name":"x","uid":"1"}],`, 1)
		})}, crashmatrix.KilledAfter, makeKey}, false},
}

func TestCrashMatrixKeyExposure(t *testing.T) {
	ctx := context.Background()
	s := newStage(t)
	slots := make([]*slot, parallel)
	for i := range slots {
		var err error
		if slots[i], err = s.newExposureSlot(ctx, fmt.Sprintf("exposed-slot-%d", i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := slots[i].site.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	type target struct {
		plan          crashmatrix.Plan
		gone, deleted bool
	}
	var targets []target
	clean, effects := map[bool]*exposure{}, 0
	for _, gone := range []bool{false, true} {
		got, recorded, _, err := slots[0].expose(ctx, nil, never, gone, false)
		if err == nil {
			err = judgeExposure(got, got)
		}
		if err != nil {
			t.Fatalf("the clean run: %v", err)
		}
		t.Logf("%d effects: %+v", len(recorded), got)
		clean[gone] = got
		effects += len(recorded)
		made := false // before that, nothing differs where an object is deleted later
		for _, effect := range recorded {
			made = made || effect.What == makeKey
			for _, fault := range faultsAt(effect) {
				plan := crashmatrix.Plan{Effect: effect.Effect, Fault: fault}
				if !gone || made {
					targets = append(targets, target{plan, gone, false})
				}
				if fault == crashmatrix.Overtaken && !gone && made {
					targets = append(targets, target{plan, gone, true})
				}
			}
		}
	}
	try := func(s *slot, to target, v variant) error {
		got, _, fired, err := s.expose(ctx, &to.plan, v, to.gone, to.deleted)
		switch {
		case err != nil:
			return err
		case !fired:
			return errNoEffect
		case to.deleted && (got.Made > 1 || got.Unasked || got.Owned):
			return fmt.Errorf("after the Incident was deleted: %+v", got)
		case to.deleted:
			return nil
		}
		return judgeExposure(clean[to.gone], got)
	}
	each(slots, targets, func(s *slot, to target) bool {
		if err := try(s, to, never); err != nil {
			t.Errorf("KeyCompromise deleted %t, Incident deleted %t, %s %s #%d: %v", to.gone, to.deleted, to.plan.Fault,
				to.plan.What, to.plan.Nth, err)
		}
		return true
	})
	caught := 0
	for _, m := range exposureMistakes {
		var found atomic.Bool
		each(slots, targets, func(s *slot, to target) bool {
			if !found.Load() && to.gone == m.gone && !to.deleted && to.plan.Fault == m.fault &&
				strings.HasPrefix(to.plan.What, m.at) {
				err := try(s, to, m.variant)
				if err != nil && !errors.Is(err, errNoEffect) && !errors.Is(err, errNotEnded) && !found.Swap(true) {
					t.Logf("a manager with %s, %s %s #%d: %v", m.name, to.plan.Fault, to.plan.What, to.plan.Nth, err)
				}
			}
			return !found.Load()
		})
		if found.Load() {
			caught++
		} else {
			t.Errorf("a manager with %s passes", m.name)
		}
	}
	fmt.Printf("crash matrix KeyExposure: %d effects, %d plans, %d/%d variants caught\n", effects, len(targets), caught,
		len(exposureMistakes))
}
