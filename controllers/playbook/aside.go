package playbook

import (
	"context"
	"fmt"
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

// Aside makes calls to far sides that can take long, beside the passes: a page must not wait behind a slow API. The
// zero value is ready for use. A manager that starts anew knows of none of them: it reads again, and looks for what
// came of a change.
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
}

// UnderWay is the error of a step whose call is not through yet. The engine comes back for it soon, and it is no
// failure.
type UnderWay struct {
	// What is being done, for people.
	What string
}

func (u *UnderWay) Error() string { return u.What + " takes its time" }

// Wait is the outcome of a step that has more to say of the call than the engine.
func (u *UnderWay) Wait(reason, format string, args ...any) Outcome {
	return Wait(asideInterval, reason, format, args...)
}

// Ask reads by do, which has timeout, and waits for it for a moment. Where that does not suffice the error is
// *UnderWay: do goes on, and the next Ask with the same key waits for it again. An answer is given once. key names the
// object, and what is read of it. do shares nothing with the pass, which may end before it.
func Ask[T any](ctx context.Context, a *Aside, key, what string, timeout time.Duration,
	do func(context.Context) (T, error)) (T, error) {
	return await[T](ctx, a, key, a.begin(ctx, key, call{what: "reading " + what}, timeout,
		func(ctx context.Context) (any, error) { return do(ctx) }))
}

// Change is Ask for a call that changes the far side. Its intent is written by then. Where it comes to *UnderWay, a
// later pass takes the answer by Answer before it decides anything else. A manager that is being stopped waits for it.
func Change[T any](ctx context.Context, a *Aside, key, what string, timeout time.Duration,
	do func(context.Context) (T, error)) (T, error) {
	return await[T](ctx, a, key, a.begin(ctx, key, call{what: what, change: true}, timeout,
		func(ctx context.Context) (any, error) { return do(ctx) }))
}

// Answer is that of a call which an earlier pass began. It begins none: asked says whether there is one. Where the call
// is not through, the error is *UnderWay.
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
	// No other pass comes for what was changed by then.
	<-c.done
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls[key] == c {
		delete(a.calls, key)
	}
	value, _ := c.value.(T)
	return value, c.err
}

// begin starts a call, unless it is under way. A change whose answer no pass took is over, and does not answer this.
func (a *Aside) begin(ctx context.Context, key string, c call, timeout time.Duration,
	do func(context.Context) (any, error)) *call {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, c := range a.calls {
		if !c.ended.IsZero() && time.Since(c.ended) > asideKept {
			delete(a.calls, key)
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

// Start lets a manager that is being stopped wait for the changes that are under way, for whose answers no pass comes
// any more. It is a manager.Runnable.
func (a *Aside) Start(ctx context.Context) error {
	<-ctx.Done()
	a.mu.Lock()
	a.stopping = true
	var changes []*call
	for _, c := range a.calls {
		if c.change {
			changes = append(changes, c)
		}
	}
	a.mu.Unlock()
	for _, c := range changes {
		<-c.done
	}
	return nil
}
