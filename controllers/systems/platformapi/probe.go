package platformapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// Verdict is what one look says about what was looked at.
type Verdict string

// The verdicts. Unknown is an answer that says neither, and is not Good.
const (
	Good    Verdict = "Good"
	Bad     Verdict = "Bad"
	Unknown Verdict = "Unknown"
)

// Look is what one look saw.
type Look struct {
	Verdict Verdict
	// Message says what was seen, in the same words each time that the same is seen, without a secret.
	Message string
	// Answered says that there was an HTTP answer, and Took until when its body had come.
	Answered bool
	Took     time.Duration
}

// Probe looks at the platform at URL, over a new connection for each look: those that are open already work on where no
// new one is let in, and lead to one replica only.
type Probe struct {
	URL     string
	Timeout time.Duration
	// Transport of nil is one that outbound.NewTransport made.
	Transport http.RoundTripper
}

// TokenClient is an OAuth client by whose credentials a token is asked for.
type TokenClient struct{ ID, Secret string }

// Up looks at /up.
func (p *Probe) Up(ctx context.Context) Look {
	look, answer := p.ask(ctx, outbound.Call{Method: http.MethodGet, Path: "/up", MaxAnswer: maxAnswer})
	if answer == nil {
		return look
	}
	switch {
	case answer.Status == http.StatusNotFound:
		look.Verdict = Bad
	case answer.Status/100 == 2:
		look.Verdict = Good
	}
	return look
}

// Tokens asks for a token by client_credentials. Without a client it looks for the error that Doorkeeper gives a bad
// one (RFC 6749, 5.2), which proves that requests arrive, and not that tokens are issued.
func (p *Probe) Tokens(ctx context.Context, client *TokenClient) Look {
	const path = "/oauth/token"
	asked := client
	if asked == nil {
		asked = &TokenClient{ID: "playbook-operator-probe", Secret: "none"}
	}
	// In the form: by Basic authentication, servers differ in how they decode an id or a secret.
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {asked.ID}, "client_secret": {asked.Secret}}
	look, answer := p.ask(ctx, outbound.Call{
		Method: http.MethodPost, Path: path, Body: []byte(form.Encode()), MaxAnswer: maxAnswer,
		Header: map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
	})
	if answer == nil {
		return look
	}
	var body struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	// What is no JSON has neither.
	_ = json.Unmarshal(answer.Body, &body)
	unknownClient := answer.Status == http.StatusUnauthorized && body.Error == "invalid_client"
	switch {
	case answer.Status == http.StatusNotFound:
		look.Verdict = Bad
	case client == nil && unknownClient:
		look.Verdict, look.Message = Good, path+" refuses a client that does not exist, as it should; "+
			"that tokens are issued is not proved without a client of its own"
	case client == nil:
	case unknownClient:
		look.Message = path + " refuses the client (invalid_client): the clientID or the clientSecret in its Secret is wrong"
	case answer.Status == http.StatusOK && body.AccessToken != "":
		look.Verdict, look.Message = Good, path+" issues tokens"
	}
	return look
}

// JWKS looks at /.well-known/jwks.json. An answer without keys that can be read is as bad as none.
func (p *Probe) JWKS(ctx context.Context) Look {
	const path = jwksPath
	look, answer := p.ask(ctx, outbound.Call{Method: http.MethodGet, Path: path, MaxAnswer: maxJWKS})
	if answer == nil {
		return look
	}
	switch answer.Status {
	case http.StatusNotFound:
		look.Verdict = Bad
	case http.StatusOK:
		look.Verdict, look.Message = Good, path+" has keys"
		if _, err := parseKeys(answer.Header, answer.Body); err != nil {
			look.Verdict, look.Message = Bad, path+" has no keys that can be read: "+err.Error()
		}
	}
	return look
}

// Path looks at any path: what is no 5xx is good.
func (p *Probe) Path(ctx context.Context, path string) Look {
	look, answer := p.ask(ctx, outbound.Call{Method: http.MethodGet, Path: path, MaxAnswer: maxAnswer})
	if answer != nil {
		look.Verdict = Good
	}
	return look
}

// ask makes a call of the platform, and judges what is the same for all. The answer is nil where that settles it; else
// the verdict is Unknown for now.
func (p *Probe) ask(ctx context.Context, call outbound.Call) (Look, *outbound.Answer) {
	// A query may hold what is nobody's business.
	path, _, _ := strings.Cut(call.Path, "?")
	call.URL = p.URL
	if call.Header == nil {
		call.Header = map[string]string{}
	}
	call.Header["Connection"] = "close"
	call.Timeout = p.Timeout
	began := time.Now()
	answer, err := outbound.Do(ctx, p.Transport, call)
	if err != nil {
		look := Look{Verdict: Bad, Message: path + " does not answer: " + err.Error()}
		var notSent *outbound.Refused
		var address *outbound.RefusedAddress
		// What went wrong at our own end says nothing about the platform.
		if errors.As(err, &notSent) || errors.As(err, &address) || errors.Is(err, outbound.ErrLookup) ||
			errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, context.Canceled) {
			look.Verdict, look.Message = Unknown, path+" could not be asked: "+err.Error()
		}
		return look, nil
	}
	look := Look{Verdict: Unknown, Message: fmt.Sprintf("%s answers HTTP %d", path, answer.Status), Answered: true,
		Took: time.Since(began)}
	switch {
	case answer.Status >= 500:
		look.Verdict = Bad
		return look, nil
	case answer.BrokeOff && ctx.Err() == nil:
		return Look{Verdict: Bad, Message: path + " does not answer: the answer broke off"}, nil
	}
	return look, answer
}
