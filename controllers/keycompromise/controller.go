// Package keycompromise ends a webhook signing key that leaked, and proves that nobody has to believe it any more.
package keycompromise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/command"
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
	// APIReader reads past the cache. A pass begins with the object as it is, so a manager that woke up late does not act
	// for an object that is gone.
	APIReader   client.Reader
	Connections *access.Connections
	Recorder    events.EventRecorder

	memory   playbook.Memory
	commands command.Runner
}

// concurrency is how many objects are worked on at once. An emergency must not wait for another platform's slow
// database.
const concurrency = 16

// slowestRetry is the longest time between two tries of a pass that fails again and again.
const slowestRetry = time.Minute

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=keycompromises,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=keycompromises/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays,verbs=create
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=list;watch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create;patch

// SetupWithManager registers the controller. The manager waits for the commands that it runs when it stops.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := mgr.Add(&r.commands); err != nil {
		return fmt.Errorf("adding the runner of commands: %w", err)
	}
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

// assess stops where the ledger is behind. The first step can't do that: it is not run again once it is settled, and
// the later steps need the revocation.
func assess(_ context.Context, s *compromise) playbook.Outcome {
	if !s.behind() {
		return playbook.Outcome{}
	}
	return playbook.Stall(v1alpha1.ReasonLedgerBehind, "the ledger in the platform's database does not know the "+
		"revocation that this object saw. This happens after a restore from a backup. The old key may be active again. "+
		"Delete this object, and apply one with a new name: it revokes the key again")
}

// closeDeleted closes the operation of a deleted object. What was revoked stays so, and another object of that kid
// takes over. A rake that may be running keeps the object: only the object keeps another one from running the rake
// beside it.
func (r *Reconciler) closeDeleted(ctx context.Context, v *playbook.Visit[*v1alpha1.KeyCompromise]) error {
	obj := v.Obj
	if r.commands.Runs(obj, obj.Status.Command) {
		return playbook.ErrStillClosing
	}
	id, err := identity(obj)
	if err != nil {
		return err
	}
	p, err := access.Find(ctx, r.Client, obj.Namespace, obj.Spec.PlatformRef.Name)
	if err != nil {
		return err
	}
	s := &compromise{Reconciler: r, obj: obj, platform: p, id: id}
	// An object without a ledger has nothing to be closed.
	recorded := p.Spec.Database != nil && !unrecorded(obj, p)
	if recorded {
		if s.db, err = r.Connections.Database(ctx, p); err != nil {
			return err
		}
	}
	if err := s.awaitRake(ctx); err != nil || !recorded {
		return err
	}
	return s.db.CloseOperation(ctx, id, platformdb.OutcomeDeleted)
}

// awaitRake returns ErrStillClosing while a rake may be running that another manager began.
func (s *compromise) awaitRake(ctx context.Context) error {
	if s.obj.Status.RevokedAt != nil {
		return nil
	}
	running, err := s.rake().MayRun(ctx)
	switch {
	case running:
		return playbook.ErrStillClosing
	case errors.Is(err, platformdb.ErrNoOperation), errors.Is(err, platformdb.ErrClosed):
		// What the ledger does not know was not begun, and what it has closed had ended.
		return nil
	}
	return err
}
