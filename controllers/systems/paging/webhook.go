package paging

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// Webhook posts JSON. The receiver can verify it with any library of Standard Webhooks 1.0.0
// (standard-webhooks/standard-webhooks, spec/standard-webhooks.md). A message that is sent again has the same
// webhook-id. Any 2xx accepts it.
type Webhook struct {
	URL string
	// Secret is "whsec_" and the base64 of 24 to 64 random bytes.
	Secret string
}

// signingKey decodes a secret. The error repeats nothing of the secret.
func signingKey(secret string) ([]byte, error) {
	text, prefixed := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(text)
	if !prefixed || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New(`must be "whsec_" and the base64 of 24 to 64 random bytes: ` +
			`echo whsec_$(openssl rand -base64 32)`)
	}
	return key, nil
}

// Sign makes a webhook-signature over id, timestamp (Unix seconds) and body.
func Sign(secret, id, timestamp string, body []byte) (string, error) {
	key, err := signingKey(secret)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

var webhookTypes = map[Event]string{
	Trigger: "page.triggered", Acknowledge: "page.acknowledged", Resolve: "page.resolved",
}

type webhookBody struct {
	Type      string      `json:"type"`
	Timestamp time.Time   `json:"timestamp"`
	Data      webhookData `json:"data"`
}

type webhookData struct {
	Key      string            `json:"key"`
	Severity string            `json:"severity"`
	Summary  string            `json:"summary"`
	Source   string            `json:"source"`
	URL      string            `json:"url,omitempty"`
	Details  map[string]string `json:"details,omitempty"`
}

// Send posts the message: {type: page.triggered | page.acknowledged | page.resolved, timestamp, data: {key, severity,
// summary, source, url, details}}.
func (w Webhook) Send(ctx context.Context, transport http.RoundTripper, m Message) error {
	at := m.At.UTC().Truncate(time.Second)
	body, err := json.Marshal(webhookBody{
		Type:      webhookTypes[m.Event],
		Timestamp: at,
		Data: webhookData{
			Key: m.Key, Severity: m.Severity, Summary: m.summary(), Source: m.Source, URL: m.URL, Details: m.Details,
		},
	})
	if err != nil {
		return &outbound.Refused{Message: "the message can't be encoded as JSON"}
	}
	// The id is a digest, since the signature is over id.timestamp.body, and a Key may contain dots.
	digest := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", m.Event, m.Key, at.Unix()))
	id := "msg_" + hex.EncodeToString(digest[:16])
	now := strconv.FormatInt(time.Now().Unix(), 10)
	signature, err := Sign(w.Secret, id, now, body)
	if err != nil {
		return &outbound.Refused{Message: "the webhook's secret " + err.Error()}
	}
	answer, err := outbound.Do(ctx, transport, outbound.Call{
		Method: http.MethodPost, URL: w.URL, Body: body, MaxAnswer: maxAnswer,
		Header: map[string]string{"webhook-id": id, "webhook-timestamp": now, "webhook-signature": signature},
	})
	if err != nil {
		return err
	}
	if answer.Status/100 == 2 {
		return nil
	}
	// A receiver may write anything, so nothing of it is repeated.
	return answer.Err("")
}
