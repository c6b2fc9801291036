package keycompromise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// compromise is what a pass works with: the object, its Platform, and its operation in the ledger.
type compromise struct {
	*Reconciler
	visit    *playbook.Visit[*v1alpha1.KeyCompromise]
	obj      *v1alpha1.KeyCompromise
	platform *v1alpha1.Platform
	db       *platformdb.DB // nil where the object is unrecorded
	id       platformdb.Identity
	op       *platformdb.Operation  // nil until it is opened
	revoked  *platformdb.Revocation // nil until the key is revoked
}

func (r *Reconciler) connect(ctx context.Context, v *playbook.Visit[*v1alpha1.KeyCompromise]) (*compromise, error) {
	obj := v.Obj
	id, err := identity(obj)
	if err != nil {
		return nil, err
	}
	// The finalizer comes before the operation: an operation that is open in the ledger is closed when the object goes.
	if err := playbook.PatchFinalizer(ctx, r.Client, obj, controllerutil.AddFinalizer); err != nil {
		return nil, err
	}
	s := &compromise{Reconciler: r, visit: v, obj: obj, id: id}
	if s.platform, err = access.Find(ctx, r.Client, obj.Namespace, obj.Spec.PlatformRef.Name); err != nil {
		return nil, err
	}
	if unrecorded(obj, s.platform) {
		s.recall()
		// The status is all that remembers the rake, so it must be known if that is lost.
		return s, v.Mark(ctx)
	}
	s.db, err = r.Connections.Database(ctx, s.platform)
	if s.platform.Spec.Database == nil && obj.Spec.Via == v1alpha1.CompromiseViaDatabase {
		err = fmt.Errorf("%w. Or delete this object, and apply one with a new name and via: Command. That needs no database",
			err)
	}
	if err != nil {
		return nil, err
	}
	s.op, err = s.db.Operation(ctx, id.UID)
	if errors.Is(err, platformdb.ErrNoOperation) {
		err = nil
	}
	if err == nil && s.op != nil {
		s.revoked, err = s.db.Revocation(ctx, id.UID)
		if errors.Is(err, platformdb.ErrNotRevoked) {
			err = nil
		}
	}
	// Postgres' error about a missing ledger does not say what to do. The check does.
	if err == nil && s.revoked == nil || errors.Is(err, platformdb.ErrNotReady) {
		if _, missing := s.db.Check(ctx); missing != nil {
			err = missing
		}
	}
	if err != nil {
		return nil, access.DatabaseError(err)
	}
	if s.revoked != nil {
		s.project()
	}
	return s, nil
}

func identity(obj *v1alpha1.KeyCompromise) (platformdb.Identity, error) {
	application, err := strconv.ParseInt(obj.Spec.ApplicationID, 10, 64)
	if err != nil {
		return platformdb.Identity{}, fmt.Errorf("reading spec.applicationID: %w", err)
	}
	// These fields can't be changed. By them an object is recognised that Git applies again.
	immutable := v1alpha1.KeyCompromiseSpec{
		PlatformRef: obj.Spec.PlatformRef, ApplicationID: obj.Spec.ApplicationID, Kid: obj.Spec.Kid, Reason: obj.Spec.Reason,
	}
	if obj.Spec.Via != v1alpha1.CompromiseViaDatabase {
		immutable.Via = obj.Spec.Via
	}
	digest, err := playbook.Digest(immutable)
	return platformdb.Identity{
		UID: string(obj.UID), Kind: "KeyCompromise", Namespace: obj.Namespace, Name: obj.Name,
		SpecDigest: digest, ApplicationID: application,
	}, err
}

// resume prepares a stalled playbook that goes on. The time of the step that stalled begins anew.
func (s *compromise) resume(context.Context) error {
	s.obj.Status.StepsBegun = slices.DeleteFunc(s.obj.Status.StepsBegun, func(b v1alpha1.StepBegun) bool {
		return slices.ContainsFunc(s.obj.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == b.Step && c.Status == metav1.ConditionFalse
		})
	})
	// The command did nothing. Whoever asks has mended the cause, so it may run again.
	if c := meta.FindStatusCondition(s.obj.Status.Conditions,
		v1alpha1.StepRevoked); c.Reason == v1alpha1.ReasonCommandFailed {
		s.obj.Status.Command = nil
	}
	return nil
}

// overdue says whether a step has taken longer than its timeout. The first call for a step starts its time.
func (s *compromise) overdue(step string, timeoutSeconds int32) bool {
	i := slices.IndexFunc(s.obj.Status.StepsBegun, func(b v1alpha1.StepBegun) bool { return b.Step == step })
	if i < 0 {
		// The API keeps seconds.
		s.obj.Status.StepsBegun = append(s.obj.Status.StepsBegun, v1alpha1.StepBegun{Step: step,
			At: new(metav1.NewTime(time.Now().Truncate(time.Second)))})
		return false
	}
	return time.Since(s.obj.Status.StepsBegun[i].At.Time) > time.Duration(timeoutSeconds)*time.Second
}

// behind says that the ledger knows less than the object. What the object saw happen is then recorded nowhere, and
// doing it again could repeat it.
func (s *compromise) behind() bool {
	if s.db == nil {
		return false
	}
	if s.obj.Status.Command != nil && s.op == nil {
		return true
	}
	return s.obj.Status.RevokedAt != nil && (s.revoked == nil ||
		!s.revoked.RevokedAt.Truncate(time.Second).Equal(s.obj.Status.RevokedAt.Time))
}

// mayAct returns the zero Outcome where an effect may happen now, by what the Platform says at this moment. Otherwise
// it returns what the step waits for.
func (s *compromise) mayAct() playbook.Outcome { return s.act().MayAct() }

// mayBegin also asks the Platform's approval rules. Where there is no rule, an emergency waits for nobody.
func (s *compromise) mayBegin() playbook.Outcome {
	act := s.act()
	act.Required = playbook.Required(s.platform, "KeyCompromise", 0)
	return act.MayAct()
}

func (s *compromise) act() playbook.Act {
	return playbook.Act{
		Object: s.obj, Resource: "keycompromise", Platform: s.platform, Approvals: s.obj.Spec.Approvals,
		Digest: s.id.SpecDigest,
		What:   fmt.Sprintf("the end of kid %q of application %s", s.obj.Spec.Kid, s.obj.Spec.ApplicationID),
	}
}

func (s *compromise) resumeCommand() string { return playbook.ResumeCommand(s.obj, "keycompromise") }

// relyingParty is what the Platform says of the application's relying party: its name, whom to call, and how long it
// keeps JWKS.
func (s *compromise) relyingParty() (name, oncall string, jwksCache time.Duration) {
	for _, rp := range s.platform.Spec.RelyingParties {
		if rp.ApplicationID == s.obj.Spec.ApplicationID {
			if rp.JWKSCacheSeconds != nil {
				jwksCache = time.Duration(*rp.JWKSCacheSeconds) * time.Second
			}
			return rp.Name, rp.Oncall, jwksCache
		}
	}
	return "application " + s.obj.Spec.ApplicationID, "", 0
}

// project writes into the status what the ledger says. For an unrecorded object, that is what JWKS said. Where ledger
// and status disagree, the ledger wins.
func (s *compromise) project() {
	r, status := s.revoked, &s.obj.Status
	if s.behind() {
		return
	}
	status.SuccessorKid = r.SuccessorKid
	// The API keeps seconds. Anything finer would differ from what was written, and each pass would write again.
	status.RevokedAt = new(metav1.NewTime(r.RevokedAt.Truncate(time.Second)))
	status.TimeToRevokeSeconds = new(max(0, int64(r.RevokedAt.Sub(s.obj.CreationTimestamp.Time).Seconds())))
	if s.db == nil {
		return
	}
	status.ResignedEntries, status.ClaimedEntries = &r.Resigned, &r.Claimed
	status.EventEntryID = strconv.FormatInt(r.EventEntryID, 10)
}
