package keycompromise

import (
	"context"
	"errors"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// verify looks for a webhook signed by the successor that reached the relying party after the revocation.
func verify(ctx context.Context, s *compromise) (playbook.Outcome, error) {
	if s.db == nil {
		return playbook.NotNeeded("nobody looked whether a webhook that the successor signed was delivered, since %s",
			onlyTheOutbox), nil
	}
	last := s.noteCaches()
	id, at, err := s.db.DeliveredUnderSuccessor(ctx, s.revoked)
	if errors.Is(err, platformdb.ErrNoEntry) {
		return playbook.Wait(notifyInterval, v1alpha1.ReasonVerifying, "no webhook signed by %s was delivered yet",
			s.revoked.SuccessorKid), nil
	}
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	if last {
		if err := s.complete(ctx); err != nil {
			return playbook.Outcome{}, err
		}
	}
	return playbook.Done("entry %d, signed by %s, was delivered at %s", id, s.revoked.SuccessorKid,
		at.Format(time.RFC3339)), nil
}

// complete closes the operation: the key's end is proven.
func (s *compromise) complete(ctx context.Context) error {
	if s.db == nil {
		return nil
	}
	return access.DatabaseError(s.db.CloseOperation(ctx, s.id, platformdb.OutcomeComplete))
}
