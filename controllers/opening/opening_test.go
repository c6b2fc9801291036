package opening_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/opening"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/controlplane"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

var (
	plane  *controlplane.ControlPlane
	kube   client.Client
	scheme = stage.Scheme()
)

func TestMain(m *testing.M) {
	stage.Tests(m, func(ctx context.Context, dir string) (stop func(context.Context) error, err error) {
		plane, kube, err = stage.StartPlane(ctx, dir)
		return plane.Stop, err
	})
}

// start is when the first signal turns bad. The Platform is applied a second before it.
var start = time.Now().Add(time.Second).Truncate(time.Second)

// A scene is a namespace with a Platform. The test sets its signals and its clock.
type scene struct {
	*testing.T
	platform *v1alpha1.Platform
	offset   atomic.Int64
}

func newScene(t *testing.T) *scene {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "opening-"}}
	if err := kube.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, platform: &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "p"}}}
	s.apply()
	return s
}

// apply creates the Platform, also after it was deleted.
func (s *scene) apply() {
	s.Helper()
	s.platform = &v1alpha1.Platform{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.platform.Namespace, Name: s.platform.Name},
		Spec: v1alpha1.PlatformSpec{
			URL: "https://api.example.com", Probes: &v1alpha1.PlatformProbes{},
			AutoOpen: []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage},
		},
	}
	if err := kube.Create(s.Context(), s.platform); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

// opener is the Opener of one manager. If there is a wire, its requests pass through it.
func (s *scene) opener(wire func(http.RoundTripper) http.RoundTripper) *opening.Opener {
	s.Helper()
	config := plane.Config()
	if wire != nil {
		config.Wrap(wire)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		s.Fatal(err)
	}
	return &opening.Opener{Claims: claims.Claims{Client: c, APIReader: c, Now: s.now},
		Recorder: events.NewFakeRecorder(100)}
}

// open is one pass, with the Platform as it is.
func (s *scene) open(o *opening.Opener, each ...signals.Signal) error {
	p, seen := s.read(), signals.Signals{Each: each}
	before := p.DeepCopy()
	claimed, err := o.Claim(s.Context(), p, seen)
	if err == nil && !equality.Semantic.DeepEqual(before.Status, p.Status) {
		err = playbook.PatchStatus(s.Context(), o.Claims.Client, before, p)
	}
	if err == nil {
		_, err = o.Open(s.Context(), p, seen, claimed)
	}
	return err
}

func (s *scene) mustOpen(each ...signals.Signal) {
	s.Helper()
	for range 2 { // the second pass finds nothing to do
		if err := s.open(s.opener(nil), each...); err != nil {
			s.Fatal(err)
		}
	}
}

func (s *scene) read() *v1alpha1.Platform {
	s.Helper()
	p := &v1alpha1.Platform{}
	if err := kube.Get(s.Context(), client.ObjectKeyFromObject(s.platform), p); err != nil {
		s.Fatal(err)
	}
	return p
}

func (s *scene) incidents() []v1alpha1.Incident {
	s.Helper()
	var list v1alpha1.IncidentList
	if err := kube.List(s.Context(), &list, client.InNamespace(s.platform.Namespace)); err != nil {
		s.Fatal(err)
	}
	return list.Items
}

// one expects a single Incident, and that it has the slot.
func (s *scene) one() *v1alpha1.Incident {
	s.Helper()
	all, slots := s.incidents(), s.read().Status.Incidents
	if len(all) != 1 || len(slots) != 1 || slots[0].Incident != all[0].Name || slots[0].IncidentUID != string(all[0].UID) {
		s.Fatalf("%d Incidents, and the slots are %+v", len(all), slots)
	}
	return &all[0]
}

func (s *scene) count(want int) {
	s.Helper()
	if all := s.incidents(); len(all) != want {
		s.Fatalf("%d Incidents, want %d; the slots are %+v", len(all), want, s.read().Status.Incidents)
	}
}

func (s *scene) ticket(name string, spec v1alpha1.IncidentSpec) *v1alpha1.Incident {
	s.Helper()
	spec.PlatformRef.Name = s.platform.Name
	i := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: s.platform.Namespace, Name: name}, Spec: spec}
	if err := kube.Create(s.Context(), i); err != nil {
		s.Fatal(err)
	}
	return i
}

// resolve sets spec.resolution as a person does, and then does what the Incident controller does.
func (s *scene) resolve(i *v1alpha1.Incident, severity v1alpha1.Severity) {
	s.Helper()
	i.Spec.Resolution = &v1alpha1.IncidentResolution{By: "kim"}
	if err := kube.Update(s.Context(), i); err != nil {
		s.Fatal(err)
	}
	i.Status.ResolvedAt, i.Status.Severity = new(metav1.NewTime(s.now())), severity
	if err := kube.Status().Update(s.Context(), i); err != nil {
		s.Fatal(err)
	}
}

// delete deletes an object, and removes the finalizer as its controller would.
func (s *scene) delete(obj client.Object) {
	s.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`))
	if err := kube.Patch(s.Context(), obj, patch); err != nil {
		s.Fatal(err)
	}
	if err := kube.Delete(s.Context(), obj); err != nil {
		s.Fatal(err)
	}
}

func bad(condition string, severity v1alpha1.Severity, since time.Time) signals.Signal {
	return signals.Signal{Condition: condition, State: metav1.ConditionFalse, Severity: severity, Since: since,
		Message: condition + " is bad"}
}

func good(condition string) signals.Signal {
	return signals.Signal{Condition: condition, State: metav1.ConditionTrue, Since: start}
}

type wire func(*http.Request) (*http.Response, error)

func (f wire) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var errDied = errors.New("the manager died")

// dying lets a manager die at its nth write: before the write is sent, or after it was sent and before the answer
// arrives. Nothing is sent after that.
func dying(n int64, sent bool, writes *atomic.Int64) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return wire(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodGet {
				writes.Add(1)
			}
			switch at := writes.Load(); {
			case at < n:
				return next.RoundTrip(r)
			case at == n && sent && r.Method != http.MethodGet:
				response, err := next.RoundTrip(r)
				if err != nil {
					return nil, err
				}
				return nil, errors.Join(errDied, response.Body.Close())
			}
			return nil, errDied
		})
	}
}

// The two writes are the name and the Create. The next manager sees another onset than the manager that died.
func TestAManagerThatDiesLeavesOneIncident(t *testing.T) {
	t.Parallel()
	for n := int64(1); n <= 3; n++ {
		for _, sent := range []bool{false, true} {
			t.Run(fmt.Sprintf("at write %d, sent: %v", n, sent), func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				var writes atomic.Int64
				err := s.open(s.opener(dying(n, sent, &writes)), bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start))
				if died := n <= 2; errors.Is(err, errDied) != died {
					t.Fatalf("it ended with %v after %d writes", err, writes.Load())
				}
				s.mustOpen(bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start.Add(time.Second)))
				first := s.one()
				if named := strings.HasSuffix(first.Name, start.UTC().Format("-20060102t150405z")); named != (n > 1 || sent) {
					t.Errorf("it is called %s, and the first manager's onset was %v", first.Name, start)
				}
				if a := first.Annotations; a[v1alpha1.AnnotationSeenSeverity] != "sev1" ||
					a[v1alpha1.AnnotationSeenBy] != "UpAnswers" || first.Spec.Severity != "" {
					t.Errorf("%v, and spec.severity %q", a, first.Spec.Severity)
				}
			})
		}
	}
}

func TestTwoManagersOpenOne(t *testing.T) {
	t.Parallel()
	for round := range 10 {
		s := newScene(t)
		var managers sync.WaitGroup
		for n := range 2 {
			o := s.opener(nil)
			managers.Go(func() {
				for range 4 {
					err := s.open(o, bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start.Add(time.Duration(n)*time.Second)))
					if err != nil && !apierrors.IsConflict(err) {
						t.Errorf("round %d: %v", round, err)
					}
				}
			})
		}
		managers.Wait()
		s.one()
	}
}

func TestAnIncidentThatIsGoneFreesItsSlot(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	up := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start)
	s.mustOpen(up)
	first := s.one()
	if !slices.Equal(first.Finalizers, []string{v1alpha1.Finalizer}) {
		t.Errorf("it has the finalizers %q", first.Finalizers)
	}
	s.delete(first)
	s.mustOpen(up)
	if second := s.one(); second.UID == first.UID {
		t.Error("nothing opened for what is still bad")
	}
	s.delete(s.one())
	s.mustOpen(good(v1alpha1.ConditionUpAnswers))
	if slots := s.read().Status.Incidents; len(slots) != 0 {
		t.Errorf("the slots are %+v", slots)
	}
}

func TestAPlatformThatIsAppliedAgainFindsItsIncident(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.mustOpen(bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start))
	first := s.one()
	s.delete(s.platform)
	s.apply()
	s.mustOpen(bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start.Add(time.Minute)))
	if again := s.one(); again.UID != first.UID {
		t.Errorf("%s opened beside %s", again.Name, first.Name)
	}
}

func TestItIsQuietAfterAResolutionByHand(t *testing.T) {
	t.Parallel()
	up, latency := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start), bad(v1alpha1.ConditionLatencyGood,
		v1alpha1.Sev2, start)
	for name, c := range map[string]struct {
		first signals.Signal
		ends  func(*scene)
	}{
		"until it was good once":      {up, func(s *scene) { s.mustOpen(good(v1alpha1.ConditionUpAnswers)); s.mustOpen(up) }},
		"at most for repeatSeconds":   {up, func(s *scene) { s.offset.Store(int64(31 * time.Minute)); s.mustOpen(up) }},
		"until the severity is worse": {latency, func(s *scene) { s.mustOpen(latency, up) }},
		"about that signal only": {up, func(s *scene) {
			s.mustOpen(up, bad(v1alpha1.ConditionTokensIssued, v1alpha1.Sev1, start))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.mustOpen(c.first)
			s.resolve(s.one(), c.first.Severity)
			s.mustOpen(c.first)
			s.offset.Store(int64(29 * time.Minute))
			s.mustOpen(c.first)
			s.count(1)
			c.ends(s)
			s.count(2)
		})
	}
}

// A severity that a person lowered holds for the signals that were bad then, and for no others.
func TestALoweredSeverityIsAboutWhatWasBadThen(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	up, tokens := bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start), bad(v1alpha1.ConditionTokensIssued,
		v1alpha1.Sev1, start)
	s.mustOpen(up)
	first := s.one()
	first.Spec.Severity = v1alpha1.Sev3
	if err := kube.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	o := s.opener(nil)
	if waits, err := o.Claims.Hold(t.Context(), first, signals.Signals{Each: []signals.Signal{up}}); err != nil ||
		waits != nil {
		t.Fatalf("%v, %+v", err, waits)
	}
	s.mustOpen(up)
	s.count(1)
	s.mustOpen(up, tokens)
	s.count(2)
	waits, err := o.Claims.Hold(t.Context(), first, signals.Signals{Each: []signals.Signal{up, tokens}})
	if err != nil || waits == nil || waits.Name == first.Name {
		t.Errorf("the first one does not wait for the second: %v, %+v", err, waits)
	}
}

// A second Incident of a person waits, costs no writes while it waits, and takes over.
func TestASecondOneWaitsAndTakesOver(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	var writes, reads atomic.Int64
	cached := s.opener(dying(1<<40, false, &writes)).Claims
	past := s.opener(func(next http.RoundTripper) http.RoundTripper {
		return wire(func(r *http.Request) (*http.Response, error) { reads.Add(1); return next.RoundTrip(r) })
	}).Claims
	// The API server itself stands in for the cache, which would answer the same a moment later.
	held := claims.Claims{Client: cached.Client, APIReader: past.Client, Now: s.now}
	hold := func(i *v1alpha1.Incident) string {
		t.Helper()
		first, err := held.Hold(t.Context(), i, signals.Signals{})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			return ""
		}
		return first.Name
	}
	merge := v1alpha1.IncidentSpec{Category: v1alpha1.CategoryMergeInconsistency,
		Affected: &v1alpha1.IncidentAffected{UserIDs: []string{"12"}}}
	a, b, c := s.ticket("a", merge), s.ticket("b", merge), s.ticket("c", merge)
	if hold(a) != "" || hold(b) != "a" {
		t.Fatalf("the slots are %+v", s.read().Status.Incidents)
	}
	writes.Store(0)
	reads.Store(0)
	for range 3 {
		if hold(a) != "" || hold(b) != "a" || hold(c) != "a" {
			t.Fatalf("the slots are %+v", s.read().Status.Incidents)
		}
	}
	if writes.Load() != 0 || reads.Load() != 0 {
		t.Errorf("%d writes, and %d reads past the cache, while nothing changes", writes.Load(), reads.Load())
	}
	s.resolve(a, v1alpha1.Sev3)
	if err := held.Resolved(t.Context(), a, signals.Signals{}); err != nil {
		t.Fatal(err)
	}
	if hold(b) != "" || hold(c) != "b" || hold(a) != "" {
		t.Errorf("after the first: %+v", s.read().Status.Incidents)
	}
	s.delete(b)
	if hold(c) != "" {
		t.Errorf("after the second: %+v", s.read().Status.Incidents)
	}
}

// A signal that asks people what a refused client means opens one Unclassified Incident, and no Outage.
func TestWhatPeopleAreAskedAboutOpensOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ask := signals.Signal{Condition: v1alpha1.ConditionTokensIssued, State: metav1.ConditionUnknown,
		Severity: v1alpha1.Sev1, Since: start, Ask: true, Message: "the client is refused"}
	s.mustOpen(ask)
	i := s.one()
	if i.Spec.Category != v1alpha1.CategoryUnclassified || i.Annotations[v1alpha1.AnnotationSeenSeverity] != "sev2" ||
		i.Spec.Summary != ask.Message {
		t.Errorf("%+v %v", i.Spec, i.Annotations)
	}
}

// A ticket about something else kept people from being asked.
func TestATicketKeepsPeopleFromNothingThatTheyAreAskedAbout(t *testing.T) {
	t.Parallel()
	ask := signals.Signal{Condition: v1alpha1.ConditionTokensIssued, State: metav1.ConditionUnknown,
		Severity: v1alpha1.Sev1, Since: time.Now().Add(time.Minute), Ask: true, Message: "the client is refused"}
	for _, severity := range []v1alpha1.Severity{"", v1alpha1.Sev1} {
		t.Run(string(severity), func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.ticket("ticket", v1alpha1.IncidentSpec{Category: v1alpha1.CategoryUnclassified, Severity: severity})
			s.mustOpen()
			s.mustOpen(ask)
			s.count(2)
			// It comes and goes while its Incident is open.
			s.mustOpen(good(v1alpha1.ConditionTokensIssued))
			s.mustOpen(ask)
			s.count(2)
			s.delete(s.platform)
			s.apply()
			s.mustOpen(ask)
			s.count(2)
		})
	}
}
