package render_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
		web: {ID: web, Name: "web", AutoDeploy: true},
		"srv-worker": {ID: "srv-worker", Name: "worker", AutoDeploy: true, Suspended: true,
			Suspenders: []string{"billing", "user"}},
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
	if err != nil || !d.InProgress() || d.Commit != "good" || !d.CommittedAt.Equal(made) ||
		d.Trigger != render.TriggerRollback || d.ID == good || d.CreatedAt.IsZero() {
		t.Fatalf("%+v, %v", d, err)
	}
	for end := time.Now().Add(time.Minute); d.Status != render.StatusLive && time.Now().Before(end); {
		if d, err = c.Deploy(t.Context(), web, d.ID); err != nil {
			t.Fatal(err)
		}
	}
	left, err := c.Deploy(t.Context(), web, bad)
	if err != nil || left.Status != render.StatusDeactivated || left.InProgress() || d.Status != render.StatusLive ||
		d.FinishedAt.IsZero() {
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

func TestAnAnswerThatLeavesOpenWhatMattersIsAnError(t *testing.T) {
	t.Parallel()
	answered := func(text string) *render.Client {
		return render.New("", "key", answering(func(*http.Request) string { return text }))
	}
	for _, text := range []string{`{"id":"srv-web","autoDeploy":"yes"}`, `{"id":"srv-web","suspended":"perhaps"}`,
		`{"suspended":"not_suspended"}`} {
		if s, err := answered(text).Service(t.Context(), web); err == nil {
			t.Errorf("%s: %+v", text, s)
		}
	}
	if err := answered(aService).SetAutoDeploy(t.Context(), web, true); err == nil ||
		!strings.Contains(err.Error(), "nothing changed") {
		t.Error(err)
	}
	image := answered(`{"id":"dep-1","status":"live","image":{"ref":"app:1","sha":"sha256:abc"}}`)
	if d, err := image.Deploy(t.Context(), web, "dep-1"); err != nil || d.Commit != "sha256:abc" {
		t.Errorf("%+v, %v", d, err)
	}
}

// answering answers every call in memory, so that a test has its own time.
type answering func(*http.Request) string

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a(r))),
		Request: r}, nil
}

const aService = `{"id":"srv-web","autoDeploy":"no","suspended":"not_suspended"}`
