package platformapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

const text = "HTTP 503: s3cret of the relying party"

// startPlatform starts the stand-in, with an application of the id 1.
func startPlatform(t *testing.T) *logi.Server {
	t.Helper()
	ctx := t.Context()
	postgres, err := servers.StartPostgres(ctx, t.TempDir(), servers.PostgresOptions{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := logi.Migrate(ctx, postgres.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	server, err := logi.Start(ctx, logi.Config{DatabaseURL: postgres.URL("postgres"), ManualDispatch: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.CreateApplication(ctx, 1, "acme"); err != nil {
		t.Fatal(err)
	}
	return server
}

func TestDeadEntriesAreListedPageByPage(t *testing.T) {
	t.Parallel()
	server := startPlatform(t)
	admin := platformapi.NewAdmin(server.URL(), server.AdminToken(), nil)
	texts := map[string]int{}
	list := func() *platformapi.DeadEntries {
		t.Helper()
		clear(texts)
		found, err := admin.DeadEntries(t.Context(), func(lastError string, attempts int) (string, int) {
			texts[fmt.Sprint(lastError, attempts)]++
			return "ServerError", 503
		})
		if err != nil {
			t.Fatal(err)
		}
		ids := map[int64]bool{}
		for _, e := range found.Entries {
			ids[e.ID] = true
		}
		if len(ids) != len(found.Entries) {
			t.Errorf("%d entries, of which %d are different", len(found.Entries), len(ids))
		}
		return found
	}
	expect := func(what string, entries int, all bool) {
		t.Helper()
		if found := list(); len(found.Entries) != entries || found.All != all {
			t.Errorf("%s: %d entries, all %v; want %d, %v", what, len(found.Entries), found.All, entries, all)
		}
	}
	seed := func(n int) {
		t.Helper()
		if _, err := server.SeedDead(t.Context(), 1, n, text, 7); err != nil {
			t.Fatal(err)
		}
	}
	expect("an empty list", 0, true)
	if _, err := server.Enqueue(t.Context(), 1, 7); err != nil {
		t.Fatal(err)
	}
	seed(110)
	found := list()
	if e := found.Entries[0]; len(found.Entries) != 110 || !found.All || e.ApplicationID != 1 || e.Kid == "" ||
		e.Cause != "ServerError" || e.Status != 503 || time.Since(e.DeadAt) > 4*time.Hour || texts[text+"7"] != 110 {
		t.Errorf("%d entries, all %v, the first %+v, texts %v", len(found.Entries), found.All, e, texts)
	}
	if text := fmt.Sprintf("%+v", found); strings.Contains(text, "s3cret") {
		t.Errorf("a text is kept: %s", text)
	}

	// Some that wait die, and are older: what the first page ended with, the second one begins with.
	server.SetListFault(logi.ListFault{AfterPage: 1, Enter: 7})
	expect("while it grows", 110, false)
	expect("after that", 117, true)
	// Somebody requeues some: the second page begins after some that nobody saw.
	server.SetListFault(logi.ListFault{AfterPage: 1, Leave: 7})
	expect("while it shrinks", 110, false)
	expect("after that", 110, true)
	// Both at once, so that there are as many as before: nobody can see that, and no entry is there twice.
	server.SetListFault(logi.ListFault{AfterPage: 2, Leave: 7, Enter: 7})
	if found := list(); len(found.Entries) > 110 {
		t.Errorf("while some go and others come: %d entries", len(found.Entries))
	}

	// It is left alone for as long as it wants.
	server.SetListFault(logi.ListFault{AfterPage: 1, Limited: 2, RetryAfterSeconds: 1})
	began := time.Now()
	expect("limited twice", 110, true)
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was asked again after %v, and wanted two seconds", took)
	}
	// Longer than there is time.
	server.SetListFault(logi.ListFault{AfterPage: 1, Limited: 1, RetryAfterSeconds: 120})
	expect("limited for longer", 50, false)
	server.SetListFault(logi.ListFault{Limited: 1, RetryAfterSeconds: 120})
	limited := (*outbound.Limited)(nil)
	if _, err := admin.DeadEntries(t.Context(), noCause); !errors.As(err, &limited) || limited.After != 2*time.Minute {
		t.Errorf("limited from the first page on: %v", err)
	}
	server.SetListFault(logi.ListFault{})
	seed(900)
	before := server.ListReads()
	expect("a long list", 1000, false)
	if got := server.ListReads(); got[20] != before[20]+1 || got[21] != before[21] {
		t.Errorf("pages were read %v times", got)
	}
}

func noCause(string, int) (string, int) { return "Unknown", 0 }

func TestAListThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a page":            {with(200, "<html>"+token), "unknown"},
		"another shape":     {with(200, `{"items": []}`), "unknown"},
		"a bad token":       {with(401, `{"error":{"code":"unauthorized"}}`), "refused 401 unauthorized"},
		"a path of nothing": {with(404, ""), "refused 404 "},
		"a failure":         {with(503, text), "unknown"},
		"too long":          {with(200, `{"entries":["`+strings.Repeat("x", 5<<20)+`"]}`), "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := answer(t, c.answer)
			_, err := platformapi.NewAdmin(f.URL, token, nil).DeadEntries(t.Context(), noCause)
			if got := class(err); err == nil || got != c.want || strings.Contains(err.Error(), token) ||
				strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
	// A platform that knows no pages answers the same each time.
	same := answer(t, with(200, `{"entries":[{"id":1,"oauth_application_id":2},{"id":3,"oauth_application_id":2}]}`))
	found, err := platformapi.NewAdmin(same.URL, token, nil).DeadEntries(t.Context(), noCause)
	if err != nil || len(found.Entries) != 2 || found.All || same.calls.Load() != 2 {
		t.Errorf("the same page each time: %+v, %v, after %d calls", found, err, same.calls.Load())
	}
}
