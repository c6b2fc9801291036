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

// Aside runs reads of far sides that can take long beside the passes: a page must not wait behind a slow API. The zero
// value is ready for use. A manager that starts anew reads again.
type Aside struct {
	mu    sync.Mutex
	calls map[string]*call
}

type call struct {
	done  chan struct{}
	ended time.Time
	value any
	err   error
}

// UnderWay is the error of a step whose read is not through yet. The engine comes back for it soon, and it is no
// failure.
type UnderWay struct {
	// What is read, for people.
	What string
}

func (u *UnderWay) Error() string { return "reading " + u.What + " takes its time" }

// Ask reads by do, which has timeout, and waits for it for a moment. Where that does not suffice the error is
// *UnderWay: do goes on, and the next Ask with the same key waits for it again. An answer is given once. key names the
// object, and what is read of it.
func Ask[T any](ctx context.Context, a *Aside, key, what string, timeout time.Duration,
	do func(context.Context) (T, error)) (T, error) {
	c := a.begin(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		return do(ctx)
	})
	timer := time.NewTimer(asidePatience)
	defer timer.Stop()
	var none T
	select {
	case <-c.done:
	case <-timer.C:
		return none, &UnderWay{What: what}
	case <-ctx.Done():
		return none, fmt.Errorf("reading %s: %w", what, ctx.Err())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls[key] == c {
		delete(a.calls, key)
	}
	value, _ := c.value.(T)
	return value, c.err
}

// begin starts a call, unless it is under way.
func (a *Aside) begin(key string, do func() (any, error)) *call {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, c := range a.calls {
		if !c.ended.IsZero() && time.Since(c.ended) > asideKept {
			delete(a.calls, key)
		}
	}
	if c := a.calls[key]; c != nil {
		return c
	}
	c := &call{done: make(chan struct{})}
	if a.calls == nil {
		a.calls = map[string]*call{}
	}
	a.calls[key] = c
	go func() {
		value, err := do()
		a.mu.Lock()
		c.value, c.err, c.ended = value, err, time.Now()
		a.mu.Unlock()
		close(c.done)
	}()
	return c
}
