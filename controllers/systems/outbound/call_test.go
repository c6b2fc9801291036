package outbound_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// post makes a call that has an effect, and answers with an error where the status isn't 2xx.
func post(ctx context.Context, transport http.RoundTripper, url string) error {
	answer, err := outbound.Do(ctx, transport,
		outbound.Call{Method: http.MethodPost, URL: url, Body: "effect", MaxAnswer: 1 << 10})
	if err != nil {
		return err
	}
	if answer.Status/100 == 2 && answer.Body != nil {
		return nil
	}
	return answer.Err("")
}

// class of an error, as a caller that must decide sees it.
func class(err error) string {
	unsent, refused, limited := (*outbound.NotSent)(nil), (*outbound.Refused)(nil), (*outbound.Limited)(nil)
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &unsent):
		return "not sent"
	case errors.As(err, &refused):
		return fmt.Sprintf("refused %d", refused.Status)
	case errors.As(err, &limited):
		return "limited"
	}
	return "open"
}

// expect checks the class, what a person reads, and that NoEffect agrees with the class.
func expect(t *testing.T, name string, err error, want, says string) {
	t.Helper()
	if got := class(err); got != want || !strings.Contains(fmt.Sprint(err), says) {
		t.Errorf("%s: %s (%v), want %s (%s)", name, got, err, want, says)
	}
	if got := outbound.NoEffect(err); got != (want != "done" && want != "open") {
		t.Errorf("%s: NoEffect is %v of %v", name, got, err)
	}
	// Callers wrap the error with what they were doing.
	if got := outbound.NoEffect(fmt.Errorf("rolling back: %w", err)); err != nil && got != outbound.NoEffect(err) {
		t.Errorf("%s: wrapped, NoEffect is %v", name, got)
	}
}

// hijack takes the connection over once the request was read, so that anything can be answered.
func hijack(t *testing.T, do func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		do(conn)
	}
}

func TestWhatNeverGotAConnectionIsNotSent(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	far := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	gone := httptest.NewServer(far)
	gone.Close()
	untrusted := httptest.NewUnstartedServer(far)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails is wanted
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	plain := httptest.NewServer(far)
	t.Cleanup(plain.Close)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	t.Cleanup(cancel)
	for name, c := range map[string]struct {
		ctx        context.Context
		url        string
		want, says string
	}{
		"nobody listens":       {t.Context(), gone.URL, "not sent", "connecting: connection refused"},
		"no such host":         {t.Context(), "http://nowhere.invalid", "not sent", "the host's name"},
		"an unknown authority": {t.Context(), untrusted.URL, "not sent", "the TLS certificate is not trusted"},
		"no TLS": {t.Context(), strings.Replace(plain.URL, "http:", "https:", 1), "not sent",
			"does not speak TLS"},
		"an address of a cloud": {t.Context(), "http://169.254.169.254", "not sent", "link-local"},
		"ended before":          {ended, plain.URL, "not sent", "given up before it was sent"},
		"late already":          {late, plain.URL, "not sent", "no connection in time"},
		"no URL":                {t.Context(), "ftp://host", "refused 0", "the URL does not have the form"},
	} {
		expect(t, name, post(c.ctx, nil, c.url), c.want, c.says)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls arrived", n)
	}
}

// Once there was a connection, only an answer says what the far side did.
func TestWhatGotAConnectionIsOpenUntilItIsAnswered(t *testing.T) {
	t.Parallel()
	raw := func(text string) http.HandlerFunc {
		return hijack(t, func(conn net.Conn) { _, _ = io.WriteString(conn, text) })
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	silent := hijack(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) })
	for name, c := range map[string]struct {
		far        http.HandlerFunc
		want, says string
	}{
		"200":                    {status(200), "done", ""},
		"301":                    {status(301), "open", "HTTP 301, a redirect, which is not followed"},
		"303":                    {status(303), "open", "a redirect"},
		"307":                    {status(307), "open", "a redirect"},
		"400":                    {status(400), "refused 400", "refused with HTTP 400"},
		"406":                    {status(406), "refused 406", ""},
		"408":                    {status(408), "open", "the answer was HTTP 408"},
		"410":                    {status(410), "refused 410", ""},
		"420":                    {status(420), "limited", "limited with HTTP 420"},
		"429":                    {status(429), "limited", "limited with HTTP 429"},
		"500":                    {status(500), "open", "HTTP 500"},
		"503":                    {status(503), "open", "HTTP 503"},
		"an answer that is long": {raw("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 2<<10)), "open", "too long"},
		"half an answer":         {raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "open", "broke off"},
		"half a refusal":         {raw("HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n{"), "refused 403", ""},
		"closed at once":         {raw(""), "open", "closed without an answer"},
		"not HTTP":               {raw("220 smtp.example.com ESMTP\r\n"), "open", "the answer was not HTTP"},
		"reset": {hijack(t, func(conn net.Conn) {
			_ = conn.(*net.TCPConn).SetLinger(0) // close sends RST
		}), "open", "the connection broke: connection reset by peer"},
		"silent": {silent, "open", "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				w.Header().Set("Location", "/elsewhere")
				c.far(w, r)
			}))
			t.Cleanup(server.Close)
			ctx := t.Context()
			if name == "silent" {
				short, cancel := context.WithTimeout(ctx, time.Second)
				t.Cleanup(cancel)
				ctx = short
			}
			expect(t, name, post(ctx, nil, server.URL), c.want, c.says)
			if n := calls.Load(); n != 1 {
				t.Errorf("%d calls arrived", n)
			}
		})
	}
}

// The far side closes a connection that it kept just when the next call uses it. It may have read the request, so the
// call is neither made again nor said to be unsent.
func TestAConnectionThatWasKeptAndClosesUnderACallLeavesItOpen(t *testing.T) {
	t.Parallel()
	var closing atomic.Bool
	var calls, dials atomic.Int64
	drop := hijack(t, func(net.Conn) {})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if closing.Load() {
			drop(w, r)
		}
	}))
	t.Cleanup(server.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	keep(t, transport, server.URL)
	closing.Store(true)
	called, dialled := calls.Load(), dials.Load()
	expect(t, "the next call", post(t.Context(), transport, server.URL), "open", "closed without an answer")
	if calls.Load() != called+1 || dials.Load() != dialled {
		t.Errorf("%d more calls and %d more connections, want 1 and 0", calls.Load()-called, dials.Load()-dialled)
	}
}

// keep makes calls until the transport has kept the connection of one: it waits only so long for the end of its own
// write.
func keep(t *testing.T, transport http.RoundTripper, url string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		var kept atomic.Bool
		ctx := httptrace.WithClientTrace(t.Context(),
			&httptrace.ClientTrace{PutIdleConn: func(err error) { kept.Store(err == nil) }})
		if err := post(ctx, transport, url); err != nil {
			t.Fatal(err)
		}
		if kept.Load() {
			return
		}
	}
	t.Fatal("no connection was kept")
}

// breaking is a connection that takes no more bytes once it is told so.
type breaking struct {
	net.Conn
	broken *atomic.Bool
}

func (b breaking) Write(p []byte) (int, error) {
	if b.broken.Load() {
		return 0, syscall.EPIPE
	}
	return b.Conn.Write(p)
}

// net/http makes such a call again over a new connection, if it can read the body again.
func TestAConnectionThatWasKeptAndTakesNothingIsNotReplaced(t *testing.T) {
	t.Parallel()
	var calls, dials atomic.Int64
	var broken atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	t.Cleanup(server.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return breaking{conn, &broken}, err
	}}
	t.Cleanup(transport.CloseIdleConnections)
	keep(t, transport, server.URL)
	broken.Store(true)
	called, dialled := calls.Load(), dials.Load()
	expect(t, "the next call", post(t.Context(), transport, server.URL), "open", "the connection broke")
	if calls.Load() != called || dials.Load() != dialled {
		t.Errorf("%d more calls and %d more connections, want none", calls.Load()-called, dials.Load()-dialled)
	}
}

func TestAPathFollowsTheURLAndIsNoSecret(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/token-0123456789/services/srv-0123?limit=100" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(http.StatusConflict)
	}))
	t.Cleanup(server.Close)
	for _, slash := range []string{"", "/"} {
		answer, err := outbound.Do(t.Context(), nil, outbound.Call{
			Method: http.MethodGet, URL: server.URL + "/token-0123456789" + slash, Path: "/services/srv-0123?limit=100",
			Secrets: []string{"hunter-two"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for message, want := range map[string]string{
			"srv-0123 is\nsuspended, 100 of 100\x00": "refused with HTTP 409: srv-0123 is suspended, 100 of 100",
			"not with TOKEN-0123456789":              "refused with HTTP 409",
			"not with HUNTER-TWO":                    "refused with HTTP 409",
			"not with hunter-t":                      "refused with HTTP 409",
			strings.Repeat("ü", 1000):                "refused with HTTP 409: " + strings.Repeat("ü", 300) + "…",
		} {
			if got := answer.Err(message).Error(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}

func TestAHeaderThatCantBeSentIsNamedAndNotShown(t *testing.T) {
	t.Parallel()
	_, err := outbound.Do(t.Context(), nil, outbound.Call{
		Method: http.MethodGet, URL: "http://127.0.0.1:1", Header: map[string]string{"Authorization": "Bearer hunter\ntwo"},
	})
	expect(t, "a newline", err, "refused 0", "not sent: the header Authorization has a control character in it")
	if strings.Contains(err.Error(), "hunter") {
		t.Error(err)
	}
}
