package command

import (
	"errors"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// open is what the step comes to while the command's work does not show. It waits, or a person is needed.
//
// An Effect knows one settle time. Here it depends on the command's end: a command that reported success has done its
// work by then, and one whose end nobody saw may still be at it.
func (a *attempt) open() playbook.Outcome {
	run := *a.Run
	startedAt := run.StartedAt.UTC().Format(time.RFC3339)
	if a.Runner.Runs(a.Object, run) {
		return playbook.Wait(observeInterval, a.Reason, "%s is under way on %s, since %s", a.What, run.Target, startedAt)
	}
	if run.Outcome != v1alpha1.CommandSucceeded && !a.late() || a.ShowsLate != nil && a.ShowsLate() {
		return playbook.Wait(observeInterval, a.Reason, "%s %s on %s; its work is looked for, and %s", a.What, did(run),
			run.Target, a.found.Saw)
	}
	what := fmt.Sprintf("%s %s on %s, and %s. It was begun at %s", a.What, did(run), run.Target, a.found.Saw, startedAt)
	if run.Outcome == v1alpha1.CommandSucceeded {
		what += ". spec.commands may reach another platform than the one that was looked at"
	}
	return a.unknown(what)
}

// withdrawn is what the step comes to where the command certainly had no effect.
func (a *attempt) withdrawn(why error) (playbook.Outcome, error) {
	var refused *outbound.Refused
	var limited *outbound.Limited
	switch {
	case errors.Is(why, errFailed):
		return a.failed(), nil
	case errors.Is(why, errNotSent):
		return a.notSent(), nil
	case errors.As(why, &refused), errors.As(why, &limited):
		return a.notStarted(why)
	}
	return playbook.Outcome{}, fmt.Errorf("running %s: %w", a.What, why)
}

// notSent is a run that another manager was about to begin. The next pass begins its own.
func (a *attempt) notSent() playbook.Outcome {
	return playbook.Wait(time.Millisecond, a.Reason, "%s was about to be run, and certainly was not", a.What)
}

func (a *attempt) failed() playbook.Outcome {
	run := *a.Run
	mend := "Mend the cause first"
	if a.found.Beware != "" {
		mend += ", and " + a.found.Beware
	}
	return playbook.Stall(v1alpha1.ReasonCommandFailed, "%s %s on %s, and %s. %s. %s. This runs it again: %s",
		a.What, did(run), run.Target, a.found.Saw, a.evidence(), mend, a.resumeCommand())
}

// unknown stops at an effect that must not be repeated, and that may or may not have happened.
func (a *attempt) unknown(what string) playbook.Outcome {
	return playbook.Stall(v1alpha1.ReasonOutcomeUnknown, "%s. It is not run again, since %s. %s. "+
		"Once %s, by it or by you: %s. If you are sure that nothing runs and nothing was done, delete this object and "+
		"apply one with a new name", what, a.Harm, a.evidence(), a.Work, a.resumeCommand())
}

// evidence says where to read what the command printed.
func (c *Command) evidence() string {
	if commands := c.Platform.Spec.Commands; commands != nil && commands.Type == v1alpha1.CommandTypeRenderJob {
		return "What it printed is in Render's logs"
	}
	return c.Ledger.Evidence()
}

// did is what is known of a run, in words.
func did(run *v1alpha1.CommandRun) string {
	switch {
	case run.Outcome == v1alpha1.CommandLost:
		return "was running when the connection ended"
	case run.Outcome == "":
		return "was begun"
	case run.ExitStatus == nil:
		return fmt.Sprintf("ended with %s", run.Outcome)
	}
	return fmt.Sprintf("ended with exit status %d", *run.ExitStatus)
}
