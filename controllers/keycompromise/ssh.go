package keycompromise

import (
	"context"
	"errors"
	"fmt"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
)

// runSSH runs the command in a shell on the host, and waits for its end.
func (s *compromise) runSSH(ctx context.Context, command platformdb.Command) (playbook.Outcome, error) {
	target, err := s.Connections.SSHTarget(ctx, s.platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	// It logs in, and runs nothing: what goes wrong until then needs no intent.
	connection, err := ssh.Connect(ctx, target, s.Connections.DialSSH)
	if err != nil {
		return s.notConnected(err)
	}
	defer connection.Close()
	command.Target = fmt.Sprintf("ssh %s@%s, port %d", target.User, target.Host, target.Port)
	if outcome, err := s.intend(ctx, &command); err != nil || outcome.Stops() {
		return outcome, err
	}
	running, cancel := context.WithTimeout(ctx, s.timeout())
	result, err := connection.Run(running, command.Text)
	cancel()
	run := s.obj.Status.Command
	if unsent := (*ssh.NotSent)(nil); errors.As(err, &unsent) {
		if s.record(ctx, platformdb.CommandEnd{Outcome: platformdb.CommandNotSent}, "") == nil {
			s.obj.Status.Command = nil
		}
		return playbook.Outcome{}, fmt.Errorf("running the platform's rake: %w", err)
	}
	end := platformdb.CommandEnd{Outcome: platformdb.CommandLost}
	run.Outcome = v1alpha1.CommandLost
	if err == nil {
		end = platformdb.CommandEnd{Outcome: platformdb.CommandSucceeded, ExitStatus: new(int32(result.ExitStatus))}
		run.Outcome, run.ExitStatus = v1alpha1.CommandSucceeded, end.ExitStatus
		if result.ExitStatus != 0 {
			end.Outcome, run.Outcome = platformdb.CommandFailed, v1alpha1.CommandFailed
		}
	}
	// Without it the row says that the command was begun, which is as safe, and the evidence is missing.
	if err := s.record(ctx, end, result.Output); err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	return s.observeCommand(ctx)
}

func (s *compromise) notConnected(err error) (playbook.Outcome, error) {
	var refused *ssh.HostKeyRefused
	var auth *ssh.AuthRefused
	var unusable *ssh.Unusable
	host := s.platform.Spec.Commands.SSH
	switch {
	case errors.As(err, &refused) && refused.Revoked:
		return playbook.Stall(v1alpha1.ReasonHostKeyRefused, "%v in knownHosts of Secret %q. Nothing was sent. Find out "+
			"what answers as %s; with another key there: %s",
			refused, host.SecretRef.Name, host.Host, s.resumeCommand()), nil
	case errors.As(err, &refused):
		return playbook.Stall(v1alpha1.ReasonHostKeyRefused, "%v, in knownHosts of Secret %q: %s has a new key, or "+
			"something else answers in its place. Nothing was sent. "+
			"Only if its operator confirms that fingerprint by another way, put this line there: %s. Then: "+
			"%s", refused, host.SecretRef.Name, host.Host, refused.Line, s.resumeCommand()), nil
	case errors.As(err, &auth):
		return playbook.Outcome{}, &playbook.Waiting{Reason: v1alpha1.ReasonSecretUnusable,
			Err: fmt.Errorf("%w; nothing was sent: put a key into privateKey of Secret %q that may log in to %s", auth,
				host.SecretRef.Name, host.Host)}
	case errors.As(err, &unusable):
		return playbook.Outcome{}, &playbook.Waiting{Reason: v1alpha1.ReasonSecretUnusable,
			Err: fmt.Errorf("in Secret %q, %w", host.SecretRef.Name, unusable)}
	}
	return playbook.Outcome{}, fmt.Errorf("connecting to the host of the platform's commands: %w", err)
}
