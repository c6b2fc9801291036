package dlqreplay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// replay is what a pass works with: the object, its Platform and its operation in the ledger.
type replay struct {
	*Reconciler
	visit     *playbook.Visit[*v1alpha1.DLQReplay]
	obj       *v1alpha1.DLQReplay
	platform  *v1alpha1.Platform
	db        *platformdb.DB
	id        platformdb.Identity
	selection platformdb.Selection
	op        *platformdb.Operation // nil until it is opened
}

func (r *Reconciler) connect(ctx context.Context, v *playbook.Visit[*v1alpha1.DLQReplay]) (*replay, error) {
	obj := v.Obj
	id, err := identity(obj)
	if err != nil {
		return nil, err
	}
	selection, err := selectionOf(&obj.Spec, id.ApplicationID)
	if err != nil {
		return nil, err
	}
	s := &replay{Reconciler: r, visit: v, obj: obj, id: id, selection: selection}
	if s.platform, err = access.Find(ctx, r.Client, obj.Namespace, obj.Spec.PlatformRef.Name); err != nil {
		return nil, err
	}
	if s.db, err = r.Connections.Database(ctx, s.platform); err != nil {
		return nil, err
	}
	// Before the operation is opened: what is in the ledger must be closed when the object goes. Where there is no way to
	// the ledger, the object goes at once.
	if err := playbook.PatchFinalizer(ctx, r.Client, obj, controllerutil.AddFinalizer); err != nil {
		return nil, err
	}
	// The admin API's retry signs nothing.
	if s.platform.Spec.Database.SigningSecretRef != nil && obj.Spec.Via == v1alpha1.ReplayViaDatabase {
		s.selection.Unpublished = platformdb.HandUnpublishedOver
	}
	s.op, err = s.db.Operation(ctx, id.UID)
	if errors.Is(err, platformdb.ErrNoOperation) {
		err = nil
	}
	// What Postgres says of a ledger that is missing does not tell what to do; the check does.
	if err == nil && (s.op == nil || s.op.PlannedAt == nil) || errors.Is(err, platformdb.ErrNotReady) {
		if _, missing := s.db.Check(ctx); missing != nil {
			err = missing
		}
	}
	if err != nil {
		return nil, access.DatabaseError(err)
	}
	return s, nil
}

// resume prepares a stalled replay that goes on where it stopped.
func (s *replay) resume(ctx context.Context) error {
	if s.op != nil && s.op.ClosedAt == nil {
		// An attempt counts from when it was first seen. Those that failed while the replay was stalled must be seen before
		// it goes on, or they would open the breaker again.
		if err := s.db.ObserveAll(ctx, s.id.UID); err != nil {
			return access.DatabaseError(err)
		}
		if err := s.db.ResumeOperation(ctx, s.id.UID, playbook.Request(s.obj)); err != nil {
			return access.DatabaseError(err)
		}
		var err error
		if s.op, err = s.db.Operation(ctx, s.id.UID); err != nil {
			return access.DatabaseError(err)
		}
	}
	s.obj.Status.AdminRetries = slices.DeleteFunc(s.obj.Status.AdminRetries, func(a v1alpha1.AdminRetry) bool {
		return a.State == v1alpha1.AdminRetryRefused // refused for certain, so a new nonce may be tried
	})
	return nil
}

// behind says that the ledger knows less than the object: what the object saw happen is then nowhere recorded, and
// doing it again could repeat it.
func (s *replay) behind() bool {
	status := &s.obj.Status
	if status.Cutoff == nil {
		return false
	}
	if s.op == nil || !s.op.Cutoff.Equal(status.Cutoff.Time) || status.Plan != nil && s.op.PlannedAt == nil {
		return true
	}
	p := status.Progress
	return p != nil && p.Remaining != nil && *p.Remaining < s.op.Remaining
}

func (s *replay) stallBehind() playbook.Outcome {
	return playbook.Stall(v1alpha1.ReasonLedgerBehind, "the ledger in the platform's database knows less than this "+
		"object saw, as after a restore from a backup. "+
		"Nothing more is done, since it might be done twice. Compare the dead letters with what was delivered, then "+
		"delete this replay and apply one with a new name")
}

// idle is how long a replay that may not act now waits before it looks again at entries that it requeued earlier. Where
// there are none, nothing but a change of an object can let it go on.
func (s *replay) idle() time.Duration {
	if s.op.Waiting+s.op.Failing > 0 {
		return failingInterval
	}
	return 0
}

// mayAct returns the zero Outcome where the next effect may happen now, by what the object and its Platform say at this
// moment. Otherwise it returns what the step waits for. All approvals are asked before the first effect, and a canary
// is one.
func (s *replay) mayAct() playbook.Outcome {
	if s.obj.Spec.Suspend != nil && *s.obj.Spec.Suspend {
		return playbook.Wait(s.idle(), v1alpha1.ReasonSuspended, "suspended by spec.suspend; set it to false to go on")
	}
	required := playbook.Required(s.platform, "DLQReplay", s.op.Total)
	outcome := playbook.Act{
		Object: s.obj, Resource: "dlqreplay", Platform: s.platform,
		Required: required, Approvals: s.obj.Spec.Approvals,
		Digest: *s.op.PlanDigest, What: fmt.Sprintf("%s, cutoff %s", playbook.Count(s.op.Total, "entry", "entries"),
			s.op.Cutoff.Format("2006-01-02T15:04:05.000000Z")),
		Again: s.idle(),
	}.MayAct()
	playbook.ShowApproval(s.obj, required, outcome)
	return outcome
}

// refresh takes over what a person changed meanwhile, so that it holds from the next batch on. It reports false where
// the object is being deleted.
func (s *replay) refresh(ctx context.Context) (bool, error) {
	obj := &v1alpha1.DLQReplay{}
	if err := s.Client.Get(ctx, client.ObjectKeyFromObject(s.obj), obj); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading the replay again: %w", err)
	}
	if obj.UID == s.obj.UID && !obj.DeletionTimestamp.IsZero() {
		return false, nil
	}
	// The cache can lag behind the read that began this pass.
	if obj.UID == s.obj.UID && obj.Generation > s.obj.Generation {
		s.obj.Spec = obj.Spec
	}
	p, err := access.Find(ctx, s.Client, s.obj.Namespace, s.obj.Spec.PlatformRef.Name)
	if err != nil {
		return false, err
	}
	s.platform = p
	return true, nil
}

func identity(obj *v1alpha1.DLQReplay) (platformdb.Identity, error) {
	application, err := strconv.ParseInt(obj.Spec.ApplicationID, 10, 64)
	if err != nil {
		return platformdb.Identity{}, fmt.Errorf("reading spec.applicationID: %w", err)
	}
	digest, err := specDigest(&obj.Spec)
	return platformdb.Identity{
		UID: string(obj.UID), Kind: "DLQReplay", Namespace: obj.Namespace, Name: obj.Name,
		SpecDigest: digest, ApplicationID: application,
	}, err
}

// specDigest is the digest of the fields that can't be changed, without those that have v1alpha1's default: an object
// that Git applies again must be recognised whether or not it spells the default out.
func specDigest(spec *v1alpha1.DLQReplaySpec) (string, error) {
	immutable := v1alpha1.DLQReplaySpec{
		PlatformRef:   spec.PlatformRef,
		ApplicationID: spec.ApplicationID,
		AdminAPI:      spec.AdminAPI,
	}
	if spec.Selector != nil {
		immutable.Selector = spec.Selector.DeepCopy()
		slices.Sort(immutable.Selector.EventTypes)
		slices.Sort(immutable.Selector.Causes)
		slices.Sort(immutable.Selector.EntryIDs)
		slices.Sort(immutable.Selector.ExcludeEntryIDs)
	}
	immutable.Mode = unless(spec.Mode, v1alpha1.ReplayModeReplay)
	immutable.Via = unless(spec.Via, v1alpha1.ReplayViaDatabase)
	immutable.IdempotencyConflicts = unless(spec.IdempotencyConflicts, v1alpha1.ConflictSettle)
	immutable.MaxEntries = unless(spec.MaxEntries, 50000)
	immutable.MaxReplaysPerEntry = unless(spec.MaxReplaysPerEntry, 3)
	return playbook.Digest(immutable)
}

// unless returns v, or the zero value where v is the default.
func unless[T comparable](v, byDefault T) T {
	if v == byDefault {
		var zero T
		return zero
	}
	return v
}

func selectionOf(spec *v1alpha1.DLQReplaySpec, application int64) (platformdb.Selection, error) {
	selection := platformdb.Selection{ApplicationID: application, Conflicts: string(spec.IdempotencyConflicts),
		MaxReplays: spec.MaxReplaysPerEntry}
	if spec.Selector == nil {
		return selection, nil
	}
	selection.EventTypes = spec.Selector.EventTypes
	for _, cause := range spec.Selector.Causes {
		selection.Causes = append(selection.Causes, string(cause))
	}
	var err error
	if selection.EntryIDs, err = numbers(spec.Selector.EntryIDs); err != nil {
		return platformdb.Selection{}, fmt.Errorf("reading spec.selector.entryIDs: %w", err)
	}
	if selection.ExcludeIDs, err = numbers(spec.Selector.ExcludeEntryIDs); err != nil {
		return platformdb.Selection{}, fmt.Errorf("reading spec.selector.excludeEntryIDs: %w", err)
	}
	if t := spec.Selector.DeadAfter; t != nil {
		selection.DeadAfter = new(t.UTC())
	}
	if t := spec.Selector.DeadBefore; t != nil {
		selection.DeadBefore = new(t.UTC())
	}
	return selection, nil
}

// numbers reads ids; no texts are no list.
func numbers(texts []string) (ids []int64, err error) {
	for _, text := range texts {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
