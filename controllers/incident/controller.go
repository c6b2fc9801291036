// Package incident responds to an outage: it classifies it, pages people until one takes it on, rolls a suspected regression back,
// and tells the public. Nothing here needs the platform's database.
package incident

import (
	"context"
	"time"

	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// The playbook: what is told to people, each thing for itself and first, and then what is done, from top to bottom. Neither waits
// for the other: a pager never waits behind a slow API.
var lanes = playbook.Lanes[*response]{
	{{Condition: v1alpha1.StepClassified, Run: classify}},
	{{Condition: v1alpha1.StepEscalated, Run: escalate}},
	{{Condition: v1alpha1.StepAcknowledged, Run: awaitAcknowledgement}},
	{{Condition: v1alpha1.StepAnnounced, Run: announce}},
	{
		{Condition: v1alpha1.StepTriaged, Run: triage},
		{Condition: v1alpha1.StepRolledBack, Run: rollBack},
		{Condition: v1alpha1.StepMitigated, Run: awaitMitigation},
		{Condition: v1alpha1.StepResolved, Run: resolve, Ends: true},
		{Condition: v1alpha1.StepAutoDeployRestored, Run: restoreAutoDeploy},
	},
}

// Reconciler runs Incidents.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// APIReader reads past the cache: a pass begins with the object as it is, and a rollback with what its Platform says of others.
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
	s := &response{Reconciler: r, obj: obj, written: obj.DeepCopy()}
	if !obj.DeletionTimestamp.IsZero() {
		return playbook.Finalize(ctx, r.Client, r.Recorder, obj, s.close)
	}
	after, err := s.pass(ctx)
	return playbook.Result(ctx, after, err, s.save(ctx))
}
