// Package statuspage is the part of Statuspage.io's API that a public notice needs (developer.statuspage.io). The API
// takes one request a second from a key. It has no idempotency key, so a notice carries a key of ours in its metadata,
// and is found by that.
package statuspage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	defaultURL = "https://api.statuspage.io/v1"
	// maxAnswer bounds what is read of an answer. An incident comes with its updates, which have up to 25 kB each.
	maxAnswer = 4 << 20
	// perPage is the most that the API lists at once.
	perPage = 100
	// maxPages bounds a list that doesn't end.
	maxPages = 10
	maxName  = 255
	maxBody  = 25000
)

// Page is one page at Statuspage.io. The methods' errors are *outbound.Refused where another attempt is no use, and
// *outbound.Limited where the next attempt should wait. After any other error, nobody knows whether the call took
// effect. No error holds the key.
type Page struct {
	// URL of the API. Empty is https://api.statuspage.io/v1.
	URL string
	// ID of the page, as in manage.statuspage.io/pages/<id>.
	ID string
	// Key of the API.
	Key string
	// Transport of nil is outbound's.
	Transport http.RoundTripper
}

// Statuses of a notice.
const (
	Investigating = "investigating"
	Identified    = "identified"
	Monitoring    = "monitoring"
	Resolved      = "resolved"
)

// Notice is what the public reads. Name is cut at 255 bytes, Body at 25,000.
type Notice struct {
	Name string
	// Status is Investigating, Identified, Monitoring or Resolved.
	Status string
	// Impact is none, minor, major or critical. Empty leaves it to Statuspage.
	Impact string
	// Body of this update. Subscribers receive it.
	Body string
}

// Incident is a notice as Statuspage has it.
type Incident struct {
	ID        string
	Name      string
	Status    string
	CreatedAt time.Time
	// Key under which Create made it. It is empty where somebody wrote the incident by hand.
	Key string
	// Body of the latest update. It tells a caller whether an update whose answer was lost took effect.
	Body string
}

type wireIncident struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Status    string    `json:"status"`
	CreatedAt time.Time `json:"created_at"`
	// People write metadata too, in any shape.
	Metadata map[string]json.RawMessage `json:"metadata"`
	Updates  []struct {
		Body      string    `json:"body"`
		CreatedAt time.Time `json:"created_at"`
	} `json:"incident_updates"`
}

// wireMetadata is an object in an object, since top-level values must be objects.
type wireMetadata struct {
	Key string `json:"key"`
}

func (w wireIncident) incident() Incident {
	i := Incident{ID: w.ID, Name: w.Name, Status: w.Status, CreatedAt: w.CreatedAt}
	var ours wireMetadata
	if json.Unmarshal(w.Metadata["playbook"], &ours) == nil {
		i.Key = ours.Key
	}
	var latest time.Time
	for n, update := range w.Updates {
		if n == 0 || update.CreatedAt.After(latest) {
			i.Body, latest = update.Body, update.CreatedAt
		}
	}
	return i
}

// Unresolved lists the page's open incidents, whoever wrote them.
func (p Page) Unresolved(ctx context.Context) ([]Incident, error) {
	var all []Incident
	for page := 1; page <= maxPages; page++ {
		var list []wireIncident
		query := url.Values{"page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(perPage)}}
		if err := p.call(ctx, http.MethodGet, "/incidents/unresolved?"+query.Encode(), nil, http.StatusOK, &list,
			func() bool { return list != nil }); err != nil {
			return nil, fmt.Errorf("listing the status page's open incidents: %w", err)
		}
		for _, w := range list {
			all = append(all, w.incident())
		}
		if len(list) < perPage {
			return all, nil
		}
	}
	return nil, fmt.Errorf("listing the status page's open incidents: there are more than %d", maxPages*perPage)
}

// Find returns the open incident that was created under key, or nil. Only two callers at once can have made several;
// then it returns the oldest.
func (p Page) Find(ctx context.Context, key string) (*Incident, error) {
	all, err := p.Unresolved(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(i Incident) bool { return i.Key != key })
	if len(all) == 0 {
		return nil, nil
	}
	oldest := slices.MinFunc(all, func(a, b Incident) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return &oldest, nil
}

// Create publishes a notice under a key such as <namespace>/<name>/<uid>. Callers must call Find first, also after an
// error: the answer may have been lost, and the API would publish the notice twice.
func (p Page) Create(ctx context.Context, key string, n Notice) (*Incident, error) {
	incident := n.wire()
	incident["name"] = cut(n.Name, maxName)
	incident["metadata"] = map[string]wireMetadata{"playbook": {Key: key}}
	var made wireIncident
	if err := p.call(ctx, http.MethodPost, "/incidents", map[string]any{"incident": incident}, http.StatusCreated, &made,
		func() bool { return made.ID != "" }); err != nil {
		return nil, fmt.Errorf("publishing a notice on the status page: %w", err)
	}
	return new(made.incident()), nil
}

// Update adds an update to a notice; Status Resolved ends the notice. Where n has no name, the name stays.
func (p Page) Update(ctx context.Context, id string, n Notice) (*Incident, error) {
	incident := n.wire()
	if n.Name != "" {
		incident["name"] = cut(n.Name, maxName)
	}
	var made wireIncident
	if err := p.call(ctx, http.MethodPatch, "/incidents/"+url.PathEscape(id), map[string]any{"incident": incident},
		http.StatusOK, &made, func() bool { return made.ID != "" }); err != nil {
		return nil, fmt.Errorf("updating the notice on the status page: %w", err)
	}
	return new(made.incident()), nil
}

func (n Notice) wire() map[string]any {
	incident := map[string]any{"status": n.Status, "body": cut(n.Body, maxBody)}
	if n.Impact != "" {
		incident["impact_override"] = n.Impact
	}
	return incident
}

func (p Page) call(ctx context.Context, method, path string, body any, want int, into any, complete func() bool) error {
	answer, err := outbound.Do(ctx, p.Transport, outbound.Call{
		Method: method, URL: cmp.Or(p.URL, defaultURL), Path: "/pages/" + url.PathEscape(p.ID) + path, Body: body,
		Header: map[string]string{"Authorization": "OAuth " + p.Key}, Secrets: []string{p.Key}, MaxAnswer: maxAnswer,
	})
	if err != nil {
		return err
	}
	// JSON of another shape is no answer: a null that was read as an empty list would publish a second notice.
	if answer.Status == want && json.Unmarshal(answer.Body, into) == nil && complete() {
		return nil
	}
	// The error is one text, or several.
	var said struct {
		Error json.RawMessage `json:"error"`
	}
	var one string
	var several []string
	if json.Unmarshal(answer.Body, &said) == nil && json.Unmarshal(said.Error, &several) != nil {
		_ = json.Unmarshal(said.Error, &one) // or none that can be shown
	}
	return answer.Err(cmp.Or(one, strings.Join(several, "; ")))
}

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	const ellipsis = "…"
	return strings.ToValidUTF8(text[:most-len(ellipsis)], "") + ellipsis
}
