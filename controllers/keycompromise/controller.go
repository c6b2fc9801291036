// Package keycompromise ends a webhook signing key that leaked, and proves that nobody has to believe it any more.
package keycompromise

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
var lanes = playbook.Lanes[*compromise]{{
	{Condition: v1alpha1.StepRevoked, Run: revoke},
	{Condition: v1alpha1.StepReSigned, Run: reSign},
	{Condition: v1alpha1.StepPublished, Run: awaitPublication},
	{Condition: v1alpha1.StepRelyingPartyNotified, Run: notify},
	{Condition: v1alpha1.StepVerified, Run: verify},
	{Condition: v1alpha1.StepCachesExpired, Run: awaitCaches},
}}

// Reconciler runs KeyCompromises.
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

// concurrency is how many run at once. An emergency must not queue behind the slow database of another platform.
const concurrency = 16

// slowestRetry is how long a pass that fails again and again is put off at most.
const slowestRetry = time.Minute

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=keycompromises,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=keycompromises/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays,verbs=create
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=list;watch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return playbook.Controller(mgr, &v1alpha1.KeyCompromise{}, &v1alpha1.KeyCompromiseList{}, concurrency,
		slowestRetry).Watches(&v1alpha1.KeyCompromise{}, r.memory.InterruptDeleted()).Complete(r)
}

// Reconcile is one pass over one object, then one status write.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return playbook.Kind[*v1alpha1.KeyCompromise, *compromise]{
		Client: r.Client, APIReader: r.APIReader, Recorder: r.Recorder, Memory: &r.memory,
		New:     func() *v1alpha1.KeyCompromise { return &v1alpha1.KeyCompromise{} },
		Action:  "EndKey",
		Lanes:   func(*v1alpha1.KeyCompromise) playbook.Lanes[*compromise] { return lanes },
		Connect: r.connect,
		Resume:  func(ctx context.Context, s *compromise) error { return s.resume(ctx) },
		Assess:  assess,
		Close:   r.closeDeleted,
	}.Reconcile(ctx, req)
}

// assess stops where the ledger is behind. Not in the first step: once that is settled it is not run again, and those
// after it need the revocation.
func assess(_ context.Context, s *compromise) playbook.Outcome {
	if !s.behind() {
		return playbook.Outcome{}
	}
	return playbook.Stall(v1alpha1.ReasonLedgerBehind, "the ledger in the platform's database does not know the "+
		"revocation that this object saw, as after a restore from a backup: "+
		"the old key may be active again. Delete this object and apply one with a new name, which revokes the key again")
}

// closeDeleted closes the operation of a deleted object. What was revoked stays so; another object of that kid takes
// over.
func (r *Reconciler) closeDeleted(ctx context.Context, obj *v1alpha1.KeyCompromise) error {
	id, err := identity(obj)
	if err != nil {
		return err
	}
	p, err := access.Find(ctx, r.Client, obj.Namespace, obj.Spec.PlatformRef.Name)
	if err != nil {
		return err
	}
	if p.Spec.Database == nil || unrecorded(obj, p) {
		// There is no ledger to close it in.
		return nil
	}
	db, err := r.Connections.Database(ctx, p)
	if err != nil {
		return err
	}
	return db.CloseOperation(ctx, id, platformdb.OutcomeDeleted)
}
