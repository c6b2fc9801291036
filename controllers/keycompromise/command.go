package keycompromise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/command"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
)

// runCommand lets the platform's own rake end the key, at most once. Whether the rake did its work is read from the
// key's row, never found out by running it again.
func (s *compromise) runCommand(ctx context.Context) (playbook.Outcome, error) {
	if s.obj.Status.Command == nil {
		if outcome, err := s.mayRunCommand(ctx); err != nil || outcome.Stops() {
			return outcome, err
		}
	}
	return s.rake().Do(ctx)
}

// mayRunCommand opens the operation, or returns why the rake must not be run now.
func (s *compromise) mayRunCommand(ctx context.Context) (playbook.Outcome, error) {
	if s.op == nil {
		siblings, err := s.siblings(ctx)
		if err != nil {
			return playbook.Outcome{}, err
		}
		if outcome := s.first(siblings); outcome.Stops() {
			return outcome, nil
		}
	}
	return s.begin(ctx)
}

// rake is the platform's own command that ends the key.
func (s *compromise) rake() *command.Command {
	c := &command.Command{
		Connections: s.Connections, Runner: &s.commands, Platform: s.platform, Object: s.obj, Resource: "keycompromise",
		Step: v1alpha1.StepRevoked, Reason: v1alpha1.ReasonRevoking, What: "the platform's rake",
		Text: func(rails ssh.Rails) (string, error) { return rails.Compromise(s.id.ApplicationID, s.obj.Spec.Kid) },
		Run:  &s.obj.Status.Command, Save: func(ctx context.Context) error { return s.visit.Save(ctx) }, May: s.mayActNow,
		Ledger: ledger{s, s.db, s.id.UID, s.obj.Spec.Kid}, Look: s.lookAtKey,
		Harm: "it might end the successor", Work: "the key is ended",
	}
	if s.db == nil {
		c.Ledger, c.Look = noLedger{s}, s.lookAtJWKS
		// What the rake did shows in JWKS as late as caches let it.
		c.ShowsLate = func() bool { return !s.overdue(v1alpha1.StepRevoked, s.obj.Spec.PublishTimeoutSeconds) }
	}
	return c
}

// mayActNow is mayAct by a new look at the Platform. The optimistic lock notices a change of the object only.
func (s *compromise) mayActNow(ctx context.Context) (playbook.Outcome, error) {
	now, err := access.Find(ctx, s.Client, s.obj.Namespace, s.obj.Spec.PlatformRef.Name)
	if err != nil {
		return playbook.Outcome{}, err
	}
	s.platform = now
	return s.mayAct(), nil
}

// lookAtKey reads from the key's row whether the key was ended, by whomever, and enters that into the ledger.
func (s *compromise) lookAtKey(ctx context.Context) (command.Finding, error) {
	r, err := s.db.AdoptRevocation(ctx, s.id.UID, s.obj.Spec.Kid, s.obj.Spec.Reason)
	unfinished := (*platformdb.Unfinished)(nil)
	switch {
	case err == nil:
		s.revoked = r
		return command.Finding{Done: true}, nil
	case errors.Is(err, platformdb.ErrNotRevoked):
		return command.Finding{Untouched: true, Saw: platformdb.ErrNotRevoked.Error()}, nil
	case errors.As(err, &unfinished):
		return command.Finding{Saw: unfinished.Error()}, nil
	}
	held, err := s.notRevoked(ctx, err)
	return command.Finding{Held: held}, err
}

// ledger keeps runs in the platform's database. What a run's end needs is here, since a run may outlive its pass.
type ledger struct {
	s        *compromise
	db       *platformdb.DB
	uid, kid string
}

func (l ledger) Begin(ctx context.Context, run command.Run) (playbook.Outcome, error) {
	err := l.db.BeginCommand(ctx, l.uid, platformdb.Command{StartedAt: run.StartedAt, Kid: l.kid, Target: run.Target,
		Text: run.Text})
	if taken := (*platformdb.Taken)(nil); errors.As(err, &taken) {
		return l.s.awaitTwin(ctx, taken.Operation)
	}
	return playbook.Outcome{}, access.DatabaseError(err)
}

func (l ledger) End(ctx context.Context, startedAt time.Time, end platformdb.CommandEnd, output string) error {
	return access.DatabaseError(l.db.EndCommand(ctx, l.uid, startedAt, end, output))
}

func (l ledger) Read(ctx context.Context, run command.Run) (platformdb.CommandEnd, error) {
	end, err := l.db.AbandonCommand(ctx, l.uid, platformdb.Command{StartedAt: run.StartedAt, Kid: l.kid,
		Target: run.Target})
	return end, access.DatabaseError(err)
}

func (l ledger) Evidence() string {
	return fmt.Sprintf("What it printed is in the ledger: SELECT output FROM playbook.command_runs JOIN "+
		"playbook.operations o ON o.id = operation_id WHERE uid = '%s'", l.uid)
}
