package keycompromise

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// defaultResignLimit is v1alpha1's default of signingKeys.resignLimit, where signingKeys is absent.
	defaultResignLimit = 100_000
	// twinInterval is how often a pass looks whether another KeyCompromise of the same key has ended.
	twinInterval = 2 * time.Second
)

// revoke does four things in one transaction: it ends the key, issues its successor, signs anew what is undelivered,
// and tells the relying party.
func revoke(ctx context.Context, s *compromise) (playbook.Outcome, error) {
	if outcome := s.finishedBefore(); outcome.Stops() {
		return outcome, nil
	}
	if s.revoked == nil {
		end := s.revokeNow
		if s.obj.Spec.Via == v1alpha1.CompromiseViaCommand {
			end = s.runCommand
		}
		if outcome, err := end(ctx); err != nil || outcome.Stops() {
			return outcome, err
		}
		s.project()
		secondsToRevoke.Observe(float64(*s.obj.Status.TimeToRevokeSeconds))
	}
	r := s.revoked
	switch {
	case s.db == nil:
		return playbook.Done("at %s JWKS no longer had %s; it had %s instead. The key was revoked by then",
			r.RevokedAt.Format(time.RFC3339), r.Kid, s.successor()), nil
	case r.Deferred:
		return playbook.Done("revoked at %s, successor %s. There are more undelivered entries than one transaction signs "+
			"anew, or the database refused to change one. The next step signs them", r.RevokedAt.Format(time.RFC3339),
			r.SuccessorKid), nil
	case r.Claimed > 0:
		return playbook.Done("revoked at %s, successor %s. At that moment %s being delivered under the old kid, and "+
			"can't be recalled", r.RevokedAt.Format(time.RFC3339), r.SuccessorKid,
			playbook.Count(r.Claimed, "entry was", "entries were")), nil
	}
	return playbook.Done("revoked at %s, successor %s", r.RevokedAt.Format(time.RFC3339), r.SuccessorKid), nil
}

// finishedBefore ends an object whose operation is complete in the ledger, and which has lost its status. What JWKS
// showed then can't be seen again, and the proof need not be made twice.
func (s *compromise) finishedBefore() playbook.Outcome {
	if s.op == nil || s.op.Outcome == nil || *s.op.Outcome != platformdb.OutcomeComplete {
		return playbook.Outcome{}
	}
	at := s.op.ClosedAt.UTC().Format(time.RFC3339)
	if s.revoked == nil {
		return playbook.Moot(v1alpha1.ReasonAlreadyDone, "another KeyCompromise ended this key, and this one finished at "+
			"%s. "+
			"Its status was lost since", at)
	}
	return playbook.Moot(v1alpha1.ReasonAlreadyDone, "this KeyCompromise revoked the key at %s, successor %s, and "+
		"finished "+
		"at %s: by then all steps were done. Its status was lost since, and is written from the ledger",
		s.revoked.RevokedAt.Format(time.RFC3339), s.revoked.SuccessorKid, at)
}

// begin opens the operation, or returns why it must not begin.
func (s *compromise) begin(ctx context.Context) (playbook.Outcome, error) {
	if s.db == nil || s.op != nil {
		return s.mayBegin(), nil
	}
	twin, err := s.db.FinishedTwin(ctx, s.id)
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	if twin != nil {
		return alreadyDone(twin), nil
	}
	if outcome := s.mayBegin(); outcome.Stops() {
		return outcome, nil
	}
	s.op, err = s.db.OpenOperation(ctx, s.id)
	if errors.Is(err, platformdb.ErrNoApplication) {
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "the platform has no application %s. Delete this object, and "+
			"apply one with an id from oauth_applications", s.obj.Spec.ApplicationID), nil
	}
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	return playbook.Outcome{}, nil
}

func alreadyDone(twin *platformdb.Operation) playbook.Outcome {
	return playbook.Moot(v1alpha1.ReasonAlreadyDone, "KeyCompromise %s/%s, uid %s, ended this key. It finished at %s",
		twin.Namespace, twin.Name, twin.UID, twin.ClosedAt.UTC().Format(time.RFC3339))
}

func (s *compromise) revokeNow(ctx context.Context) (playbook.Outcome, error) {
	if outcome, err := s.begin(ctx); err != nil || outcome.Stops() {
		return outcome, err
	}
	signing, err := s.Connections.Signing(ctx, s.platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	limit := int64(defaultResignLimit)
	if keys := s.platform.Spec.SigningKeys; keys != nil && keys.ResignLimit != nil {
		limit = *keys.ResignLimit
	}
	r, err := signing.Revoke(ctx, s.id.UID, s.obj.Spec.Kid, s.obj.Spec.Reason, limit)
	if err != nil {
		return s.notRevoked(ctx, err)
	}
	s.revoked = r
	return playbook.Outcome{}, nil
}

// notRevoked says what an error of a revocation means.
func (s *compromise) notRevoked(ctx context.Context, err error) (playbook.Outcome, error) {
	var unknown *platformdb.UnknownKid
	var taken *platformdb.Taken
	var unsignable *platformdb.Unsignable
	switch {
	case errors.As(err, &unknown):
		kids := "it has no key at all"
		if len(unknown.Kids) > 0 {
			kids = "it has " + strings.Join(unknown.Kids, ", ")
		}
		return playbook.Stall(v1alpha1.ReasonUnknownKid, "application %s has no key of kid %q; %s. Nothing was changed. "+
			"Delete this object, and apply one with the right kid", s.obj.Spec.ApplicationID, s.obj.Spec.Kid, kids), nil
	case errors.As(err, &taken):
		outcome, err := s.awaitTwin(ctx, taken.Operation)
		return outcome, err
	case errors.As(err, &unsignable):
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "%v. Nothing was changed. If the platform encrypts its key "+
			"column, delete this object, and apply one with a new name and via: Command. That runs the platform's own "+
			"rake", unsignable), nil
	}
	return playbook.Outcome{}, access.DatabaseError(err)
}

// awaitTwin waits for the end of another operation that revokes the key. It then completes, and names that one.
func (s *compromise) awaitTwin(ctx context.Context, twin *platformdb.Operation) (playbook.Outcome, error) {
	if twin.ClosedAt == nil {
		return playbook.Wait(twinInterval, v1alpha1.ReasonWaitingForTwin, "KeyCompromise %s/%s ends this key. Waiting until "+
			"it is Ready", twin.Namespace, twin.Name), nil
	}
	if err := s.db.CloseOperation(ctx, s.id, platformdb.OutcomeComplete); err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	return alreadyDone(twin), nil
}
