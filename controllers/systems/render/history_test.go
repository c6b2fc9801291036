package render_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// many deploys, of which the oldest is the only good one, and the newest the only other that was ever live.
func many(r *logi.Render, n int) (good, bad string) {
	at := time.Now().Add(-time.Duration(n) * time.Minute)
	good = r.AddDeploy(web, "good", "live", "new_commit", at)
	for i := range n - 2 {
		at = at.Add(time.Minute)
		r.AddDeploy(web, strconv.Itoa(i), "build_failed", "new_commit", at)
	}
	return good, r.AddDeploy(web, "bad", "live", "new_commit", at.Add(time.Minute))
}

func TestAHistoryIsReadOverAllItsPages(t *testing.T) {
	t.Parallel()
	for n, reads := range map[int]int{2: 1, 99: 1, 100: 2, 101: 2, 250: 3, 499: 5} {
		r, c := start(t)
		good, bad := many(r, n)
		deploys, err := c.History(t.Context(), web)
		if err != nil || len(deploys) != n {
			t.Fatalf("%d deploys, %v; want %d", len(deploys), err, n)
		}
		if got := r.Counts().Reads["/services/"+web+"/deploys"]; got != reads {
			t.Errorf("%d deploys took %d reads, want %d", n, got, reads)
		}
		choice := render.Choose(running, deploys, render.Regression{Onset: time.Now(), Window: window,
			EnoughFrom: time.Now()})
		if id(choice.Suspect) != bad || id(choice.Target) != good {
			t.Errorf("of %d: %+v", n, choice)
		}
	}
}

func TestAHistoryThatIsTooLongIsReadOnlyWhereTheNewestComeFirst(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	many(r, 600)
	if deploys, err := c.History(t.Context(), web); err == nil || !strings.Contains(err.Error(), "too many to be read") {
		t.Errorf("%d deploys, %v", len(deploys), err)
	}
	var pages atomic.Int64
	sorted := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		first := int(pages.Add(1)-1) * 100
		var elements []string
		for i := range 100 {
			elements = append(elements,
				fmt.Sprintf(`{"cursor":"c%d","deploy":{"id":"d%d","status":"build_failed","createdAt":%q}}`,
					first+i, first+i, onset.Add(-time.Duration(first+i)*time.Second).Format(time.RFC3339)))
		}
		_, _ = io.WriteString(w, "["+strings.Join(elements, ",")+"]")
	}))
	t.Cleanup(sorted.Close)
	if deploys, err := render.New(sorted.URL, "key", nil).History(t.Context(), web); err != nil || len(deploys) != 500 ||
		pages.Load() != 5 {
		t.Errorf("%d deploys on %d pages, %v", len(deploys), pages.Load(), err)
	}
}

func TestAHistoryOverTwoPagesWithA429OnTheSecondIsNotHalfAHistory(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	many(r, 150)
	r.SetFaults(logi.RenderFault{Path: "/deploys", Skip: 1, Times: 1, Status: 429,
		Header: map[string]string{"Ratelimit-Reset": "7"}})
	deploys, err := c.History(t.Context(), web)
	if limited := (*outbound.Limited)(nil); !errors.As(err, &limited) || limited.After != 7*time.Second || deploys != nil {
		t.Errorf("%d deploys, %v", len(deploys), err)
	}
	if deploys, err := c.History(t.Context(), web); err != nil || len(deploys) != 150 {
		t.Errorf("%d deploys, %v", len(deploys), err)
	}
}

func TestAListThatDoesNotSayWhereItGoesOnIsAnError(t *testing.T) {
	t.Parallel()
	for name, cursor := range map[string]string{"none": ``, "the same": `"cursor":"again",`, "a number": `"cursor":7,`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			elements := strings.Repeat(`{`+cursor+`"deploy":{"id":"dep-1"}},`, 100)
			_, _ = io.WriteString(w, "["+strings.TrimSuffix(elements, ",")+"]")
		}))
		t.Cleanup(server.Close)
		if deploys, err := render.New(server.URL, "key", nil).History(t.Context(), web); err == nil ||
			!strings.Contains(err.Error(), "does not say where") {
			t.Errorf("%s: %d deploys, %v", name, len(deploys), err)
		}
	}
}

func FuzzAPageOfDeploys(f *testing.F) {
	for _, seed := range []string{
		`[]`, `null`, `{}`, `[null]`, `[{}]`, `[{"deploy":null}]`,
		`[{"cursor":"c","deploy":{"id":"dep-1","status":"live","finishedAt":"2026-11-23T02:50:00Z","commit":{"id":"a"}}}]`,
		`[{"cursor":7,"deploy":{"id":"dep-1","status":"melted","trigger":"teleport","createdAt":"2026-11-23T02:50:00Z",
		   "image":{"sha":"sha256:1"}}},
		  {"cursor":"d","deploy":{"id":"dep-2","status":"deactivated","finishedAt":"0001-01-01T00:00:00Z","commit":null}}]`,
		`[{"deploy":{"id":"dep-1","status":"live","finishedAt":"tomorrow"}}]`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, suspended bool) {
		c := render.New("", "s3cret-key", answering(func(*http.Request) string { return string(body) }))
		deploys, _, err := c.Deploys(t.Context(), web, 2, "")
		if err != nil && (deploys != nil || len(err.Error()) > 500) {
			t.Errorf("%d deploys, %v", len(deploys), err)
		}
		for _, d := range deploys {
			if d.ID == "" {
				t.Errorf("%+v", d)
			}
		}
		got := render.Choose(&render.Service{Suspended: suspended}, deploys, regression())
		if (got.Target == nil) == (got.Why == "") || (got.Target != nil) != (got.Verdict == render.Pair) || suspended &&
			got.Target != nil {
			t.Errorf("%+v", got)
		}
	})
}
