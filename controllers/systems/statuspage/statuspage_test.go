package statuspage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/statuspage"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const key = "identity/production/3f2a9c1e-1111-2222-3333-444455556666"

type far struct {
	*logi.Services
	statuspage.Page
}

func start(t *testing.T) far {
	t.Helper()
	services := logi.NewServices()
	server := httptest.NewServer(services)
	t.Cleanup(server.Close)
	return far{services, statuspage.Page{URL: server.URL + "/statuspage/v1", ID: "kctbh9vrtdwd",
		Key: services.StatuspageKey()}}
}

func (f far) leaked(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if strings.Contains(strings.ToLower(fmt.Sprintf("%v %+v %#v", err, err, err)), strings.ToLower(f.StatuspageKey())) {
			return true
		}
	}
	return false
}

var notice = statuspage.Notice{Name: "Sign-in is failing", Status: statuspage.Investigating, Impact: "critical",
	Body: "We are looking into it."}

func TestANoticeIsCreatedFoundUpdatedAndResolved(t *testing.T) {
	t.Parallel()
	f := start(t)
	if found, err := f.Find(t.Context(), key); err != nil || found != nil {
		t.Fatalf("%v, %v", found, err)
	}
	made, err := f.Create(t.Context(), key, notice)
	if err != nil || made.ID == "" || made.Key != key || made.Name != notice.Name || made.Status != notice.Status ||
		made.Body != notice.Body || made.CreatedAt.IsZero() {
		t.Fatalf("%+v, %v", made, err)
	}
	if got := string(f.Notices()[0].Metadata["playbook"]); got != `{"key":"`+key+`"}` ||
		f.Notices()[0].Impact != "critical" {
		t.Errorf("%+v", f.Notices()[0])
	}
	if _, err := f.Update(t.Context(), made.ID,
		statuspage.Notice{Status: statuspage.Monitoring, Body: "A fix is live."}); err != nil {
		t.Fatal(err)
	}
	found, err := f.Find(t.Context(), key)
	if err != nil || found == nil || found.ID != made.ID || found.Name != notice.Name ||
		found.Status != statuspage.Monitoring || found.Body != "A fix is live." {
		t.Fatalf("%+v, %v", found, err)
	}
	if _, err := f.Update(t.Context(), made.ID,
		statuspage.Notice{Status: statuspage.Resolved, Body: "It is over."}); err != nil {
		t.Fatal(err)
	}
	if found, err := f.Find(t.Context(), key); err != nil || found != nil {
		t.Errorf("%+v, %v", found, err)
	}
	if all := f.Notices(); len(all) != 1 || len(all[0].Updates) != 3 || all[0].ResolvedAt == nil {
		t.Errorf("%+v", all)
	}
}

// There is no idempotency key. A notice that was created, and whose answer was lost, is found by the key in its
// metadata.
func TestANoticeWhoseAnswerWasLostIsFound(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.SetFault(logi.Statuspage, logi.ServiceFault{LoseReply: true, Times: 1})
	if made, err := f.Create(t.Context(), key, notice); err == nil {
		t.Fatalf("%+v", made)
	}
	if found, err := f.Find(t.Context(), key); err != nil || found == nil || found.ID != f.Notices()[0].ID ||
		len(f.Notices()) != 1 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestAmongOthersNoticesOursIsFoundByItsKey(t *testing.T) {
	t.Parallel()
	f := start(t)
	post := func(metadata string) {
		t.Helper()
		body := `{"incident": {"name": "by hand", "body": "by hand", "metadata": ` + metadata + `}}`
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/pages/"+f.ID+"/incidents",
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "OAuth "+f.StatuspageKey())
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			t.Fatal(response.Status)
		}
	}
	// These are more than one page of the API's answer.
	for range 40 {
		post(`null`)
		post(`{"playbook": {"key": "identity/staging/9"}}`)
		post(`{"playbook": {"key": 7}, "jira": {"issue": "OPS-1"}}`)
	}
	other := f
	other.ID = "anotherpage0"
	if _, err := other.Create(t.Context(), key, notice); err != nil {
		t.Fatal(err)
	}
	if found, err := f.Find(t.Context(), key); err != nil || found != nil {
		t.Fatalf("%+v, %v", found, err)
	}
	first, err := f.Create(t.Context(), key, notice)
	if err != nil {
		t.Fatal(err)
	}
	for range 110 {
		post(`{}`)
	}
	if _, err := f.Create(t.Context(), key, notice); err != nil {
		t.Fatal(err)
	}
	if found, err := f.Find(t.Context(), key); err != nil || found == nil || found.ID != first.ID {
		t.Errorf("%+v, %v, want the older %s", found, err, first.ID)
	}
	if all, err := f.Unresolved(t.Context()); err != nil || len(all) != 232 {
		t.Errorf("%d, %v", len(all), err)
	}
}

func TestAListThatDoesNotEndIsGivenUp(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_ = json.NewEncoder(w).Encode(slices.Repeat([]map[string]string{{"id": "a"}}, 100))
	}))
	defer server.Close()
	if all, err := (statuspage.Page{URL: server.URL, ID: "p", Key: "k"}).Unresolved(t.Context()); err == nil ||
		asked != 10 {
		t.Errorf("%d after %d requests", len(all), asked)
	}
}

func TestEveryFaultIsOfOneClassAndTellsNoSecret(t *testing.T) {
	t.Parallel()
	f := start(t)
	// The search finds the key in what net/http says, where the far side sends the request back.
	f.SetFault(logi.Statuspage, logi.ServiceFault{Garbage: true})
	if _, err := http.Get(f.URL + "/pages/p/incidents/unresolved?" + f.StatuspageKey()); !f.leaked(err) ||
		!f.leaked(errors.Unwrap(err)) {
		t.Fatalf("the key was not found in %v", err)
	}

	for name, c := range map[string]struct {
		fault logi.ServiceFault
		want  string
		taken bool
	}{
		"well":             {logi.ServiceFault{}, "done", true},
		"400":              {logi.ServiceFault{Status: 400, Echo: true}, "refused 400", false},
		"401":              {logi.ServiceFault{Status: 401, Echo: true}, "refused 401", false},
		"403":              {logi.ServiceFault{Status: 403}, "refused 403", false},
		"404":              {logi.ServiceFault{Status: 404}, "refused 404", false},
		"408":              {logi.ServiceFault{Status: 408}, "again", false},
		"409":              {logi.ServiceFault{Status: 409}, "refused 409", false},
		"420":              {logi.ServiceFault{Status: 420}, "limited 0s", false},
		"420 with seconds": {logi.ServiceFault{Status: 420, RetryAfter: "2"}, "limited 2s", false},
		"429 with seconds": {logi.ServiceFault{Status: 429, RetryAfter: "60", Echo: true}, "limited 1m0s", false},
		"429 with a date gone by": {logi.ServiceFault{Status: 429, RetryAfter: "Sun, 06 Nov 1994 08:49:37 GMT"},
			"limited 1s", false},
		"422":             {logi.ServiceFault{Status: 422}, "refused 422", false},
		"500":             {logi.ServiceFault{Status: 500, Echo: true}, "again", false},
		"503":             {logi.ServiceFault{Status: 503}, "again", false},
		"200 in HTML":     {logi.ServiceFault{Status: 200, Body: "<html>", Echo: true}, "again", false},
		"201 in HTML":     {logi.ServiceFault{Status: 201, Body: "<html>"}, "again", false},
		"200 and null":    {logi.ServiceFault{Status: 200, Body: "null"}, "again", false},
		"201 and nothing": {logi.ServiceFault{Status: 201, Body: "{}"}, "again", false},
		"200 and nothing": {logi.ServiceFault{Status: 200, Body: "{}"}, "again", false},
		"204":             {logi.ServiceFault{Status: 204}, "again", false},
		"200 and 10 MB":   {logi.ServiceFault{Status: 200, Body: "[]", BodyBytes: 10 << 20}, "again", false},
		"400 and 10 MB":   {logi.ServiceFault{Status: 400, BodyBytes: 10 << 20}, "refused 400", false},
		"a redirect": {logi.ServiceFault{Status: 307, Location: "/statuspage/v1/pages/q/incidents"},
			"again", false},
		"a redirect to metadata":    {logi.ServiceFault{Status: 302, Location: "http://169.254.169.254/"}, "again", false},
		"closed before taking it":   {logi.ServiceFault{Refuse: true}, "again", false},
		"a lost reply":              {logi.ServiceFault{LoseReply: true}, "again", true},
		"no HTTP":                   {logi.ServiceFault{Garbage: true}, "again", false},
		"too slow":                  {logi.ServiceFault{DelayMilliseconds: 60_000}, "again", false},
		"an answer that stalls":     {logi.ServiceFault{Stall: true}, "again", true},
		"a refusal that stalls":     {logi.ServiceFault{Status: 422, Stall: true}, "refused 422", false},
		"a server error that stall": {logi.ServiceFault{Status: 502, Stall: true}, "again", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			existing, err := f.Create(t.Context(), "another/key/0", notice)
			if err != nil {
				t.Fatal(err)
			}
			updates := func() (n int) {
				for _, notice := range f.Notices() {
					n += len(notice.Updates)
				}
				return n
			}
			for call, do := range map[string]func(context.Context) error{
				"find":   func(ctx context.Context) error { _, err := f.Find(ctx, key); return err },
				"create": func(ctx context.Context) error { _, err := f.Create(ctx, key, notice); return err },
				"update": func(ctx context.Context) error { _, err := f.Update(ctx, existing.ID, notice); return err },
			} {
				f.SetFault(logi.Statuspage, c.fault)
				before, asked := updates(), f.Requests(logi.Statuspage)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if c.fault.Stall || c.fault.DelayMilliseconds > 0 {
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
				}
				err := do(ctx)
				cancel()
				if got := class(err); got != c.want {
					t.Errorf("%s: %s, want %s: %v", call, got, c.want, err)
				}
				if f.leaked(err) {
					t.Errorf("%s: the error holds the key: %v", call, err)
				}
				if taken := updates() > before; taken != (c.taken && call != "find") {
					t.Errorf("%s: taken is %v", call, taken)
				}
				// Where a kept connection closes under a call that changes nothing, net/http itself asks again.
				if n := f.Requests(logi.Statuspage) - asked; n != 1 && !(call == "find" && n == 2) {
					t.Errorf("%s: asked %d times", call, n)
				}
			}
		})
	}
}

func class(err error) string {
	refused, limited := (*outbound.Refused)(nil), (*outbound.Limited)(nil)
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &refused):
		return fmt.Sprintf("refused %d", refused.Status)
	case errors.As(err, &limited):
		return fmt.Sprintf("limited %s", limited.After)
	}
	return "again"
}

func TestARefusalSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := start(t)
	if _, err := f.Create(t.Context(), key, statuspage.Notice{Name: "x", Status: "broken", Impact: "huge"}); err == nil ||
		err.Error() != "publishing a notice on the status page: refused with HTTP 422: "+
			"Status is invalid; Impact override is invalid" {
		t.Error(err)
	}
	if _, err := f.Update(t.Context(), "gone", notice); err == nil ||
		err.Error() != "updating the notice on the status page: refused with HTTP 404: Not found" {
		t.Error(err)
	}
	wrong := f.Page
	wrong.Key = "another key, which nobody may see"
	if _, err := wrong.Unresolved(t.Context()); err == nil ||
		err.Error() != "listing the status page's open incidents: refused with HTTP 401: Could not authenticate" {
		t.Error(err)
	}
	// What a far side says is not shown where it repeats the key.
	f.SetFault(logi.Statuspage,
		logi.ServiceFault{Status: 401, Body: `{"error": "no such key: ` + f.StatuspageKey() + `"}`})
	if _, err := f.Unresolved(t.Context()); err == nil ||
		err.Error() != "listing the status page's open incidents: refused with HTTP 401" {
		t.Error(err)
	}
}

func TestALongNoticeIsCut(t *testing.T) {
	t.Parallel()
	f := start(t)
	if _, err := f.Create(t.Context(), key,
		statuspage.Notice{Name: strings.Repeat("ü", 255), Status: statuspage.Identified,
			Body: strings.Repeat("ü", 25000)}); err != nil {
		t.Fatal(err)
	}
	if n := f.Notices()[0]; len(n.Name) > 255 || len(n.Updates[0].Body) > 25000 || !strings.HasSuffix(n.Name, "ü…") ||
		!strings.HasSuffix(n.Updates[0].Body, "ü…") {
		t.Errorf("%s", n.Name)
	}
}
