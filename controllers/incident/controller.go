// Package incident responds to an outage: it classifies it, pages people until one takes it on, rolls a suspected regression back,
// and tells the public. Nothing here needs the platform's database.
package incident

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/platform"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// The playbook: what is told to people, each thing for itself and first, and then what is done, from top to bottom. Neither waits
// for the other: a pager never waits behind a slow API.
var lanes = [][]playbook.Step[*response]{
	{{Condition: v1alpha1.StepClassified, Run: classify}},
	{{Condition: v1alpha1.StepEscalated, Run: escalate}},
	{{Condition: v1alpha1.StepAcknowledged, Run: awaitAcknowledgement}},
	{{Condition: v1alpha1.StepAnnounced, Run: announce}},
	{
		{Condition: v1alpha1.StepTriaged, Run: triage},
		{Condition: v1alpha1.StepRolledBack, Run: rollBack},
		{Condition: v1alpha1.StepMitigated, Run: awaitMitigation},
		{Condition: v1alpha1.StepResolved, Run: resolve},
		{Condition: v1alpha1.StepAutoDeployRestored, Run: restoreAutoDeploy},
	},
}

// Reconciler runs Incidents.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// APIReader reads past the cache: a pass begins with the object as it is, and a rollback with what its Platform says of others.
	APIReader   client.Reader
	Connections *platform.Connections
	Recorder    events.EventRecorder
	// Signals of a Platform as they are now.
	Signals func(client.ObjectKey) platform.Signals
	// Changes of a Platform's signals wake its Incidents; nil where nothing tells of them.
	Changes <-chan event.GenericEvent
	// Now is the clock.
	Now func() time.Time
}

// concurrency is how many run at once: a page must not queue behind the slow API of another platform.
const concurrency = 32

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=get;list;watch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms/status,verbs=patch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	// Our own status writes must not wake us: a pass says itself when it wants to come back.
	asked := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	building := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.Incident{}, builder.WithPredicates(asked)).
		Watches(&v1alpha1.Platform{}, handler.EnqueueRequestsFromMapFunc(r.unfinished), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](200*time.Millisecond, 10*time.Second),
		})
	if r.Changes != nil {
		building = building.WatchesRawSource(source.Channel(r.Changes, handler.EnqueueRequestsFromMapFunc(r.unfinished)))
	}
	return building.Complete(r)
}

// unfinished lists the objects that a change of their Platform or its signals may let go on.
func (r *Reconciler) unfinished(ctx context.Context, platform client.Object) []reconcile.Request {
	var list v1alpha1.IncidentList
	if err := r.Client.List(ctx, &list, client.InNamespace(platform.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing the incidents of a changed Platform")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		obj := &list.Items[i]
		if obj.Spec.PlatformRef.Name == platform.GetName() && !playbook.Finished(obj) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(obj)})
		}
	}
	return requests
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
	if writeErr := client.IgnoreNotFound(s.save(ctx)); writeErr != nil {
		after, err = 0, fmt.Errorf("writing the status: %w", writeErr)
	}
	if apierrors.IsConflict(err) {
		// Somebody changed the object meanwhile.
		return ctrl.Result{RequeueAfter: time.Millisecond}, nil
	}
	return ctrl.Result{RequeueAfter: after}, err
}
