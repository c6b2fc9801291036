package logi

import (
	"crypto/rand"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// RenderPath is where the platform's server has Render's API.
	RenderPath = "/render/v1"
	// WebService serves the platform. The commit that is live there decides how the platform works.
	WebService = "srv-web"
)

// Render plays Render's API v1, and deploys commits. It is an http.Handler, whose paths begin at /services.
type Render struct {
	key     string
	mux     *http.ServeMux
	running sync.WaitGroup

	mu            sync.Mutex
	services      map[string]*renderService
	broken        map[string]Breakage // by commit
	rollbackDelay time.Duration
	runJob        func(serviceID, startCommand string) error
	faults        []*RenderFault
	limits        map[bool]int // of writes, and of reads, a minute; 0 is none
	used          map[bool]int // in the minute that began at minute
	minute        time.Time
	counts        RenderCounts
}

type renderService struct {
	id, name   string
	autoDeploy bool
	suspenders []string
	deploys    []*renderDeploy // the oldest first
	jobs       []*renderJob
	since      time.Time
}

type renderDeploy struct {
	ID         string       `json:"id"`
	Commit     renderCommit `json:"commit"`
	Status     string       `json:"status"`
	Trigger    string       `json:"trigger"`
	CreatedAt  time.Time    `json:"createdAt"`
	StartedAt  time.Time    `json:"startedAt,omitzero"`
	FinishedAt time.Time    `json:"finishedAt,omitzero"`
	UpdatedAt  time.Time    `json:"updatedAt"`
	due        time.Time    // when a rollback becomes live
}

type renderCommit struct {
	ID        string    `json:"id"`
	Message   string    `json:"message"`
	CreatedAt time.Time `json:"createdAt"`
}

type renderJob struct {
	ID           string    `json:"id"`
	ServiceID    string    `json:"serviceId"`
	PlanID       string    `json:"planId"`
	StartCommand string    `json:"startCommand"`
	Status       string    `json:"status"`
	CreatedAt    time.Time `json:"createdAt"`
	StartedAt    time.Time `json:"startedAt,omitzero"`
	FinishedAt   time.Time `json:"finishedAt,omitzero"`
}

// Breakage is what a bad commit breaks beside /up, which answers 502 while one is live.
type Breakage struct {
	// Tokens are not issued.
	Tokens bool `json:"tokens,omitempty"`
	// JWKS is not served.
	JWKS bool `json:"jwks,omitempty"`
}

// RenderFault is how Render's API fails. Of the faults, the first that matches a request hits it.
type RenderFault struct {
	// Method and Path select requests: those of this method whose path contains Path. Empty selects all.
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	// Skip lets that many requests through first. Times is how many of them fail; 0 is all.
	Skip  int `json:"skip,omitempty"`
	Times int `json:"times,omitempty"`
	// AfterEffect does what was asked first, so that only the answer is lost.
	AfterEffect bool `json:"afterEffect,omitempty"`
	// DelayMilliseconds before the answer; with SlowBody, within its body.
	DelayMilliseconds int  `json:"delayMilliseconds,omitempty"`
	SlowBody          bool `json:"slowBody,omitempty"`
	// Refuse closes the connection without an answer.
	Refuse bool `json:"refuse,omitempty"`
	// Status, Body and Header answer instead; without a Status, the request is done as usual after the delay.
	Status int               `json:"status,omitempty"`
	Body   string            `json:"body,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	// ResetInSeconds gives Ratelimit-Reset as an epoch, that many seconds after the answer.
	ResetInSeconds int `json:"resetInSeconds,omitempty"`
	// Megabytes of JSON are the body.
	Megabytes int `json:"megabytes,omitempty"`
}

// RenderCounts is what Render was told to do, and did.
type RenderCounts struct {
	Rollbacks         int `json:"rollbacks"`
	AutoDeployPatches int `json:"autoDeployPatches"`
	Jobs              int `json:"jobs"`
	// Limited requests exceeded what LimitRates allows.
	Limited int `json:"limited"`
	// Reads by path, whatever was answered.
	Reads map[string]int `json:"reads"`
}

// NewRender has WebService, with auto-deploy on and nothing deployed.
func NewRender() *Render {
	r := &Render{key: "rnd_" + rand.Text(), mux: http.NewServeMux()}
	r.mux.HandleFunc("GET /services/{service}",
		r.handle(func(_ *http.Request, s *renderService) (int, any) { return http.StatusOK, s.shown() }))
	r.mux.HandleFunc("PATCH /services/{service}", r.handle(r.patch))
	r.mux.HandleFunc("GET /services/{service}/deploys", r.handle(listDeploys))
	r.mux.HandleFunc("GET /services/{service}/deploys/{id}", r.handle(getDeploy))
	r.mux.HandleFunc("POST /services/{service}/rollback", r.handle(r.rollback))
	r.mux.HandleFunc("GET /services/{service}/jobs", r.handle(listJobs))
	r.mux.HandleFunc("GET /services/{service}/jobs/{id}", r.handle(getJob))
	r.mux.HandleFunc("POST /services/{service}/jobs", r.handle(r.startJob))
	r.mux.HandleFunc("/",
		func(w http.ResponseWriter, _ *http.Request) { respond(w, http.StatusNotFound, refusal("not found")) })
	r.Forget()
	return r
}

// Forget forgets services, deploys, jobs, faults and counts, as if it had just been made.
func (r *Render) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services, r.broken, r.rollbackDelay, r.runJob, r.faults, r.limits = map[string]*renderService{},
		map[string]Breakage{}, 0, nil, nil, nil
	r.counts = RenderCounts{Reads: map[string]int{}}
	r.services[WebService] = &renderService{id: WebService, name: "web", autoDeploy: true, since: now()}
}

// Wait until no job runs.
func (r *Render) Wait() { r.running.Wait() }

// Key is the API key.
func (r *Render) Key() string { return r.key }

// AddService adds another service, with auto-deploy on.
func (r *Render) AddService(id, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services[id] = &renderService{id: id, name: name, autoDeploy: true, since: now()}
}

// Suspend a service, by user, billing or others; without suspenders it is resumed.
func (r *Render) Suspend(service string, suspenders ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services[service].suspenders = suspenders
}

// AutoDeploy says whether a push to the service is deployed.
func (r *Render) AutoDeploy(service string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.services[service].autoDeploy
}

// Push brings a commit to the branch's head, which is deployed while auto-deploy is on. It returns the deploy's id,
// empty where there is none.
func (r *Render) Push(service, commit string) (id string) {
	if !r.AutoDeploy(service) {
		return ""
	}
	return r.AddDeploy(service, commit, "live", "new_commit", now())
}

// DeployCommit makes a commit live, as a person does by hand, and returns the deploy's id.
func (r *Render) DeployCommit(service, commit string) (id string) {
	return r.AddDeploy(service, commit, "live", "manual", now())
}

// AddDeploy enters a deploy of any status and trigger, and returns its id. It was created at an instant, and also went
// live then if it ever did. A commit is as old as its first deploy. A live deploy deactivates the one before it.
func (r *Render) AddDeploy(service, commit, status, trigger string, at time.Time) (id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[service]
	d := s.add(commit, trigger, at)
	s.turn(d, status, at)
	return d.ID
}

// SetDeployStatus moves a deploy on.
func (r *Render) SetDeployStatus(service, id, status string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[service]
	d := s.find(id)
	d.due = time.Time{}
	s.turn(d, status, now())
}

// BreakCommit says that a commit is bad: while it is live on WebService, /up answers 502.
func (r *Render) BreakCommit(commit string, b Breakage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken[commit] = b
}

// SetRollbackDelay sets how long a rollback takes to become live. The default is no time.
func (r *Render) SetRollbackDelay(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rollbackDelay = d
}

// HandleJobs runs each job by calling run. A job fails if run returns an error. Without HandleJobs, each job fails.
// Close waits for run to return.
func (r *Render) HandleJobs(run func(serviceID, startCommand string) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runJob = run
}

// SetFaults replaces the faults.
func (r *Render) SetFaults(faults ...RenderFault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
	for _, f := range faults {
		r.faults = append(r.faults, &f)
	}
}

// LimitRates sets how many reads and writes are answered in a minute. The others get a 429. Render itself allows 400
// and 30. The default is 0, which is no limit.
func (r *Render) LimitRates(reads, writes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limits, r.minute = map[bool]int{false: reads, true: writes}, time.Time{}
}

// limited counts a request against its limit, and writes how much is left into Render's headers.
func (r *Render) limited(request *http.Request, header http.Header) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	write := request.Method != http.MethodGet
	limit := r.limits[write]
	if limit == 0 {
		return false
	}
	if time.Since(r.minute) >= time.Minute {
		r.minute, r.used = time.Now(), map[bool]int{}
	}
	r.used[write]++
	reset := strconv.Itoa(int(time.Until(r.minute.Add(time.Minute)).Seconds()) + 1)
	header.Set("Ratelimit-Limit", strconv.Itoa(limit))
	header.Set("Ratelimit-Remaining", strconv.Itoa(max(0, limit-r.used[write])))
	header.Set("Ratelimit-Reset", reset)
	if r.used[write] <= limit {
		return false
	}
	header.Set("Retry-After", reset)
	r.counts.Limited++
	return true
}

// Counts of what was done.
func (r *Render) Counts() RenderCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	copied := r.counts
	copied.Reads = maps.Clone(r.counts.Reads)
	return copied
}

// state says whether the platform is down, and what else is broken.
func (r *Render) state() (suspended, down bool, b Breakage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[WebService]
	s.settle()
	if live := s.live(); live != nil {
		b, down = r.broken[live.Commit.ID]
	}
	return len(s.suspenders) > 0, down, b
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func renderID(kind string) string { return kind + "-" + strings.ToLower(rand.Text()[:20]) }

func (s *renderService) add(commit, trigger string, at time.Time) *renderDeploy {
	d := &renderDeploy{
		ID: renderID("dep"), Commit: renderCommit{ID: commit, Message: "Change " + commit, CreatedAt: at}, Status: "created",
		Trigger:   trigger,
		CreatedAt: at, UpdatedAt: at,
	}
	if i := slices.IndexFunc(s.deploys, func(d *renderDeploy) bool { return d.Commit.ID == commit }); i >= 0 {
		d.Commit = s.deploys[i].Commit
	}
	s.deploys = append(s.deploys, d)
	return d
}

// history lists a service's deploys, the oldest first.
func (r *Render) history(service string) []renderDeploy {
	r.mu.Lock()
	defer r.mu.Unlock()
	deploys := []renderDeploy{}
	for _, d := range r.services[service].deploys {
		deploys = append(deploys, *d)
	}
	return deploys
}

// turn gives a deploy a status. Only one deploy is live.
func (s *renderService) turn(d *renderDeploy, status string, at time.Time) {
	if status == "live" {
		if former := s.live(); former != nil {
			former.Status, former.UpdatedAt = "deactivated", at
		}
	}
	d.Status, d.UpdatedAt = status, at
	switch status {
	case "created", "queued":
	case "build_in_progress", "pre_deploy_in_progress", "update_in_progress":
		d.StartedAt = at
	default:
		d.FinishedAt = at
	}
}

// settle makes live the rollbacks that are due.
func (s *renderService) settle() {
	for _, d := range s.deploys {
		if !d.due.IsZero() && !time.Now().Before(d.due) {
			s.turn(d, "live", d.due)
			d.due = time.Time{}
		}
	}
}

func (s *renderService) live() *renderDeploy {
	i := slices.IndexFunc(s.deploys, func(d *renderDeploy) bool { return d.Status == "live" })
	if i < 0 {
		return nil
	}
	return s.deploys[i]
}

func (s *renderService) find(id string) *renderDeploy {
	i := slices.IndexFunc(s.deploys, func(d *renderDeploy) bool { return d.ID == id })
	if i < 0 {
		return nil
	}
	return s.deploys[i]
}

func (s *renderService) shown() map[string]any {
	autoDeploy, trigger, suspended := "no", "off", "not_suspended"
	if s.autoDeploy {
		autoDeploy, trigger = "yes", "commit"
	}
	if len(s.suspenders) > 0 {
		suspended = "suspended"
	}
	return map[string]any{
		"id": s.id, "name": s.name, "type": "web_service", "slug": s.name, "ownerId": "tea-1pass", "autoDeploy": autoDeploy,
		"autoDeployTrigger": trigger,
		"suspended":         suspended, "suspenders": append([]string{}, s.suspenders...), "serviceDetails": map[string]any{},
		"createdAt": s.since, "updatedAt": s.since,
	}
}
