// Package incident responds to incidents: it classifies each, pages people until one takes it on, and then follows the
// playbook of its category. Nothing here needs the platform's database.
package incident

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// Reconciler runs Incidents.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// APIReader reads past the cache: a pass begins with the object as it is, and a rollback with what its Platform says
	// of others.
	APIReader   client.Reader
	Connections *access.Connections
	Recorder    events.EventRecorder
	// Signals of a Platform as they are now.
	Signals func(client.ObjectKey) signals.Signals
	// Changes of a Platform's signals wake its Incidents; nil where nothing tells of them.
	Changes <-chan event.GenericEvent
	// Now is the clock.
	Now func() time.Time

	memory playbook.Memory
	aside  playbook.Aside
}

// concurrency is how many run at once: a page must not queue behind the slow API of another platform.
const concurrency = 32

// slowestRetry is how long a pass that fails again and again is put off at most.
const slowestRetry = 10 * time.Second

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=get;list;watch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms/status,verbs=patch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.memory.SlowestRetry = slowestRetry
	list := &v1alpha1.IncidentList{}
	building := playbook.Controller(mgr, &v1alpha1.Incident{}, list, concurrency, slowestRetry)
	if r.Changes != nil {
		building = building.WatchesRawSource(source.Channel(r.Changes, playbook.Unfinished(mgr.GetClient(), list)))
	}
	return building.Complete(r)
}

// Reconcile is one pass over one object, then one status write.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	obj := &v1alpha1.Incident{}
	if err := r.APIReader.Get(ctx, req.NamespacedName, obj); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := &response{r: r, Journal: journal.Open(journal.Journal{
		Client: r.Client, APIReader: r.APIReader, Recorder: r.Recorder, Clock: r.Now, Incident: obj,
	})}
	if !obj.DeletionTimestamp.IsZero() {
		return playbook.Finalize(ctx, r.Client, r.Recorder, obj, s.close)
	}
	after, err := s.pass(ctx)
	return playbook.Result(ctx, after, err, s.Save(ctx))
}

// pass brings the object's playbook as far as it goes now.
func (s *response) pass(ctx context.Context) (time.Duration, error) {
	obj := s.Incident
	obj.Status.ObservedGeneration = obj.Generation
	if playbook.Finished(obj) {
		return 0, nil
	}
	lanes := lanesOf(obj)
	playbook.Begin(obj, lanes)
	// Before the first page: what people were told must be taken back when the object goes.
	if err := playbook.PatchFinalizer(ctx, s.Client, obj, controllerutil.AddFinalizer); err != nil {
		return 0, err
	}
	p, err := access.Find(ctx, s.Client, obj.Namespace, obj.Spec.PlatformRef.Name)
	if err != nil {
		playbook.Fail(obj, err)
		return 0, err
	}
	s.Platform = p
	s.signals = s.r.Signals(client.ObjectKeyFromObject(p))
	resolved := obj.Status.ResolvedAt != nil
	s.assess()
	asked := playbook.Asked(obj)
	if playbook.Stalled(obj) && (asked || s.ByHand() || s.over() != "") {
		s.resume(asked)
	}
	obj.Status.LastHandledRequestedAt = playbook.Request(obj)
	after := playbook.Run(ctx, obj, lanes, s, &s.r.memory)
	if err := s.place(ctx); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "looking for who acts")
		after = playbook.Soonest(after, slowestRetry)
	}
	if !resolved && obj.Status.ResolvedAt != nil {
		after = time.Millisecond // the people's lanes have run, and end now
	}
	after = playbook.Soonest(after, s.overdue())
	s.measure()
	return after, nil
}

// resume lets a stalled incident go on. Where a person asked for it, what Render refused is tried again.
func (s *response) resume(asked bool) {
	if known := s.Incident.Status.Rollback; known != nil && asked {
		known.Refused = nil
	}
	playbook.Resume(s.Incident)
}

// close takes back what people and the public were told, where the object is deleted before it was resolved.
// Auto-deploy stays as it is, and the Platform says so.
func (s *response) close(ctx context.Context) error {
	status := &s.Incident.Status
	if status.ResolvedAt != nil && (status.Notice == nil || status.Notice.Published == v1alpha1.NoticeResolved) ||
		meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady) == nil {
		return nil
	}
	p := &v1alpha1.Platform{}
	if err := s.Client.Get(ctx, s.PlatformKey(), p); err != nil {
		return fmt.Errorf("reading the Platform: %w", err)
	}
	s.Platform = p
	if status.ResolvedAt == nil {
		status.ResolvedAt = journal.Seconds(s.Now)
		s.Record(v1alpha1.StepResolved, "resolved, since the incident was deleted")
	}
	told := s.takeBack(ctx)
	published, err := s.notice().Close(ctx)
	if err != nil {
		return err
	}
	if err := s.Save(ctx); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	if !told || !published {
		return errNotTold
	}
	return nil
}
