package playbook

import (
	"context"
	"errors"
	"time"
)

// An Effect on the world can't share a transaction with the note that it was made. So its intent is written first, and
// what came of it is read from the far side afterwards:
//
//   - Intend writes the intent under the optimistic lock. Of two managers one succeeds.
//   - Act calls the far side, in the same pass, and only if that write succeeded.
//   - Look reads what came of it. A pass that finds an intent which it did not just write only looks.
//   - Settle after the intent, what does not show did not happen, or nobody can tell. An effect that may be repeated
//     is: its next attempt begins with Intend, too. One that happens at most once is left to a person.
//   - Withdraw takes the intent back, where an answer says that nothing was done.
//
// A process that is frozen between Intend and Act may be late. Its call is still the only one of that attempt.
type Effect struct {
	Class Class
	// Intended is when the intent was written that this pass has read. Zero: there is none.
	Intended time.Time
	// Settle is how long after its intent an effect may still appear. It is longer than the call can take.
	Settle time.Duration
	// Now is the time.
	Now time.Time

	// Intend reports whether this pass may act. Where it reports false, or an error, nothing is done: it has written
	// nothing, or it has taken back what it wrote, or the write's answer was lost and the next passes look.
	Intend func(context.Context) (bool, error)
	// Act returns a NoEffect where certainly nothing was done, and *UnderWay where it goes on beside the passes, by
	// Change. Any other error is an answer that was lost. A manager that is being stopped waits for it, so it has a
	// deadline of its own.
	Act func(context.Context) error
	// Look reports whether the effect happened, and returns a NoEffect where it certainly did not and will not, or
	// *UnderWay where an Act goes on: it takes that one's Answer first.
	Look func(context.Context) (bool, error)
	// Withdraw takes the intent back. It is given what a NoEffect wraps.
	Withdraw func(context.Context, error) error
}

// Class says what to do where nobody can tell whether an effect happened.
type Class int

const (
	// AtMostOnce leaves it to a person.
	AtMostOnce Class = iota + 1
	// EffectivelyOnce repeats it: the far side does it once, or Look finds the first.
	EffectivelyOnce
	// AtLeastOnce repeats it: one that is lost is worse than one too many.
	AtLeastOnce
)

// NoEffect wraps the answer of a far side that certainly did nothing.
type NoEffect struct{ Err error }

func (n *NoEffect) Error() string { return n.Err.Error() }
func (n *NoEffect) Unwrap() error { return n.Err }

// Fate is what is known of an effect after a pass.
type Fate int

const (
	// NotBegun comes without an error where Intend held the effect back. With one, the intent was not written, or what
	// came of an earlier one could not be read: the step returns that error.
	NotBegun Fate = iota
	// Made is for good.
	Made
	// Open says that the far side was asked, and that the effect does not show yet. The error is *UnderWay where the call
	// goes on.
	Open
	// Lost says that the far side was asked in this pass, and that its answer was lost. The error says how.
	Lost
	// Withdrawn says that nothing was done, and that the intent was taken back. The error is the far side's answer.
	Withdrawn
	// Untold says that nobody can tell whether it happened. It is not repeated: stall with OutcomeUnknown.
	Untold
)

// Do brings the effect as far as this pass can.
func (e Effect) Do(ctx context.Context) (Fate, error) {
	if e.Intended.IsZero() {
		return e.attempt(ctx)
	}
	fate, err := e.look(ctx)
	switch {
	case fate != Open || err != nil || e.Now.Sub(e.Intended) < e.Settle:
		return fate, err
	case e.Class == AtMostOnce:
		return Untold, nil
	}
	return e.attempt(ctx)
}

func (e Effect) attempt(ctx context.Context) (Fate, error) {
	if may, err := e.Intend(ctx); err != nil || !may {
		return NotBegun, err
	}
	err := e.Act(context.WithoutCancel(ctx))
	if nothing := (*NoEffect)(nil); errors.As(err, &nothing) {
		return e.withdraw(ctx, nothing.Err)
	}
	switch {
	case isUnderWay(err):
		return Open, err
	case err != nil:
		return Lost, err
	}
	return e.look(ctx)
}

func (e Effect) look(ctx context.Context) (Fate, error) {
	happened, err := e.Look(ctx)
	if nothing := (*NoEffect)(nil); errors.As(err, &nothing) {
		return e.withdraw(ctx, nothing.Err)
	}
	switch {
	case isUnderWay(err):
		return Open, err
	case err != nil:
		return NotBegun, err
	case happened:
		return Made, nil
	}
	return Open, nil
}

func isUnderWay(err error) bool {
	under := (*UnderWay)(nil)
	return errors.As(err, &under)
}

func (e Effect) withdraw(ctx context.Context, answer error) (Fate, error) {
	if err := e.Withdraw(context.WithoutCancel(ctx), answer); err != nil {
		return NotBegun, err
	}
	return Withdrawn, answer
}
