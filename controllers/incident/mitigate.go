package incident

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

const (
	// helpsWithin is how long at least a rollback has to help. Signals that are still bad after it say that it did not.
	helpsWithin = time.Minute
	// lookInterval is how often the signals are looked at in case that nothing told of a change.
	lookInterval = 30 * time.Second
)

// awaitMitigation waits until each signal that was bad stayed good for long enough. Good signals prove nothing where
// none was bad.
func awaitMitigation(_ context.Context, s *response) (playbook.Outcome, error) {
	status := &s.Incident.Status
	if s.ByHand() {
		return playbook.NotNeeded("resolved by %s", s.Incident.Spec.Resolution.By), nil
	}
	wait := func(after time.Duration, reason, format string, args ...any) (playbook.Outcome, error) {
		return playbook.Wait(after, reason, format, args...), nil
	}
	c := clear(status.Signals, s.own)
	switch {
	case s.rollingBack():
		// Its deploy changes what the signals say.
		return wait(lookInterval, v1alpha1.ReasonAwaitingMitigation, "a rollback is under way")
	case s.over() != "":
		status.MitigatedAt = journal.Seconds(c.since)
		s.Record(v1alpha1.StepMitigated, "mitigated: %s", s.over())
		return playbook.Done("%s", s.over()), nil
	case c.bad && s.didNotHelp():
		return wait(lookInterval, v1alpha1.ReasonAwaitingMitigation,
			"the rollback did not help: %s. It is not done twice: a person has to find the cause", s.own.Because())
	case c.bad && !s.helpsUntil().IsZero():
		known := status.Rollback
		return wait(s.Until(s.helpsUntil().Add(time.Second)), v1alpha1.ReasonAwaitingMitigation, "%s is back at %s since "+
			"%s; still bad: %s. If that stays so until %s, the rollback did not help. It is not done twice: a person then has "+
			"to find the cause", known.Service, known.ToCommit, status.RolledBackAt.UTC().Format(time.RFC3339),
			s.own.Because(), s.helpsUntil().UTC().Format(time.RFC3339))
	case c.bad:
		return wait(lookInterval, v1alpha1.ReasonAwaitingMitigation, "%s", s.own.Because())
	case status.ConfirmedAt == nil && s.Platform.Spec.Probes == nil:
		return wait(0, v1alpha1.ReasonNotConfirmed, "Platform %q has no spec.probes, so nobody but you can tell when it "+
			"is over: %s",
			s.Platform.Name, s.commands())
	case status.ConfirmedAt == nil:
		return wait(lookInterval, v1alpha1.ReasonNotConfirmed,
			"no signal of an outage was bad since it was reported, so nobody but you can tell when it is over: "+
				"%s", s.commands())
	case len(c.lost) > 0:
		return wait(lookInterval, v1alpha1.ReasonSignalsUnknown, "what was known is unknown now (%s). If nobody mends "+
			"that, a person closes it: %s",
			c.unknownText(), s.ResolveCommand())
	}
	at := s.clearAt()
	return wait(s.Until(at), v1alpha1.ReasonAwaitingMitigation, "each signal that was bad is good since %s, and must "+
		"stay so until %s",
		c.since.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
}

// commands are what to type now: to take the Incident on, where people were paged and nobody has, and to close it.
func (s *response) commands() string {
	if s.Incident.Status.PagedAt == nil || s.escalation().Acknowledged() {
		return s.ResolveCommand()
	}
	return fmt.Sprintf("to take it on, %s; to close it, %s", s.AcknowledgeCommand(), s.ResolveCommand())
}

// rollingBack says that a rollback was asked for, and that its end is awaited.
func (s *response) rollingBack() bool {
	c := meta.FindStatusCondition(s.Incident.Status.Conditions, v1alpha1.StepRolledBack)
	return c != nil && c.Status == metav1.ConditionUnknown && s.rollback().Asked()
}

// didNotHelp says that the rollback had its time.
func (s *response) didNotHelp() bool {
	until := s.helpsUntil()
	return !until.IsZero() && s.Now.After(until)
}

// helpsUntil is until when the rollback has time to help; zero where nothing was rolled back. What flapped before is
// not good until half of the window is.
func (s *response) helpsUntil() time.Time {
	at, probes := s.Incident.Status.RolledBackAt, s.Platform.Spec.Probes
	if at == nil || probes == nil || s.Incident.Status.Rollback == nil {
		return time.Time{}
	}
	return at.Add(max(helpsWithin, time.Duration(probes.WindowSeconds)*time.Second/2))
}
