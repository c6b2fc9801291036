package keycompromise

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// slice is how long a pass works before it writes the status.
	slice = time.Second
	// reSignInterval is how often transactions that are still open are looked at.
	reSignInterval = 500 * time.Millisecond
	// refusedInterval is how often entries are tried that the database refused to have changed.
	refusedInterval = 5 * time.Second
	// maxNamed is how many open transactions a message names.
	maxNamed = 5
)

// reSign signs anew what the revocation left: entries above its limit, entries that the dispatcher held, and entries of
// late transactions. A transaction that had read the old key can still insert under it after the revocation committed.
// So each transaction that was open then must have ended.
func reSign(ctx context.Context, s *compromise) (playbook.Outcome, error) {
	if s.db == nil {
		return playbook.NotNeeded("nobody looked whether undelivered webhooks were signed anew, or whether the platform "+
			"still signs with %s, since %s", s.revoked.Kid, onlyTheOutbox), nil
	}
	// JWKS that hangs must not hold up the signing. The next step gives it more time.
	looking, cancel := context.WithTimeout(ctx, slice)
	s.watchJWKS(looking)
	cancel()
	for end := time.Now().Add(slice); ; {
		progress, err := s.reSignSome(ctx)
		if err != nil {
			return playbook.Outcome{}, err
		}
		s.revoked = progress.Revocation
		s.project()
		may := !s.mayAct().Stops()
		switch {
		case progress.ReSignedAt != nil:
			return playbook.Done("%s signed anew. None is under the old kid, and every transaction from before the "+
				"revocation has ended",
				playbook.Count(progress.Resigned, "undelivered entry was", "undelivered entries were")), nil
		case !may && s.obj.Spec.Via == v1alpha1.CompromiseViaDatabase:
			// It comes back nevertheless: each pass looks at JWKS.
			return playbook.Wait(reSignInterval, v1alpha1.ReasonAutomationOff,
				"Platform %q is ObserveOnly. What is under the old kid is signed anew once its spec.automation is Enabled: %s",
				s.platform.Name, undelivered(progress.Left)), nil
		case s.overdue(v1alpha1.StepReSigned, s.obj.Spec.ReSignTimeoutSeconds):
			return s.stillSigning(progress), nil
		case progress.Swept:
			interval, refused := reSignInterval, ""
			if len(progress.Refusals) > 0 {
				// To find them costs the database more than to sign.
				interval, refused = refusedInterval, "; the database refuses to have "+refusals(progress)+" changed"
			}
			return playbook.Wait(interval, v1alpha1.ReasonReSigning, "%d signed anew, %s under the old kid, %s from before "+
				"the revocation still open%s", progress.Resigned, undelivered(progress.Left),
				playbook.Count(len(progress.Open), "transaction", "transactions"), refused), nil
		case time.Now().After(end):
			return playbook.Wait(time.Millisecond, v1alpha1.ReasonReSigning, "%d signed anew so far", progress.Resigned), nil
		}
	}
}

func (s *compromise) reSignSome(ctx context.Context) (*platformdb.ReSigning, error) {
	// The rake signed anew what there was. The operator can't sign where keys are encrypted, so it waits for the rest. It
	// also only waits where the Platform is ObserveOnly.
	if may := !s.mayAct().Stops(); !may || s.obj.Spec.Via == v1alpha1.CompromiseViaCommand {
		progress, err := s.db.AwaitReSigned(ctx, s.id.UID)
		return progress, access.DatabaseError(err)
	}
	signing, err := s.Connections.Signing(ctx, s.platform)
	if err != nil {
		return nil, err
	}
	progress, err := signing.ReSign(ctx, s.id.UID)
	return progress, access.DatabaseError(err)
}

func (s *compromise) stillSigning(progress *platformdb.ReSigning) playbook.Outcome {
	var why []string
	if len(progress.Refusals) > 0 {
		why = append(why, fmt.Sprintf("the database refuses to change %s, and they stay under the old kid. Update one by "+
			"hand "+
			"in a transaction to see what refuses it, and mend that", refusals(progress)))
	}
	if progress.Left > refusedEntries(progress) {
		text := fmt.Sprintf("the old kid still has %s. The platform still signs with it, or rows stay locked. Restart the "+
			"processes that keep the key in memory", undelivered(progress.Left))
		if s.obj.Spec.Via == v1alpha1.CompromiseViaCommand {
			text += ", and let the platform sign them anew: the operator can't"
		}
		why = append(why, text)
	}
	if n := len(progress.Open); n > 0 {
		why = append(why, fmt.Sprintf("%s from before the revocation still open (%s) and may insert under the old kid. "+
			"Find the session in pg_locks by virtualtransaction, and end it. Commit or roll back what is prepared",
			playbook.Count(n, "transaction is", "transactions are"), strings.Join(progress.Open[:min(n, maxNamed)], ", ")))
	}
	return playbook.Stall(v1alpha1.ReasonStillSigning, "after %d s %s. The key stays revoked. Then: %s",
		s.obj.Spec.ReSignTimeoutSeconds, strings.Join(why, "; and "), s.resumeCommand())
}

// refusals says by which SQLSTATE how many entries were refused, and names one of each.
func refusals(progress *platformdb.ReSigning) string {
	var texts []string
	for _, r := range progress.Refusals[:min(len(progress.Refusals), maxNamed)] {
		texts = append(texts, fmt.Sprintf("%s (SQLSTATE %s, such as entry %d)", playbook.Count(r.Entries, "entry", "entries"),
			r.State, r.Entry))
	}
	return strings.Join(texts, " and ")
}

func refusedEntries(progress *platformdb.ReSigning) (n int64) {
	for _, r := range progress.Refusals {
		n += r.Entries
	}
	return n
}

// undelivered prints a count that stops at a limit.
func undelivered(n int64) string {
	text := playbook.Count(n, "undelivered entry", "undelivered entries")
	if n >= platformdb.CountLimit {
		return "at least " + text
	}
	return text
}
