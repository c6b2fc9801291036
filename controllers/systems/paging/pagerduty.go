package paging

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const pagerDutyURL = "https://events.pagerduty.com/v2/enqueue"

var routingKey = regexp.MustCompile(`^[A-Za-z0-9]{32}$`)

// PagerDuty is one integration of PagerDuty's Events API v2 (PagerDuty/developer-docs, docs/events-API-v2). A trigger
// is added to the open alert of its Key, so a repetition wakes nobody twice. After a resolve it opens a new alert. An
// acknowledge or a resolve reaches only an alert that the same routing key opened.
type PagerDuty struct {
	// URL of enqueue. Empty is the world-wide service; EU accounts have https://events.eu.pagerduty.com/v2/enqueue.
	URL string
	// RoutingKey is the integration key, 32 letters and digits.
	RoutingKey string
}

type pagerDutyEvent struct {
	RoutingKey  string            `json:"routing_key"`
	EventAction Event             `json:"event_action"`
	DedupKey    string            `json:"dedup_key"`
	Payload     *pagerDutyPayload `json:"payload,omitempty"`
	Links       []pagerDutyLink   `json:"links,omitempty"`
	Client      string            `json:"client,omitempty"`
}

type pagerDutyPayload struct {
	Summary       string            `json:"summary"`
	Source        string            `json:"source"`
	Severity      string            `json:"severity"`
	Timestamp     string            `json:"timestamp"`
	CustomDetails map[string]string `json:"custom_details,omitempty"`
}

type pagerDutyLink struct {
	Href string `json:"href"`
	Text string `json:"text"`
}

// Send enqueues the event.
func (p PagerDuty) Send(ctx context.Context, transport http.RoundTripper, m Message) error {
	event := pagerDutyEvent{RoutingKey: p.RoutingKey, EventAction: m.Event, DedupKey: m.DedupKey()}
	if m.Event == Trigger {
		// A severity that isn't known to be milder wakes people.
		severity := map[string]string{"sev2": "error", "sev3": "warning"}[m.Severity]
		event.Payload = &pagerDutyPayload{
			Summary: m.summary(), Source: m.Source, Severity: cmp.Or(severity, "critical"),
			Timestamp: m.At.UTC().Format(time.RFC3339), CustomDetails: m.Details,
		}
		event.Client = "playbook-operator"
		if m.URL != "" {
			event.Links = []pagerDutyLink{{Href: m.URL, Text: "Read on"}}
		}
	}
	answer, err := outbound.Do(ctx, transport, outbound.Call{
		Method: http.MethodPost, URL: cmp.Or(p.URL, pagerDutyURL), Body: event, Secrets: []string{p.RoutingKey},
		MaxAnswer: maxAnswer,
	})
	if err != nil {
		return err
	}
	// The status says that it was accepted, whatever became of the body.
	if answer.Status == http.StatusAccepted {
		return nil
	}
	var said struct {
		Message string   `json:"message"`
		Errors  []string `json:"errors"`
	}
	if json.Unmarshal(answer.Body, &said) != nil {
		return answer.Err("")
	}
	return answer.Err(strings.Join(append([]string{said.Message}, said.Errors...), "; "))
}
