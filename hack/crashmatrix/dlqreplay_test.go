package crashmatrix_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/dlqreplay"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	application = 42
	// parallel runs at once: each waits for its servers most of the time.
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

func newStage(t *testing.T) *stage {
	t.Helper()
	ctx := context.Background()
	w, err := world.Start(ctx, t.TempDir(), servers.PostgresOptions{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ctrl.SetLogger(logr.Discard())
	s := &stage{World: w, scheme: runtime.NewScheme()}
	utilruntime.Must(clientgoscheme.AddToScheme(s.scheme))
	utilruntime.Must(v1alpha1.AddToScheme(s.scheme))
	httpClient, err := rest.HTTPClientFor(w.ControlPlane.Config())
	if err != nil {
		t.Fatal(err)
	}
	if s.mapper, err = apiutil.NewDynamicRESTMapper(w.ControlPlane.Config(), httpClient); err != nil {
		t.Fatal(err)
	}
	if s.admin, err = client.New(w.ControlPlane.Config(), client.Options{Scheme: s.scheme, Mapper: s.mapper}); err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := w.ControlPlane.KubeconfigForServiceAccount(ctx, world.Namespace, world.ServiceAccount)
	if err != nil {
		t.Fatal(err)
	}
	if s.manager, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		t.Fatal(err)
	}
	s.manager.QPS = -1
	return s
}

// scenario is a run of a replay from its manifest to its end.
type scenario struct {
	name string
	spec v1alpha1.DLQReplaySpec
	// fault of the relying party in the beginning.
	fault logi.Fault
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
	// Calls to the admin API that reached it, by entry.
	Calls map[string]int
}

// slot is a platform that one run after another has to itself.
type slot struct {
	*stage
	name string
	site *world.Site
	db   *pgx.Conn

	// Of the end of a key: what ends it, whether its Platform has no database, how long a run may take, and how often the
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

// once does something the first time it is asked to.
func (r *run) once(what string, do func() error) error {
	if r.acted[what] {
		return nil
	}
	r.acted[what] = true
	return do()
}

// delete deletes the object, once.
func (r *run) delete(ctx context.Context) error {
	return r.once("delete", func() error {
		return r.admin.Delete(ctx, &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: r.object.Namespace,
			Name: r.object.Name}})
	})
}

// variant is a manager that is broken on purpose.
type variant struct {
	name    string
	rewrite func(sql string) string
	// carry changes how the manager's requests travel.
	kube, http func(next http.RoundTripper) http.RoundTripper
}

// play runs a scenario once, under a plan or none.
func (s *slot) play(ctx context.Context, sc scenario, plan *crashmatrix.Plan, v variant, stale bool) (got *result,
	effects []crashmatrix.Recorded, fired bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, runDeadline)
	defer cancel()
	r := &run{slot: s, scenario: sc, acted: map[string]bool{}}
	r.object = client.ObjectKey{Namespace: world.Namespace, Name: fmt.Sprintf("run-%d", s.runs.Add(1))}
	r.calls.byEntry = map[string]int{}
	if err := r.prepare(ctx); err != nil {
		return nil, nil, false, err
	}
	request := ctrl.Request{NamespacedName: r.object}
	wire := &crashmatrix.Wire{Plan: plan, Rewrite: v.rewrite}
	var overtaking sync.WaitGroup
	wire.Overtake = func() {
		if sc.overtaking != nil {
			if err := sc.overtaking(ctx, r); err != nil {
				panic(err)
			}
		}
		other, err := r.newManager(&crashmatrix.Wire{Rewrite: v.rewrite}, v, stale)
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
	manager, err := r.newManager(wire, v, stale)
	if err != nil {
		return nil, nil, false, err
	}
	defer func() { manager.Connections.Close() }()
	for pass := 0; ; pass++ {
		_, passErr := manager.Reconcile(ctx, request)
		overtaking.Wait()
		if wire.Dead() {
			manager.Connections.Close()
			if manager, err = r.newManager(&crashmatrix.Wire{Rewrite: v.rewrite}, v, stale); err != nil {
				return nil, nil, false, err
			}
		} else if passErr != nil && plan == nil && v.name == "" {
			return nil, nil, false, fmt.Errorf("a clean pass failed: %w", passErr)
		}
		if _, err := r.site.DispatchOnce(ctx); err != nil {
			return nil, nil, false, err
		}
		obj := &v1alpha1.DLQReplay{}
		if err := s.admin.Get(ctx, r.object, obj); apierrors.IsNotFound(err) {
			obj = nil
		} else if err != nil {
			return nil, nil, false, err
		}
		if sc.done(obj) {
			// Once more, as after a restart: a finished object runs nothing.
			if _, err := manager.Reconcile(ctx, request); err != nil && v.name == "" {
				return nil, nil, false, fmt.Errorf("a pass after the end: %w", err)
			}
			got, err = r.result(ctx, obj)
			return got, wire.Effects(), wire.Fired(), err
		}
		if obj != nil {
			if err := r.meanwhile(ctx, r, obj); err != nil {
				return nil, nil, false, err
			}
		}
		if ctx.Err() != nil {
			got, err := r.result(context.WithoutCancel(ctx), obj)
			return nil, nil, wire.Fired(), errors.Join(fmt.Errorf("the run did not end within %s and %d passes: %s",
				runDeadline, pass, describe(got)), err)
		}
	}
}

// newSlot makes a platform whose webhooks are dead, and remembers them for the runs to come.
func (s *stage) newSlot(ctx context.Context, name string) (_ *slot, err error) {
	o := &slot{stage: s, name: name}
	if o.site, err = s.NewSite(ctx, name, logi.Config{ManualDispatch: true, Workers: 1}); err != nil {
		return nil, err
	}
	if o.db, err = pgx.Connect(ctx, o.site.URLAs("")); err != nil {
		return nil, err
	}
	if err := o.site.CreateApplication(ctx, application, "acme"); err != nil {
		return nil, err
	}
	for _, seed := range []struct {
		n         int
		lastError string
		attempts  int
	}{{12, "HTTP 503: Service Unavailable", 7}, {2, "HTTP 409: already processed", 3}, {1,
		"HTTP 503: Service Unavailable", 7}} {
		if _, err := o.site.SeedDead(ctx, application, seed.n, seed.lastError, seed.attempts); err != nil {
			return nil, err
		}
	}
	if _, err := o.db.Exec(ctx, `UPDATE webhook_outbox_entries SET kid = 'whk_forgotten' WHERE id = 15;
		CREATE TABLE logi_test.seed AS TABLE webhook_outbox_entries`); err != nil {
		return nil, err
	}
	for _, object := range []client.Object{
		o.secret("database", map[string]string{"url": o.site.URLAs("playbook_operator")}),
		o.secret("admin", map[string]string{"token": o.site.AdminToken()}),
		&v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}, Spec: v1alpha1.PlatformSpec{
			URL:      o.site.URL(),
			Database: &v1alpha1.PlatformDatabase{SecretRef: v1alpha1.SecretReference{Name: name + "-database"}},
			AdminAPI: &v1alpha1.PlatformAdminAPI{SecretRef: v1alpha1.SecretReference{Name: name + "-admin"}},
		}},
	} {
		if err := s.admin.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("applying the Platform: %w", err)
		}
	}
	return o, nil
}

func (s *slot) secret(suffix string, data map[string]string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.name + "-" + suffix,
			Labels: map[string]string{v1alpha1.LabelPlatform: s.name}},
		StringData: data,
	}
}

func (s *slot) close(ctx context.Context) error {
	return errors.Join(s.db.Close(ctx), s.site.Close(ctx))
}

// prepare puts the platform back to where each run begins, and applies the manifest.
func (r *run) prepare(ctx context.Context) error {
	r.site.Forget()
	r.site.SetFault(application, r.fault)
	if _, err := r.db.Exec(ctx, `DELETE FROM webhook_outbox_entries; DELETE FROM playbook.replay_entries; DELETE FROM playbook.operations;
		DELETE FROM logi_test.requeues; INSERT INTO webhook_outbox_entries TABLE logi_test.seed`); err != nil {
		return fmt.Errorf("putting the platform back: %w", err)
	}
	replay := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: r.object.Namespace, Name: r.object.Name},
		Spec: *r.spec.DeepCopy()}
	replay.Spec.PlatformRef.Name = r.slot.name
	replay.Spec.ApplicationID = strconv.Itoa(application)
	if replay.Spec.AdminAPI != nil {
		nonces := r.secret(r.object.Name, map[string]string{"1": r.site.IssueNonce(1), "2": r.site.IssueNonce(2)})
		if err := r.admin.Create(ctx, nonces); err != nil {
			return fmt.Errorf("applying the nonces: %w", err)
		}
		replay.Spec.AdminAPI.NonceSecretRef.Name = nonces.Name
	}
	if err := r.admin.Create(ctx, replay); err != nil {
		return fmt.Errorf("applying the replay: %w", err)
	}
	return nil
}

// newManager puts a manager together as cmd/manager does, with everything that leaves it going over the wire.
func (r *run) newManager(wire *crashmatrix.Wire, v variant, stale bool) (*dlqreplay.Reconciler, error) {
	config := rest.CopyConfig(r.manager)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		next = wire.Transport(next, kubernetesWrite)
		if v.kube != nil {
			next = v.kube(next)
		}
		return next
	})
	c, err := client.NewWithWatch(config, client.Options{Scheme: r.scheme, Mapper: r.mapper,
		FieldOwner: "playbook-manager"})
	if err != nil {
		return nil, err
	}
	transport := wire.Transport(r.counted(&http.Transport{DisableKeepAlives: true}), func(request *http.Request) string {
		return request.Method + " /api/v1/admin/webhook_outbox/:id/retry"
	})
	if v.http != nil {
		transport = v.http(transport)
	}
	return &dlqreplay.Reconciler{
		Client: r.cached(c, stale), APIReader: c, Recorder: &events.FakeRecorder{},
		Connections: &access.Connections{Secrets: c, Dial: wire.Dial, Transport: transport},
	}, nil
}

// cached is c with the reads of a manager's client, which come from a cache that lists and watches. A stale one never
// hears of a change: each object stays as it was when it was first read.
func (s *stage) cached(c client.WithWatch, stale bool) client.Client {
	var mu sync.Mutex
	known := map[string]client.Object{}
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, _ client.WithWatch, key client.ObjectKey, obj client.Object,
			options ...client.GetOption) error {
			mu.Lock()
			defer mu.Unlock()
			id := fmt.Sprintf("%T %s", obj, key)
			if first := known[id]; first != nil && stale {
				reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(first.DeepCopyObject()).Elem())
				return nil
			}
			if err := s.admin.Get(ctx, key, obj, options...); err != nil {
				return err
			}
			known[id] = obj.DeepCopyObject().(client.Object)
			return nil
		},
	})
}

// counted counts the calls that reach the admin API, by entry.
func (r *run) counted(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		r.calls.Lock()
		defer r.calls.Unlock()
		r.calls.byEntry[strings.Split(request.URL.Path, "/")[5]]++
		return response, err
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

var objectName = regexp.MustCompile(`/run-\d+`)

// kubernetesWrite names a write to the API server; reads are no effects.
func kubernetesWrite(request *http.Request) string {
	if request.Method == http.MethodGet {
		return ""
	}
	_, path, _ := strings.Cut(request.URL.Path, "/namespaces/"+world.Namespace+"/")
	return request.Method + " " + objectName.ReplaceAllString("/"+path, "")
}

func (r *run) result(ctx context.Context, obj *v1alpha1.DLQReplay) (*result, error) {
	got := &result{Requeues: map[int64]int{}, Received: r.site.ReceivedKeys(application), Entries: map[int64]string{},
		Calls: maps.Clone(r.calls.byEntry)}
	if obj != nil {
		if c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionReady); c != nil {
			got.Reason = c.Reason
		}
		if obj.Status.Progress != nil {
			got.Progress = *obj.Status.Progress
			got.Progress.ObservedAt = nil
		}
	}
	var id int64
	var n int
	var action string
	for _, q := range []struct {
		sql  string
		into []any
		each func()
	}{
		{`SELECT entry_id, count(*) FROM logi_test.requeues GROUP BY 1`, []any{&id, &n}, func() { got.Requeues[id] = n }},
		{`SELECT entry_id, action::text FROM playbook.replay_entries`, []any{&id, &action},
			func() { got.Entries[id] = action }},
		{`SELECT coalesce(outcome, 'open') FROM playbook.operations`, []any{&got.Outcome}, func() {}},
		{`SELECT count(*) FROM logi_test.requeues r JOIN playbook.operations o ON r.requeued_at > o.closed_at`,
			[]any{&got.Late}, func() {}},
	} {
		rows, err := r.db.Query(ctx, q.sql)
		if err == nil {
			_, err = pgx.ForEachRow(rows, q.into, func() error { q.each(); return nil })
		}
		if err != nil {
			return nil, fmt.Errorf("reading what the run left behind: %w", err)
		}
	}
	return got, nil
}

func ready(obj *v1alpha1.DLQReplay) bool {
	return obj != nil && meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionReady)
}

func stalled(obj *v1alpha1.DLQReplay) bool {
	return meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionStalled)
}

// exactlyOnce compares everything: SQL happens exactly once, whatever crashes.
func exactlyOnce(clean, got *result, _ crashmatrix.Plan) error {
	if got.Late > 0 {
		return fmt.Errorf("%d requeues came after the operation was closed", got.Late)
	}
	if !reflect.DeepEqual(clean, got) {
		return fmt.Errorf("differs from the clean run:\n%s\n%s", describe(clean), describe(got))
	}
	return nil
}

func describe(r *result) string {
	progress := r.Progress
	return fmt.Sprintf("reason %s, outcome %s, requeues %v, received %v, entries %v, late %d, calls %v, progress %v",
		r.Reason, r.Outcome, r.Requeues, r.Received, r.Entries, r.Late, r.Calls, counts(&progress))
}

func counts(p *v1alpha1.ReplayProgress) (all []int64) {
	for _, n := range []*int64{p.Remaining, p.Requeued, p.Settled, p.Left, p.Parked, p.Unpublished, p.Gone, p.Changed,
		p.Delivered, p.Failing, p.DiedAgain, p.Waiting} {
		if n != nil {
			all = append(all, *n)
		}
	}
	return all
}

var replays = []scenario{
	{
		// The canary fails, an entry dies again under the replay's hands, and a person lets the replay go on.
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
				if _, err := r.db.Exec(ctx, `UPDATE webhook_outbox_entries SET dlq_at = clock_timestamp() WHERE id = (SELECT max(id) FROM webhook_outbox_entries o
					WHERE last_error LIKE 'HTTP 503%' AND kid <> 'whk_forgotten' AND NOT EXISTS (SELECT FROM playbook.replay_entries e WHERE e.entry_id = o.id))`); err != nil {
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
		name:      "plan",
		spec:      v1alpha1.DLQReplaySpec{Mode: v1alpha1.ReplayModePlan},
		meanwhile: func(context.Context, *run, *v1alpha1.DLQReplay) error { return nil },
		done:      ready,
		check:     exactlyOnce,
	},
	{
		name: "admin API",
		spec: v1alpha1.DLQReplaySpec{
			Via: v1alpha1.ReplayViaAdminAPI, AdminAPI: &v1alpha1.ReplayAdminAPI{}, Selector: &v1alpha1.ReplaySelector{EntryIDs: []string{"1", "2"}},
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

// faultsAt is what can happen at an effect. Inside a transaction, a crash after a statement is a crash before the next
// one; and another manager that comes there waits for the locks, which is as if it came after the COMMIT.
func faultsAt(effect crashmatrix.Recorded) []crashmatrix.Fault {
	if effect.Within {
		return []crashmatrix.Fault{crashmatrix.DiedBefore, crashmatrix.ReplyLost}
	}
	return []crashmatrix.Fault{crashmatrix.DiedBefore, crashmatrix.ReplyLost, crashmatrix.KilledAfter,
		crashmatrix.Overtaken}
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

// each calls do for all targets, one at a time in each slot, until it returns false.
func each[T any](slots []*slot, targets []T, do func(*slot, T) bool) {
	var next atomic.Int64
	var stop atomic.Bool
	var workers sync.WaitGroup
	for _, s := range slots {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(targets) && !stop.Load(); i = next.Add(1) - 1 {
				if !do(s, targets[i]) {
					stop.Store(true)
				}
			}
		})
	}
	workers.Wait()
}

// broken is a variant, and the targets at which it shows: a hint that saves time, since one that is caught nowhere
// fails the test.
type broken struct {
	variant
	shows func(target) bool
}

var variants = []broken{
	{variant{name: "no ledger row", rewrite: rewrite(
		`(?s)INSERT INTO playbook\.replay_entries \([^)]*\)\s*SELECT (\$\d+), id, (\$\d+), action,.*?FROM judged WHERE (.*?)\s*RETURNING entry_id, action, acted_at`,
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

func rewrite(pattern, with string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(sql string) string { return compiled.ReplaceAllString(sql, with) }
}

// swallow keeps writes from the API server and answers with the object as it is.
func swallow(which func(path, body string) bool) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(request *http.Request) (*http.Response, error) {
			if request.Method != http.MethodPatch {
				return next.RoundTrip(request)
			}
			body, err := io.ReadAll(request.Body)
			if err != nil {
				return nil, err
			}
			request = request.Clone(request.Context())
			request.Body = io.NopCloser(bytes.NewReader(body))
			if which(request.URL.Path, string(body)) {
				request.Method, request.Body, request.ContentLength = http.MethodGet, nil, 0
				request.URL.Path, request.URL.RawQuery = strings.TrimSuffix(request.URL.Path, "/status"), ""
			}
			return next.RoundTrip(request)
		})
	}
}

// repeat makes a request again when it gets no answer.
func repeat(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(request *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		}
		for attempt := 0; ; attempt++ {
			again := request.Clone(request.Context())
			again.Body = io.NopCloser(bytes.NewReader(body))
			if response, err := next.RoundTrip(again); err == nil || attempt == 1 {
				return response, err
			}
		}
	})
}
