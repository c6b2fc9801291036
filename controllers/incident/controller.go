// Package incident responds to incidents: it classifies each, pages people until one takes it on, and then follows the
// playbook of its category. Nothing here needs the platform's database.
package incident

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident/exposure"
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
	// Namespaces that the manager watches: Platforms of all of them may name the same service.
	Namespaces []string
	// Now is the clock.
	Now func() time.Time

	memory playbook.Memory
	aside  playbook.Aside
}

// concurrency is how many run at once: a page must not queue behind the slow API of another platform.
const concurrency = 32

const (
	// slowestRetry is how long a pass that fails again and again is put off at most.
	slowestRetry = 10 * time.Second
	// placeRetry is how soon the place is looked for again after another writer changed the Platform's status.
	placeRetry = 100 * time.Millisecond
)

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=get;list;watch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms/status,verbs=patch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create;patch

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.memory.SlowestRetry = slowestRetry
	if err := mgr.Add(&r.aside); err != nil {
		return fmt.Errorf("adding what runs beside the passes: %w", err)
	}
	list := &v1alpha1.IncidentList{}
	building := playbook.Controller(mgr, &v1alpha1.Incident{}, list, concurrency, slowestRetry).
		Owns(&v1alpha1.DLQReplay{}).
		Watches(&v1alpha1.KeyCompromise{}, handler.EnqueueRequestsFromMapFunc(exposure.Followers(mgr.GetClient())))
	if r.Changes != nil {
		building = building.WatchesRawSource(source.Channel(r.Changes, playbook.Unfinished(mgr.GetClient(), list)))
	}
	return building.Complete(r)
}

// Reconcile is one pass over one object, then one status write.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return playbook.Kind[*v1alpha1.Incident, *response]{
		Client: r.Client, APIReader: r.APIReader, Recorder: r.Recorder, Memory: &r.memory, Now: r.Now,
		New:     func() *v1alpha1.Incident { return &v1alpha1.Incident{} },
		Action:  journal.Action,
		Lanes:   lanesOf,
		Connect: r.connect,
		Assess:  func(_ context.Context, s *response) playbook.Outcome { s.assess(); return playbook.Outcome{} },
		Urged:   func(s *response) bool { return s.ByHand() || s.over() != "" || s.mayEndKey() },
		Resume:  resume,
		Measure: measure,
		Close:   r.closeDeleted,
	}.Reconcile(ctx, req)
}

// closeDeleted takes back what people and the public were told, where the object is deleted before it was resolved.
// Auto-deploy stays as it is, and the Platform says so.
func (r *Reconciler) closeDeleted(ctx context.Context, v *playbook.Visit[*v1alpha1.Incident]) error {
	s := r.response(v)
	status := &s.Incident.Status
	heard := s.escalation().Rings() || status.Notice != nil && status.Notice.Published != v1alpha1.NoticeResolved
	// Without an onset nothing was assessed, and so nothing was done, as where the Platform was not there.
	if !heard && status.ResolvedAt != nil || status.Onset == nil {
		return nil
	}
	p := &v1alpha1.Platform{}
	if err := s.Client.Get(ctx, s.PlatformKey(), p); apierrors.IsNotFound(err) && !heard {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading the Platform: %w. %s", err, s.escalation().Untold())
	}
	s.Platform = p
	if status.ResolvedAt == nil {
		status.ResolvedAt = journal.Seconds(s.Now)
		s.Record(v1alpha1.StepResolved, "resolved, since the incident was deleted")
	}
	s.webhooks().Orphans()
	taken := s.takeBack(ctx)
	published, err := s.notice().Close(ctx)
	if err != nil {
		return err
	}
	if err := s.Save(ctx); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	if !taken || !published {
		return fmt.Errorf("%w. %s", errNotTold, s.escalation().Untold())
	}
	return nil
}
