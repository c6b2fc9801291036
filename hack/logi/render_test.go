package logi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const servicePath = logi.RenderPath + "/services/" + logi.WebService

// render calls Render's API with the platform's key, and returns the answer's status.
func (p *platform) render(method, path, body string, out any) int {
	p.t.Helper()
	return p.request(method, path, p.Render().Key(), body, out)
}

type deploy struct {
	ID     string `json:"id"`
	Commit struct {
		ID        string
		CreatedAt time.Time
	} `json:"commit"`
	Status     string    `json:"status"`
	Trigger    string    `json:"trigger"`
	CreatedAt  time.Time `json:"createdAt"`
	FinishedAt time.Time `json:"finishedAt"`
}

func TestABadCommitBreaksThePlatformAndARollbackMendsIt(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	r := p.Render()
	made := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
	good := r.AddDeploy(logi.WebService, "good", "live", "manual", made)
	r.BreakCommit("bad", logi.Breakage{Tokens: true, JWKS: true})
	r.BreakCommit("worse", logi.Breakage{})
	r.SetRollbackDelay(20 * time.Millisecond)
	expect := func(when string, up, token, jwks int) {
		t.Helper()
		got := []int{p.get("/up", nil), p.request(http.MethodPost, "/oauth/token", "", "", nil),
			p.get("/.well-known/jwks.json", nil)}
		if want := []int{up, token, jwks}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	expect("good", 200, 401, 200)
	bad := r.Push(logi.WebService, "bad")
	expect("bad", 502, 502, 502)

	var patched struct{ AutoDeploy, AutoDeployTrigger string }
	if status := p.render(http.MethodPatch, servicePath, `{"autoDeploy":"no"}`, &patched); status != 200 ||
		patched.AutoDeploy != "no" || patched.AutoDeployTrigger != "off" {
		t.Errorf("%d %+v", status, patched)
	}
	if id := r.Push(logi.WebService, "worse"); id != "" {
		t.Error("a push was deployed while auto-deploy is off")
	}
	var rolled deploy
	if status := p.render(http.MethodPost, servicePath+"/rollback", `{"deployId":"`+good+`"}`, &rolled); status != 201 ||
		rolled.Status != "update_in_progress" ||
		rolled.Trigger != "rollback" || rolled.Commit.ID != "good" || !rolled.Commit.CreatedAt.Equal(made) ||
		rolled.ID == good {
		t.Errorf("%d %+v", status, rolled)
	}
	eventually(t, "the rollback is live", func() bool {
		var now deploy
		return p.render(http.MethodGet, servicePath+"/deploys/"+rolled.ID, "", &now) == 200 && now.Status == "live" &&
			!now.FinishedAt.IsZero()
	})
	expect("rolled back", 200, 401, 200)
	var left deploy
	if status := p.render(http.MethodGet, servicePath+"/deploys/"+bad, "", &left); status != 200 ||
		left.Status != "deactivated" {
		t.Errorf("the bad deploy: %d %+v", status, left)
	}
	r.DeployCommit(logi.WebService, "worse")
	expect("worse, whose tokens and JWKS are well", 502, 401, 200)
	if got := r.Counts(); got.Rollbacks != 1 || got.AutoDeployPatches != 1 ||
		got.Reads[strings.TrimPrefix(servicePath, logi.RenderPath)+"/deploys/"+bad] != 1 {
		t.Errorf("%+v", got)
	}
	r.Suspend(logi.WebService, "billing")
	expect("suspended", 503, 503, 503)
	p.Forget()
	expect("forgotten", 200, 401, 200)
}

func TestRenderListsInPagesAndInNoOrder(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	begin := time.Now().Add(-time.Hour)
	for i := range 45 {
		p.Render().AddDeploy(logi.WebService, fmt.Sprint(i), "build_failed", "new_commit",
			begin.Add(time.Duration(i)*time.Minute))
	}
	seen, ordered, cursor := map[string]bool{}, true, ""
	var last time.Time
	for _, want := range []int{20, 20, 5, 0} {
		var page []struct {
			Deploy deploy
			Cursor string
		}
		if status := p.render(http.MethodGet, servicePath+"/deploys?cursor="+
			url.QueryEscape(cursor), "", &page); status != 200 || len(page) != want {
			t.Fatalf("%d, %d deploys, want %d", status, len(page), want)
		}
		for _, element := range page {
			seen[element.Deploy.ID], cursor = true, element.Cursor
			ordered = ordered && (last.IsZero() || element.Deploy.CreatedAt.Before(last))
			last = element.Deploy.CreatedAt
		}
	}
	if len(seen) != 45 || ordered {
		t.Errorf("%d deploys; the newest first: %v", len(seen), ordered)
	}
}

func TestRenderRefusesInItsOwnWords(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	failed := p.Render().AddDeploy(logi.WebService, "x", "build_failed", "new_commit", time.Now())
	for _, c := range []struct {
		method, path, key, body string
		want                    int
	}{
		{http.MethodGet, servicePath, "", "", 401},
		{http.MethodGet, servicePath, "rnd_other", "", 401},
		{http.MethodGet, logi.RenderPath + "/services/srv-none", p.Render().Key(), "", 404},
		{http.MethodGet, logi.RenderPath + "/elsewhere", p.Render().Key(), "", 404},
		{http.MethodGet, servicePath + "/deploys/dep-none", p.Render().Key(), "", 404},
		{http.MethodGet, servicePath + "/jobs/job-none", p.Render().Key(), "", 404},
		{http.MethodGet, servicePath + "/deploys?limit=101", p.Render().Key(), "", 400},
		{http.MethodGet, servicePath + "/jobs?createdAfter=then", p.Render().Key(), "", 400},
		{http.MethodPost, servicePath + "/rollback", p.Render().Key(), `{}`, 400},
		{http.MethodPost, servicePath + "/rollback", p.Render().Key(), `{"deployId":"dep-none"}`, 404},
		{http.MethodPost, servicePath + "/rollback", p.Render().Key(), `{"deployId":"` + failed + `"}`, 400},
		{http.MethodPost, servicePath + "/jobs", p.Render().Key(), `{}`, 400},
		{http.MethodPatch, servicePath, p.Render().Key(), `{"autoDeploy":true}`, 400},
	} {
		var said struct{ ID, Message string }
		if status := p.request(c.method, c.path, c.key, c.body, &said); status != c.want || said.ID == "" ||
			said.Message == "" {
			t.Errorf("%s %s %s: %d %+v, want %d", c.method, c.path, c.body, status, said, c.want)
		}
	}
	if got := p.Render().Counts(); got.Rollbacks+got.AutoDeployPatches+got.Jobs != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAJobRunsWhatIsRegistered(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	release := make(chan struct{})
	p.Render().HandleJobs(func(service, command string) error {
		<-release
		if service != logi.WebService || command != "bin/good" {
			return errors.New("no such command")
		}
		return nil
	})
	for command, want := range map[string]string{"bin/good": "succeeded", "bin/bad": "failed"} {
		var job struct{ ID, Status, StartCommand string }
		if status := p.render(http.MethodPost, servicePath+"/jobs", `{"startCommand":"`+command+`"}`, &job); status != 201 ||
			job.Status != "pending" || job.StartCommand != command {
			t.Errorf("%d %+v", status, job)
		}
		become := func(want string) {
			t.Helper()
			eventually(t, command+" is "+want, func() bool {
				return p.render(http.MethodGet, servicePath+"/jobs/"+job.ID, "", &job) == 200 && job.Status == want
			})
		}
		become("running")
		release <- struct{}{}
		become(want)
	}
	var jobs []struct{ Job struct{ ID string } }
	if p.render(http.MethodGet, servicePath+"/jobs?createdAfter="+
		url.QueryEscape(time.Now().Add(-time.Minute).Format(time.RFC3339)), "", &jobs); len(jobs) != 2 {
		t.Errorf("%d jobs", len(jobs))
	}
	if p.render(http.MethodGet, servicePath+"/jobs?createdAfter="+
		url.QueryEscape(time.Now().Add(time.Minute).Format(time.RFC3339)), "", &jobs); len(jobs) != 0 {
		t.Errorf("%d jobs of the future", len(jobs))
	}
	if got := p.Render().Counts(); got.Jobs != 2 {
		t.Errorf("%+v", got)
	}
}

func TestRenderFailsAsItIsTold(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	r := p.Render()
	good := r.DeployCommit(logi.WebService, "good")
	rollback := func() (*http.Response, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL()+servicePath+
			"/rollback", strings.NewReader(`{"deployId":"`+good+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+r.Key())
		return http.DefaultClient.Do(request)
	}
	for _, c := range []struct {
		name    string
		fault   logi.RenderFault
		status  int // 0 is no answer
		effects int
	}{
		{"none", logi.RenderFault{}, 201, 1},
		{"another method", logi.RenderFault{Method: http.MethodGet, Status: 500}, 201, 1},
		{"another path", logi.RenderFault{Path: "/jobs", Status: 500}, 201, 1},
		{"skipped", logi.RenderFault{Skip: 1, Status: 500}, 201, 1},
		{"status", logi.RenderFault{Status: 500}, 500, 0},
		{"status after the effect", logi.RenderFault{Status: 502, AfterEffect: true}, 502, 1},
		{"refused", logi.RenderFault{Refuse: true}, 0, 0},
		{"lost reply", logi.RenderFault{Refuse: true, AfterEffect: true}, 0, 1},
		{"slow", logi.RenderFault{DelayMilliseconds: 1}, 201, 1},
		{"slow body, and large", logi.RenderFault{Status: 200, SlowBody: true, DelayMilliseconds: 1, Megabytes: 1}, 200, 0},
	} {
		before := r.Counts().Rollbacks
		r.SetFaults(c.fault)
		status := 0
		if response, err := rollback(); err == nil {
			status = response.StatusCode
			body, err := io.ReadAll(response.Body)
			if err := errors.Join(err, response.Body.Close()); err != nil {
				t.Error(err)
			}
			if c.fault.Megabytes > 0 && (len(body) < 1<<20 || !json.Valid(body)) {
				t.Errorf("%s: %d bytes", c.name, len(body))
			}
		}
		if effects := r.Counts().Rollbacks - before; status != c.status || effects != c.effects {
			t.Errorf("%s: %d, and %d effects; want %d and %d", c.name, status, effects, c.status, c.effects)
		}
	}
	r.SetFaults(logi.RenderFault{Status: 429, Header: map[string]string{"Retry-After": "7"}, Times: 2})
	for _, want := range []int{429, 429, 201} {
		response, err := rollback()
		if err != nil || response.StatusCode != want || want == 429 && response.Header.Get("Retry-After") != "7" {
			t.Fatalf("%v %v, want %d", response, err, want)
		}
		_ = response.Body.Close()
	}
}

func TestRenderLimitsReadsAndWritesApart(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	p.Render().LimitRates(2, 1)
	for i, c := range []struct{ read, write int }{{200, 200}, {200, 429}, {429, 429}} {
		read, write := p.render(http.MethodGet, servicePath, "", nil),
			p.render(http.MethodPatch, servicePath, `{"autoDeploy":"no"}`, nil)
		if read != c.read || write != c.write {
			t.Errorf("round %d: %d and %d, want %+v", i, read, write, c)
		}
	}
	if got := p.Render().Counts(); got.Limited != 3 || got.AutoDeployPatches != 1 {
		t.Errorf("%+v", got)
	}
	p.Render().LimitRates(0, 0)
	if status := p.render(http.MethodGet, servicePath, "", nil); status != 200 {
		t.Error(status)
	}
}

func TestTokensAreIssuedToARegisteredClient(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	p.RegisterClient("probe", "s3cret")
	for _, c := range []struct {
		id, secret, grant string
		basic             bool
		want              int
		code              string
	}{
		{"probe", "s3cret", "client_credentials", true, 200, ""},
		{"probe", "s3cret", "client_credentials", false, 200, ""},
		{"probe", "wrong", "client_credentials", true, 401, "invalid_client"},
		{"other", "", "client_credentials", false, 401, "invalid_client"},
		{"probe", "s3cret", "", true, 400, "invalid_request"},
		{"probe", "s3cret", "password", true, 400, "unsupported_grant_type"},
	} {
		form := url.Values{"grant_type": {c.grant}}
		if !c.basic {
			form.Set("client_id", c.id)
			form.Set("client_secret", c.secret)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL()+
			"/oauth/token", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if c.basic {
			request.SetBasicAuth(c.id, c.secret)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		var said struct {
			AccessToken string `json:"access_token"`
			TokenType   string `json:"token_type"`
			ExpiresIn   int    `json:"expires_in"`
			Error       string `json:"error"`
		}
		if err := errors.Join(json.NewDecoder(response.Body).Decode(&said), response.Body.Close()); err != nil {
			t.Error(err)
		}
		issued := said.AccessToken != "" && said.TokenType == "Bearer" && said.ExpiresIn > 0
		challenged := strings.Contains(response.Header.Get("WWW-Authenticate"), "invalid_client")
		if response.StatusCode != c.want || said.Error != c.code || issued != (c.want == 200) ||
			challenged != (c.want == 401) {
			t.Errorf("%+v: %d %+v", c, response.StatusCode, said)
		}
	}
}

func TestRenderIsControlledFromATerminalToo(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	control := func(path, body string, out any) {
		t.Helper()
		if status := p.request(http.MethodPost, "/_control/"+path, "", body, out); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	control("clients", `{"id":"probe","secret":"s"}`, nil)
	var good, bad struct{ DeployID string }
	control("render/deploy", `{"commit":"good"}`, &good)
	control("render/break", `{"commit":"bad","tokens":true}`, nil)
	control("render/push", `{"commit":"bad"}`, &bad)
	if good.DeployID == "" || bad.DeployID == "" || p.get("/up", nil) != 502 {
		t.Errorf("%q %q", good, bad)
	}
	control("render/rollback", `{"delayMilliseconds":0}`, nil)
	control("render/history", `{"commit":"old","status":"build_failed","secondsAgo":3600}`, nil)
	var where struct {
		URL, APIKey, Service string
		AutoDeploy           bool
		Counts               logi.RenderCounts
		Deploys              []struct {
			ID, Status string
			CreatedAt  time.Time
			Commit     struct{ ID string }
		}
	}
	if status := p.get("/_control/render", &where); status != 200 || where.URL != p.URL()+logi.RenderPath ||
		where.APIKey != p.Render().Key() || where.Service != logi.WebService || !where.AutoDeploy {
		t.Errorf("%d %+v", status, where)
	}
	if last := where.Deploys[len(where.Deploys)-1]; last.Commit.ID != "old" || last.Status != "build_failed" ||
		time.Since(last.CreatedAt) < time.Hour {
		t.Errorf("%+v", last)
	}
	control("render/faults", `{"faults":[{"path":"/rollback","status":503,"times":1}]}`, nil)
	for _, want := range []int{503, 201} {
		if status := p.render(http.MethodPost, servicePath+"/rollback", `{"deployId":"`+good.DeployID+
			`"}`, nil); status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
	if status := p.get("/up", nil); status != 200 {
		t.Error(status)
	}
	control("render/suspend", `{"suspenders":["billing"]}`, nil)
	if status := p.get("/up", nil); status != 503 {
		t.Error(status)
	}
}
