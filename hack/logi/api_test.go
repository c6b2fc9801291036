package logi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// request calls the platform, decodes what it answered into out where that is not nil, and returns the status.
func (p *platform) request(method, path, token, body string, out any) int {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), method, p.URL()+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			p.t.Fatalf("%s %s answered %s: %v\n%s", method, path, response.Status, err, text)
		}
	}
	return response.StatusCode
}

func (p *platform) get(path string, out any) int {
	p.t.Helper()
	return p.request(http.MethodGet, path, "", "", out)
}

func TestTheAdminAPIRequiresItsToken(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	id := p.seedDead(1, "HTTP 503: ", 7)[0]
	nonce := p.IssueNonce(id)
	retry := fmt.Sprintf("/api/v1/admin/webhook_outbox/%d/retry", id)
	for _, token := range []string{"", "wrong", p.AdminToken() + "x"} {
		var refused refusal
		if status := p.request(http.MethodGet, "/api/v1/admin/webhook_outbox?status=dead", token, "",
			&refused); status != 401 || refused.Error.Code != "unauthorized" {
			t.Errorf("listing with %q: %d %+v", token, status, refused)
		}
		if status := p.request(http.MethodPost, retry, token, `{"action_request_nonce":"`+nonce+
			`"}`, &refused); status != 401 {
			t.Errorf("a retry with %q: %d", token, status)
		}
	}
	if e := p.entry(id); !e.Dead {
		t.Errorf("a call without the token revived the entry: %+v", e)
	}
	if status := p.request(http.MethodPost, retry, p.AdminToken(), `{"action_request_nonce":"`+nonce+
		`"}`, nil); status != 200 {
		t.Errorf("the refused calls used the nonce up: %d", status)
	}
}

func TestTheAdminAPIListsDeadEntriesInPages(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	list := func(query string) (l listing) {
		t.Helper()
		if status := p.request(http.MethodGet, "/api/v1/admin/webhook_outbox?"+query, p.AdminToken(), "", &l); status != 200 {
			t.Fatalf("%s: %d", query, status)
		}
		return l
	}
	if l := list("status=dead"); l.Entries == nil || len(l.Entries) != 0 || l.Meta.Total != 0 {
		t.Errorf("nothing is dead: %+v", l)
	}
	ids := p.seedDead(120, "HTTP 503: Service Unavailable", 7)
	p.enqueue(5)
	var got []int64
	for page := 1; page <= 4; page++ {
		l := list(fmt.Sprintf("status=dead&page=%d", page))
		if l.Meta.Total != 120 || l.Meta.Page != page {
			t.Errorf("page %d: meta is %+v", page, l.Meta)
		}
		for _, e := range l.Entries {
			got = append(got, e.ID)
			if e.LastError != "HTTP 503: Service Unavailable" || e.Attempts != 7 {
				t.Errorf("%+v", e)
			}
		}
	}
	slices.Sort(ids)
	if !slices.Equal(got, ids) {
		t.Errorf("the pages have %d entries %v, want %d", len(got), got, len(ids))
	}
	if l := list("status=dead"); len(l.Entries) == 0 || l.Entries[0].ID != ids[0] || l.Meta.Page != 1 {
		t.Errorf("without a page: %+v", l.Meta)
	}
	for _, query := range []string{"", "status=alive", "status=dead&page=0", "status=dead&page=x"} {
		if status := p.request(http.MethodGet, "/api/v1/admin/webhook_outbox?"+
			query, p.AdminToken(), "", nil); status != 422 {
			t.Errorf("%q: %d, want 422", query, status)
		}
	}
}

func TestARetryNeedsANonceOfItsOwnOnce(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	ids := p.seedDead(2, "HTTP 503: Service Unavailable", 7)
	before := p.entry(ids[0])
	p.exec(`UPDATE webhook_outbox_entries SET next_retry_at = clock_timestamp()`)
	retry := func(id int64, body string) (int, string) {
		t.Helper()
		var refused refusal
		status := p.request(http.MethodPost, fmt.Sprintf("/api/v1/admin/webhook_outbox/%d/retry", id), p.AdminToken(), body,
			&refused)
		return status, refused.Error.Code
	}
	with := func(nonce string) string { return `{"action_request_nonce":"` + nonce + `"}` }
	nonce, foreign := p.IssueNonce(ids[0]), p.IssueNonce(ids[1])
	for _, c := range []struct {
		body, code string
		status     int
	}{
		{"", "bad_request", 400}, {"{", "bad_request", 400}, {"{}", "nonce_missing", 403}, {with(""), "nonce_missing", 403},
		{with("guessed"), "nonce_invalid", 403}, {with(foreign), "nonce_invalid", 403},
	} {
		if status, code := retry(ids[0], c.body); status != c.status || code != c.code {
			t.Errorf("%q: %d %s, want %d %s", c.body, status, code, c.status, c.code)
		}
	}
	if e := p.entry(ids[0]); !e.Dead || e.Attempts != 7 {
		t.Fatalf("a refused retry changed the entry: %+v", e)
	}

	if status, code := retry(ids[0], with(nonce)); status != 200 {
		t.Fatalf("%d %s", status, code)
	}
	e := p.entry(ids[0])
	if e.Dead || e.Waiting || e.Delivered || e.Attempts != 0 {
		t.Errorf("not reset: %+v", e)
	}
	if !e.EnqueuedAt.After(before.EnqueuedAt) {
		t.Errorf("enqueued_at is %v still", e.EnqueuedAt)
	}
	if e.LastError != before.LastError || e.IdempotencyKey != before.IdempotencyKey {
		t.Errorf("the retry changed last_error or the idempotency key: %+v", e)
	}

	if status, code := retry(ids[0], with(nonce)); status != 403 || code != "nonce_used" {
		t.Errorf("a nonce for the second time: %d %s", status, code)
	}
	if status, code := retry(ids[0], with(p.IssueNonce(ids[0]))); status != 422 || code != "not_dead" {
		t.Errorf("an entry that isn't dead: %d %s", status, code)
	}
	if status, _ := retry(ids[1], with(foreign)); status != 200 {
		t.Errorf("the refusal for another entry used the nonce up: %d", status)
	}
	if n := p.dispatch(); n != 2 || p.Counts()[acme].Received != 2 {
		t.Errorf("%d attempted and %d received, want both", n, p.Counts()[acme].Received)
	}
}

func TestUpLooksAtNothingAndTokenKnowsNobody(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	p.exec(`DROP TABLE webhook_outbox_entries`)
	if status := p.get("/up", nil); status != 200 {
		t.Errorf("/up answered %d", status)
	}
	if status := p.request(http.MethodPost, "/oauth/token", "", "grant_type=client_credentials", nil); status != 401 {
		t.Errorf("/oauth/token answered %d", status)
	}
}

func TestControlEndpointsDoWhatTheMethodsDo(t *testing.T) {
	t.Parallel()
	p := start(t, manual(time.Hour))
	post := func(path, body string, out any) {
		t.Helper()
		if status := p.request(http.MethodPost, path, "", body, out); status != 200 {
			t.Fatalf("%s %s: %d", path, body, status)
		}
	}
	var seeded struct{ Dead int }
	post("/_control/seed", `{"applicationID":"42","dead":3,"lastError":"HTTP 503: Service Unavailable","attempts":7}`,
		&seeded)
	if seeded.Dead != 3 {
		t.Errorf("seeded %+v", seeded)
	}
	var id int64
	if err := p.db.QueryRow(t.Context(),
		`SELECT min(id) FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	var issued map[string]string
	post("/_control/nonces", fmt.Sprintf(`{"entryID":"%d"}`, id), &issued)
	body, err := json.Marshal(issued)
	if err != nil {
		t.Fatal(err)
	}
	if status := p.request(http.MethodPost, fmt.Sprintf("/api/v1/admin/webhook_outbox/%d/retry", id), p.AdminToken(),
		string(body), nil); status != 200 {
		t.Errorf("a retry with the nonce as it was issued: %d", status)
	}
	post("/_control/faults", `{"applicationID":"42","fault":{"status":503,"body":"down"}}`, nil)
	var dispatched struct{ Attempted int }
	post("/_control/dispatch", ``, &dispatched)
	if dispatched.Attempted != 1 {
		t.Errorf("dispatched %+v", dispatched)
	}
	if e := p.entry(id); e.LastError != "HTTP 503: down" {
		t.Errorf("the fault is not on: %+v", e)
	}
	post("/_control/faults", `{"applicationID":"42","fault":{}}`, nil)
	p.makeDue()
	post("/_control/dispatch", `{}`, nil)
	var counts map[string]logi.ApplicationCounts
	if status := p.get("/_control/counts", &counts); status != 200 {
		t.Fatal(status)
	}
	want := map[string]logi.ApplicationCounts{"42": {Attempts: map[int]int{200: 1, 503: 1}, Received: 1}}
	if !reflect.DeepEqual(counts, want) {
		t.Errorf("counts are %+v, want %+v", counts, want)
	}
	for _, body := range []string{`{`, `{"applicationID":"42","fault":{"stauts":503}}`} {
		if status := p.request(http.MethodPost, "/_control/faults", "", body, nil); status != 400 {
			t.Errorf("%s: %d, want 400", body, status)
		}
	}
	if status := p.request(http.MethodPost, "/_control/seed", "", `{"applicationID":"99","dead":1}`, nil); status != 500 {
		t.Errorf("an application that does not exist: %d, want 500", status)
	}
}

func TestTheJudgeSharesNothingWithTheDefendant(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const module = "github.com/1pass-dev/playbook-operator/"
	listed := strings.Fields(string(out))
	if !slices.Contains(listed, module+"hack/logi") {
		t.Fatalf("go list does not list the package itself:\n%s", out)
	}
	for _, dependency := range listed {
		if strings.HasPrefix(dependency, module) && dependency != module+"hack/logi" {
			t.Errorf("hack/logi imports %s", dependency)
		}
	}
}
