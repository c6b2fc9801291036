package logi_test

import (
	"fmt"
	"maps"
	"net/http"
	"testing"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestTheListOfDeadEntriesIsLimitedAndChanges(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	waiting := p.enqueue(3)
	dead := p.seedDead(110, "HTTP 503: Service Unavailable", 7)
	control := func(body string) {
		t.Helper()
		if status := p.request(http.MethodPost, "/_control/list", "", body, nil); status != 200 {
			t.Fatalf("%s: %d", body, status)
		}
	}
	list := func(page int, want int) (l listing) {
		t.Helper()
		if status := p.request(http.MethodGet, fmt.Sprintf("/api/v1/admin/webhook_outbox?status=dead&page=%d", page),
			p.AdminToken(), "", &l); status != want {
			t.Errorf("page %d: %d, want %d", page, status, want)
		}
		return l
	}
	control(`{"afterPage": 1, "limited": 2, "retryAfterSeconds": 7}`)
	for _, c := range []struct{ page, status int }{{1, 200}, {2, 429}, {1, 200}, {3, 429}, {2, 200}} {
		list(c.page, c.status)
	}
	if got, want := p.ListReads(), (map[int]int{1: 2, 2: 2, 3: 1}); !maps.Equal(got, want) {
		t.Errorf("reads: %v, want %v", got, want)
	}
	control(`{"afterPage": 1, "limited": 1, "retryAfterSeconds": 7}`)
	response, err := http.DefaultClient.Do(adminRequest(t, p, "/api/v1/admin/webhook_outbox?status=dead&page=2"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Retry-After"); response.StatusCode != 429 || got != "7" {
		t.Errorf("%s, Retry-After %q", response.Status, got)
	}

	// Two die that are older than all, and then a page's last entries are the next page's first.
	control(`{"afterPage": 1, "enter": 2}`)
	if l := list(1, 200); l.Entries[0].ID != dead[0] || l.Entries[49].ID != dead[49] || l.Meta.Total != 110 {
		t.Errorf("page 1: %+v", l.Meta)
	}
	if l := list(2, 200); l.Entries[0].ID != dead[48] || l.Meta.Total != 112 {
		t.Errorf("page 2 begins with %d: %+v", l.Entries[0].ID, l.Meta)
	}
	if l := list(1, 200); l.Entries[0].ID != waiting[0] || l.Entries[1].ID != waiting[1] || l.Meta.Total != 112 {
		t.Errorf("page 1 begins with %d: %+v", l.Entries[0].ID, l.Meta)
	}
	// Three are requeued, so that the next page begins after three that were on none.
	p.SetListFault(logi.ListFault{AfterPage: 1, Leave: 3})
	list(1, 200)
	if l := list(2, 200); l.Entries[0].ID != dead[51] || l.Meta.Total != 109 {
		t.Errorf("page 2 begins with %d: %+v", l.Entries[0].ID, l.Meta)
	}
	list(1, 200)
	if l := list(2, 200); l.Meta.Total != 109 {
		t.Errorf("it changed twice: %+v", l.Meta)
	}
}

func adminRequest(t *testing.T, p *platform, path string) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+p.AdminToken())
	return request
}
