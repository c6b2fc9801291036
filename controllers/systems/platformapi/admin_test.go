package platformapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

const (
	token = "t0ken-of-an-admin"
	nonce = "n0nce-of-a-person"
)

// farSide is an admin API that counts the calls that reached it.
type farSide struct {
	*httptest.Server
	calls atomic.Int64
}

func answer(t *testing.T, handler http.HandlerFunc) *farSide {
	t.Helper()
	f := &farSide{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.calls.Add(1)
		handler(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func with(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the client may have read enough
	}
}

// hijack takes the connection over after the request was read, so that anything can be answered.
func hijack(t *testing.T, do func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the request is complete
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		do(conn)
	}
}

func raw(t *testing.T, text string) http.HandlerFunc {
	return hijack(t, func(conn net.Conn) { _, _ = io.WriteString(conn, text) })
}

// retry asks for entry 42 and checks what holds of every answer: no error repeats a secret, and NoEffect says what the
// class says.
func retry(t *testing.T, ctx context.Context, admin *platformapi.Admin) error {
	t.Helper()
	err := admin.Retry(ctx, 42, nonce)
	if err != nil {
		for _, secret := range []string{token, nonce} {
			if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, secret) {
				t.Errorf("the error repeats a secret: %s", text)
			}
		}
	}
	if got := class(err); outbound.NoEffect(err) != (got != "done" && got != "unknown") {
		t.Errorf("NoEffect is %v of %s: %v", outbound.NoEffect(err), got, err)
	}
	return err
}

func class(err error) string {
	refused, limited, unsent := (*outbound.Refused)(nil), (*outbound.Limited)(nil), (*outbound.NotSent)(nil)
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &refused):
		return fmt.Sprintf("refused %d %s", refused.Status, refused.Message)
	case errors.As(err, &limited):
		return "limited"
	case errors.As(err, &unsent):
		return "unsent"
	}
	return "unknown"
}

func TestTheRequestIsWhatTheAdminAPITakes(t *testing.T) {
	t.Parallel()
	f := answer(t, func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body) != 1 ||
			body["action_request_nonce"] != nonce {
			t.Errorf("the body is %v, %v", body, err)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/api/v1/admin/webhook_outbox/42/retry" ||
			r.Header.Get("Authorization") != "Bearer "+token ||
			r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		w.WriteHeader(http.StatusOK)
	})
	for _, url := range []string{f.URL, f.URL + "/"} {
		if err := retry(t, t.Context(), platformapi.NewAdmin(url, token, nil)); err != nil {
			t.Error(err)
		}
	}
}

func TestEveryAnswerIsOfOneClassAndIsAskedForOnce(t *testing.T) {
	t.Parallel()
	refusal := `{"error":{"code":"nonce_used","message":"step-up authentication is required"}}`
	html := "<!DOCTYPE html><html><body>" + nonce + token + "</body></html>"
	big := strings.Repeat("x", 10<<20)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"200":                     {with(200, `{"id":42,"status":"pending"}`), "done"},
		"202":                     {with(202, ""), "done"},
		"204":                     {with(204, ""), "done"},
		"200 with HTML":           {with(200, html), "done"},
		"200 with 10 MB":          {with(200, big), "done"},
		"200 with half a body":    {raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\""), "done"},
		"200 with a broken chunk": {raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense"), "done"},
		"301":                     {redirect(301), "unknown"},
		"302":                     {redirect(302), "unknown"},
		"303":                     {redirect(303), "unknown"},
		"307":                     {redirect(307), "unknown"},
		"308":                     {redirect(308), "unknown"},
		"304":                     {with(304, ""), "unknown"},
		"400":                     {with(400, refusal), "refused 400 nonce_used"},
		"401":                     {with(401, refusal), "refused 401 nonce_used"},
		"403":                     {with(403, refusal), "refused 403 nonce_used"},
		"404":                     {with(404, refusal), "refused 404 nonce_used"},
		"406":                     {with(406, refusal), "refused 406 nonce_used"},
		"408":                     {with(408, refusal), "unknown"},
		"409":                     {with(409, refusal), "refused 409 nonce_used"},
		"410":                     {with(410, refusal), "refused 410 nonce_used"},
		"422":                     {with(422, refusal), "refused 422 nonce_used"},
		"429":                     {with(429, refusal), "limited"},
		"403 with HTML":           {with(403, html), "refused 403 "},
		"403 with 10 MB":          {with(403, big), "refused 403 "},
		"403 without a body":      {with(403, ""), "refused 403 "},
		"403 with half a body": {raw(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\n{\"error\""),
			"refused 403 "},
		"403 with another shape":    {with(403, `{"error":"invalid_token"}`), "refused 403 "},
		"403 with a secret as code": {with(403, `{"error":{"code":"`+nonce+`"}}`), "refused 403 "},
		"403 with a sentence":       {with(403, `{"error":{"code":"Not today"}}`), "refused 403 "},
		"500":                       {with(500, refusal), "unknown"},
		"502":                       {with(502, html), "unknown"},
		"503":                       {with(503, ""), "unknown"},
		"504 with 10 MB":            {with(504, big), "unknown"},
		"500 with half a body":      {raw(t, "HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\n{"), "unknown"},
		"101": {raw(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
			"unknown"},
		"no HTTP":                  {raw(t, "220 smtp.example.com ESMTP\r\n"), "unknown"},
		"a header that never ends": {raw(t, "HTTP/1.1 200 OK\r\nX-Long: "+big), "unknown"},
		"a cut connection":         {raw(t, ""), "unknown"},
		"half a header":            {raw(t, "HTTP/1.1 200 OK\r\nContent-"), "unknown"},
		"a reset connection": {hijack(t, func(conn net.Conn) {
			_ = conn.(*net.TCPConn).SetLinger(0) // close sends RST
		}), "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := answer(t, c.answer)
			err := retry(t, t.Context(), platformapi.NewAdmin(f.URL, token, nil))
			if got := class(err); got != c.want {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d characters", len(err.Error()))
			}
			if n := f.calls.Load(); n != 1 {
				t.Errorf("the far side saw %d calls, want 1", n)
			}
		})
	}
}

// redirect to where a second call would be counted.
func redirect(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}
}

func TestATimeoutLeavesOpenWhetherItHappened(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{"before the answer": "", "within the header": "HTTP/1.1 200 OK\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan struct{})
			f := answer(t, hijack(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, begin)
				close(arrived)
				_, _ = conn.Read(make([]byte, 1)) // until the client hangs up
			}))
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-arrived; cancel() }()
			if got := class(retry(t, ctx, platformapi.NewAdmin(f.URL, token, nil))); got != "unknown" {
				t.Error(got)
			}
			if n := f.calls.Load(); n != 1 {
				t.Errorf("the far side saw %d calls, want 1", n)
			}
		})
	}
}

func TestAServerThatNeverAnswersIsGivenUpAfterAWhile(t *testing.T) {
	t.Parallel()
	f := answer(t, hijack(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }))
	err := retry(t, t.Context(), platformapi.NewAdmin(f.URL, token, nil))
	if class(err) != "unknown" || f.calls.Load() != 1 {
		t.Errorf("%v after %d calls", err, f.calls.Load())
	}
}

func TestWhatNeverReachedTheFarSideCanBeAskedAgain(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	closed.Close()
	untrusted := httptest.NewUnstartedServer(with(200, ""))
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // a handshake that fails is the point
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	plain := answer(t, with(200, ""))
	t.Cleanup(func() {
		if n := plain.calls.Load(); n != 0 {
			t.Errorf("the far side saw %d calls", n)
		}
	})
	for name, c := range map[string]struct{ url, want string }{
		"connection refused":    {closed.URL, "unsent"},
		"no such host":          {"http://nowhere.invalid", "unsent"},
		"unknown authority":     {untrusted.URL, "unsent"},
		"TLS to a plain server": {strings.Replace(plain.URL, "http:", "https:", 1), "unsent"},
		"an address of a cloud": {"http://169.254.169.254", "unsent"},
		"a malformed URL":       {"http://127.0.0.1:nonsense", "refused 0 the URL does not have the form https://host/path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := class(retry(t, t.Context(), platformapi.NewAdmin(c.url, token, nil))); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	t.Run("cancelled before", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := class(retry(t, ctx, platformapi.NewAdmin(plain.URL, token, nil))); got != "unsent" {
			t.Error(got)
		}
	})
	t.Run("a token that is no header", func(t *testing.T) {
		t.Parallel()
		want := "refused 0 the header Authorization has a control character in it"
		if got := class(retry(t, t.Context(), platformapi.NewAdmin(plain.URL, token+"\n", nil))); got != want {
			t.Error(got)
		}
	})
}

// A connection from an earlier call is closed by the server just when the next call uses it. Its request may have been
// read.
func TestACallOverAConnectionThatIsClosedUnderItIsNotRepeated(t *testing.T) {
	t.Parallel()
	var f *farSide
	f = answer(t, func(w http.ResponseWriter, r *http.Request) {
		if f.calls.Load() > 1 {
			raw(t, "")(w, r)
		}
	})
	var dials atomic.Int64
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	admin := platformapi.NewAdmin(f.URL, token, transport)
	if err := retry(t, t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if got := class(retry(t, t.Context(), admin)); got != "unknown" {
		t.Error(got)
	}
	if calls, dialled := f.calls.Load(), dials.Load(); calls != 2 || dialled != 1 {
		t.Errorf("%d calls over %d connections, want 2 over 1", calls, dialled)
	}
}

// The server closes idle connections at any time: whether a call finds that out before or after it has written, it is
// never made twice, and one that was not made never counts as done.
func TestIdleConnectionsThatCloseMakeNoCallTwice(t *testing.T) {
	t.Parallel()
	f := answer(t, with(200, ""))
	admin := platformapi.NewAdmin(f.URL, token, &http.Transport{})
	var done, open int64
	for range 200 {
		switch got := class(retry(t, t.Context(), admin)); got {
		case "done":
			done++
		case "unknown":
			open++
		case "unsent":
		default:
			t.Error(got)
		}
		go f.CloseClientConnections()
	}
	if calls := f.calls.Load(); calls < done || calls > done+open {
		t.Errorf("the far side saw %d calls; %d succeeded and %d are open", calls, done, open)
	}
}
