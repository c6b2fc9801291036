package playbook

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatIsSlowRunsBesideThePassesAndIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Aside
		var asked atomic.Int64
		ask := func() (string, error) {
			return Ask(t.Context(), &a, "object/deploys", "Render's deploys", time.Minute,
				func(ctx context.Context) (string, error) {
					asked.Add(1)
					time.Sleep(10 * time.Second)
					return "deploys", ctx.Err()
				})
		}
		began := time.Now()
		under := (*UnderWay)(nil)
		for {
			answer, err := ask()
			if err == nil && answer == "deploys" {
				break
			}
			if !errors.As(err, &under) {
				t.Fatalf("%q, %v", answer, err)
			}
			time.Sleep(asideInterval)
		}
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second || asked.Load() != 1 {
			t.Errorf("it was asked %d times, and took %s", asked.Load(), took)
		}
		// An answer is given once: the next one asks again.
		if _, err := ask(); !errors.As(err, &under) || asked.Load() != 2 {
			t.Errorf("it was asked %d times, %v", asked.Load(), err)
		}
		synctest.Wait()
		time.Sleep(10 * time.Second)
	})
}

func TestAChangeIsMadeOnceAndALaterPassTakesItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Aside
		refused := errors.New("refused")
		for name, want := range map[string]error{"done": nil, "refused": refused} {
			if _, asked, err := Answer[string](t.Context(), &a, name); asked || err != nil {
				t.Fatalf("before anything was asked there is an answer, %v", err)
			}
			made := 0
			under := (*UnderWay)(nil)
			if _, err := Change(t.Context(), &a, name, "rolling back", time.Minute,
				func(context.Context) (string, error) {
					made++
					time.Sleep(5 * time.Second)
					return "dep-1", want
				}, Readable); !errors.As(err, &under) || err.Error() != "rolling back takes its time" {
				t.Fatalf("it came to %v", err)
			}
			if _, asked, err := Answer[string](t.Context(), &a, name); !asked || !errors.As(err, &under) {
				t.Fatalf("a pass in between is told %t, %v", asked, err)
			}
			time.Sleep(5 * time.Second)
			if got, asked, err := Answer[string](t.Context(), &a, name); got != "dep-1" || !asked || !errors.Is(err, want) {
				t.Errorf("the answer is %q, %t, %v", got, asked, err)
			}
			if _, asked, _ := Answer[string](t.Context(), &a, name); asked || made != 1 {
				t.Errorf("it was made %d times, and is answered twice: %t", made, asked)
			}
		}
	})
}

func TestAnAnswerThatNobodyTookIsNotThatOfTheNextChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Aside
		change := func(says string, took time.Duration) (string, error) {
			return Change(t.Context(), &a, "rollback", "rolling back", time.Minute, func(context.Context) (string, error) {
				time.Sleep(took)
				return says, nil
			}, Readable)
		}
		under := (*UnderWay)(nil)
		if _, err := change("first", time.Second); !errors.As(err, &under) {
			t.Fatal(err)
		}
		// While it is under way there is no other.
		if got, err := change("second", 0); !errors.As(err, &under) {
			t.Fatalf("%q, %v", got, err)
		}
		time.Sleep(time.Second)
		if got, err := change("third", 0); got != "third" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// A manager that ends cuts off its calls, and nobody knows then what came of them.
func TestAManagerThatIsBeingStoppedWaitsForItsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Aside
		manager, stop := context.WithCancel(t.Context())
		began := time.Now()
		stopped := make(chan time.Duration, 1)
		go func() {
			if err := a.Start(manager); err != nil {
				t.Error(err)
			}
			stopped <- time.Since(began)
		}()
		slow := func(took time.Duration) func(context.Context) (time.Duration, error) {
			return func(ctx context.Context) (time.Duration, error) {
				time.Sleep(took)
				return took, ctx.Err()
			}
		}
		var untaken []time.Duration
		under := (*UnderWay)(nil)
		if _, err := Ask(manager, &a, "read", "deploys", time.Minute, slow(time.Minute)); !errors.As(err, &under) {
			t.Fatal(err)
		}
		if _, err := Change(manager, &a, "rollback", "rolling back", time.Minute, slow(8*time.Second),
			func(took time.Duration, err error) { untaken = append(untaken, took) }); !errors.As(err, &under) {
			t.Fatal(err)
		}
		stop()
		synctest.Wait()
		// The pass that is going on makes another one, and is the last that can take its answer.
		if got, err := Change(manager, &a, "auto-deploy", "switching", time.Minute, slow(3*time.Second),
			Readable); err != nil || got != 3*time.Second {
			t.Errorf("a change of the last pass came to %v, %v", got, err)
		}
		if _, err := Ask(manager, &a, "read", "deploys", time.Minute, slow(time.Minute)); !errors.Is(err, context.Canceled) {
			t.Errorf("a read came to %v", err)
		}
		if got := <-stopped; got < 8*time.Second || got > 9*time.Second {
			t.Errorf("it stopped after %s", got)
		}
		if len(untaken) != 1 || untaken[0] != 8*time.Second {
			t.Errorf("the answers that no pass took are %v", untaken)
		}
		time.Sleep(time.Minute)
	})
}

// connection is an answer that must be closed by whoever does not need it.
type connection struct{ closed atomic.Bool }

func (c *connection) Close() error { c.closed.Store(true); return nil }

func TestAConnectionThatNobodyTookIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Aside
		var made connection
		login := func(key string, takes time.Duration) error {
			_, err := Ask(t.Context(), &a, key, "a host", time.Minute, func(context.Context) (*connection, error) {
				time.Sleep(takes)
				return &made, nil
			})
			return err
		}
		if under := (*UnderWay)(nil); !errors.As(login("nobody comes back", time.Second), &under) {
			t.Fatal("a slow login held up its pass")
		}
		time.Sleep(asideKept)
		if err := login("another", 0); err != nil || made.closed.Load() {
			t.Fatalf("a connection was closed that may be taken: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := login("another", 0); err != nil || !made.closed.Load() {
			t.Errorf("the connection that nobody took is open: %v", err)
		}
	})
}

func TestWhatHangsEndsWithItsTimeoutAndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Aside
		hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		if _, err := Ask(t.Context(), &a, "gone", "something", 5*time.Second, hang); err == nil {
			t.Fatal("it is through")
		}
		time.Sleep(5*time.Second + asideKept + time.Second)
		if got, err := Ask(t.Context(), &a, "other", "something", time.Second, func(context.Context) (int,
			error) {
			return 7, nil
		}); got != 7 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
		if len(a.calls) != 0 {
			t.Errorf("it remembers %d calls", len(a.calls))
		}
	})
}
