package command

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

// clockSlack is by how much Render's clock may be behind ours. A job that it says is older is not the one that was
// intended. A job that is missed so stalls the step. An earlier job that was taken for it would let it run unseen.
const clockSlack = time.Second

// jobMemory is how far back a job is looked for that still runs. It is longer than any job may take.
const jobMemory = 2 * time.Hour

// prepareJob looks for a job that runs the command already, as that of an object that is gone.
func (a *attempt) prepareJob(ctx context.Context, text string) (string, error) {
	account, err := a.Connections.Render(ctx, a.Platform)
	if err != nil {
		return "", err
	}
	service := a.Platform.Spec.Commands.Service
	id := access.RenderServiceID(a.Platform, service)
	jobs, err := account.Jobs(ctx, id, time.Now().Add(-jobMemory))
	if err != nil {
		a.held, err = a.notStarted(err)
		return "", err
	}
	for _, job := range jobs {
		if job.StartCommand == text && slices.Contains([]string{render.JobPending, render.JobRunning}, job.Status) {
			a.held = playbook.Wait(observeInterval, a.Reason, "the job %s already runs %s with the same arguments: waiting for "+
				"its end", job.ID, a.What)
			return "", nil
		}
	}
	// A job that ended since the first look is not among those that run, and has done its work.
	if done, err := a.lookAround(ctx); done || err != nil {
		return "", err
	}
	a.drop = func() {}
	a.send = func(ctx context.Context) error { return a.startJob(ctx, account, id, text) }
	return fmt.Sprintf("Render's service %s, %s", service, id), nil
}

// startJob is the one call that starts the job. Passes look at it.
func (a *attempt) startJob(ctx context.Context, account *render.Client, service, text string) error {
	job, err := account.StartJob(ctx, service, text)
	if outbound.NoEffect(err) {
		return &playbook.NoEffect{Err: err}
	}
	if err != nil {
		return err
	}
	(*a.Run).JobID = job.ID
	return nil
}

// notStarted says what an error of a job that certainly was not started means.
func (a *attempt) notStarted(err error) (playbook.Outcome, error) {
	var refused *outbound.Refused
	var limited *outbound.Limited
	switch {
	case errors.As(err, &refused):
		return playbook.Stall(v1alpha1.ReasonRefused, "%v. Nothing was started. Mend spec.render of Platform %q, or the "+
			"Secret that it names. Then: %s", err, a.Platform.Name, a.resumeCommand()), nil
	case errors.As(err, &limited):
		return playbook.Wait(limited.After, v1alpha1.ReasonRetrying, "%v; nothing was started", err), nil
	}
	return playbook.Outcome{}, err
}

// jobEnd reads how the job of the run ended, if it has one. A job whose id was lost is recognised by its command, among
// those that were created since.
func (c *Command) jobEnd(ctx context.Context) (end platformdb.CommandEnd, err error) {
	commands, run := c.Platform.Spec.Commands, *c.Run
	if commands == nil || commands.Type != v1alpha1.CommandTypeRenderJob {
		return end, nil
	}
	account, err := c.Connections.Render(ctx, c.Platform)
	if err != nil {
		return end, err
	}
	service := access.RenderServiceID(c.Platform, commands.Service)
	if run.JobID == "" {
		if run.JobID, err = c.findJob(ctx, account, service); err != nil || run.JobID == "" {
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
	return end, c.record(ctx, end, "")
}

func (c *Command) findJob(ctx context.Context, account *render.Client, service string) (id string, err error) {
	text, err := c.text(c.Platform.Spec.Commands)
	if err != nil {
		return "", err
	}
	since := (*c.Run).StartedAt.Add(-clockSlack)
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
