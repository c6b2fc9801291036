// Package paging tells people: through PagerDuty, Slack, or a webhook that anyone can receive. It sends at least once,
// on purpose: where nobody knows whether a message arrived, it is sent again. A double page is a nuisance; a lost one
// is the outage.
package paging

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// Event is what a Message says about its Key.
type Event string

// The events of PagerDuty's Events API v2; the other channels tell them in words.
const (
	Trigger     Event = "trigger"
	Acknowledge Event = "acknowledge"
	Resolve     Event = "resolve"
)

// Message is told to people.
type Message struct {
	// Key of what the message is about, of any length. It is the same in the trigger, the acknowledge and the resolve:
	// PagerDuty makes one alert of them.
	Key   string
	Event Event
	// Summary is put on one line, and cut at 1024 bytes.
	Summary string
	// Severity is sev1, sev2 or sev3.
	Severity string
	// Source is what is affected, such as the platform's host. PagerDuty requires it.
	Source string
	// URL at which to read on. It may be empty.
	URL string
	// At is when it happened, to the second. It is the same in each attempt, so that a receiver recognises a repetition,
	// and a new one where people are told again on purpose.
	At time.Time
	// Details are names with values, few and short.
	Details map[string]string
}

// Channel tells people. Its error is *outbound.Refused where another attempt is no use, and *outbound.Limited where the
// next attempt should wait. After any other error, the message may have arrived or not, and is sent again. A nil
// transport is outbound's. No error holds a routing key, a URL or a secret.
type Channel interface {
	Send(ctx context.Context, transport http.RoundTripper, m Message) error
}

// Types of channel, by which Open knows them.
const (
	TypePagerDuty = "PagerDuty"
	TypeSlack     = "Slack"
	TypeWebhook   = "Webhook"
)

// Open makes a channel from its Secret. PagerDuty has "routingKey", and "url" where it isn't the world-wide service.
// Slack has "url". Webhook has "url" and "secret". The error says which key is wrong, and how it should look.
func Open(kind string, secret map[string][]byte) (Channel, error) {
	// An editor ends a file with a newline, so a Secret made from that file ends with one too.
	value := func(key string) string { return strings.TrimSpace(string(secret[key])) }
	if url := value("url"); url != "" {
		if err := outbound.CheckURL(url); err != nil {
			return nil, fmt.Errorf(`key "url" can't be used: %w`, err)
		}
	}
	switch kind {
	case TypePagerDuty:
		if !routingKey.MatchString(value("routingKey")) {
			return nil, errors.New(`key "routingKey" must be the 32 letters and digits of a PagerDuty integration key`)
		}
		return PagerDuty{URL: value("url"), RoutingKey: value("routingKey")}, nil
	case TypeSlack:
		if value("url") == "" {
			return nil, errors.New(`key "url" must be the URL of a Slack incoming webhook`)
		}
		return Slack{URL: value("url")}, nil
	case TypeWebhook:
		if value("url") == "" {
			return nil, errors.New(`key "url" must be the URL of the webhook's receiver`)
		}
		if _, err := signingKey(value("secret")); err != nil {
			return nil, fmt.Errorf(`key "secret" %w`, err)
		}
		return Webhook{URL: value("url"), Secret: value("secret")}, nil
	}
	return nil, fmt.Errorf("there is no channel type %q: it is %s, %s or %s", kind, TypePagerDuty, TypeSlack, TypeWebhook)
}

const (
	// maxAnswer bounds what is read of an answer. Each of these is a line or a small object.
	maxAnswer = 64 << 10
	// maxSummary is PagerDuty's limit. It suits the others.
	maxSummary = 1024
	// maxKey is PagerDuty's limit.
	maxKey = 255
)

// DedupKey is the key that PagerDuty shows with the alert: the message's Key, or its digest where it is too long. A
// page must not be refused because of that.
func (m Message) DedupKey() string {
	if len(m.Key) <= maxKey {
		return m.Key
	}
	sum := sha256.Sum256([]byte(m.Key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// summary is one line, and short enough for all channels.
func (m Message) summary() string {
	text := strings.Join(strings.Fields(m.Summary), " ")
	if len(text) > maxSummary {
		const ellipsis = "…"
		text = strings.ToValidUTF8(text[:maxSummary-len(ellipsis)], "") + ellipsis
	}
	return text
}
