package playbook

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// asidePatience is how long a pass waits for what runs aside. A far side that is fast is not noticed.
	asidePatience = 250 * time.Millisecond
	// asideInterval is how soon a pass comes back for what is under way.
	asideInterval = 100 * time.Millisecond
	// asideKept is how long an answer waits for a pass that may never come, as where the object is gone.
	asideKept = time.Minute
)

// Aside calls far sides beside the passes: a page must not wait behind a slow API. The zero value is ready for use. A
// new manager knows none of these calls. It reads again, and looks for what came of a change.
type Aside struct {
	mu       sync.Mutex
	calls    map[string]*call
	stopping bool
}

type call struct {
	done   chan struct{}
	what   string
	change bool
	ended  time.Time
	value  any
	err    error
	// untaken is called with them if the manager stops and no pass took them.
	untaken func(value any, err error)
}

// UnderWay is the error of a step whose call has not ended yet. It is no failure. The engine comes back for it soon.
type UnderWay struct {
	// What is being done, for people.
	What string
}

func (u *UnderWay) Error() string { return u.What + " takes its time" }

// Wait is the outcome of a step that says more about the call than the engine does.
func (u *UnderWay) Wait(reason, format string, args ...any) Outcome {
	return Wait(asideInterval, reason, format, args...)
}

// Ask calls do, which reads within timeout. It waits a moment for the answer. If do takes longer, the error is
// *UnderWay. do then goes on, and the next Ask with the same key waits for it again. An answer is given once. One that
// no pass takes is dropped after a minute, and closed if it is an io.Closer. key names the object, and what is read of
// it. do shares nothing with the pass, which may end first.
func Ask[T any](ctx context.Context, a *Aside, key, what string, timeout time.Duration,
	do func(context.Context) (T, error)) (T, error) {
	return await[T](ctx, a, key, a.begin(ctx, key, call{what: "reading " + what}, timeout,
		func(ctx context.Context) (any, error) { return do(ctx) }))
}

// Change is Ask for a call that changes the far side. Its intent is written before. If the error is *UnderWay, a later
// pass takes the answer by Answer before it decides anything else. A manager that stops waits for the call. If no pass
// took its answer by then, untaken gets it, to write down what the next manager can't read.
func Change[T any](ctx context.Context, a *Aside, key, what string, timeout time.Duration,
	do func(context.Context) (T, error), untaken func(T, error)) (T, error) {
	c := call{what: what, change: true, untaken: func(value any, err error) {
		answer, _ := value.(T)
		untaken(answer, err)
	}}
	return await[T](ctx, a, key, a.begin(ctx, key, c, timeout,
		func(ctx context.Context) (any, error) { return do(ctx) }))
}

// Readable is for a change of which the next manager reads from the far side what came of it.
func Readable[T any](T, error) {}

// Answer is the answer to a call that an earlier pass began. asked says whether there is such a call: Answer begins
// none. If the call has not ended, the error is *UnderWay.
func Answer[T any](ctx context.Context, a *Aside, key string) (answer T, asked bool, err error) {
	a.mu.Lock()
	c := a.calls[key]
	a.mu.Unlock()
	if c == nil {
		return answer, false, nil
	}
	answer, err = await[T](ctx, a, key, c)
	return answer, true, err
}

func await[T any](ctx context.Context, a *Aside, key string, c *call) (T, error) {
	a.mu.Lock()
	finish := c.change && a.stopping
	a.mu.Unlock()
	timer := time.NewTimer(asidePatience)
	defer timer.Stop()
	var none T
	if !finish {
		select {
		case <-c.done:
		case <-timer.C:
			return none, &UnderWay{What: c.what}
		case <-ctx.Done():
			if !c.change {
				return none, fmt.Errorf("%s: %w", c.what, ctx.Err())
			}
		}
	}
	// The manager stops: no other pass takes the answer of a change.
	<-c.done
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls[key] == c {
		delete(a.calls, key)
	}
	value, _ := c.value.(T)
	return value, c.err
}

// begin starts a call, unless it is under way. If an earlier change ended and no pass took its answer, that does not
// answer this call.
func (a *Aside) begin(ctx context.Context, key string, c call, timeout time.Duration,
	do func(context.Context) (any, error)) *call {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, c := range a.calls {
		if !c.ended.IsZero() && time.Since(c.ended) > asideKept {
			delete(a.calls, key)
			if connection, ok := c.value.(io.Closer); ok && c.err == nil {
				_ = connection.Close()
			}
		}
	}
	if known := a.calls[key]; known != nil && (known.ended.IsZero() || !c.change) {
		return known
	}
	c.done = make(chan struct{})
	if a.calls == nil {
		a.calls = map[string]*call{}
	}
	a.calls[key] = &c
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		value, err := do(ctx)
		a.mu.Lock()
		c.value, c.err, c.ended = value, err, time.Now()
		a.mu.Unlock()
		close(c.done)
	}()
	return &c
}

// Start lets a manager that stops wait for the changes that are under way. A pass that began before may take the answer
// of its own. It implements manager.Runnable.
func (a *Aside) Start(ctx context.Context) error {
	<-ctx.Done()
	a.mu.Lock()
	a.stopping = true
	changes := map[string]*call{}
	for key, c := range a.calls {
		if c.change {
			changes[key] = c
		}
	}
	a.mu.Unlock()
	for key, c := range changes {
		<-c.done
		a.mu.Lock()
		untaken := a.calls[key] == c
		if untaken {
			delete(a.calls, key)
		}
		a.mu.Unlock()
		if untaken {
			c.untaken(c.value, c.err)
		}
	}
	return nil
}
