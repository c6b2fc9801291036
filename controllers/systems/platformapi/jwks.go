package platformapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	jwksPath = "/.well-known/jwks.json"
	// maxJWKS bounds what is read of an answer.
	maxJWKS = 4 << 20
)

// JWKS is one answer of /.well-known/jwks.json.
type JWKS struct {
	// Kids of its keys.
	Kids []string
	// At is when the answer came.
	At time.Time
	// MaxAge is for how long a cache may use the answer from when the platform made it (RFC 9111, 4.2); 0 where it must
	// not be kept.
	MaxAge time.Duration
	// FreshFor is for how long it may still be used: MaxAge less the answer's Age, at least 0.
	FreshFor time.Duration
	// StaleFor is for how long it may be used after that (RFC 5861): the larger of stale-while-revalidate and
	// stale-if-error.
	StaleFor time.Duration
}

// FetchJWKS asks the platform at url for its keys, over a connection that is closed after it, so that each answer may
// come from another replica. A nil transport is outbound's.
func FetchJWKS(ctx context.Context, url string, transport http.RoundTripper) (*JWKS, error) {
	answer, err := outbound.Do(ctx, transport, outbound.Call{
		Method: http.MethodGet, URL: url, Path: jwksPath, MaxAnswer: maxJWKS,
		Header: map[string]string{"Connection": "close"},
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking for JWKS: %w", err)
	case answer.Status != http.StatusOK:
		return nil, fmt.Errorf("the answer was HTTP %d", answer.Status)
	case answer.BrokeOff:
		return nil, errors.New("the answer broke off")
	case answer.Body == nil:
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxJWKS)
	}
	kids, _, err := parseKeys(answer.Header, answer.Body)
	if err != nil {
		return nil, err
	}
	jwks := &JWKS{Kids: kids, At: time.Now()}
	jwks.MaxAge, jwks.StaleFor = lifetime(answer.Header, jwks.At)
	jwks.FreshFor = max(0, jwks.MaxAge-age(answer.Header))
	return jwks, nil
}

// parseKeys returns the kids of a key set that has any keys, and how many of its keys can't be read: one of those
// spoils no other (RFC 7517, 5). A key without a kid has an empty one.
func parseKeys(header http.Header, body []byte) (kids []string, unreadable int, err error) {
	// By maps, since the names of members are case-sensitive.
	var set map[string]json.RawMessage
	var keys []json.RawMessage
	err = json.Unmarshal(body, &set)
	if err == nil && set["keys"] != nil {
		err = json.Unmarshal(set["keys"], &keys)
	}
	if err != nil {
		kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
		return nil, 0, fmt.Errorf("the answer is no JSON of the shape {\"keys\": []}; its type is %.64q", kind)
	}
	for _, raw := range keys {
		var key map[string]json.RawMessage
		if json.Unmarshal(raw, &key) != nil || key == nil {
			unreadable++
			continue
		}
		kid := (*string)(nil)
		if key["kid"] != nil && json.Unmarshal(key["kid"], &kid) != nil {
			unreadable++
			continue
		}
		if kid == nil {
			kid = new(string)
		}
		kids = append(kids, *kid)
	}
	switch {
	case len(keys) == 0:
		return nil, 0, errors.New("the answer has no keys")
	case len(kids) == 0:
		return nil, unreadable, fmt.Errorf("the answer has no key that can be read, of %d: each must be an object whose kid "+
			"is text", unreadable)
	}
	return kids, unreadable, nil
}
