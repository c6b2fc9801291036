// Package dlqreplay brings the dead webhooks of one application to delivery, each requeued exactly once.
package dlqreplay

import (
	"context"
	"time"

	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// The playbook: a responder reads it top to bottom.
var lanes = playbook.Lanes[*replay]{{
	{Condition: v1alpha1.StepPlanned, Run: plan},
	{Condition: v1alpha1.StepCanaryDelivered, Run: tryCanary},
	{Condition: v1alpha1.StepRequeued, Run: requeue},
	{Condition: v1alpha1.StepDelivered, Run: awaitDelivery},
}}

// Reconciler runs DLQReplays.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// APIReader reads past the cache: a pass begins with the object as it is, so that a manager that woke up late does not
	// act for one that is gone.
	APIReader   client.Reader
	Connections *access.Connections
	Recorder    events.EventRecorder

	memory playbook.Memory
}

// concurrency is how many replays run at once. They are more than a platform's pool has connections, so that a platform
// whose database hangs leaves workers for the replays of others.
const concurrency = 16

// slowestRetry is how long a pass that fails again and again is put off at most.
const slowestRetry = time.Minute

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=list;watch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create;patch

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return playbook.Controller(mgr, &v1alpha1.DLQReplay{}, &v1alpha1.DLQReplayList{}, concurrency,
		slowestRetry).Watches(&v1alpha1.DLQReplay{}, r.memory.InterruptDeleted()).Complete(r)
}

// Reconcile is one pass over one replay: at most a second of work, then one status write.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return playbook.Kind[*v1alpha1.DLQReplay, *replay]{
		Client: r.Client, APIReader: r.APIReader, Recorder: r.Recorder, Memory: &r.memory,
		New:      func() *v1alpha1.DLQReplay { return &v1alpha1.DLQReplay{} },
		Action:   "Replay",
		Lanes:    func(*v1alpha1.DLQReplay) playbook.Lanes[*replay] { return lanes },
		Connect:  r.connect,
		Resume:   func(ctx context.Context, s *replay) error { return s.resume(ctx) },
		DropLate: dropCounts,
		Close:    r.closeDeleted,
	}.Reconcile(ctx, req)
}

// closeDeleted closes the operation of a deleted object; that waits for the batch under way and stops the next.
func (r *Reconciler) closeDeleted(ctx context.Context, v *playbook.Visit[*v1alpha1.DLQReplay]) error {
	obj := v.Obj
	id, err := identity(obj)
	if err != nil {
		return err
	}
	p, err := access.Find(ctx, r.Client, obj.Namespace, obj.Spec.PlatformRef.Name)
	if err != nil {
		return err
	}
	if p.Spec.Database == nil {
		// There is no ledger to close it in, and nothing runs without one.
		return nil
	}
	db, err := r.Connections.Database(ctx, p)
	if err != nil {
		return err
	}
	return db.CloseOperation(ctx, id, platformdb.OutcomeDeleted)
}
