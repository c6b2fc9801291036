package paging

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// Slack is an incoming webhook (docs.slack.dev, "Sending messages using incoming webhooks"). It has no key,
// so a message that is sent again stands there twice.
type Slack struct {
	// URL of the webhook. Whoever has it can post there.
	URL string
}

// Slack reads these three as markup, such as a link, or a mention of everybody.
var escapeSlack = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

var slackError = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

// Send posts the message as text.
func (s Slack) Send(ctx context.Context, transport http.RoundTripper, m Message) error {
	words := map[Event]string{Acknowledge: "Acknowledged: ", Resolve: "Resolved: "}[m.Event]
	// The summary of a page begins with its severity.
	lines := []string{fmt.Sprintf("%s[%s] %s", words, m.Severity, strings.TrimPrefix(m.summary(), m.Severity+" ")),
		fmt.Sprintf("%s, %s", m.Source, m.At.UTC().Format(time.RFC3339))}
	for _, name := range slices.Sorted(maps.Keys(m.Details)) {
		lines = append(lines, name+": "+m.Details[name])
	}
	if m.URL != "" {
		lines = append(lines, m.URL)
	}
	answer, err := outbound.Do(ctx, transport, outbound.Call{
		Method: http.MethodPost, URL: s.URL, Body: map[string]string{"text": escapeSlack.Replace(strings.Join(lines, "\n"))},
		MaxAnswer: maxAnswer,
	})
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(answer.Body))
	// The page of a proxy is a 200 too.
	if answer.Status == http.StatusOK && text == "ok" {
		return nil
	}
	if !slackError.MatchString(text) {
		text = ""
	}
	return answer.Err(text)
}
