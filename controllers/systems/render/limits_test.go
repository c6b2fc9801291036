package render_test

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// outbound's tests have every form of the headers.
func TestAfterA429ThereIsAlwaysATimeToComeBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header map[string]string
		want   time.Duration
	}{
		"none":            {nil, 30 * time.Second},
		"unreadable":      {map[string]string{"Retry-After": "soon"}, 30 * time.Second},
		"none to wait":    {map[string]string{"Retry-After": "0"}, time.Second},
		"Ratelimit-Reset": {map[string]string{"Ratelimit-Reset": "42"}, 42 * time.Second},
	} {
		r, client := start(t)
		r.SetFaults(logi.RenderFault{Status: 429, Header: c.header})
		_, err := client.Service(t.Context(), web)
		if limited := (*outbound.Limited)(nil); !errors.As(err, &limited) || limited.After != c.want {
			t.Errorf("%s: %v %v, want %v", name, err, limited, c.want)
		}
	}
}

func TestTheFarSidesOwnLimitIsUnderstood(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	r.LimitRates(1, 1)
	if _, err := c.Service(t.Context(), web); err != nil {
		t.Error(err)
	}
	_, err := c.Service(t.Context(), web)
	if limited := (*outbound.Limited)(nil); !errors.As(err, &limited) || limited.After > time.Minute {
		t.Errorf("%v", err)
	}
}

func TestNoMinuteSeesMoreCallsThanRenderTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		sent := map[string][]time.Time{}
		c := render.New("", "key", answering(func(r *http.Request) string {
			mu.Lock()
			defer mu.Unlock()
			sent[r.Method] = append(sent[r.Method], time.Now())
			return aService
		}))
		var callers sync.WaitGroup
		end := time.Now().Add(5 * time.Minute)
		for range 20 {
			callers.Go(func() {
				for time.Now().Before(end) {
					_, read := c.Service(t.Context(), web)
					write := c.SetAutoDeploy(t.Context(), web, false)
					for _, err := range []error{read, write} {
						limited := (*outbound.Limited)(nil)
						if got := class(err); got != "done" && got != "limited" {
							t.Error(err)
						}
						if errors.As(err, &limited) &&
							(limited.Status != 0 || limited.After < time.Second || limited.After > time.Minute) {
							t.Errorf("%+v", limited)
						}
					}
					time.Sleep(time.Second)
				}
			})
		}
		callers.Wait()
		for method, c := range map[string]struct{ most, least int }{http.MethodGet: {400, 1000}, http.MethodPatch: {30, 75}} {
			if len(sent[method]) < c.least {
				t.Errorf("%s: %d calls in five minutes, want at least %d", method, len(sent[method]), c.least)
			}
			for first, last := 0, 0; last < len(sent[method]); last++ {
				for sent[method][last].Sub(sent[method][first]) >= time.Minute {
					first++
				}
				if n := last - first + 1; n > c.most {
					t.Fatalf("%s: %d calls within a minute", method, n)
				}
			}
		}
	})
}
