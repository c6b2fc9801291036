// Package platform reports whether playbooks can work with an identity platform, and what its signals say.
package platform

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/opening"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// interval is the time between two looks at a Platform that is ready.
	interval = 30 * time.Second
	// troubledInterval is the time between two looks at a Platform that is not.
	troubledInterval = 5 * time.Second
	// lookTimeout bounds a look at a database that hangs.
	lookTimeout = 20 * time.Second
	// concurrency is how many Platforms are looked at in parallel. The others don't wait for one with a database that
	// hangs.
	concurrency = 4
	// conflictInterval gives the cache time to receive what another writer wrote.
	conflictInterval = 100 * time.Millisecond
	// maxApplications is how many applications the status lists.
	maxApplications = 50
)

// Reconciler looks at Platforms, writes what the Prober sees of them to their status, and opens Incidents.
type Reconciler struct {
	Client client.Client
	// APIReader reads from the API server, not from the cache.
	APIReader   client.Reader
	Connections *access.Connections
	Recorder    events.EventRecorder
	Prober      *signals.Prober
	Opener      *opening.Opener
	// Namespaces that the manager watches: Platforms of all of them may name the same service.
	Namespaces []string

	unknowns unknowns
}

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=list;watch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms/status,verbs=patch
// +kubebuilder:rbac:groups="",namespace=playbook-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=playbook-system,resources=events,verbs=create;patch

// SetupWithManager registers three controllers. One looks at databases and at Render, and may wait for one that hangs.
// The others write what is configured and the signals, and wait only for the API server.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.Platform{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency}).
		Complete(r); err != nil {
		return err
	}
	if err := ctrl.NewControllerManagedBy(mgr).Named("platform-configuration").
		For(&v1alpha1.Platform{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency}).
		Complete(reconcile.Func(r.ReconcileConfiguration)); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).Named("platform-signals").
		For(&v1alpha1.Platform{}).
		WatchesRawSource(source.Channel(r.Prober.Changes(), &handler.EnqueueRequestForObject{})).
		Complete(reconcile.Func(r.ReconcileSignals))
}

// Reconcile looks at one Platform, and writes its status if something changed.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Platform{}
	if err := r.Client.Get(ctx, req.NamespacedName, p); apierrors.IsNotFound(err) {
		r.Connections.Keep(req.NamespacedName)
		forgetMetrics(req.NamespacedName)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("reading the Platform: %w", err)
	}
	r.Connections.Keep(req.NamespacedName, databaseSecrets(p)...)
	looked := p.DeepCopy()
	r.look(ctx, looked)
	report(looked)
	// A look can take long. Its conditions are in one list with those of the signals, and these may have changed during
	// the look.
	if err := r.Client.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := p.DeepCopy()
	p.Status.ObservedGeneration, p.Status.DeadLetters = looked.Generation, looked.Status.DeadLetters
	for _, condition := range []string{v1alpha1.ConditionDatabaseReachable, v1alpha1.ConditionLedgerReady,
		v1alpha1.ConditionReconciling, v1alpha1.ConditionReady} {
		if c := meta.FindStatusCondition(looked.Status.Conditions, condition); c != nil {
			meta.SetStatusCondition(&p.Status.Conditions, *c)
		} else {
			meta.RemoveStatusCondition(&p.Status.Conditions, condition)
		}
	}
	if !equality.Semantic.DeepEqual(before.Status, p.Status) {
		if err := playbook.PatchStatus(ctx, r.Client, before, p); apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: conflictInterval}, nil
		} else if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("writing the status: %w", err)
		}
		r.tell(before, p)
	}
	if err := r.lookAtAutoDeploy(ctx, p); err != nil {
		return ctrl.Result{}, err
	}
	if !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
		return ctrl.Result{RequeueAfter: troubledInterval}, nil
	}
	return ctrl.Result{RequeueAfter: interval}, nil
}

// databaseSecrets are the Secrets that a Platform names for its database.
func databaseSecrets(p *v1alpha1.Platform) []string {
	database := p.Spec.Database
	if database == nil {
		return nil
	}
	names := []string{database.SecretRef.Name}
	for _, ref := range []*v1alpha1.SecretReference{database.ReadOnlySecretRef, database.SigningSecretRef} {
		if ref != nil {
			names = append(names, ref.Name)
		}
	}
	return names
}

// look brings the conditions and the count of dead letters up to date.
func (r *Reconciler) look(ctx context.Context, p *v1alpha1.Platform) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if p.Spec.Database == nil {
		meta.RemoveStatusCondition(&p.Status.Conditions, v1alpha1.ConditionDatabaseReachable)
		meta.RemoveStatusCondition(&p.Status.Conditions, v1alpha1.ConditionLedgerReady)
		p.Status.DeadLetters = nil
		isReady(p)
		return
	}
	db, err := r.Connections.Database(ctx, p)
	if err == nil {
		err = db.Ping(ctx)
	}
	if err != nil {
		notReachable(p, err)
		return
	}
	version, err := db.Check(ctx)
	if err != nil && !platformdb.Answered(err) {
		notReachable(p, err)
		return
	}
	// It is set only now. A condition that turns True and back within a look would count as changed, and would be written
	// each time.
	set(p, v1alpha1.ConditionDatabaseReachable, metav1.ConditionTrue, v1alpha1.ReasonSucceeded, "the database answers")
	if err != nil {
		set(p, v1alpha1.ConditionLedgerReady, metav1.ConditionFalse, reason(err), playbook.Normalise(err.Error()))
		notReady(p, err)
		return
	}
	newer := ""
	if version > platformdb.LatestVersion() {
		newer = fmt.Sprintf(", which is newer than this manager's %d and has all that it needs", platformdb.LatestVersion())
	}
	set(p, v1alpha1.ConditionLedgerReady, metav1.ConditionTrue, v1alpha1.ReasonSucceeded,
		fmt.Sprintf("the ledger's schema is version %d%s, and the platform's tables have the columns and the index that a "+
			"replay needs", version, newer))
	if err := r.lookAtSigner(ctx, p); err != nil {
		notReady(p, fmt.Errorf("playbooks can run, but no KeyCompromise via: Database: %w", err))
		return
	}
	if err := r.countDeadLetters(ctx, p); err != nil {
		notReady(p, fmt.Errorf("playbooks can run, but monitoring can't: %w", err))
		return
	}
	isReady(p)
}

// lookAtSigner looks whether the role that ends keys sees all that it must sign anew.
func (r *Reconciler) lookAtSigner(ctx context.Context, p *v1alpha1.Platform) error {
	if p.Spec.Database.SigningSecretRef == nil {
		return nil
	}
	db, err := r.Connections.Signing(ctx, p)
	if err == nil {
		err = db.CheckRows(ctx)
	}
	if errors.Is(err, platformdb.ErrRowsHidden) {
		return err
	}
	return nil
}

func isReady(p *v1alpha1.Platform) {
	message := "playbooks can run"
	if p.Spec.Automation == v1alpha1.AutomationObserveOnly {
		message = "ObserveOnly: playbooks plan and report, and change nothing"
	}
	switch {
	case p.Spec.Database != nil:
	case p.Spec.Commands == nil:
		message += ". Without spec.database, only Incidents can run. With spec.commands, KeyCompromises via: Command can, too"
	default:
		message += ". Without spec.database, only Incidents and KeyCompromises via: Command can run. Then the outcome of a " +
			"command is read from JWKS"
	}
	meta.RemoveStatusCondition(&p.Status.Conditions, v1alpha1.ConditionReconciling)
	set(p, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonSucceeded, message)
}

// countDeadLetters counts like the playbook's monitoring query.
func (r *Reconciler) countDeadLetters(ctx context.Context, p *v1alpha1.Platform) error {
	db, err := r.Connections.Monitor(ctx, p)
	if err != nil {
		return err
	}
	total, applications, err := db.DeadLetters(ctx, maxApplications)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, rp := range p.Spec.RelyingParties {
		names[rp.ApplicationID] = rp.Name
	}
	letters := &v1alpha1.DeadLetters{Total: &total}
	for _, a := range applications {
		id := strconv.FormatInt(a.ApplicationID, 10)
		letters.Applications = append(letters.Applications, v1alpha1.ApplicationDeadLetters{ApplicationID: id,
			Name: names[id], Dead: &a.Dead})
	}
	p.Status.DeadLetters = letters
	return nil
}

func notReachable(p *v1alpha1.Platform, err error) {
	message := playbook.Normalise(err.Error())
	set(p, v1alpha1.ConditionDatabaseReachable, metav1.ConditionFalse, reason(err), message)
	set(p, v1alpha1.ConditionLedgerReady, metav1.ConditionUnknown, reason(err), "the database could not be asked")
	notReady(p, err)
}

func notReady(p *v1alpha1.Platform, err error) {
	message := playbook.Normalise(err.Error())
	set(p, v1alpha1.ConditionReconciling, metav1.ConditionTrue, reason(err), message)
	set(p, v1alpha1.ConditionReady, metav1.ConditionFalse, reason(err), message)
}

func reason(err error) string {
	if w := (*playbook.Waiting)(nil); errors.As(access.DatabaseError(err), &w) {
		return w.Reason
	}
	return v1alpha1.ReasonDatabaseUnreachable
}

func set(p *v1alpha1.Platform, condition string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{
		Type: condition, Status: status, Reason: reason, Message: message, ObservedGeneration: p.Generation,
	})
}

// tell emits an event when readiness or its reason changed.
func (r *Reconciler) tell(before, p *v1alpha1.Platform) {
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionReady)
	is := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if was != nil && was.Status == is.Status && was.Reason == is.Reason {
		return
	}
	kind := "Normal"
	if is.Status != metav1.ConditionTrue {
		kind = "Warning"
	}
	r.Recorder.Eventf(p, nil, kind, is.Reason, "Look", "%.1000s", is.Message)
}
