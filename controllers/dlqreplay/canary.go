package dlqreplay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// canaryPatience is how long a canary that failed waits for its other answers, so that the message can tell all of
// them.
const canaryPatience = 5 * time.Second

// tryCanary requeues a few entries and watches what the relying party answers, before any other is touched.
func tryCanary(ctx context.Context, s *replay) (playbook.Outcome, error) {
	if s.behind() {
		return s.stallBehind(), nil
	}
	canary := s.obj.Spec.Canary
	switch {
	case s.obj.Spec.Via == v1alpha1.ReplayViaAdminAPI:
		return playbook.NotNeeded("the admin API retries at most ten entries, each named"), nil
	case *canary.Entries == 0:
		return playbook.NotNeeded("spec.canary.entries is 0"), nil
	case s.op.CanaryAt == nil && s.op.Remaining == 0:
		return playbook.NotNeeded("nothing to replay"), nil
	case s.op.ClosedAt != nil:
		return playbook.Done("the ledger has the replay as complete"), nil
	}
	if s.op.CanaryAt == nil {
		if outcome := s.mayAct(); outcome.Stops() {
			return outcome, s.clockCanary(ctx, false)
		}
		if err := s.sendCanary(ctx, min(*canary.Entries, s.obj.Spec.MaxInFlight)); errors.Is(err,
			platformdb.ErrNothingToTry) {
			return playbook.NotNeeded("no entry would be requeued"), nil
		} else if err != nil {
			return s.unsignable(err)
		}
	}
	return s.watchCanary(ctx, canary)
}

func (s *replay) sendCanary(ctx context.Context, entries int32) error {
	if _, err := s.db.ChooseCanary(ctx, s.id.UID, s.selection, entries); err != nil {
		return err
	}
	_, err := s.batch(ctx, func(db *platformdb.DB, selection platformdb.Selection) (*platformdb.Batch, error) {
		return db.RequeueCanary(ctx, s.id.UID, selection)
	})
	return err
}

func (s *replay) watchCanary(ctx context.Context, canary v1alpha1.ReplayCanary) (playbook.Outcome, error) {
	op, err := s.db.Observe(ctx, s.id.UID)
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	attempts, err := s.db.CanaryAttempts(ctx, op)
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	s.op = op
	s.project()
	s.projectFailures(attempts)
	tried := attempts.Attempted + attempts.Waiting
	switch {
	case attempts.Failed > int64(*canary.MaxFailures) && (attempts.Waiting == 0 ||
		op.Now.After(op.CanaryAt.Add(canaryPatience))):
		return playbook.Stall(v1alpha1.ReasonCanaryFailed, "%d of %s failed (%s) and %d may; %s. %s: %s",
			attempts.Failed, canaryEntries(tried), answers(attempts), *canary.MaxFailures, others(op),
			s.beforeResuming(attempts),
			playbook.ResumeCommand(s.obj, "dlqreplay")), nil
	case tried == 0:
		return s.chooseOthers(ctx, attempts)
	case attempts.Waiting == 0:
		return playbook.Done("%s attempted, %d failed", canaryEntries(tried), attempts.Failed), nil
	}
	if outcome := s.mayAct(); outcome.Stops() {
		return outcome, s.clockCanary(ctx, false)
	}
	if err := s.clockCanary(ctx, true); err != nil {
		return playbook.Outcome{}, err
	}
	began := *op.CanaryAt
	if op.CanarySince.After(began) {
		began = *op.CanarySince
	}
	if op.Now.After(began.Add(time.Duration(canary.TimeoutSeconds) * time.Second)) {
		return playbook.Stall(v1alpha1.ReasonCanaryTimedOut, "%d of %s not attempted within %d s: see whether the "+
			"platform's webhook dispatcher runs; %s. To try again: %s",
			attempts.Waiting, playbook.Count(tried, "canary entry was", "canary entries were"), canary.TimeoutSeconds,
			others(op), playbook.ResumeCommand(s.obj, "dlqreplay")), nil
	}
	return playbook.Wait(observeInterval, v1alpha1.ReasonCanaryInFlight, "%d of %s attempted", attempts.Attempted,
		canaryEntries(tried)), nil
}

func canaryEntries(n int64) string { return playbook.Count(n, "canary entry", "canary entries") }

// others says that what is not of the canary is as it was.
func others(op *platformdb.Operation) string {
	return "the other " + playbook.Count(op.Remaining, "entry was", "entries were") + " not touched"
}

// clockCanary stops the canary's time while the replay may not act, and lets it begin anew afterwards: a replay that
// was suspended for long must not time out when it goes on.
func (s *replay) clockCanary(ctx context.Context, runs bool) error {
	if runs == (s.op.CanarySince != nil) {
		return nil
	}
	if err := s.db.ClockCanary(ctx, s.id.UID, runs); err != nil {
		return access.DatabaseError(err)
	}
	s.op.CanarySince = nil
	if runs {
		s.op.CanarySince = &s.op.Now
	}
	return nil
}

// chooseOthers lets a canary be chosen anew where somebody else got to each entry first, or still holds each; the rest
// of the plan has not been tried.
func (s *replay) chooseOthers(ctx context.Context, a *platformdb.Attempts) (playbook.Outcome, error) {
	timeout := s.obj.Spec.Canary.TimeoutSeconds
	since := s.op.CanarySince // nil where an earlier release chose the entries
	if a.Locked > 0 && since != nil && s.op.Now.After(since.Add(time.Duration(timeout)*time.Second)) {
		return playbook.Stall(v1alpha1.ReasonCanaryTimedOut, "within %d s each entry that was chosen for the canary was "+
			"locked by another session of the database; none was touched. Find the session in pg_stat_activity, such as one "+
			"that is idle in transaction, and end it. Then: %s", timeout, playbook.ResumeCommand(s.obj, "dlqreplay")), nil
	}
	if err := s.db.ForgetCanary(ctx, s.id.UID); err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	if a.Locked > 0 {
		return playbook.Wait(lockedInterval, v1alpha1.ReasonCanaryInFlight, "each entry that was chosen for the canary is "+
			"locked by another session of the database; looking for one that is not"), nil
	}
	return playbook.Wait(time.Second, v1alpha1.ReasonCanaryInFlight, "somebody else changed all chosen canary entries; "+
		"choosing others"), nil
}

// beforeResuming says what must be so before a replay goes on whose canary failed.
func (s *replay) beforeResuming(a *platformdb.Attempts) string {
	if a.Refused == 0 {
		return s.whomToCall() + ". When the relying party is well again"
	}
	return fmt.Sprintf("Mend what the database refuses: to see it, update entry %d by hand in a transaction, and roll "+
		"back. Only a replay with a new name tries a refused entry again. To go on with the others", s.op.Refusals[0].Entry)
}

// answers says what the relying party answered, such as "503 ×3, Timeout ×1".
func answers(a *platformdb.Attempts) string {
	texts := make([]string, len(a.Answers))
	for i, c := range a.Answers {
		texts[i] = fmt.Sprintf("%s ×%d", c.Answer, c.Entries)
	}
	return strings.Join(texts, ", ")
}
