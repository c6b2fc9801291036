package render_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const web = logi.WebService

// start serves the stand-in's Render, and returns a client of it.
func start(t *testing.T) (*logi.Render, *render.Client) {
	t.Helper()
	r := logi.NewRender()
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, render.New(server.URL+"/", r.Key(), nil)
}

func TestAServiceIsReadAndAutoDeploySwitched(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	r.AddService("srv-worker", "worker")
	r.Suspend("srv-worker", "billing", "user")
	for id, want := range map[string]render.Service{
		web:          {ID: web, Name: "web", AutoDeploy: true},
		"srv-worker": {ID: "srv-worker", Name: "worker", AutoDeploy: true, Suspended: true, Suspenders: []string{"billing", "user"}},
	} {
		if got, err := c.Service(t.Context(), id); err != nil || fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	for _, on := range []bool{false, false, true} {
		if err := c.SetAutoDeploy(t.Context(), web, on); err != nil || r.AutoDeploy(web) != on {
			t.Errorf("set to %v: %v", on, err)
		}
		if got, err := c.Service(t.Context(), web); err != nil || got.AutoDeploy != on {
			t.Errorf("%+v, %v; want %v", got, err, on)
		}
	}
}

func TestARollbackGoesBackOnce(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	made := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
	good := r.AddDeploy(web, "good", "live", "manual", made)
	bad := r.Push(web, "bad")
	r.SetRollbackDelay(time.Millisecond)
	d, err := c.Rollback(t.Context(), web, good)
	if err != nil || !d.InProgress() || d.Commit != "good" || !d.CommittedAt.Equal(made) || d.Trigger != render.TriggerRollback || d.ID == good || d.CreatedAt.IsZero() {
		t.Fatalf("%+v, %v", d, err)
	}
	for end := time.Now().Add(time.Minute); d.Status != render.StatusLive && time.Now().Before(end); {
		if d, err = c.Deploy(t.Context(), web, d.ID); err != nil {
			t.Fatal(err)
		}
	}
	left, err := c.Deploy(t.Context(), web, bad)
	if err != nil || left.Status != render.StatusDeactivated || left.InProgress() || d.Status != render.StatusLive || d.FinishedAt.IsZero() {
		t.Errorf("%+v and %+v, %v", d, left, err)
	}
	if n := r.Counts().Rollbacks; n != 1 {
		t.Errorf("%d rollbacks", n)
	}
}

func TestAJobIsStartedReadAndFound(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	release := make(chan struct{})
	r.HandleJobs(func(_, command string) error {
		<-release
		if command != "bin/good" {
			return errors.New("exit status 1")
		}
		return nil
	})
	begin := time.Now()
	for command, want := range map[string]string{"bin/good": render.JobSucceeded, "bin/bad": render.JobFailed} {
		j, err := c.StartJob(t.Context(), web, command)
		if err != nil || j.Status != render.JobPending || j.StartCommand != command || !j.FinishedAt.IsZero() {
			t.Fatalf("%+v, %v", j, err)
		}
		release <- struct{}{}
		r.Wait()
		if j, err = c.Job(t.Context(), web, j.ID); err != nil || j.Status != want || j.FinishedAt.IsZero() {
			t.Errorf("%+v, %v; want %s", j, err, want)
		}
	}
	if jobs, err := c.Jobs(t.Context(), web, begin.Add(-time.Second)); err != nil || len(jobs) != 2 {
		t.Errorf("%v, %v", jobs, err)
	}
	if jobs, err := c.Jobs(t.Context(), web, begin.Add(time.Hour)); err != nil || len(jobs) != 0 {
		t.Errorf("%v, %v", jobs, err)
	}
}

// many deploys, of which the oldest is the only good one, and the newest the only other that was ever live.
func many(r *logi.Render, n int) (good, bad string) {
	at := time.Now().Add(-time.Duration(n) * time.Minute)
	good = r.AddDeploy(web, "good", "live", "new_commit", at)
	for i := range n - 2 {
		at = at.Add(time.Minute)
		r.AddDeploy(web, strconv.Itoa(i), "build_failed", "new_commit", at)
	}
	return good, r.AddDeploy(web, "bad", "live", "new_commit", at.Add(time.Minute))
}

func TestAHistoryIsReadOverAllItsPages(t *testing.T) {
	t.Parallel()
	for n, reads := range map[int]int{2: 1, 99: 1, 100: 2, 101: 2, 250: 3, 499: 5} {
		r, c := start(t)
		good, bad := many(r, n)
		deploys, err := c.History(t.Context(), web)
		if err != nil || len(deploys) != n {
			t.Fatalf("%d deploys, %v; want %d", len(deploys), err, n)
		}
		if got := r.Counts().Reads["/services/"+web+"/deploys"]; got != reads {
			t.Errorf("%d deploys took %d reads, want %d", n, got, reads)
		}
		choice := render.Choose(running, deploys, render.Regression{Onset: time.Now(), Window: window, EnoughFrom: time.Now()})
		if id(choice.Suspect) != bad || id(choice.Target) != good {
			t.Errorf("of %d: %+v", n, choice)
		}
	}
}

func TestAHistoryThatIsTooLongIsReadOnlyWhereTheNewestComeFirst(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	many(r, 600)
	if deploys, err := c.History(t.Context(), web); err == nil || !strings.Contains(err.Error(), "too many to be read") {
		t.Errorf("%d deploys, %v", len(deploys), err)
	}
	var pages atomic.Int64
	sorted := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		first := int(pages.Add(1)-1) * 100
		var elements []string
		for i := range 100 {
			elements = append(elements, fmt.Sprintf(`{"cursor":"c%d","deploy":{"id":"d%d","status":"build_failed","createdAt":%q}}`,
				first+i, first+i, onset.Add(-time.Duration(first+i)*time.Second).Format(time.RFC3339)))
		}
		_, _ = io.WriteString(w, "["+strings.Join(elements, ",")+"]")
	}))
	t.Cleanup(sorted.Close)
	if deploys, err := render.New(sorted.URL, "key", nil).History(t.Context(), web); err != nil || len(deploys) != 500 || pages.Load() != 5 {
		t.Errorf("%d deploys on %d pages, %v", len(deploys), pages.Load(), err)
	}
}

func TestAHistoryOverTwoPagesWithA429OnTheSecondIsNotHalfAHistory(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	many(r, 150)
	r.SetFaults(logi.RenderFault{Path: "/deploys", Skip: 1, Times: 1, Status: 429, Header: map[string]string{"Ratelimit-Reset": "7"}})
	deploys, err := c.History(t.Context(), web)
	if limited := (*render.Limited)(nil); !errors.As(err, &limited) || limited.RetryAfter != 7*time.Second || deploys != nil {
		t.Errorf("%d deploys, %v", len(deploys), err)
	}
	if deploys, err := c.History(t.Context(), web); err != nil || len(deploys) != 150 {
		t.Errorf("%d deploys, %v", len(deploys), err)
	}
}

func TestAListThatDoesNotSayWhereItGoesOnIsAnError(t *testing.T) {
	t.Parallel()
	for name, cursor := range map[string]string{"none": ``, "the same": `"cursor":"again",`, "a number": `"cursor":7,`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "["+strings.TrimSuffix(strings.Repeat(`{`+cursor+`"deploy":{"id":"dep-1"}},`, 100), ",")+"]")
		}))
		t.Cleanup(server.Close)
		if deploys, err := render.New(server.URL, "key", nil).History(t.Context(), web); err == nil || !strings.Contains(err.Error(), "does not say where") {
			t.Errorf("%s: %d deploys, %v", name, len(deploys), err)
		}
	}
}

// class of an error, as a caller that must decide sees it.
func class(err error) string {
	refused, limited := (*render.Refused)(nil), (*render.Limited)(nil)
	classes := []string{}
	if errors.As(err, &refused) {
		classes = append(classes, fmt.Sprintf("refused %d", refused.Status))
	}
	if errors.As(err, &limited) {
		classes = append(classes, "limited")
	}
	if errors.Is(err, render.ErrNotSent) {
		classes = append(classes, "not sent")
	}
	switch {
	case err == nil:
		classes = append(classes, "done")
	case len(classes) == 0:
		classes = append(classes, "open")
	}
	text := strings.Join(classes, " and ")
	if err != nil && render.NoEffect(err) != (text != "open") {
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
		"none":                          {logi.RenderFault{}, "done", "done", 1, ""},
		"a lost request":                {logi.RenderFault{Refuse: true}, "open", "open", 0, "the answer broke off"},
		"a lost reply":                  {logi.RenderFault{Refuse: true, AfterEffect: true}, "open", "open", 1, "the answer broke off"},
		"a timeout":                     {logi.RenderFault{DelayMilliseconds: 60_000, Status: 500}, "open", "open", 0, "no answer in time"},
		"a timeout after the effect":    {logi.RenderFault{DelayMilliseconds: 60_000, AfterEffect: true}, "open", "open", 1, "no answer in time"},
		"a slow body":                   {logi.RenderFault{DelayMilliseconds: 60_000, SlowBody: true, Status: 201, AfterEffect: true}, "open", "open", 1, "no answer in time"},
		"a body of 10 MB":               {logi.RenderFault{Megabytes: 10, Status: 201, AfterEffect: true}, "open", "open", 1, "larger than 1 MiB"},
		"a refusal of 10 MB":            {logi.RenderFault{Megabytes: 10, Status: 403}, "refused 403", "refused 403", 0, "HTTP 403"},
		"HTML":                          {logi.RenderFault{Status: 200, Body: "<html>", Header: html}, "open", "open", 0, `its type is "text/html"`},
		"HTML and 401":                  {logi.RenderFault{Status: 401, Body: "<html>", Header: html}, "refused 401", "refused 401", 0, "HTTP 401"},
		"nothing":                       {logi.RenderFault{Status: 200}, "open", "open", 0, "not the JSON"},
		"null":                          {logi.RenderFault{Status: 200, Body: "null"}, "open", "open", 0, "not the JSON"},
		"an empty object":               {logi.RenderFault{Status: 200, Body: "{}"}, "open", "open", 0, "not the JSON"},
		"a list":                        {logi.RenderFault{Status: 200, Body: "[]"}, "open", "open", 0, "not the JSON"},
		"400":                           {logi.RenderFault{Status: 400, Body: `{"id":"req-1","message":"deployId\nis\u0000 bad"}`}, "refused 400", "refused 400", 0, "HTTP 400: deployId is bad"},
		"401":                           {logi.RenderFault{Status: 401, Body: `{"message":"Unauthorized"}`}, "refused 401", "refused 401", 0, "HTTP 401: Unauthorized"},
		"404":                           {logi.RenderFault{Status: 404}, "refused 404", "refused 404", 0, "HTTP 404"},
		"409":                           {logi.RenderFault{Status: 409}, "refused 409", "refused 409", 0, "HTTP 409"},
		"429":                           {logi.RenderFault{Status: 429}, "limited", "limited", 0, "the rate limit of Render's API is reached"},
		"500":                           {logi.RenderFault{Status: 500}, "open", "open", 0, "HTTP 500"},
		"502 after the effect":          {logi.RenderFault{Status: 502, AfterEffect: true}, "open", "open", 1, "HTTP 502"},
		"503":                           {logi.RenderFault{Status: 503}, "open", "open", 0, "HTTP 503"},
		"a redirect to a local address": {logi.RenderFault{Status: 302, Header: map[string]string{"Location": "http://169.254.169.254/latest"}}, "refused 302", "refused 302", 0, "a redirect, which is not followed"},
		"a redirect that keeps POST":    {logi.RenderFault{Status: 307, Header: map[string]string{"Location": "/services/" + web + "/rollback"}}, "refused 307", "refused 307", 0, "a redirect"},
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
				if text := fmt.Sprintf("%v %+v %#v", got.err, got.err, got.err); strings.Contains(text, r.Key()) || strings.Contains(text, "127.0.0.1") || strings.Contains(text, "req-1") {
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
		r.SetFaults(logi.RenderFault{Status: 403, Body: `{"message":"the key ` + strings.TrimSpace(key) + ` is not allowed"}`})
		if _, err := render.New(server.URL, key, nil).Rollback(t.Context(), web, "dep-1"); err == nil || key != "" && strings.Contains(err.Error(), "wr0ng") {
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
		if want := fmt.Sprintf("refused %d", status); class(read) != want || class(write) != want {
			t.Errorf("%d: %v, %v", status, read, write)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("%d calls reached the other host", asked.Load())
	}
}

func TestACallThatNeverLeftIsSaidToBeUnsent(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, reachable := start(t)
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails is wanted
	tls.StartTLS()
	t.Cleanup(tls.Close)
	for name, c := range map[string]struct {
		ctx    context.Context
		client *render.Client
		says   string
	}{
		"refused":                  {t.Context(), render.New(closed, "key", nil), "connection refused"},
		"no such host":             {t.Context(), render.New("http://render.invalid", "key", nil), ""},
		"ended before":             {ended, reachable, "context canceled"},
		"an unknown authority":     {t.Context(), render.New(tls.URL, "key", nil), "certificate"},
		"a base that is no URL":    {t.Context(), render.New("http://exa mple", "key", nil), "URL"},
		"a key that can't be sent": {t.Context(), render.New(closed, "k\ney", nil), "invalid header"},
	} {
		_, err := c.client.Rollback(c.ctx, web, "dep-1")
		if class(err) != "not sent" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %s (%v)", name, class(err), err)
		}
	}
}

// A connection from an earlier call is closed by the server just when the next call uses it. Its request may have been read.
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

// The server closes idle connections at any time: whether a call finds that out before or after it has written, it is never made
// twice, and one that was not made never counts as done.
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

func TestAnAnswerThatLeavesOpenWhatMattersIsAnError(t *testing.T) {
	t.Parallel()
	answered := func(text string) *render.Client {
		return render.New("", "key", answering(func(*http.Request) string { return text }))
	}
	for _, text := range []string{`{"id":"srv-web","autoDeploy":"yes"}`, `{"id":"srv-web","suspended":"perhaps"}`, `{"suspended":"not_suspended"}`} {
		if s, err := answered(text).Service(t.Context(), web); err == nil {
			t.Errorf("%s: %+v", text, s)
		}
	}
	if err := answered(aService).SetAutoDeploy(t.Context(), web, true); err == nil || !strings.Contains(err.Error(), "nothing changed") {
		t.Error(err)
	}
	if d, err := answered(`{"id":"dep-1","status":"live","image":{"ref":"app:1","sha":"sha256:abc"}}`).Deploy(t.Context(), web, "dep-1"); err != nil || d.Commit != "sha256:abc" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestWhenToComeBackIsReadInEveryForm(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC) // the server's clock, which is not ours
	for name, c := range map[string]struct {
		header map[string]string
		want   time.Duration
	}{
		"none":                        {nil, 30 * time.Second},
		"Retry-After in seconds":      {map[string]string{"Retry-After": "7"}, 7 * time.Second},
		"Retry-After as a date":       {map[string]string{"Retry-After": date.Add(9 * time.Second).Format(http.TimeFormat)}, 9 * time.Second},
		"Ratelimit-Reset in seconds":  {map[string]string{"Ratelimit-Reset": "42"}, 42 * time.Second},
		"Ratelimit-Reset as an epoch": {map[string]string{"Ratelimit-Reset": strconv.FormatInt(date.Unix()+43, 10)}, 43 * time.Second},
		"both":                        {map[string]string{"Retry-After": "5", "Ratelimit-Reset": "42"}, 5 * time.Second},
		"one that can't be read":      {map[string]string{"Retry-After": "soon", "Ratelimit-Reset": "42"}, 42 * time.Second},
		"neither can be read":         {map[string]string{"Retry-After": "soon", "Ratelimit-Reset": "later"}, 30 * time.Second},
		"none to wait":                {map[string]string{"Retry-After": "0"}, time.Second},
		"in the past":                 {map[string]string{"Ratelimit-Reset": strconv.FormatInt(date.Unix()-100, 10)}, time.Second},
		"negative":                    {map[string]string{"Retry-After": "-3"}, time.Second},
		"an hour":                     {map[string]string{"Retry-After": "3600"}, 5 * time.Minute},
		"too large":                   {map[string]string{"Ratelimit-Reset": "9223372036854775807"}, 5 * time.Minute},
	} {
		r, client := start(t)
		header := map[string]string{"Date": date.Format(http.TimeFormat)}
		for name, value := range c.header {
			header[name] = value
		}
		r.SetFaults(logi.RenderFault{Status: 429, Header: header})
		_, err := client.Service(t.Context(), web)
		if limited := (*render.Limited)(nil); !errors.As(err, &limited) || limited.RetryAfter != c.want {
			t.Errorf("%s: %v %v, want %v", name, err, limited, c.want)
		}
	}
}

func TestTheFarSidesOwnLimitIsUnderstood(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	r.LimitRates(1, 1)
	if _, err := c.Service(t.Context(), web); err != nil {
		t.Error(err)
	}
	_, err := c.Service(t.Context(), web)
	if limited := (*render.Limited)(nil); !errors.As(err, &limited) || limited.RetryAfter > time.Minute {
		t.Errorf("%v", err)
	}
}

// answering answers every call in memory, so that a test has its own time.
type answering func(*http.Request) string

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a(r))), Request: r}, nil
}

const aService = `{"id":"srv-web","autoDeploy":"no","suspended":"not_suspended"}`

func TestNoMinuteSeesMoreCallsThanRenderTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		sent := map[string][]time.Time{}
		c := render.New("", "key", answering(func(r *http.Request) string {
			mu.Lock()
			defer mu.Unlock()
			sent[r.Method] = append(sent[r.Method], time.Now())
			return aService
		}))
		var callers sync.WaitGroup
		end := time.Now().Add(5 * time.Minute)
		for range 20 {
			callers.Go(func() {
				for time.Now().Before(end) {
					_, read := c.Service(t.Context(), web)
					write := c.SetAutoDeploy(t.Context(), web, false)
					for _, err := range []error{read, write} {
						if got := class(err); got != "done" && got != "limited" {
							t.Error(err)
						}
					}
					time.Sleep(time.Second)
				}
			})
		}
		callers.Wait()
		for method, c := range map[string]struct{ most, least int }{http.MethodGet: {400, 1000}, http.MethodPatch: {30, 75}} {
			if len(sent[method]) < c.least {
				t.Errorf("%s: %d calls in five minutes, want at least %d", method, len(sent[method]), c.least)
			}
			for first, last := 0, 0; last < len(sent[method]); last++ {
				for sent[method][last].Sub(sent[method][first]) >= time.Minute {
					first++
				}
				if n := last - first + 1; n > c.most {
					t.Fatalf("%s: %d calls within a minute", method, n)
				}
			}
		}
	})
}

func FuzzAPageOfDeploys(f *testing.F) {
	for _, seed := range []string{
		`[]`, `null`, `{}`, `[null]`, `[{}]`, `[{"deploy":null}]`, `[{"cursor":"c","deploy":{"id":"dep-1","status":"live","finishedAt":"2026-11-23T02:50:00Z","commit":{"id":"a"}}}]`,
		`[{"cursor":7,"deploy":{"id":"dep-1","status":"melted","trigger":"teleport","createdAt":"2026-11-23T02:50:00Z","image":{"sha":"sha256:1"}}},
		  {"cursor":"d","deploy":{"id":"dep-2","status":"deactivated","finishedAt":"0001-01-01T00:00:00Z","commit":null}}]`,
		`[{"deploy":{"id":"dep-1","status":"live","finishedAt":"tomorrow"}}]`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, suspended bool) {
		c := render.New("", "s3cret-key", answering(func(*http.Request) string { return string(body) }))
		deploys, _, err := c.Deploys(t.Context(), web, 2, "")
		if err != nil && (deploys != nil || len(err.Error()) > 500) {
			t.Errorf("%d deploys, %v", len(deploys), err)
		}
		for _, d := range deploys {
			if d.ID == "" {
				t.Errorf("%+v", d)
			}
		}
		got := render.Choose(&render.Service{Suspended: suspended}, deploys, regression())
		if (got.Target == nil) == (got.Why == "") || (got.Target != nil) != (got.Verdict == render.Pair) || suspended && got.Target != nil {
			t.Errorf("%+v", got)
		}
	})
}
