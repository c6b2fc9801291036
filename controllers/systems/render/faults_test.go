package render_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// class of an error, as a caller that must decide sees it.
func class(err error) string {
	unsent, refused, limited := (*outbound.NotSent)(nil), (*outbound.Refused)(nil), (*outbound.Limited)(nil)
	classes := []string{}
	if errors.As(err, &refused) {
		classes = append(classes, fmt.Sprintf("refused %d", refused.Status))
	}
	if errors.As(err, &limited) {
		classes = append(classes, "limited")
	}
	if errors.As(err, &unsent) {
		classes = append(classes, "not sent")
	}
	switch {
	case err == nil:
		classes = append(classes, "done")
	case len(classes) == 0:
		classes = append(classes, "open")
	}
	text := strings.Join(classes, " and ")
	if err != nil && outbound.NoEffect(err) != (text != "open") {
		return text + ", and NoEffect is another"
	}
	return text
}

func TestEveryFaultIsOfOneClassAndAWriteIsNotRepeated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault       logi.RenderFault
		read, write string
		effects     int
		says        string
	}{
		"none":           {logi.RenderFault{}, "done", "done", 1, ""},
		"a lost request": {logi.RenderFault{Refuse: true}, "open", "open", 0, "closed without an answer"},
		"a lost reply": {logi.RenderFault{Refuse: true, AfterEffect: true}, "open", "open", 1,
			"closed without an answer"},
		"a timeout": {logi.RenderFault{DelayMilliseconds: 60_000, Status: 500}, "open", "open", 0,
			"no answer in time"},
		"a timeout after the effect": {logi.RenderFault{DelayMilliseconds: 60_000, AfterEffect: true}, "open", "open", 1,
			"no answer in time"},
		"a slow body": {logi.RenderFault{DelayMilliseconds: 60_000, SlowBody: true, Status: 201,
			AfterEffect: true}, "open", "open", 1, "broke off or is too long"},
		"a body of 10 MB": {logi.RenderFault{Megabytes: 10, Status: 201, AfterEffect: true}, "open", "open", 1,
			"broke off or is too long"},
		"a refusal of 10 MB": {logi.RenderFault{Megabytes: 10, Status: 403}, "refused 403", "refused 403", 0,
			"HTTP 403"},
		"HTML": {logi.RenderFault{Status: 200, Body: "<html>", Header: html}, "open", "open", 0,
			"is not this API's"},
		"HTML and 401": {logi.RenderFault{Status: 401, Body: "<html>", Header: html}, "refused 401",
			"refused 401", 0, "HTTP 401"},
		"nothing": {logi.RenderFault{Status: 200}, "open", "open", 0, "is not this API's"},
		"null": {logi.RenderFault{Status: 200, Body: "null"}, "open", "open", 0,
			"is not this API's"},
		"an empty object": {logi.RenderFault{Status: 200, Body: "{}"}, "open", "open", 0, "is not this API's"},
		"a list":          {logi.RenderFault{Status: 200, Body: "[]"}, "open", "open", 0, "is not this API's"},
		"400": {logi.RenderFault{Status: 400,
			Body: `{"id":"req-1","message":"deployId\nis\u0000 bad"}`}, "refused 400", "refused 400", 0,
			"HTTP 400: deployId is bad"},
		"401": {logi.RenderFault{Status: 401, Body: `{"message":"Unauthorized"}`}, "refused 401",
			"refused 401", 0, "HTTP 401: Unauthorized"},
		"404": {logi.RenderFault{Status: 404}, "refused 404", "refused 404", 0, "HTTP 404"},
		"406": {logi.RenderFault{Status: 406}, "refused 406", "refused 406", 0, "HTTP 406"},
		"408": {logi.RenderFault{Status: 408}, "open", "open", 0, "HTTP 408"},
		"409": {logi.RenderFault{Status: 409}, "refused 409", "refused 409", 0, "HTTP 409"},
		"410": {logi.RenderFault{Status: 410}, "refused 410", "refused 410", 0, "HTTP 410"},
		"409 that names the service": {logi.RenderFault{Status: 409, Body: `{"message":"` + web + ` has no such deploy"}`},
			"refused 409", "refused 409", 0, "HTTP 409: " + web + " has"},
		"409 that is long": {logi.RenderFault{Status: 409, Body: `{"message":"` + strings.Repeat("ü", 1000) +
			`"}`}, "refused 409", "refused 409", 0, strings.Repeat("ü", 300) + "…"},
		"429":                  {logi.RenderFault{Status: 429}, "limited", "limited", 0, "limited with HTTP 429"},
		"500":                  {logi.RenderFault{Status: 500}, "open", "open", 0, "HTTP 500"},
		"502 after the effect": {logi.RenderFault{Status: 502, AfterEffect: true}, "open", "open", 1, "HTTP 502"},
		"503":                  {logi.RenderFault{Status: 503}, "open", "open", 0, "HTTP 503"},
		"a redirect to a local address": {logi.RenderFault{Status: 302,
			Header: map[string]string{"Location": "http://169.254.169.254/latest"}}, "open", "open", 0,
			"HTTP 302, a redirect, which is not followed"},
		"a redirect that keeps POST": {logi.RenderFault{Status: 307,
			Header: map[string]string{"Location": "/services/" + web + "/rollback"}}, "open", "open", 0, "HTTP 307, a redirect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, client := start(t)
			good := r.DeployCommit(web, "good")
			r.SetFaults(c.fault)
			within := func() context.Context {
				if c.fault.DelayMilliseconds == 0 {
					return t.Context()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				t.Cleanup(cancel)
				return ctx
			}
			_, read := client.Service(within(), web)
			_, write := client.Rollback(within(), web, good)
			for what, got := range map[string]struct {
				err  error
				want string
			}{"read": {read, c.read}, "write": {write, c.write}} {
				if class(got.err) != got.want || c.says != "" && !strings.Contains(fmt.Sprint(got.err), c.says) {
					t.Errorf("%s: %s (%v), want %s (%s)", what, class(got.err), got.err, got.want, c.says)
				}
				if text := fmt.Sprintf("%v %+v %#v", got.err, got.err, got.err); strings.Contains(text, r.Key()) ||
					strings.Contains(text, "127.0.0.1") || strings.Contains(text, "req-1") {
					t.Errorf("%s: the error repeats what it should not: %s", what, text)
				}
			}
			if got := r.Counts(); got.Rollbacks != c.effects || got.Reads["/services/"+web] != 1 {
				t.Errorf("%+v, want %d rollbacks and a read", got, c.effects)
			}
		})
	}
}

var html = map[string]string{"Content-Type": "text/html; charset=utf-8"}

func TestAKeyThatIsRefusedIsNotRepeated(t *testing.T) {
	t.Parallel()
	r, _ := start(t)
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	for _, key := range []string{"rnd_wr0ng", "rnd_wr0ng\n", ""} {
		r.SetFaults()
		_, err := render.New(server.URL, key, nil).Service(t.Context(), web)
		if err == nil || key != "" && strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%q: %v", key, err)
		}
		r.SetFaults(logi.RenderFault{Status: 403, Body: `{"message":"the key ` + strings.TrimSpace(key) +
			` is not allowed"}`})
		_, err = render.New(server.URL, key, nil).Rollback(t.Context(), web, "dep-1")
		if err == nil || key != "" && strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestTheKeyDoesNotGoToAnotherHost(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(other.Close)
	r, c := start(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		r.SetFaults(logi.RenderFault{Status: status, Header: map[string]string{"Location": other.URL}})
		_, read := c.Service(t.Context(), web)
		write := c.SetAutoDeploy(t.Context(), web, false)
		if class(read) != "open" || class(write) != "open" {
			t.Errorf("%d: %v, %v", status, read, write)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("%d calls reached the other host", asked.Load())
	}
}

// outbound's tests have the ways in which a call doesn't leave. This test is that Render's client keeps them apart.
func TestACallThatNeverLeftIsSaidToBeUnsent(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, reachable := start(t)
	for name, c := range map[string]struct {
		ctx        context.Context
		client     *render.Client
		want, says string
	}{
		"nobody listens":        {t.Context(), render.New(gone.URL, "key", nil), "not sent", "connection refused"},
		"ended before":          {ended, reachable, "not sent", "given up before it was sent"},
		"an address of a cloud": {t.Context(), render.New("http://169.254.169.254", "key", nil), "not sent", "link-local"},
		"a base that is no URL": {t.Context(), render.New("http://exa mple", "key", nil), "refused 0", "URL"},
		"a key that can't be sent": {t.Context(), render.New(gone.URL, "k\ney", nil), "refused 0",
			"the header Authorization"},
	} {
		_, err := c.client.Rollback(c.ctx, web, "dep-1")
		if class(err) != c.want || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %s (%v)", name, class(err), err)
		}
	}
}

// The server closes a connection of an earlier call just when the next call uses it. It may have read the request.
func TestAWriteOverAConnectionThatIsClosedUnderItIsNotRepeated(t *testing.T) {
	t.Parallel()
	r, _ := start(t)
	good := r.DeployCommit(web, "good")
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	var dials atomic.Int64
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	c := render.New(server.URL, r.Key(), transport)
	if _, err := c.Service(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	r.SetFaults(logi.RenderFault{Refuse: true, AfterEffect: true})
	if _, err := c.Rollback(t.Context(), web, good); class(err) != "open" {
		t.Error(err)
	}
	if got := r.Counts().Rollbacks; got != 1 || dials.Load() != 1 {
		t.Errorf("%d rollbacks over %d connections", got, dials.Load())
	}
}

// The server closes idle connections at any time. Whether a call notices before or after it has written: it is never
// made twice, and a call that was not made never counts as done.
func TestIdleConnectionsThatCloseMakeNoWriteTwice(t *testing.T) {
	t.Parallel()
	var calls, done, open int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		atomic.AddInt64(&calls, 1)
		_, _ = io.WriteString(w, `{"id":"dep-1"}`)
	}))
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	for range 200 {
		// Each has a budget of its own.
		_, err := render.New(server.URL, "key", transport).Rollback(t.Context(), web, "dep-1")
		switch got := class(err); got {
		case "done":
			done++
		case "open":
			open++
		case "not sent":
		default:
			t.Error(got)
		}
		go server.CloseClientConnections()
	}
	if n := atomic.LoadInt64(&calls); n < done || n > done+open {
		t.Errorf("the far side saw %d calls; %d succeeded and %d are open", n, done, open)
	}
}
