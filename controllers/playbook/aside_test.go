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
