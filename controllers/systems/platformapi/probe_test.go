package platformapi_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

// answers with a status and a body to everything.
func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://169.254.169.254/")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// instead does something with the connection instead of an answer, and closes it.
func instead(do func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			do(conn)
			conn.Close()
		}
	}
}

var hangUp = instead(func(net.Conn) {})

func breakOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte(`{"access_token": "`))
}

// known answers the probe's own client in one way, and others in another.
func known(own, others http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("client_id") == "probe" {
			own(w, r)
			return
		}
		others(w, r)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

const invalidClient = `{"error": "invalid_client", "error_description": "s3cret words"}`

func TestWhatALookSays(t *testing.T) {
	t.Parallel()
	own := &platformapi.TokenClient{ID: "probe", Secret: "s3cret&+%"}
	up := func(p *platformapi.Probe) platformapi.Look { return p.Up(t.Context()) }
	tokens := func(p *platformapi.Probe) platformapi.Look { return p.Tokens(t.Context(), own) }
	routing := func(p *platformapi.Probe) platformapi.Look { return p.Tokens(t.Context(), nil) }
	jwks := func(p *platformapi.Probe) platformapi.Look { return p.JWKS(t.Context()) }
	path := func(p *platformapi.Probe) platformapi.Look { return p.Path(t.Context(), "/userinfo?token=s3cret") }
	for name, c := range map[string]struct {
		look    func(*platformapi.Probe) platformapi.Look
		server  http.HandlerFunc
		verdict platformapi.Verdict
		says    string
	}{
		"/up: 200":                              {up, answers(200, "<html>"), "Good", "/up answers HTTP 200"},
		"/up: 500":                              {up, answers(500, "s3cret"), "Bad", "/up answers HTTP 500"},
		"/up: 503":                              {up, answers(503, ""), "Bad", "/up answers HTTP 503"},
		"/up: 404":                              {up, answers(404, ""), "Bad", "/up answers HTTP 404"},
		"/up: 403":                              {up, answers(403, ""), "Unknown", "/up answers HTTP 403"},
		"/up: 429":                              {up, answers(429, ""), "Unknown", "/up answers HTTP 429"},
		"/up: a redirect, which isn't followed": {up, answers(302, ""), "Unknown", "/up answers HTTP 302"},
		"/up: hung up": {up, hangUp, "Bad",
			"/up does not answer: the connection was closed without an answer"},
		"/up: broken off":        {up, breakOff, "Bad", "/up does not answer: the answer broke off"},
		"/up: no answer in time": {up, hang, "Bad", "/up does not answer: no answer in time"},
		"/up: long": {up, answers(200, strings.Repeat("x", 1<<20)), "Good",
			"/up answers HTTP 200"},

		"tokens: issued": {tokens, answers(200, `{"access_token": "s3cret"}`), "Good",
			"/oauth/token issues tokens"},
		"tokens: 200 and none": {tokens, answers(200, `<html>`), "Unknown",
			"/oauth/token answers HTTP 200"},
		"tokens: both clients are invalid": {tokens, answers(401, invalidClient), "Unknown",
			"or the platform lost its clients and refuses all of them"},
		"tokens: the same 401 to both": {tokens, answers(401, `{}`), "Bad",
			"/oauth/token answers HTTP 401 to a known client and to an unknown one"},
		"tokens: the same 403 to both": {tokens, answers(403, "s3cret"), "Bad",
			"/oauth/token answers HTTP 403 to a known client and to an unknown one"},
		"tokens: 400 with the same error to both": {tokens, answers(400, `{"error": "unsupported_grant_type"}`), "Bad",
			"/oauth/token answers HTTP 400 to a known client and to an unknown one"},
		"tokens: too many requests": {tokens, answers(429, ""), "Unknown", "/oauth/token answers HTTP 429"},
		"tokens: only the known client is refused": {tokens, known(answers(403, ``), answers(401, invalidClient)), "Unknown",
			"/oauth/token answers HTTP 403"},
		"tokens: refused with another error each": {tokens, known(answers(400, `{"error": "invalid_scope"}`), answers(400,
			`{"error": "invalid_request"}`)), "Unknown", "/oauth/token answers HTTP 400"},
		"tokens: our client is wrong": {tokens, known(answers(401, invalidClient), answers(403, ``)), "Unknown",
			"/oauth/token refuses the client (invalid_client): the clientID or the clientSecret in its Secret is wrong"},
		"tokens: refused, and then 502": {tokens, known(answers(403, ``), answers(502, ``)), "Bad",
			"/oauth/token answers HTTP 502"},
		"tokens: 404": {tokens, answers(404, ""), "Bad", "/oauth/token answers HTTP 404"},
		"tokens: 502": {tokens, answers(502, ""), "Bad", "/oauth/token answers HTTP 502"},
		"tokens: broken off": {tokens, breakOff, "Bad",
			"/oauth/token does not answer: the answer broke off"},

		"routing: a client that does not exist is refused": {routing, answers(401, invalidClient), "Good",
			"That it issues tokens is not proved without probes.tokenSecretRef"},
		"routing: 401 of something else": {routing, answers(401, `Unauthorized`), "Unknown",
			"/oauth/token answers HTTP 401"},
		"routing: 200": {routing, answers(200, `{"access_token": "s3cret"}`), "Unknown",
			"/oauth/token gives a token to a client that should not exist"},
		"routing: 404": {routing, answers(404, ``), "Bad",
			"/oauth/token answers HTTP 404"},
		"routing: 500": {routing, answers(500, invalidClient), "Bad",
			"/oauth/token answers HTTP 500"},

		"JWKS: keys": {jwks, answers(200, keys), "Good", "/.well-known/jwks.json has keys"},
		"JWKS: none": {jwks, answers(200, `{"keys": []}`), "Bad",
			"/.well-known/jwks.json has no keys that can be read: the answer has no keys"},
		"JWKS: HTML":       {jwks, answers(200, `<html>s3cret`), "Bad", "no JSON of the shape"},
		"JWKS: 404":        {jwks, answers(404, ``), "Bad", "/.well-known/jwks.json answers HTTP 404"},
		"JWKS: 500":        {jwks, answers(500, keys), "Bad", "/.well-known/jwks.json answers HTTP 500"},
		"JWKS: 429":        {jwks, answers(429, ``), "Unknown", "/.well-known/jwks.json answers HTTP 429"},
		"JWKS: broken off": {jwks, breakOff, "Bad", "the answer broke off"},
		"JWKS: 10 MB":      {jwks, answers(200, `{"keys": ["`+strings.Repeat("x", 10<<20)), "Bad", "no JSON of the shape"},

		"a path: 200": {path, answers(200, ""), "Good", "/userinfo answers HTTP 200"},
		"a path: 404": {path, answers(404, ""), "Good", "/userinfo answers HTTP 404"},
		"a path: 302": {path, answers(302, ""), "Good", "/userinfo answers HTTP 302"},
		"a path: 504": {path, answers(504, ""), "Bad", "/userinfo answers HTTP 504"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && (r.PostFormValue("grant_type") != "client_credentials" ||
					r.PostFormValue("client_id") == "") {
					t.Errorf("it sent %v", r.PostForm)
				}
				if r.PostFormValue("client_id") == own.ID && r.PostFormValue("client_secret") != own.Secret {
					t.Errorf("the secret arrived as %q", r.PostFormValue("client_secret"))
				}
				c.server(w, r)
			}))
			t.Cleanup(server.Close)
			p := &platformapi.Probe{URL: server.URL + "/", Timeout: 2 * time.Second}
			for range 2 {
				look := c.look(p)
				if look.Verdict != c.verdict || !strings.Contains(look.Message, c.says) || strings.Contains(look.Message,
					"s3cret") {
					t.Errorf("%+v, want %s: %s", look, c.verdict, c.says)
				}
				// What the platform's own process or its proxy does when it is down, and nothing else.
				down := c.verdict == platformapi.Bad &&
					regexp.MustCompile(`HTTP (404|5\d\d)$|closed without an answer|in time`).MatchString(look.Message)
				if look.Down != down {
					t.Errorf("down: %v, want %v", look.Down, down)
				}
				if ask := strings.Contains(name, "both clients are invalid"); look.Ask != ask {
					t.Errorf("people are asked: %v", look.Ask)
				}
				if answered := !strings.Contains(c.says, "does not answer") && !strings.Contains(c.says,
					"broke off"); look.Answered != answered || (look.Took > 0) != answered {
					t.Errorf("answered %v in %v", look.Answered, look.Took)
				}
			}
		})
	}
}

func TestWhereNothingAnswers(t *testing.T) {
	t.Parallel()
	secure := httptest.NewTLSServer(answers(200, ""))
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(answers(200, ""))
	t.Cleanup(plain.Close)
	gone := httptest.NewServer(answers(200, ""))
	gone.Close()
	reset := httptest.NewServer(instead(func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) }))
	t.Cleanup(reset.Close)
	garbled := httptest.NewServer(instead(func(conn net.Conn) { _, _ = conn.Write([]byte("220 mail.example.com\r\n")) }))
	t.Cleanup(garbled.Close)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	for name, c := range map[string]struct {
		url     string
		verdict platformapi.Verdict
		down    bool
		says    string
	}{
		"refused":           {gone.URL, "Bad", true, "/up does not answer: connecting: connection refused"},
		"an untrusted cert": {secure.URL, "Bad", false, "/up does not answer: the TLS certificate is not trusted"},
		"no TLS": {strings.Replace(plain.URL, "http:", "https:", 1), "Bad", false,
			"/up does not answer: the far side does not speak TLS"},
		"silent": {"http://" + silent.Addr().String(), "Bad", true, "/up does not answer: no answer in time"},
		"an address of a cloud": {"http://169.254.169.254", "Unknown", false,
			"/up could not be asked: the address 169.254.169.254 is refused"},
		"no such host": {"http://playbook-operator.invalid", "Bad", false,
			"/up does not answer: the host's name does not exist"},
		"reset":   {reset.URL, "Bad", true, "/up does not answer: the connection"},
		"no HTTP": {garbled.URL, "Bad", false, "/up does not answer: the answer was not HTTP"},
		"no URL": {"ftp://s3cret", "Unknown", false,
			"/up could not be asked: not sent: the URL does not have the form"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			look := (&platformapi.Probe{URL: c.url, Timeout: time.Second}).Up(t.Context())
			if look.Verdict != c.verdict || !strings.Contains(look.Message, c.says) || strings.Contains(look.Message,
				"s3cret") || look.Answered || look.Down != c.down {
				t.Errorf("%+v, want %s: %s", look, c.verdict, c.says)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if look := (&platformapi.Probe{URL: plain.URL, Timeout: time.Second}).Up(ended); look.Verdict == platformapi.Good ||
		look.Verdict == platformapi.Bad {
		t.Error(fmt.Sprint("given up: ", look))
	}
}

func TestEachLookHasAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if seen[r.RemoteAddr] {
			t.Error("a connection was used twice")
		}
		seen[r.RemoteAddr] = true
	}))
	t.Cleanup(server.Close)
	p := &platformapi.Probe{URL: server.URL, Timeout: 10 * time.Second, Transport: &http.Transport{}}
	for range 3 {
		if look := p.Up(t.Context()); look.Verdict != platformapi.Good {
			t.Errorf("%+v", look)
		}
	}
}

// jwt is a token with a header.
func jwt(header string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + ".e30.c2ln"
}

func TestWhichKeyATokenWasSignedWith(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ token, kid string }{
		"a JWT":             {jwt(`{"alg": "RS256", "kid": "idp_2026_11"}`), "idp_2026_11"},
		"a JWT without kid": {jwt(`{"alg": "RS256"}`), ""},
		"a kid of no text":  {jwt(`{"kid": 7}`), ""},
		"a kid too long":    {jwt(`{"kid": "` + strings.Repeat("k", 129) + `"}`), ""},
		"opaque":            {"s3cret", ""},
		"opaque, with dots": {"s.3.cret", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(answers(200, `{"access_token": "`+c.token+`"}`))
			t.Cleanup(server.Close)
			p := &platformapi.Probe{URL: server.URL, Timeout: 10 * time.Second}
			if look := p.Tokens(t.Context(), &platformapi.TokenClient{ID: "probe"}); look.Kid != c.kid ||
				look.Verdict != platformapi.Good {
				t.Errorf("%+v, want %q", look, c.kid)
			}
			if look := p.Tokens(t.Context(), nil); look.Kid != "" {
				t.Errorf("a token of nobody's has the kid %q", look.Kid)
			}
		})
	}
}
