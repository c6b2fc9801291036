package platformapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// Verdict is what one look says about the thing that it looked at.
type Verdict string

// The verdicts. Unknown is neither Good nor Bad.
const (
	Good    Verdict = "Good"
	Bad     Verdict = "Bad"
	Unknown Verdict = "Unknown"
)

// Look is what one look saw.
type Look struct {
	Verdict Verdict
	// Down says that the verdict is Bad by HTTP 404, a 5xx, a time-out, or a connection that was refused or closed before
	// an answer.
	Down bool
	// Message says what was seen. It has the same words each time that the same is seen, and holds no secret.
	Message string
	// Ask says that people must find out what was seen. Message says what it may be.
	Ask bool
	// Kid that the token was signed with; empty where none was issued, or where it is no JWT with a kid.
	Kid string
	// Keys are those of JWKS; nil where none could be read.
	Keys *JWKS
	// Answered says that there was an HTTP answer, and Took how long it was until its body had come.
	Answered bool
	Took     time.Duration
}

// Probe looks at the platform at URL. Each look has a new connection: one that is open works on where no new one is let
// in, and leads to one replica only.
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
		look.Verdict, look.Down = Bad, true
	case answer.Status/100 == 2:
		look.Verdict = Good
	}
	return look
}

const tokenPath = "/oauth/token"

// stranger is a client that no platform knows.
var stranger = TokenClient{ID: "playbook-operator-probe", Secret: "none"}

// Tokens asks for a token by client_credentials. Without a client of its own it asks as a stranger, and looks for the
// error that Doorkeeper gives a bad client (RFC 6749, 5.2): that proves that requests arrive, and not that tokens are
// issued. Where its own client is refused, it asks as a stranger too: a platform that refuses both in the same way is
// wrong, and not the client.
func (p *Probe) Tokens(ctx context.Context, client *TokenClient) Look {
	if client == nil {
		look, refused := p.token(ctx, stranger)
		if refused == invalidClient {
			look.Verdict = Good
			look.Message = tokenPath + " refuses a client that does not exist, as it should. " +
				"That it issues tokens is not proved without probes.tokenSecretRef"
		} else if look.Verdict == Good {
			look.Verdict, look.Kid = Unknown, ""
			look.Message = tokenPath + " gives a token to a client that should not exist"
		}
		return look
	}
	look, refused := p.token(ctx, *client)
	if refused == (refusal{}) {
		return look
	}
	other, otherRefused := p.token(ctx, stranger)
	switch {
	case other.Verdict == Bad:
		return other
	case refused == invalidClient && otherRefused == invalidClient:
		look.Ask = true
		look.Message = tokenPath +
			" refuses the probe's client (invalid_client). Either the clientID or the clientSecret in its Secret is wrong, " +
			"such as after a rotation, or the platform lost its clients and refuses all of them"
	case refused == invalidClient:
		look.Message = tokenPath +
			" refuses the client (invalid_client): the clientID or the clientSecret in its Secret is wrong"
	case refused == otherRefused:
		look.Verdict = Bad
		look.Message = fmt.Sprintf("%s answers HTTP %d to a known client and to an unknown one", tokenPath, refused.status)
	}
	return look
}

// refusal of a token: a 4xx, and the error that it names. The zero refusal is none.
type refusal struct {
	status int
	code   string
}

var invalidClient = refusal{http.StatusUnauthorized, "invalid_client"}

// token asks for one. Too many requests (429) are no refusal: that answer is about who asks, and asking again makes it
// worse.
func (p *Probe) token(ctx context.Context, client TokenClient) (Look, refusal) {
	// In the form: by Basic authentication, servers differ in how they decode an id or a secret.
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {client.ID}, "client_secret": {client.Secret}}
	look, answer := p.ask(ctx, outbound.Call{
		Method: http.MethodPost, Path: tokenPath, Body: []byte(form.Encode()), MaxAnswer: maxAnswer,
		Header: map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
	})
	if answer == nil {
		return look, refusal{}
	}
	var body struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	// An answer that is no JSON has neither.
	_ = json.Unmarshal(answer.Body, &body)
	switch {
	case answer.Status == http.StatusNotFound:
		look.Verdict, look.Down = Bad, true
	case answer.Status == http.StatusOK && body.AccessToken != "":
		look.Verdict, look.Message, look.Kid = Good, tokenPath+" issues tokens", kidOf(body.AccessToken)
	case answer.Status/100 == 4 && answer.Status != http.StatusTooManyRequests:
		return look, refusal{answer.Status, body.Error}
	}
	return look, refusal{}
}

// maxKid bounds a kid that is shown.
const maxKid = 128

// kidOf a token that is a JWT (RFC 7519, 3): the kid in its header. It is empty where the token is none, or names no
// kid.
func kidOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return ""
	}
	var named struct {
		Kid string `json:"kid"`
	}
	if json.Unmarshal(header, &named) != nil || len(named.Kid) > maxKid {
		return ""
	}
	return named.Kid
}

// JWKS looks at /.well-known/jwks.json. An answer without keys that can be read is as bad as none, and says nothing of
// a deploy.
func (p *Probe) JWKS(ctx context.Context) Look {
	const path = jwksPath
	look, answer := p.ask(ctx, outbound.Call{Method: http.MethodGet, Path: path, MaxAnswer: maxJWKS})
	if answer == nil {
		return look
	}
	switch answer.Status {
	case http.StatusNotFound:
		look.Verdict, look.Down = Bad, true
	case http.StatusOK:
		kids, unreadable, err := parseKeys(answer.Header, answer.Body)
		if err != nil {
			look.Verdict, look.Message = Bad, path+" has no keys that can be read: "+err.Error()
			return look
		}
		look.Verdict, look.Message = Good, path+" has keys"
		if unreadable > 0 {
			look.Message += fmt.Sprintf(", and %d that can't be read: each must be an object whose kid is text", unreadable)
		}
		look.Keys = &JWKS{Kids: kids, At: time.Now()}
		look.Keys.MaxAge, look.Keys.StaleFor = lifetime(answer.Header, look.Keys.At)
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

// ask makes a call of the platform, and judges what is the same for all. The answer is nil where that settles it.
// Otherwise the verdict is Unknown for now.
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
	took := time.Since(began)
	if err != nil {
		return unanswered(path, err), nil
	}
	look := Look{Verdict: Unknown, Message: fmt.Sprintf("%s answers HTTP %d", path, answer.Status), Answered: true,
		Took: took}
	switch {
	case answer.Status >= 500:
		look.Verdict, look.Down = Bad, true
		return look, nil
	case answer.BrokeOff && ctx.Err() == nil:
		// An answer that stands still until time is up is a time-out. One that breaks off before is none.
		return Look{Verdict: Bad, Down: took >= p.Timeout, Message: path + " does not answer: the answer broke off"}, nil
	}
	return look, answer
}

// unanswered is a look without an HTTP answer. What went wrong at our own end says nothing about the platform.
func unanswered(path string, err error) Look {
	var notSent *outbound.Refused
	var address *outbound.RefusedAddress
	ours := errors.As(err, &notSent) || errors.As(err, &address)
	for _, cause := range []error{outbound.ErrLookup, syscall.ENETUNREACH, context.Canceled} {
		ours = ours || errors.Is(err, cause)
	}
	if ours {
		return Look{Verdict: Unknown, Message: path + " could not be asked: " + err.Error()}
	}
	look := Look{Verdict: Bad, Message: path + " does not answer: " + err.Error()}
	// A process that crashed, or that a proxy can't reach, refuses, resets or closes connections. A certificate, a name or
	// a route that is wrong is no crash.
	for _, cause := range []error{context.DeadlineExceeded, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE,
		io.ErrUnexpectedEOF} {
		look.Down = look.Down || errors.Is(err, cause)
	}
	return look
}
