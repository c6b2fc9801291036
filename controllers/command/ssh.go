package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
)

// loginTimeout bounds a login. It is longer than ssh's own.
const loginTimeout = 20 * time.Second

// prepareSSH logs in, and runs nothing. A host that takes its time holds up no pass: a later one takes the connection.
func (a *attempt) prepareSSH(ctx context.Context, text string) (string, error) {
	target, err := a.Connections.SSHTarget(ctx, a.Platform)
	if err != nil {
		return "", err
	}
	host := fmt.Sprintf("ssh %s@%s, port %d", target.User, target.Host, target.Port)
	dial := a.Connections.DialSSH
	connection, err := playbook.Ask(ctx, &a.Runner.logins, string(a.Object.GetUID())+"/"+host, host, loginTimeout,
		func(ctx context.Context) (*ssh.Connection, error) { return ssh.Connect(ctx, target, dial) })
	if under := (*playbook.UnderWay)(nil); errors.As(err, &under) {
		a.held = under.Wait(a.Reason, "the login at %s takes its time; nothing was sent yet", target.Host)
		return "", nil
	}
	if err != nil {
		return "", a.notConnected(err)
	}
	a.drop = func() { _ = connection.Close() }
	a.send = func(ctx context.Context) error { return a.run(ctx, connection, text) }
	return host, nil
}

// run gives the command to the Runner. The pass waits a moment for its end.
func (a *attempt) run(ctx context.Context, connection *ssh.Connection, text string) error {
	// The command outlives the pass, and the pass goes on to change what it works with.
	ledger, startedAt := a.Ledger, (*a.Run).StartedAt.Time
	err := a.Runner.begin(ctx, key(a.Object, *a.Run), a.timeout(), func(ctx context.Context) end {
		defer a.drop()
		return endOf(connection.Run(ctx, text))
	}, func(ctx context.Context, e end) error { return ledger.End(ctx, startedAt, e.CommandEnd, e.output) })
	if err != nil {
		a.drop()
		return &playbook.NoEffect{Err: err}
	}
	return nil
}

// endOf is what a connection says of a command's end.
func endOf(result ssh.Result, err error) end {
	e := end{output: result.Output}
	unsent := (*ssh.NotSent)(nil)
	switch {
	case errors.As(err, &unsent):
		e.Outcome, e.unsent = platformdb.CommandNotSent, err
	case err != nil:
		e.Outcome = platformdb.CommandLost
	default:
		e.Outcome, e.ExitStatus = platformdb.CommandSucceeded, new(int32(result.ExitStatus))
		if result.ExitStatus != 0 {
			e.Outcome = platformdb.CommandFailed
		}
	}
	return e
}

// notConnected holds the step where a person must see to the host's key. It returns what is tried again.
func (a *attempt) notConnected(err error) error {
	var refused *ssh.HostKeyRefused
	var auth *ssh.AuthRefused
	var unusable *ssh.Unusable
	host := a.Platform.Spec.Commands.SSH
	switch {
	case errors.As(err, &refused) && refused.Revoked:
		a.held = playbook.Stall(v1alpha1.ReasonHostKeyRefused, "%v in knownHosts of Secret %q. Nothing was sent. Find out "+
			"what answers as %s. When it has another key: %s",
			refused, host.SecretRef.Name, host.Host, a.resumeCommand())
		return nil
	case errors.As(err, &refused):
		a.held = playbook.Stall(v1alpha1.ReasonHostKeyRefused, "%v, in knownHosts of Secret %q. %s has a new key, or "+
			"something else answers in its place. Nothing was sent. Ask its operator, by another way, for the key's "+
			"fingerprint. Only if that is the same, put this line there: %s. Then: %s", refused, host.SecretRef.Name, host.Host,
			refused.Line, a.resumeCommand())
		return nil
	case errors.As(err, &auth):
		return &playbook.Waiting{Reason: v1alpha1.ReasonSecretUnusable,
			Err: fmt.Errorf("%w; nothing was sent. Put a key that may log in to %s into privateKey of Secret %q", auth,
				host.Host, host.SecretRef.Name)}
	case errors.As(err, &unusable):
		return &playbook.Waiting{Reason: v1alpha1.ReasonSecretUnusable,
			Err: fmt.Errorf("in Secret %q, %w", host.SecretRef.Name, unusable)}
	}
	return fmt.Errorf("connecting to the host of the platform's commands: %w", err)
}
