package command

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// patience is how long the pass that sends a command waits for its end. A command that is quick is not noticed.
	patience = time.Second
	// stopGrace is how long a manager that stops waits for commands. Their connections are closed then. With
	// recordTimeout it fits into the 30 s that Kubernetes and controller-runtime give a manager.
	stopGrace = 10 * time.Second
	// kept is how long an end is remembered. A pass needs it until a status that has it was written.
	kept = time.Hour
)

// Runner runs commands beside the passes, each once. A process has one, and it is a manager.Runnable, so that a manager
// that stops waits for it. The zero value is ready for use, also where nobody starts it.
type Runner struct {
	mu       sync.Mutex
	known    map[string]*running
	stopping bool
	open     sync.WaitGroup
	// logins are under way at the hosts of commands.
	logins playbook.Aside
}

// running is a command that this process runs, or has run.
type running struct {
	record func(context.Context, end) error
	cancel context.CancelFunc
	done   chan struct{}

	// What follows is there once done is closed.
	end      end
	at       time.Time
	recorded bool
}

// end is how a command ended.
type end struct {
	platformdb.CommandEnd
	output string
	// unsent is why the command was not sent, where the outcome is CommandNotSent.
	unsent error
}

// errStopping keeps a command from being begun that nobody would wait for.
var errStopping = errors.New("the manager is being stopped, so the command was not sent")

// errKnown guards the promise that no run is begun twice. Keys are unique, so no one sees it.
var errKnown = errors.New("a mistake in this program: this run was begun before")

// begin lets do run the command, and enters its end by record. It waits for both for a moment. Whoever comes later asks
// Runs and end. An error says that do was not and will not be called.
func (r *Runner) begin(ctx context.Context, key string, timeout time.Duration, do func(context.Context) end,
	record func(context.Context, end) error) error {
	// The command has nothing to do with the pass, but for its logger.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	c := &running{record: record, cancel: cancel, done: make(chan struct{})}
	if err := r.add(key, c); err != nil {
		cancel()
		return err
	}
	go func() {
		defer r.open.Done()
		defer close(c.done)
		defer cancel()
		c.end = do(ctx)
		c.at = time.Now()
		if err := c.enter(ctx); err != nil {
			// The next pass tries again.
			ctrl.LoggerFrom(ctx).Error(err, "entering the end of a command")
		}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
	return nil
}

// add makes a command known, and forgets those that ended long ago.
func (r *Runner) add(key string, c *running) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, old := range r.known {
		if old.ended() && time.Since(old.at) > kept {
			delete(r.known, key)
		}
	}
	switch {
	case r.stopping:
		return errStopping
	case r.known[key] != nil:
		return errKnown
	case r.known == nil:
		r.known = map[string]*running{}
	}
	r.known[key] = c
	r.open.Add(1)
	return nil
}

func (r *Runner) of(key string) *running {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[key]
}

// key tells the runs of all objects apart.
func key(obj client.Object, run *v1alpha1.CommandRun) string {
	return fmt.Sprintf("%s/%d", obj.GetUID(), run.StartedAt.UnixMicro())
}

// Runs says whether this process is running a command that the object's status has.
func (r *Runner) Runs(obj client.Object, run *v1alpha1.CommandRun) bool {
	if run == nil {
		return false
	}
	c := r.of(key(obj, run))
	return c != nil && !c.ended()
}

// end is how a command ended that this process ran. Known is false of any other. An error says that the end could not
// be entered.
func (r *Runner) end(ctx context.Context, key string) (e end, known bool, err error) {
	c := r.of(key)
	if c == nil || !c.ended() {
		return end{}, false, nil
	}
	if !c.recorded {
		err = c.enter(ctx)
	}
	return c.end, true, err
}

// Start waits until the manager stops, and then for the commands that run. It implements manager.Runnable.
func (r *Runner) Start(ctx context.Context) error {
	<-ctx.Done()
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	all := make(chan struct{})
	go func() {
		defer close(all)
		r.open.Wait()
	}()
	select {
	case <-all:
		return nil
	case <-time.After(stopGrace):
	}
	r.mu.Lock()
	for _, c := range r.known {
		c.cancel()
	}
	r.mu.Unlock()
	<-all
	return nil
}

func (c *running) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// enter enters the end by record, also while the manager stops.
func (c *running) enter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	err := c.record(ctx, c.end)
	c.recorded = err == nil
	return err
}
