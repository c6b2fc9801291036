package platformapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	jwksPath = "/.well-known/jwks.json"
	// maxJWKS bounds what is read of an answer.
	maxJWKS = 4 << 20
	// DefaultJWKSMaxAge is for how long an answer without a max-age is taken to be kept: what JWKS clients do by default.
	DefaultJWKSMaxAge = time.Hour
)

// JWKS is one answer of /.well-known/jwks.json.
type JWKS struct {
	// Kids of its keys.
	Kids []string
	// At is when the answer came.
	At time.Time
	// MaxAge is the answer's max-age (RFC 9111, 5.2.2.1), or DefaultJWKSMaxAge; 0 where it must not be kept.
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
	kids, err := parseKeys(answer.Header, answer.Body)
	if err != nil {
		return nil, err
	}
	jwks := &JWKS{Kids: kids, At: time.Now()}
	jwks.MaxAge, jwks.StaleFor = lifetime(answer.Header)
	age, _ := seconds(answer.Header.Get("Age"))
	jwks.FreshFor = max(0, jwks.MaxAge-age)
	return jwks, nil
}

// parseKeys returns the kids of a key set that has any.
func parseKeys(header http.Header, body []byte) (kids []string, err error) {
	var set struct {
		Keys []struct {
			Kid string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
		return nil, fmt.Errorf("the answer is no JSON of the shape {\"keys\": []}; its type is %.64q", kind)
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("the answer has no keys")
	}
	for _, key := range set.Keys {
		kids = append(kids, key.Kid)
	}
	return kids, nil
}

// lifetime is for how long a private cache may use an answer, and for how long after that. Where a directive is
// repeated, the longest counts: the question is until when somebody may believe the answer.
func lifetime(header http.Header) (maxAge, stale time.Duration) {
	found, kept := false, true
	for _, directive := range strings.Split(strings.Join(header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "no-store", "no-cache":
			kept = false
		case "max-age":
			if d, ok := seconds(value); ok {
				found, maxAge = true, max(maxAge, d)
			}
		case "stale-while-revalidate", "stale-if-error":
			if d, ok := seconds(value); ok {
				stale = max(stale, d)
			}
		}
	}
	switch {
	case !kept:
		return 0, 0
	case !found:
		return DefaultJWKSMaxAge, stale
	}
	return maxAge, stale
}

// seconds reads delta-seconds (RFC 9111, 1.2.2), quoted or not; what is too large is 2^31 s.
func seconds(text string) (time.Duration, bool) {
	text = strings.Trim(strings.TrimSpace(text), `"`)
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > math.MaxInt32 {
		n = math.MaxInt32
	}
	return time.Duration(n) * time.Second, true
}
