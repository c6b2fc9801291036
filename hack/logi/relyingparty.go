package logi

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Fault is how a relying party fails. The zero Fault is no fault.
type Fault struct {
	// Status and Body answer instead of 200.
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	// DelayMilliseconds before any answer.
	DelayMilliseconds int `json:"delayMilliseconds,omitempty"`
	// Refuse closes the connection without an answer.
	Refuse bool `json:"refuse,omitempty"`
	// EveryKth means that Status or Refuse hits only every kth attempt; 0 means each.
	EveryKth int `json:"everyKth,omitempty"`
	// Percent of attempts only is hit; 0 means each.
	Percent int `json:"percent,omitempty"`
	// ConflictOnSeen answers 409 to an idempotency key that was accepted before.
	ConflictOnSeen bool `json:"conflictOnSeen,omitempty"`
}

// ApplicationCounts is what a relying party received.
type ApplicationCounts struct {
	// Attempts that reached it, by the status that it answered. 0 means that it closed the connection, or that the
	// dispatcher had gone.
	Attempts map[int]int `json:"attempts"`
	// Received webhooks that it accepted, each counted once by its idempotency key.
	Received int `json:"received"`
	// Duplicates are acceptances of a key that it had accepted before.
	Duplicates int `json:"duplicates"`
}

// SetFault changes how an application's relying party answers.
func (s *Server) SetFault(application int64, fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[application] = fault
}

// Forget drops faults, counts, received webhooks, cached keys and their lifetimes, nonces, clients and deploys, as if
// the platform had just started.
func (s *Server) Forget() {
	s.render.Forget()
	s.Services.Forget()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
	clear(s.counts)
	clear(s.seen)
	clear(s.nonces)
	clear(s.listReads)
	s.list = ListFault{}
	clear(s.clients)
	s.tokens = TokenFault{}
	clear(s.jwks)
	clear(s.leaked)
	clear(s.jwksTTL)
	clear(s.replicas)
	s.jwksTurn, s.jwksDown = 0, ""
}

// Counts by application, of those that were attempted.
func (s *Server) Counts() map[int64]ApplicationCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[int64]ApplicationCounts{}
	for id, c := range s.counts {
		copied := *c
		copied.Attempts = map[int]int{}
		for status, n := range c.Attempts {
			copied.Attempts[status] = n
		}
		counts[id] = copied
	}
	return counts
}

// ReceivedKeys is how often an application's relying party accepted each idempotency key.
func (s *Server) ReceivedKeys(application int64) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := map[string]int{}
	for key, n := range s.seen[application] {
		keys[key] = n
	}
	return keys
}

// serveWebhook is a relying party's endpoint: it verifies the signature, and deduplicates by the idempotency key.
func (s *Server) serveWebhook(w http.ResponseWriter, r *http.Request) {
	application, err := strconv.ParseInt(r.PathValue("application"), 10, 64)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	key := r.Header.Get("Idempotency-Key")
	fault := s.faultFor(application)
	select {
	case <-r.Context().Done():
		s.count(application, 0)
		return
	case <-time.After(time.Duration(fault.DelayMilliseconds) * time.Millisecond):
	}
	if fault.Refuse {
		s.count(application, 0)
		panic(http.ErrAbortHandler)
	}
	status, text := fault.Status, fault.Body
	if status == 0 {
		status, text = s.judge(r, application, body)
	}
	if status != http.StatusOK {
		s.count(application, status)
	} else if !s.accept(application, key, fault.ConflictOnSeen) {
		status, text = http.StatusConflict, "already processed"
	} else if r.Header.Get("Webhook-Event") == "webhook_key.compromised" {
		s.believe(application, body)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a dispatcher that has gone will try again
}

func (s *Server) judge(r *http.Request, application int64, body []byte) (int, string) {
	err := s.verify(r.Context(), application, r.Header.Get("Webhook-Signature"), body)
	switch {
	case err == nil:
		return http.StatusOK, "ok"
	case errors.Is(err, errUnknownKid):
		return http.StatusUnauthorized, "unknown kid"
	case errors.Is(err, errNoKeys):
		return http.StatusServiceUnavailable, "no keys"
	}
	return http.StatusUnauthorized, "signature rejected"
}

// faultFor is the fault that hits the next attempt.
func (s *Server) faultFor(application int64) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	fault := s.faults[application]
	s.arrivals[application]++
	if fault.EveryKth > 0 && s.arrivals[application]%fault.EveryKth != 0 || fault.Percent > 0 &&
		rand.IntN(100) >= fault.Percent {
		fault.Status, fault.Refuse = 0, false
	}
	return fault
}

func (s *Server) count(application int64, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countsOf(application).Attempts[status]++
}

// accept counts a delivery and returns true. If the key was accepted before, and the fault makes that a conflict, it
// counts a 409 and returns false.
func (s *Server) accept(application int64, key string, conflictOnSeen bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.countsOf(application)
	seen := s.seen[application]
	if seen[key] > 0 && conflictOnSeen {
		c.Attempts[http.StatusConflict]++
		return false
	}
	c.Attempts[http.StatusOK]++
	if seen[key]++; seen[key] > 1 {
		c.Duplicates++
	} else {
		c.Received++
	}
	return true
}

// countsOf an application; the lock is held.
func (s *Server) countsOf(application int64) *ApplicationCounts {
	if s.counts[application] == nil {
		s.counts[application], s.seen[application] = &ApplicationCounts{Attempts: map[int]int{}}, map[string]int{}
	}
	return s.counts[application]
}
