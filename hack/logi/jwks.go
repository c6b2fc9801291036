package logi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"
)

// JWKSFault is how JWKS fails, at every replica and for every client. The empty fault is none.
type JWKSFault string

// The faults of JWKS.
const (
	// JWKSHangs accepts the request and never answers.
	JWKSHangs JWKSFault = "Hang"
	// JWKSHangsMidBody sends the first half of the answer, and then nothing more.
	JWKSHangsMidBody JWKSFault = "HangMidBody"
	// JWKSHTML answers 200 with an HTML page, as a balancer or a CDN in trouble does.
	JWKSHTML JWKSFault = "HTML"
	// JWKSHuge answers a set of keys of more than 10 MB, with the right ones at its end.
	JWKSHuge JWKSFault = "Huge"
	// JWKSError answers 503.
	JWKSError JWKSFault = "Error"
	// JWKSRedirect answers 302, and the right keys at the place that it names.
	JWKSRedirect JWKSFault = "Redirect"
	// JWKSLacksActive answers without any key that is active.
	JWKSLacksActive JWKSFault = "LacksActive"
)

var jwksFaults = []JWKSFault{"", JWKSHangs, JWKSHangsMidBody, JWKSHTML, JWKSHuge, JWKSError, JWKSRedirect,
	JWKSLacksActive}

// SetJWKSFault changes how JWKS answers.
func (s *Server) SetJWKSFault(fault JWKSFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jwksDown = fault
}

// SetJWKSTTL sets how long an application's relying party caches the keys that it fetches from now on. Without it, the
// relying party caches them for as long as JWKS allows.
func (s *Server) SetJWKSTTL(application int64, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jwksTTL[application] = ttl
}

// StaleReplica makes a replica of JWKS, counted from 0, always serve what is published now.
func (s *Server) StaleReplica(ctx context.Context, n int) error {
	set, err := s.published(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas[n] = replica{set: set, read: time.Now(), stale: true}
	return nil
}

// MendReplica makes a replica that StaleReplica changed read the keys again.
func (s *Server) MendReplica(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas[n] = replica{}
}

// controlJWKS changes what it is told about JWKS, and leaves the rest.
func (s *Server) controlJWKS(ctx context.Context, in struct {
	Fault   *JWKSFault `json:"fault"`
	Replica int        `json:"replica"`
	Stale   *bool      `json:"stale"`
	// The relying party of ApplicationID caches JWKS for so long.
	ApplicationID int64 `json:"applicationID,string"`
	TTLSeconds    *int  `json:"ttlSeconds"`
}) (any, error) {
	switch {
	case in.Fault != nil && !slices.Contains(jwksFaults, *in.Fault):
		return nil, fmt.Errorf("no such fault; there are %q", jwksFaults)
	case in.Replica < 0 || in.Replica >= len(s.replicas):
		return nil, fmt.Errorf("there are %d replicas, counted from 0", len(s.replicas))
	}
	if in.Fault != nil {
		s.SetJWKSFault(*in.Fault)
	}
	if in.TTLSeconds != nil {
		s.SetJWKSTTL(in.ApplicationID, time.Duration(*in.TTLSeconds)*time.Second)
	}
	switch {
	case in.Stale == nil:
	case *in.Stale:
		return in, s.StaleReplica(ctx, in.Replica)
	default:
		s.MendReplica(in.Replica)
	}
	return in, nil
}

// replica is one of the processes that serve JWKS, with its cache.
type replica struct {
	set   jose.JSONWebKeySet
	read  time.Time
	stale bool // for ever
}

// serveJWKS answers /.well-known/jwks.json.
func (s *Server) serveJWKS(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault := s.jwksDown
	n := s.jwksTurn % len(s.replicas)
	s.jwksTurn++
	kept := s.replicas[n]
	s.mu.Unlock()
	if r.URL.RawQuery == "moved" && fault == JWKSRedirect {
		fault = ""
	}
	switch fault {
	case JWKSHangs:
		<-r.Context().Done()
		return
	case JWKSHTML:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<!DOCTYPE html><html><body>Back soon</body></html>") // a client that has gone
		return
	case JWKSError:
		http.Error(w, "Service Unavailable", http.StatusServiceUnavailable)
		return
	case JWKSRedirect:
		http.Redirect(w, r, "/.well-known/jwks.json?moved", http.StatusFound)
		return
	}
	fresh := !kept.stale && time.Since(kept.read) >= s.config.JWKSReplicas[n]
	if fresh {
		set, err := s.published(r.Context())
		if err != nil {
			http.Error(w, "database", http.StatusInternalServerError)
			return
		}
		kept = replica{set: set, read: time.Now()}
		s.keep(n, kept)
	} else {
		w.Header().Set("Age", strconv.Itoa(int(time.Since(kept.read).Seconds())))
	}
	var err error
	if kept.set, err = s.shown(r.Context(), kept.set, fault); err != nil {
		http.Error(w, "database", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age="+strconv.Itoa(int(s.config.JWKSMaxAge.Seconds())))
	switch fault {
	case JWKSHangsMidBody:
		body, _ := json.Marshal(kept.set) // it was marshalled before
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case JWKSHuge:
		respond(w, http.StatusOK, map[string]any{"comment": strings.Repeat("x", 10_000_000), "keys": kept.set.Keys})
	default:
		respond(w, http.StatusOK, kept.set)
	}
}

// keep caches what a replica read, unless it was made stale during the read.
func (s *Server) keep(n int, read replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.replicas[n].stale {
		s.replicas[n] = read
	}
}

// publishedSQL selects the keys that JWKS shows. A key in grace stays until its grace ends. The keys of SeedFiller have
// no public part.
const publishedSQL = `(status = 'active'
	OR status = 'grace' AND (grace_until IS NULL OR grace_until > clock_timestamp())) AND public_key <> ''`

// published reads the keys that JWKS shows now.
func (s *Server) published(ctx context.Context) (jose.JSONWebKeySet, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	rows, err := s.pool.Query(ctx, `SELECT kid, algorithm, public_key FROM webhook_signing_keys WHERE `+publishedSQL+
		` ORDER BY id`)
	if err == nil {
		var kid, algorithm, text string
		_, err = pgx.ForEachRow(rows, []any{&kid, &algorithm, &text}, func() error {
			key, err := parsePublic(text)
			if err == nil {
				set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: algorithm, Use: "sig"})
			}
			return err
		})
	}
	if err != nil {
		return set, fmt.Errorf("reading the published keys: %w", err)
	}
	return set, nil
}

// fetchJWKS asks for the keys as a relying party, and returns the answer's Age too.
func (s *Server) fetchJWKS(ctx context.Context) (set jose.JSONWebKeySet, age time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/.well-known/jwks.json", nil)
	if err != nil {
		return set, 0, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return set, 0, fmt.Errorf("fetching JWKS: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return set, 0, fmt.Errorf("fetching JWKS: %s", response.Status)
	}
	body, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(body, &set)
	}
	if err != nil {
		return set, 0, fmt.Errorf("reading JWKS: %w", err)
	}
	seconds, _ := strconv.Atoi(response.Header.Get("Age")) // none is 0
	return set, time.Duration(seconds) * time.Second, nil
}
