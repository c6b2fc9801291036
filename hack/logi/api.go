package logi

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /up", serveUp)
	mux.HandleFunc("POST /oauth/token", s.serveToken)
	mux.Handle(RenderPath+"/", http.StripPrefix(RenderPath, s.render))
	s.renderControls(mux)
	for _, prefix := range []string{"/pagerduty/", "/slack/", "/hooks/", "/statuspage/", "/_control/services"} {
		mux.Handle(prefix, s.Services)
	}
	mux.HandleFunc("GET /.well-known/jwks.json", s.serveJWKS)
	mux.HandleFunc("POST /rp/{application}/webhooks", s.serveWebhook)
	mux.Handle("GET /api/v1/admin/webhook_outbox", s.admin(s.listOutbox))
	mux.Handle("POST /api/v1/admin/webhook_outbox/{id}/retry", s.admin(s.retryEntry))

	mux.HandleFunc("POST /_control/faults", control(func(_ context.Context, in struct {
		ApplicationID int64 `json:"applicationID,string"`
		Fault         Fault `json:"fault"`
	}) (any, error) {
		s.SetFault(in.ApplicationID, in.Fault)
		return in.Fault, nil
	}))
	mux.HandleFunc("POST /_control/jwks", control(s.controlJWKS))
	mux.HandleFunc("GET /_control/counts",
		func(w http.ResponseWriter, _ *http.Request) { respond(w, http.StatusOK, s.Counts()) })
	mux.HandleFunc("POST /_control/list", control(func(_ context.Context, in ListFault) (any, error) {
		s.SetListFault(in)
		return in, nil
	}))
	mux.HandleFunc("POST /_control/nonces", control(func(_ context.Context, in struct {
		EntryID int64 `json:"entryID,string"`
	}) (any, error) {
		return map[string]string{"action_request_nonce": s.IssueNonce(in.EntryID)}, nil
	}))
	mux.HandleFunc("POST /_control/rake", s.serveRake)
	mux.HandleFunc("POST /_control/seed", control(func(ctx context.Context, in struct {
		ApplicationID int64  `json:"applicationID,string"`
		Dead          int    `json:"dead"`
		LastError     string `json:"lastError"`
		Attempts      int    `json:"attempts"`
	}) (any, error) {
		ids, err := s.SeedDead(ctx, in.ApplicationID, in.Dead, in.LastError, in.Attempts)
		return map[string]int{"dead": len(ids)}, err
	}))
	mux.HandleFunc("POST /_control/dispatch", control(func(ctx context.Context, _ struct{}) (any, error) {
		n, err := s.DispatchOnce(ctx)
		return map[string]int{"attempted": n}, err
	}))
	return s.deployed(mux)
}

// control decodes the request and encodes what do returns.
func control[In any](do func(context.Context, In) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
			return
		}
		out, err := do(r.Context(), in)
		if err != nil {
			fail(w, http.StatusInternalServerError, "internal", err.Error())
			return
		}
		respond(w, http.StatusOK, out)
	}
}

func (s *Server) admin(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.adminToken)) != 1 {
			fail(w, http.StatusUnauthorized, "unauthorized", "an admin token is required")
			return
		}
		next(w, r)
	})
}

type nonce struct {
	entry int64
	used  bool
}

// IssueNonce makes a step-up nonce for the retry of one entry, like a person with a second factor. It works once.
func (s *Server) IssueNonce(entry int64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := rand.Text()
	s.nonces[text] = nonce{entry: entry}
	return text
}

// retryEntry answers POST /api/v1/admin/webhook_outbox/:id/retry.
func (s *Server) retryEntry(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		fail(w, http.StatusNotFound, "not_found", "no such entry")
		return
	}
	var in struct {
		Nonce string `json:"action_request_nonce"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "bad_request", "the body must be JSON")
		return
	}
	if code := s.spend(in.Nonce, id); code != "" {
		fail(w, http.StatusForbidden, code, "step-up authentication is required")
		return
	}
	tag, err := s.pool.Exec(r.Context(), `UPDATE webhook_outbox_entries
		SET dlq_at = NULL, next_retry_at = NULL, attempts = 0,
			enqueued_at = clock_timestamp(), updated_at = clock_timestamp()
		WHERE id = $1 AND dlq_at IS NOT NULL AND delivered_at IS NULL`, id)
	switch {
	case err != nil:
		fail(w, http.StatusInternalServerError, "internal", err.Error())
	case tag.RowsAffected() == 0:
		fail(w, http.StatusUnprocessableEntity, "not_dead", fmt.Sprintf("entry %d is not dead", id))
	default:
		respond(w, http.StatusOK, map[string]any{"id": id, "status": "pending"})
	}
}

// spend uses up a nonce, or returns why it can't.
func (s *Server) spend(text string, entry int64) (code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, known := s.nonces[text]
	switch {
	case text == "":
		return "nonce_missing"
	case !known, n.entry != entry:
		return "nonce_invalid"
	case n.used:
		return "nonce_used"
	}
	s.nonces[text] = nonce{entry: entry, used: true}
	return ""
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone
}

func fail(w http.ResponseWriter, status int, code, message string) {
	respond(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}
