package logi

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServeHTTP counts the request, injects the faults, checks the key, and does what is asked.
func (r *Render) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	// net/http notices that a client has gone only after the body was read. So the body is read before the lock is taken.
	text, err := io.ReadAll(request.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	request.Body = io.NopCloser(bytes.NewReader(text))
	fault := r.arrive(request)
	do := func(w http.ResponseWriter) {
		if subtle.ConstantTimeCompare([]byte(request.Header.Get("Authorization")), []byte("Bearer "+r.key)) != 1 {
			respond(w, http.StatusUnauthorized, refusal("Unauthorized"))
			return
		}
		if r.limited(request, w.Header()) {
			respond(w, http.StatusTooManyRequests, refusal("rate limit exceeded"))
			return
		}
		r.mux.ServeHTTP(w, request)
	}
	delay := func() {
		select {
		case <-request.Context().Done():
		case <-time.After(time.Duration(fault.DelayMilliseconds) * time.Millisecond):
		}
	}
	if fault.AfterEffect {
		do(&unheard{header: http.Header{}})
	}
	if !fault.SlowBody {
		delay()
	}
	switch {
	case fault.Refuse:
		panic(http.ErrAbortHandler)
	case fault.Status == 0 && !fault.AfterEffect:
		do(w)
		return
	}
	for name, value := range fault.Header {
		w.Header().Set(name, value)
	}
	if fault.ResetInSeconds != 0 {
		w.Header().Set("Ratelimit-Reset", strconv.FormatInt(time.Now().Unix()+int64(fault.ResetInSeconds), 10))
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(cmp.Or(fault.Status, http.StatusInternalServerError))
	if fault.SlowBody {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		delay()
	}
	_, _ = io.WriteString(w, fault.Body) // a client may have had enough
	if fault.Megabytes > 0 {
		_, _ = io.WriteString(w, `["`+strings.Repeat("x", fault.Megabytes<<20)+`"]`)
	}
}

// arrive counts a request, and picks the fault that hits it.
func (r *Render) arrive(request *http.Request) RenderFault {
	r.mu.Lock()
	defer r.mu.Unlock()
	if request.Method == http.MethodGet {
		r.counts.Reads[request.URL.Path]++
	}
	for i, f := range r.faults {
		if f.Method != "" && f.Method != request.Method || !strings.Contains(request.URL.Path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times == 1 {
			r.faults = slices.Delete(r.faults, i, i+1)
		} else if f.Times > 0 {
			f.Times--
		}
		return *f
	}
	return RenderFault{}
}

// unheard discards an answer.
type unheard struct{ header http.Header }

func (u *unheard) Header() http.Header       { return u.header }
func (*unheard) WriteHeader(int)             {}
func (*unheard) Write(b []byte) (int, error) { return len(b), nil }

// handle finds the service that a request is about, under the lock. A nil body is left out.
func (r *Render) handle(do func(*http.Request, *renderService) (int, any)) http.HandlerFunc {
	return func(w http.ResponseWriter, request *http.Request) {
		r.mu.Lock()
		status, body := http.StatusNotFound, refusal("not found: "+request.PathValue("service"))
		if s := r.services[request.PathValue("service")]; s != nil {
			s.settle()
			status, body = do(request, s)
		}
		encoded, err := json.Marshal(body) // before another request changes it
		r.mu.Unlock()
		if err != nil {
			status, encoded = http.StatusInternalServerError, nil
		}
		respond(w, status, json.RawMessage(encoded))
	}
}

// refusal is the body of an error of Render.
func refusal(message string) any { return map[string]string{"id": renderID("req"), "message": message} }

func (r *Render) patch(request *http.Request, s *renderService) (int, any) {
	var in struct {
		AutoDeploy string `json:"autoDeploy"`
	}
	if json.NewDecoder(request.Body).Decode(&in) != nil || in.AutoDeploy != "yes" && in.AutoDeploy != "no" {
		return http.StatusBadRequest, refusal("autoDeploy must be yes or no")
	}
	s.autoDeploy = in.AutoDeploy == "yes"
	r.counts.AutoDeployPatches++
	return http.StatusOK, s.shown()
}

func (r *Render) rollback(request *http.Request, s *renderService) (int, any) {
	var in struct {
		DeployID string `json:"deployId"`
	}
	if json.NewDecoder(request.Body).Decode(&in) != nil || in.DeployID == "" {
		return http.StatusBadRequest, refusal("deployId is required")
	}
	target := s.find(in.DeployID)
	if target == nil {
		return http.StatusNotFound, refusal("not found: " + in.DeployID)
	}
	if target.Status != "live" && target.Status != "deactivated" {
		return http.StatusBadRequest, refusal("cannot roll back to a deploy that was not live")
	}
	d := s.add(target.Commit.ID, "rollback", now())
	s.turn(d, "update_in_progress", d.CreatedAt)
	d.due = d.CreatedAt.Add(r.rollbackDelay)
	r.counts.Rollbacks++
	return http.StatusCreated, d
}

func getDeploy(request *http.Request, s *renderService) (int, any) {
	if d := s.find(request.PathValue("id")); d != nil {
		return http.StatusOK, d
	}
	return http.StatusNotFound, refusal("not found: " + request.PathValue("id"))
}

func listDeploys(request *http.Request, s *renderService) (int, any) {
	return paged(request, "deploy", s.deploys, func(d *renderDeploy) (string, time.Time) { return d.ID, d.CreatedAt })
}

func listJobs(request *http.Request, s *renderService) (int, any) {
	return paged(request, "job", s.jobs, func(j *renderJob) (string, time.Time) { return j.ID, j.CreatedAt })
}

// paged answers a page of a list as [{cursor, <what>}]. The list is sorted by the hashes of the ids: Render promises no
// order, and a cursor stays valid when the list grows. createdAfter is the only filter.
func paged[T any](request *http.Request, what string, all []T, of func(T) (string, time.Time)) (int, any) {
	query := request.URL.Query()
	limit := 20
	if text := query.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > 100 {
			return http.StatusBadRequest, refusal("limit must be between 1 and 100")
		}
	}
	var after time.Time
	if text := query.Get("createdAfter"); text != "" {
		var err error
		if after, err = time.Parse(time.RFC3339, text); err != nil {
			return http.StatusBadRequest, refusal("createdAfter must be a time")
		}
	}
	cursor := func(item T) string {
		id, _ := of(item)
		return fmt.Sprintf("%x", sha256.Sum256([]byte(id)))[:16]
	}
	sorted := slices.SortedFunc(slices.Values(all), func(a, b T) int { return strings.Compare(cursor(a), cursor(b)) })
	page := []map[string]any{}
	for _, item := range sorted {
		if _, created := of(item); len(page) < limit && cursor(item) > query.Get("cursor") && created.After(after) {
			page = append(page, map[string]any{"cursor": cursor(item), what: item})
		}
	}
	return http.StatusOK, page
}

func getJob(request *http.Request, s *renderService) (int, any) {
	for _, j := range s.jobs {
		if j.ID == request.PathValue("id") {
			return http.StatusOK, j
		}
	}
	return http.StatusNotFound, refusal("not found: " + request.PathValue("id"))
}

func (r *Render) startJob(request *http.Request, s *renderService) (int, any) {
	var in struct {
		StartCommand string `json:"startCommand"`
		PlanID       string `json:"planId"`
	}
	if json.NewDecoder(request.Body).Decode(&in) != nil || in.StartCommand == "" {
		return http.StatusBadRequest, refusal("startCommand is required")
	}
	j := &renderJob{
		ID: renderID("job"), ServiceID: s.id, PlanID: cmp.Or(in.PlanID, "plan-srv-006"), StartCommand: in.StartCommand,
		Status: "pending", CreatedAt: now(),
	}
	s.jobs = append(s.jobs, j)
	r.counts.Jobs++
	r.run(j)
	return http.StatusCreated, j
}

// run starts a job under the lock, and does not wait for its end.
func (r *Render) run(j *renderJob) {
	run := r.runJob
	r.running.Go(func() {
		r.mu.Lock()
		j.Status, j.StartedAt = "running", now()
		r.mu.Unlock()
		status := "failed"
		if run != nil && run(j.ServiceID, j.StartCommand) == nil {
			status = "succeeded"
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		j.Status, j.FinishedAt = status, now()
	})
}
