// Package command runs a command on the platform at most once, and outside the pass: over SSH, or as a job at Render.
//
// A command may take an hour, so no pass waits for its end. Its effect may be one that must not come twice, so no pass
// repeats it. This package knows how a command is sent, and what is known of its end. A step says what the command is
// for, where its runs are kept, and how one sees that its work is done.
package command

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
	// settleTime is how long after the command's timeout its effect may still appear. It covers the difference between
	// two managers' clocks.
	settleTime = 30 * time.Second
	// observeInterval is how often a pass looks at a command that was sent.
	observeInterval = time.Second
	// recordTimeout bounds entering an end into the ledger. It also holds while the manager stops.
	recordTimeout = 10 * time.Second
	// defaultTimeout is v1alpha1's default of commands.timeoutSeconds.
	defaultTimeout = 10 * time.Minute
)

// A Command is what a step wants to be run on the platform, once.
type Command struct {
	Connections *access.Connections
	// Runner owns what this process runs. It is the same for all passes.
	Runner   *Runner
	Platform *v1alpha1.Platform
	Object   playbook.Object
	// Resource is the object's kind in kubectl's words.
	Resource string
	// Step is the condition that reports the command, and Reason is the one that it has while the command goes on.
	Step, Reason string
	// What the command is, for people: "the platform's rake".
	What string
	// Text is the command, for a POSIX shell. An error says why there is none.
	Text func(ssh.Rails) (string, error)

	// Run is where the object's status keeps the run. It is nil until a run is intended.
	Run **v1alpha1.CommandRun
	// Save writes the status under the optimistic lock.
	Save func(context.Context) error
	// May says, by a new look at the Platform, whether the command may be sent now. An outcome that stops keeps it back.
	May func(context.Context) (playbook.Outcome, error)
	// Ledger keeps the runs where the object's status does not suffice.
	Ledger Ledger
	// Look reads whether the command's work is done, by whomever.
	Look func(context.Context) (Finding, error)
	// ShowsLate says whether work that is done may be invisible still. It is asked once the command has ended. Nil: work
	// shows at once.
	ShowsLate func() bool

	// Harm says why a second run is worse than none: "it might end the successor".
	Harm string
	// Work is what a person may do by hand instead: "the key is ended".
	Work string
}

// A Run is one try, as a Ledger keeps it.
type Run struct {
	// StartedAt tells the runs of an object apart, at microseconds.
	StartedAt    time.Time
	Target, Text string
}

// Ledger keeps runs.
type Ledger interface {
	// Begin enters a run before the command is sent. It is the last door: an outcome that stops keeps the command back,
	// and so does an error. platformdb.ErrGivenUp says that Read gave the run up; platformdb.ErrCommandRan, that the
	// object has run its command before.
	Begin(context.Context, Run) (playbook.Outcome, error)
	// End enters how a run ended, with what it printed.
	End(ctx context.Context, startedAt time.Time, end platformdb.CommandEnd, output string) error
	// Read returns how a run ended, as far as is known. A run that was not begun is given up: it is CommandNotSent then,
	// and its Begin fails for ever.
	Read(context.Context, Run) (platformdb.CommandEnd, error)
	// Evidence says where to read what the command printed.
	Evidence() string
}

// A Finding is what a look at the command's work finds.
type Finding struct {
	// Done says that the work is done.
	Done bool
	// Untouched says that none of it is done.
	Untouched bool
	// Saw is what was seen, for people: "the key is not revoked".
	Saw string
	// Beware is what a person must rule out before the command is run again. It may be empty.
	Beware string
	// Held is an outcome that settles the step, whatever became of the command. It seldom stops.
	Held playbook.Outcome
}

// Do brings the command as far as this pass can. The zero Outcome says that its work is done. It waits a moment for a
// connection, and a second for the end of a command that it sends. What goes on is a wait, and the next pass calls Do
// again.
func (c *Command) Do(ctx context.Context) (playbook.Outcome, error) {
	a := &attempt{Command: c}
	effect := playbook.Effect{
		Class: playbook.AtMostOnce, Settle: c.timeout() + settleTime, Now: time.Now(),
		Intend: a.intend, Act: func(ctx context.Context) error { return a.send(ctx) }, Look: a.look, Withdraw: a.withdraw,
	}
	if run := *c.Run; run != nil {
		effect.Intended = run.StartedAt.Time
	}
	fate, err := effect.Do(ctx)
	switch {
	case fate == playbook.Made, fate == playbook.NotBegun && !a.held.Stops():
		return playbook.Outcome{}, err
	case a.held.Stops():
		return a.held, err
	case fate == playbook.Withdrawn:
		return a.withdrawn(err)
	case fate == playbook.Lost:
		return playbook.Wait(observeInterval, c.Reason, "Render's answer was lost (%s): looking for the job",
			playbook.Normalise(err.Error())), nil
	}
	return a.open(), nil
}

// MayRun says whether the command may be running. Its object must not go before that is over: it is what keeps another
// object from running the same command beside it.
func (c *Command) MayRun(ctx context.Context) (bool, error) {
	run := *c.Run
	switch {
	case run == nil, run.Outcome == v1alpha1.CommandSucceeded, run.Outcome == v1alpha1.CommandFailed:
		return false, nil
	case c.Runner.Runs(c.Object, run):
		return true, nil
	case c.late():
		return false, nil
	}
	if run.Outcome == "" {
		err := c.readEnd(ctx)
		if nothing := (*playbook.NoEffect)(nil); errors.As(err, &nothing) {
			return false, nil
		}
		if err != nil || run.Outcome != "" && run.Outcome != v1alpha1.CommandLost {
			return false, err
		}
	}
	found, err := c.Look(ctx)
	return err == nil && !found.Done && !found.Held.Stops(), err
}

// An attempt is what one pass does about a Command.
type attempt struct {
	*Command
	// send is how the command is sent, and drop is how it is not. Both are there once the far side was reached.
	send func(context.Context) error
	drop func()
	// held is why the step ends here.
	held  playbook.Outcome
	found Finding
}

// errNotSent is what the ledger says of a run that another manager was about to begin.
var errNotSent = errors.New("it was about to be run, and certainly was not")

// errFailed says that the command ended with a failure, and did nothing.
var errFailed = errors.New("it failed")

// intend reaches the far side, and then writes the intent to the status and to the ledger. What goes wrong before the
// command can be sent leaves no intent.
func (a *attempt) intend(ctx context.Context) (bool, error) {
	// Somebody may have done its work by hand.
	if done, err := a.lookAround(ctx); done || err != nil {
		return false, err
	}
	commands := a.Platform.Spec.Commands
	if commands == nil {
		a.held = playbook.Stall(v1alpha1.ReasonSpecInvalid, "Platform %q has no spec.commands, which say how %s is run. "+
			"Add them. Then: %s", a.Platform.Name, a.What, a.resumeCommand())
		return false, nil
	}
	text, err := a.text(commands)
	if err != nil {
		a.held = playbook.Stall(v1alpha1.ReasonSpecInvalid, "%v. Nothing was sent. Run the platform's own tools by hand", err)
		return false, nil
	}
	prepare := a.prepareSSH
	if commands.Type == v1alpha1.CommandTypeRenderJob {
		prepare = a.prepareJob
	}
	target, err := prepare(ctx, text)
	if err != nil || a.held.Stops() || a.found.Done {
		return false, err
	}
	may, err := a.write(ctx, target, text)
	if !may {
		a.drop()
	}
	return may, err
}

// lookAround looks at the work before the command is sent, and reports whether that settles it.
func (a *attempt) lookAround(ctx context.Context) (bool, error) {
	var err error
	if a.found, err = a.Look(ctx); err != nil {
		return false, err
	}
	a.held = a.found.Held
	return a.found.Done || a.held.Stops(), nil
}

// write is the intent itself. Where it reports true the command is sent, and then once.
func (a *attempt) write(ctx context.Context, target, text string) (may bool, err error) {
	if a.held, err = a.May(ctx); err != nil || a.held.Stops() {
		return false, err
	}
	startedAt := metav1.NowMicro()
	// Microseconds are what the API and the ledger keep.
	startedAt.Time = startedAt.Truncate(time.Microsecond)
	*a.Run = &v1alpha1.CommandRun{StartedAt: &startedAt, Target: target}
	playbook.Announce(a.Object, a.Step, a.Reason, "running "+a.What+" on "+target)
	if err := a.Save(ctx); err != nil {
		*a.Run = nil
		return false, fmt.Errorf("writing the intent to run %s: %w", a.What, err)
	}
	held, err := a.Ledger.Begin(ctx, Run{StartedAt: startedAt.Time, Target: target, Text: text})
	switch {
	case err == nil && !held.Stops():
		return true, nil
	case errors.Is(err, platformdb.ErrGivenUp):
		// Another manager came in between, and has withdrawn the intent or is about to.
		held = a.notSent()
	case errors.Is(err, platformdb.ErrCommandRan):
		held = a.unknown("the ledger knows of a run that this object does not remember")
	case err != nil:
		// Nothing was sent. Perhaps only the ledger's reply was lost, so that is entered.
		if a.record(ctx, platformdb.CommandEnd{Outcome: platformdb.CommandNotSent}, "") == nil {
			*a.Run = nil
		}
		return false, err
	}
	*a.Run, a.held = nil, held
	return false, nil
}

// look reads how the command ended, and then whether its work is done. In the other order, the command could do its
// work between the two.
func (a *attempt) look(ctx context.Context) (bool, error) {
	run := *a.Run
	if a.Runner.Runs(a.Object, run) {
		// Work that is half done must not be taken for done.
		return false, nil
	}
	if run.Outcome == "" {
		if err := a.readEnd(ctx); err != nil {
			return false, err
		}
	}
	var err error
	if a.found, err = a.Look(ctx); err != nil {
		return false, err
	}
	a.held = a.found.Held
	switch {
	case a.found.Done && run.Outcome == "" && run.JobID != "":
		// The job may have ended since. This is for the record only.
		_ = a.readEnd(ctx)
	case run.Outcome == v1alpha1.CommandFailed && a.found.Untouched:
		return false, &playbook.NoEffect{Err: errFailed}
	}
	return a.found.Done, nil
}

// outcomes of the ledger in the object's words. An end that is not known has none.
var outcomes = map[string]v1alpha1.CommandOutcome{
	platformdb.CommandSucceeded: v1alpha1.CommandSucceeded, platformdb.CommandFailed: v1alpha1.CommandFailed,
	platformdb.CommandLost: v1alpha1.CommandLost,
}

// readEnd reads how the command ended: from this process's memory, from the ledger, or from Render. It returns a
// NoEffect where the command was not sent, and never will be.
func (c *Command) readEnd(ctx context.Context) error {
	run := *c.Run
	end, known, err := c.Runner.end(ctx, key(c.Object, run))
	if err == nil && !known {
		// Another manager wrote the intent, or this one before it was started anew.
		end.CommandEnd, err = c.Ledger.Read(ctx, Run{StartedAt: run.StartedAt.Time, Target: run.Target})
		end.unsent = errNotSent
	}
	if err != nil {
		return err
	}
	if end.Outcome == "" {
		if end.CommandEnd, err = c.jobEnd(ctx); err != nil && !c.late() {
			return err
		}
	}
	if end.Outcome == platformdb.CommandNotSent {
		return &playbook.NoEffect{Err: end.unsent}
	}
	run.Outcome, run.ExitStatus = outcomes[end.Outcome], end.ExitStatus
	return nil
}

// record enters how the command ended, or returns why it could not.
func (c *Command) record(ctx context.Context, end platformdb.CommandEnd, output string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return c.Ledger.End(ctx, (*c.Run).StartedAt.Time, end, output)
}

// withdraw takes the intent back. That of a command that failed stays until a person asks for another run: its end is
// part of what the object says.
func (a *attempt) withdraw(ctx context.Context, answer error) error {
	if errors.Is(answer, errFailed) {
		return nil
	}
	if !errors.Is(answer, errNotSent) {
		if err := a.record(ctx, platformdb.CommandEnd{Outcome: platformdb.CommandNotSent}, ""); err != nil {
			return err
		}
	}
	*a.Run = nil
	return nil
}

func (c *Command) text(commands *v1alpha1.PlatformCommands) (string, error) {
	return c.Text(ssh.Rails{Directory: commands.Directory, Bundle: commands.Bundle, Environment: commands.Environment})
}

// late says that whatever the command did would show by now.
func (c *Command) late() bool {
	return time.Since((*c.Run).StartedAt.Time) > c.timeout()+settleTime
}

func (c *Command) timeout() time.Duration {
	if commands := c.Platform.Spec.Commands; commands != nil {
		return time.Duration(commands.TimeoutSeconds) * time.Second
	}
	// They were taken away after the command was begun.
	return defaultTimeout
}

func (c *Command) resumeCommand() string { return playbook.ResumeCommand(c.Object, c.Resource) }
