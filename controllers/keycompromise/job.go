package keycompromise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
)

// clockSlack is by how much Render's clock may be behind ours: a job that it says is older is not the one that was
// intended. One that is missed so stalls, where an earlier one that was taken for it would let it run unseen.
const clockSlack = time.Second

// jobMemory is how far back a job is looked for that still runs: longer than any may take.
const jobMemory = 2 * time.Hour

// runJob starts the command as a one-off job at Render. Later passes follow it.
func (s *compromise) runJob(ctx context.Context, command platformdb.Command) (playbook.Outcome, error) {
	account, err := s.Connections.Render(ctx, s.platform)
	if err != nil {
		return playbook.Outcome{}, err
	}
	service := s.platform.Spec.Commands.Service
	id := access.RenderServiceID(s.platform, service)
	command.Target = fmt.Sprintf("Render's service %s, %s", service, id)
	// Of an object that was deleted while its job ran.
	jobs, err := account.Jobs(ctx, id, time.Now().Add(-jobMemory))
	if err != nil {
		return s.notStarted(err)
	}
	for _, job := range jobs {
		if job.StartCommand == command.Text && slices.Contains([]string{render.JobPending, render.JobRunning}, job.Status) {
			return playbook.Wait(observeInterval, v1alpha1.ReasonRevoking, "the job %s runs the platform's rake for this key "+
				"already: waiting for its end", job.ID), nil
		}
	}
	// One that ended since the key's row was read is not among those that run, and has done its work.
	if outcome, err := s.adopt(ctx); !errors.Is(err, platformdb.ErrNotRevoked) && !isUnfinished(err) {
		return outcome, err
	}
	if outcome, err := s.intend(ctx, &command); err != nil || outcome.Stops() {
		return outcome, err
	}
	job, err := account.StartJob(ctx, id, command.Text)
	if outbound.NoEffect(err) {
		if s.record(ctx, platformdb.CommandEnd{Outcome: platformdb.CommandNotSent}, "") == nil {
			s.obj.Status.Command = nil
		}
		return s.notStarted(err)
	}
	if err == nil {
		s.obj.Status.Command.JobID = job.ID
		return playbook.Wait(observeInterval, v1alpha1.ReasonRevoking, "the platform's rake was started as the job %s",
			job.ID), nil
	}
	return playbook.Wait(observeInterval, v1alpha1.ReasonRevoking, "Render's answer was lost (%s): looking for the job",
		playbook.Normalise(err.Error())), nil
}

// notStarted says what an error of a job that certainly was not started means.
func (s *compromise) notStarted(err error) (playbook.Outcome, error) {
	var refused *outbound.Refused
	var limited *outbound.Limited
	switch {
	case errors.As(err, &refused):
		return playbook.Stall(v1alpha1.ReasonRefused, "%v. Nothing was started. Mend spec.render of Platform %q, or the "+
			"Secret that it names. Then: %s",
			err, s.platform.Name, s.resumeCommand()), nil
	case errors.As(err, &limited):
		return playbook.Wait(limited.After, v1alpha1.ReasonRetrying, "%v; nothing was started", err), nil
	}
	return playbook.Outcome{}, err
}

// observeJob reads how the job of the intent ended, if it has one: a job whose id was lost is recognised by its
// command, among those that were created since.
func (s *compromise) observeJob(ctx context.Context) (end platformdb.CommandEnd, err error) {
	commands, run := s.platform.Spec.Commands, s.obj.Status.Command
	if commands == nil || commands.Type != v1alpha1.CommandTypeRenderJob {
		return end, nil
	}
	account, err := s.Connections.Render(ctx, s.platform)
	if err != nil {
		return end, err
	}
	service := access.RenderServiceID(s.platform, commands.Service)
	if run.JobID == "" {
		if run.JobID, err = s.findJob(ctx, account, service); err != nil || run.JobID == "" {
			return end, err
		}
	}
	job, err := account.Job(ctx, service, run.JobID)
	if err != nil {
		return end, err
	}
	switch job.Status {
	case render.JobSucceeded:
		end.Outcome = platformdb.CommandSucceeded
	case render.JobFailed, render.JobCanceled:
		end.Outcome = platformdb.CommandFailed
	default:
		return end, nil
	}
	return end, access.DatabaseError(s.record(ctx, end, ""))
}

func (s *compromise) findJob(ctx context.Context, account *render.Client, service string) (id string, err error) {
	text, err := s.commandText(s.platform.Spec.Commands)
	if err != nil {
		return "", err
	}
	since := s.obj.Status.Command.StartedAt.Add(-clockSlack)
	jobs, err := account.Jobs(ctx, service, since)
	if err != nil {
		return "", err
	}
	for _, job := range jobs {
		if job.StartCommand == text && job.CreatedAt.After(since) {
			return job.ID, nil
		}
	}
	return "", nil
}
