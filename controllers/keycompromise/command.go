package keycompromise

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
)

const (
	// settleTime is how long after the command's timeout its effect may still appear, clocks of two managers included.
	settleTime = 30 * time.Second
	// observeInterval is how often the key's row is read meanwhile.
	observeInterval = time.Second
	// recordTimeout bounds entering a command's end into the ledger, also when the manager is told to stop.
	recordTimeout = 10 * time.Second
)

// runCommand lets the platform's own rake end the key, at most once: the intent is written first, and whether the rake
// did its work is read from the key's row, never found out by running it again.
func (s *compromise) runCommand(ctx context.Context) (playbook.Outcome, error) {
	if s.obj.Status.Command != nil {
		return s.observeCommand(ctx)
	}
	if s.op == nil {
		siblings, err := s.siblings(ctx)
		if err != nil {
			return playbook.Outcome{}, err
		}
		if outcome := s.first(siblings); outcome.Stops() {
			return outcome, nil
		}
	}
	if outcome, err := s.begin(ctx); err != nil || outcome.Stops() {
		return outcome, err
	}
	// Somebody may have run it by hand, and it would end the successor.
	outcome, err := s.adopt(ctx)
	if !errors.Is(err, platformdb.ErrNotRevoked) && !isUnfinished(err) {
		return outcome, err
	}
	commands := s.platform.Spec.Commands
	if commands == nil {
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "Platform %q has no spec.commands, which say how its rake is "+
			"run: add them, then: %s", s.platform.Name, s.resumeCommand()), nil
	}
	text, err := s.commandText(commands)
	if err != nil {
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "%v. Nothing was sent. Run the platform's own tools by hand",
			err), nil
	}
	command := platformdb.Command{Kid: s.obj.Spec.Kid, Text: text}
	if commands.Type == v1alpha1.CommandTypeRenderJob {
		return s.runJob(ctx, command)
	}
	return s.runSSH(ctx, command)
}

func (s *compromise) commandText(commands *v1alpha1.PlatformCommands) (string, error) {
	rails := ssh.Rails{Directory: commands.Directory, Bundle: commands.Bundle, Environment: commands.Environment}
	return rails.Compromise(s.id.ApplicationID, s.obj.Spec.Kid)
}

// adopt enters into the ledger what the platform did; ErrNotRevoked or Unfinished where it has not done it.
func (s *compromise) adopt(ctx context.Context) (playbook.Outcome, error) {
	if s.db == nil {
		return s.adoptPublished(ctx)
	}
	r, err := s.db.AdoptRevocation(ctx, s.id.UID, s.obj.Spec.Kid, s.obj.Spec.Reason)
	if err != nil {
		return s.notRevoked(ctx, err)
	}
	s.revoked = r
	return playbook.Outcome{}, nil
}

func isUnfinished(err error) bool {
	unfinished := (*platformdb.Unfinished)(nil)
	return errors.As(err, &unfinished)
}

// intend writes the intent to the status and then to the ledger, if there is one. Only where it lets the step go on may
// the command be sent, and then once.
func (s *compromise) intend(ctx context.Context, command *platformdb.Command) (playbook.Outcome, error) {
	// The optimistic lock notices a change of the object, and nothing but a new look one of the Platform.
	now, err := access.Find(ctx, s.Client, s.obj.Namespace, s.obj.Spec.PlatformRef.Name)
	if err != nil {
		return playbook.Outcome{}, err
	}
	s.platform = now
	if outcome := s.mayAct(); outcome.Stops() {
		return outcome, nil
	}
	startedAt := metav1.NowMicro()
	// Microseconds are what the API and the ledger keep.
	startedAt.Time = startedAt.Truncate(time.Microsecond)
	command.StartedAt = startedAt.Time
	s.obj.Status.Command = &v1alpha1.CommandRun{StartedAt: &startedAt, Target: command.Target}
	playbook.Announce(s.obj, v1alpha1.StepRevoked, v1alpha1.ReasonRevoking,
		"running the platform's rake on "+command.Target)
	if err := s.visit.Save(ctx); err != nil {
		s.obj.Status.Command = nil
		return playbook.Outcome{}, fmt.Errorf("writing the intent to run the platform's rake: %w", err)
	}
	if s.db == nil {
		return s.intendAlone(ctx)
	}
	err = s.db.BeginCommand(ctx, s.id.UID, *command)
	taken := (*platformdb.Taken)(nil)
	switch {
	case err == nil:
		return playbook.Outcome{}, nil
	case errors.As(err, &taken):
		s.obj.Status.Command = nil
		outcome, err := s.awaitTwin(ctx, taken.Operation)
		return outcome, err
	case errors.Is(err, platformdb.ErrGivenUp):
		// Another manager came in between, and has withdrawn the intent or is about to.
		s.obj.Status.Command = nil
		return playbook.Wait(time.Millisecond, v1alpha1.ReasonRevoking, "the platform's rake was about to be run, and "+
			"certainly was not"), nil
	case errors.Is(err, platformdb.ErrCommandRan):
		s.obj.Status.Command = nil
		return s.unknown("the ledger knows of a run that this object does not remember"), nil
	}
	// Nothing was sent. Should the reply alone have been lost, that is entered.
	if end := s.record(ctx, platformdb.CommandEnd{Outcome: platformdb.CommandNotSent}, ""); end == nil {
		s.obj.Status.Command = nil
	}
	return playbook.Outcome{}, access.DatabaseError(err)
}

// record enters how the command ended, or returns why it could not.
func (s *compromise) record(ctx context.Context, end platformdb.CommandEnd, output string) error {
	if s.db == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return s.db.EndCommand(ctx, s.id.UID, s.obj.Status.Command.StartedAt.Time, end, output)
}

// outcomes in the object's words; the empty one stays so.
var outcomes = map[string]v1alpha1.CommandOutcome{
	platformdb.CommandSucceeded: v1alpha1.CommandSucceeded, platformdb.CommandFailed: v1alpha1.CommandFailed,
	platformdb.CommandLost: v1alpha1.CommandLost,
}

// observeCommand reads from the key's row whether the command did its work. It never sends one.
func (s *compromise) observeCommand(ctx context.Context) (playbook.Outcome, error) {
	if s.db == nil {
		return s.observePublished(ctx)
	}
	outcome, notEnded := s.adopt(ctx)
	run := s.obj.Status.Command
	if s.revoked != nil && run.JobID != "" && run.Outcome == "" {
		// For the record only.
		if end, err := s.observeJob(ctx); err == nil && end.Outcome == platformdb.CommandSucceeded {
			run.Outcome = v1alpha1.CommandSucceeded
		}
	}
	if !errors.Is(notEnded, platformdb.ErrNotRevoked) && !isUnfinished(notEnded) {
		return outcome, notEnded
	}
	if run.Outcome == "" {
		// Another manager wrote the intent, or this one before it ended.
		end, err := s.db.AbandonCommand(ctx, s.id.UID, platformdb.Command{StartedAt: run.StartedAt.Time,
			Kid: s.obj.Spec.Kid, Target: run.Target})
		if err != nil {
			return playbook.Outcome{}, access.DatabaseError(err)
		}
		if end.Outcome == "" {
			if end, err = s.observeJob(ctx); err != nil && !s.late() {
				return playbook.Outcome{}, err
			}
		}
		if end.Outcome == platformdb.CommandNotSent {
			s.obj.Status.Command = nil
			return playbook.Wait(time.Millisecond, v1alpha1.ReasonRevoking, "the platform's rake was about to be run, and "+
				"certainly was not"), nil
		}
		run.Outcome, run.ExitStatus = outcomes[end.Outcome], end.ExitStatus
		if run.Outcome != "" {
			// It may have done its work between the two looks.
			return playbook.Wait(time.Millisecond, v1alpha1.ReasonRevoking, "the platform's rake %s on %s: reading the key's "+
				"row to see what it did", did(run), run.Target), nil
		}
	}
	if run.Outcome == v1alpha1.CommandFailed && errors.Is(notEnded, platformdb.ErrNotRevoked) {
		return playbook.Stall(v1alpha1.ReasonCommandFailed, "the platform's rake ended with%s on %s, and did not revoke "+
			"the key. %s. When the cause is mended, this runs it again: %s",
			exitStatus(run), run.Target, s.evidence(), s.resumeCommand()), nil
	}
	// One that reported success had done its work by then, if it did it here.
	if run.Outcome != v1alpha1.CommandSucceeded && !s.late() {
		return playbook.Wait(observeInterval, v1alpha1.ReasonRevoking, "the platform's rake %s on %s: reading the key's "+
			"row to see what it did", did(run), run.Target), nil
	}
	what := fmt.Sprintf("the platform's rake %s on %s, begun at %s, and %v", did(run), run.Target,
		run.StartedAt.UTC().Format(time.RFC3339), root(notEnded))
	if run.Outcome == v1alpha1.CommandSucceeded {
		what += ": spec.commands and spec.database may be of two platforms"
	}
	return s.unknown(what), nil
}

// unknown stops at an effect that must not be repeated, and that may or may not have happened.
func (s *compromise) unknown(what string) playbook.Outcome {
	return playbook.Stall(v1alpha1.ReasonOutcomeUnknown, "%s. It is not run again, since it might end the successor. "+
		"%s. Once it, or you by hand, ended the key: %s. "+
		"If you are sure that nothing runs and nothing was done, delete this object and apply one with a new "+
		"name", what, s.evidence(), s.resumeCommand())
}

// evidence says where to read what the command printed.
func (s *compromise) evidence() string {
	if commands := s.platform.Spec.Commands; commands != nil && commands.Type == v1alpha1.CommandTypeRenderJob {
		return "What it printed is in Render's logs"
	}
	if s.db == nil {
		return "What it printed was not kept, for want of a ledger"
	}
	return fmt.Sprintf("What it printed is in the ledger: SELECT output FROM playbook.command_runs JOIN "+
		"playbook.operations o ON o.id = operation_id WHERE uid = '%s'", s.id.UID)
}

// late says that whatever the command did would show by now.
func (s *compromise) late() bool {
	return time.Since(s.obj.Status.Command.StartedAt.Time) > s.timeout()+settleTime
}

func (s *compromise) timeout() time.Duration {
	if commands := s.platform.Spec.Commands; commands != nil {
		return time.Duration(commands.TimeoutSeconds) * time.Second
	}
	// They were taken away after the command was begun.
	return defaultTimeout
}

// defaultTimeout is v1alpha1's default of commands.timeoutSeconds.
const defaultTimeout = 10 * time.Minute

// did is what is known of a run, in words.
func did(run *v1alpha1.CommandRun) string {
	switch run.Outcome {
	case v1alpha1.CommandSucceeded, v1alpha1.CommandFailed:
		return "ended with" + exitStatus(run)
	case v1alpha1.CommandLost:
		return "was running when the connection ended"
	}
	return "was begun"
}

func exitStatus(run *v1alpha1.CommandRun) string {
	if run.ExitStatus == nil {
		return fmt.Sprintf(" %s", run.Outcome)
	}
	return fmt.Sprintf(" exit status %d", *run.ExitStatus)
}

// root is what an error of the ledger's says itself.
func root(err error) error {
	unfinished := (*platformdb.Unfinished)(nil)
	if errors.As(err, &unfinished) {
		return unfinished
	}
	return platformdb.ErrNotRevoked
}
