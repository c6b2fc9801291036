// Package paging is how people are told: PagerDuty, Slack, and a webhook that anyone can receive. Sending is at least once, on
// purpose: where it is not known whether a message arrived, it is sent again. A double page is a nuisance, a lost one is the outage.
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
	// Key of what it is about, of any length: the same in its trigger, acknowledge and resolve. PagerDuty makes one alert of it.
	Key   string
	Event Event
	// Summary on one line; channels cut it at 1024 bytes.
	Summary string
	// Severity is sev1, sev2 or sev3.
	Severity string
	// Source is what is affected, such as the platform's host. PagerDuty requires it.
	Source string
	// URL where to read on; may be empty.
	URL string
	// At is when it happened, to the second: the same in each attempt, so that a receiver knows a repetition, and another where
	// people are told again on purpose.
	At time.Time
	// Details in names and values, few and short.
	Details map[string]string
}

// Channel tells people. Its error is *outbound.Refused where another attempt is no use, *outbound.Limited where it should wait,
// and any other where the message may or may not have arrived and is to be sent again. A nil transport is outbound's. No error
// holds a routing key, URL or secret.
type Channel interface {
	Send(ctx context.Context, transport http.RoundTripper, m Message) error
}

// Types of channel, by which Open knows them.
const (
	TypePagerDuty = "PagerDuty"
	TypeSlack     = "Slack"
	TypeWebhook   = "Webhook"
)

// Open makes a channel of what its Secret holds: PagerDuty "routingKey", and "url" where it isn't the world-wide service; Slack
// "url"; Webhook "url" and "secret". The error says which key is wrong and how it should look.
func Open(kind string, secret map[string][]byte) (Channel, error) {
	// A file that an editor wrote ends with a newline, and so does a Secret made from it.
	value := func(key string) string { return strings.TrimSpace(string(secret[key])) }
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
	// maxAnswer bounds what is read of an answer: each of these is a line or a small object.
	maxAnswer = 64 << 10
	// maxSummary is PagerDuty's; it suits the others.
	maxSummary = 1024
	// maxKey is PagerDuty's.
	maxKey = 255
)

// dedupKey is the message's Key, or a digest of it where it is too long: a page must not be refused for that.
func (m Message) dedupKey() string {
	if len(m.Key) <= maxKey {
		return m.Key
	}
	sum := sha256.Sum256([]byte(m.Key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// summary on one line, of a length that all channels take.
func (m Message) summary() string {
	text := strings.Join(strings.Fields(m.Summary), " ")
	if len(text) > maxSummary {
		const ellipsis = "…"
		text = strings.ToValidUTF8(text[:maxSummary-len(ellipsis)], "") + ellipsis
	}
	return text
}
