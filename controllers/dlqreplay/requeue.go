package dlqreplay

import (
	"context"
	"errors"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// slice is how long one pass works before it writes the status and lets other objects have a turn.
	slice = time.Second
	// observeInterval is how often the counters of requeued entries are brought up to date while entries are requeued or
	// tried.
	observeInterval = 250 * time.Millisecond
	// lockedInterval is how soon entries held by another session are tried again.
	lockedInterval = time.Second

	// breakerWindow and breakerMinimum are how many of the last attempts the breaker judges, and from how many on.
	breakerWindow  = 100
	breakerMinimum = 20
)

// requeue gives entries back to the dispatcher, batch by batch, at the pace that the spec allows.
func requeue(ctx context.Context, s *replay) (playbook.Outcome, error) {
	if s.behind() {
		return s.stallBehind(), nil
	}
	if s.obj.Spec.Via == v1alpha1.ReplayViaAdminAPI {
		return requeueByAdminAPI(ctx, s)
	}
	if s.op.Total == 0 {
		return playbook.NotNeeded("nothing to replay"), nil
	}
	if s.op.ClosedAt != nil {
		return playbook.Done("%s", s.handled()), nil
	}
	var observed time.Time
	for end := time.Now().Add(slice); time.Now().Before(end); {
		if time.Since(observed) > observeInterval {
			if outcome, err := s.judge(ctx); err != nil || outcome.Stops() {
				return outcome, err
			}
			observed = time.Now()
		}
		if s.op.Remaining == 0 {
			return playbook.Done("%s", s.handled()), nil
		}
		if exists, err := s.refresh(ctx); err != nil {
			return playbook.Outcome{}, err
		} else if !exists {
			return playbook.Wait(0, v1alpha1.ReasonRequeuing, "stopped: the replay is being deleted"), nil
		}
		if outcome := s.mayAct(); outcome.Stops() {
			return outcome, nil
		}
		pace := platformdb.Pace{MaxInFlight: s.obj.Spec.MaxInFlight}
		if rate := s.obj.Spec.RatePerSecond; rate != nil {
			pace.RatePerSecond = *rate
		}
		batch, err := s.batch(ctx, func(db *platformdb.DB, selection platformdb.Selection) (*platformdb.Batch, error) {
			return db.Requeue(ctx, s.id.UID, selection, pace)
		})
		if err != nil {
			return s.unsignable(err)
		}
		switch {
		case batch.Looked == 0:
			slowness, err := s.slowness(ctx)
			return playbook.Wait(observeInterval, v1alpha1.ReasonRequeuing, "%s%s", s.handled(), slowness), err
		case batch.Looked == batch.Locked:
			return playbook.Wait(lockedInterval, v1alpha1.ReasonRequeuing, "%s; %s locked by another session of the "+
				"database, and tried again", s.handled(), playbook.Count(batch.Locked, "entry is", "entries are")), nil
		}
	}
	return playbook.Wait(time.Millisecond, v1alpha1.ReasonRequeuing, "%s", s.handled()), nil
}

// judge observes what became of requeued entries; it stalls where the breaker opened.
func (s *replay) judge(ctx context.Context) (playbook.Outcome, error) {
	op, err := s.db.Observe(ctx, s.id.UID)
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	attempts, err := s.db.RecentAttempts(ctx, op, breakerWindow)
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	s.op = op
	s.project()
	s.projectFailures(attempts)
	if attempts.Attempted >= breakerMinimum &&
		attempts.Failed*100 > attempts.Attempted*int64(*s.obj.Spec.Breaker.MaxFailurePercent) {
		return playbook.Stall(v1alpha1.ReasonBreakerOpen, "the breaker opened: %d of the last %s failed (%s), more "+
			"than %d %%; %s dead, and those requeued stay with the dispatcher. %s. When the relying party is well again: %s",
			attempts.Failed, playbook.Count(attempts.Attempted, "attempt", "attempts"), answers(attempts),
			*s.obj.Spec.Breaker.MaxFailurePercent, playbook.Count(op.Remaining, "entry remains", "entries remain"),
			s.whomToCall(), playbook.ResumeCommand(s.obj, "dlqreplay")), nil
	}
	return playbook.Outcome{}, nil
}

// batch runs one batch of the plan and takes its counts over. It is run by the everyday role, and where that finds
// entries that need a new signature, by the one that can read keys.
func (s *replay) batch(ctx context.Context, run func(*platformdb.DB, platformdb.Selection) (*platformdb.Batch,
	error)) (*platformdb.Batch, error) {
	began := time.Now()
	batch, err := run(s.db, s.selection)
	if errors.Is(err, platformdb.ErrUnpublished) {
		var signing *platformdb.DB
		if signing, err = s.Connections.Signing(ctx, s.platform); err != nil {
			return nil, err
		}
		selection := s.selection
		selection.Unpublished = platformdb.ReSignUnpublished
		batch, err = run(signing, selection)
	}
	if err != nil {
		return nil, err
	}
	if batch.Looked > 0 {
		batchSeconds.Observe(time.Since(began).Seconds())
		countEntries(s.op, batch.Operation)
	}
	s.op = batch.Operation
	s.project()
	return batch, nil
}

// unsignable stalls where entries need a new signature, and the platform's key can't give it.
func (s *replay) unsignable(err error) (playbook.Outcome, error) {
	if no := (*platformdb.Unsignable)(nil); errors.As(err, &no) {
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "entries are under a kid that is no longer published, and can't "+
			"be signed anew: %s. Give application %s an active key, or, to leave such entries, take "+
			"database.signingSecretRef out of Platform %q. Then: %s",
			no, s.obj.Spec.ApplicationID, s.platform.Name, playbook.ResumeCommand(s.obj, "dlqreplay")), nil
	}
	return playbook.Outcome{}, access.DatabaseError(err)
}
