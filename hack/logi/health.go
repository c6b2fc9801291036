package logi

import (
	"cmp"
	"context"
	"crypto/subtle"
	"io"
	"net/http"
	"strings"
	"time"
)

// Render is where the platform runs.
func (s *Server) Render() *Render { return s.render }

// RegisterClient registers an OAuth client that gets tokens by client_credentials.
func (s *Server) RegisterClient(id, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[id] = secret
}

// deployed answers as the live commit makes the platform answer. The rest of the API works as always.
func (s *Server) deployed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		suspended, down, broken := s.render.state()
		var out bool
		switch r.URL.Path {
		case "/up":
			out = down
		case "/oauth/token":
			out = broken.Tokens
		case "/.well-known/jwks.json":
			out = broken.JWKS
		default:
			suspended = false
		}
		// Render's proxy gives both answers.
		switch {
		case suspended:
			page(w, http.StatusServiceUnavailable, "Service Suspended")
		case out:
			page(w, http.StatusBadGateway, "Bad Gateway")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func page(w http.ResponseWriter, status int, title string) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<!DOCTYPE html><html><head><title>"+title+"</title></head><body><h1>"+title+
		"</h1></body></html>")
}

// serveUp answers like Rails' health controller, in HTML or JSON. It checks neither the database nor Redis.
func serveUp(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		respond(w, http.StatusOK, map[string]string{"status": "up", "timestamp": time.Now().UTC().Format(time.RFC3339)})
		return
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, `<!DOCTYPE html><html><body style="background-color: green"></body></html>`)
}

// serveToken answers POST /oauth/token as Doorkeeper does. The client says who it is by Basic authentication, or in the
// form.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	s.mu.Lock()
	registered, known := s.clients[id]
	s.mu.Unlock()
	refuse := func(status int, code, description string) {
		w.Header().Set("Cache-Control", "no-store")
		respond(w, status, map[string]string{"error": code, "error_description": description})
	}
	fault := s.tokenFault()
	switch {
	case fault.Status != 0:
		refuse(fault.Status, fault.Error, "The request is refused.")
	case !known || subtle.ConstantTimeCompare([]byte(secret), []byte(registered)) != 1:
		w.Header().Set("WWW-Authenticate",
			`Bearer realm="Doorkeeper", error="invalid_client", error_description="Client authentication failed."`)
		refuse(http.StatusUnauthorized, "invalid_client", "Client authentication failed.")
	case r.PostFormValue("grant_type") == "":
		refuse(http.StatusBadRequest, "invalid_request", "Missing required parameter: grant_type.")
	case r.PostFormValue("grant_type") != "client_credentials":
		refuse(http.StatusBadRequest, "unsupported_grant_type", "The authorization grant type is not supported.")
	default:
		token, err := s.token(id)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		respond(w, http.StatusOK, map[string]any{
			"access_token": token, "token_type": "Bearer", "expires_in": 7200, "scope": "public",
			"created_at": time.Now().Unix(),
		})
	}
}

// renderControls adds the control endpoints of what is in this file and render.go.
func (s *Server) renderControls(mux *http.ServeMux) {
	type done struct{}
	mux.HandleFunc("POST /_control/clients", control(func(_ context.Context, in struct {
		ID     string `json:"id"`
		Secret string `json:"secret"`
	}) (any, error) {
		s.RegisterClient(in.ID, in.Secret)
		return done{}, nil
	}))
	mux.HandleFunc("POST /_control/tokens", control(s.controlTokens))
	mux.HandleFunc("GET /_control/render", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK,
			map[string]any{"url": s.url + RenderPath, "apiKey": s.render.Key(), "counts": s.render.Counts(),
				"service": WebService, "autoDeploy": s.render.AutoDeploy(WebService), "deploys": s.render.history(WebService)})
	})
	deploys := func(do func(service, commit string) string) http.HandlerFunc {
		return control(func(_ context.Context, in struct {
			Commit string `json:"commit"`
		}) (any, error) {
			return map[string]string{"deployID": do(WebService, in.Commit)}, nil
		})
	}
	mux.HandleFunc("POST /_control/render/push", deploys(s.render.Push))
	mux.HandleFunc("POST /_control/render/deploy", deploys(s.render.DeployCommit))
	mux.HandleFunc("POST /_control/render/history", control(func(_ context.Context, in struct {
		Commit     string `json:"commit"`
		Status     string `json:"status"`
		Trigger    string `json:"trigger"`
		SecondsAgo int    `json:"secondsAgo"`
	}) (any, error) {
		id := s.render.AddDeploy(WebService, in.Commit, cmp.Or(in.Status, "live"), cmp.Or(in.Trigger, "new_commit"),
			now().Add(-time.Duration(in.SecondsAgo)*time.Second))
		return map[string]string{"deployID": id}, nil
	}))
	mux.HandleFunc("POST /_control/render/break", control(func(_ context.Context, in struct {
		Commit string `json:"commit"`
		Breakage
	}) (any, error) {
		s.render.BreakCommit(in.Commit, in.Breakage)
		return done{}, nil
	}))
	mux.HandleFunc("POST /_control/render/suspend", control(func(_ context.Context, in struct {
		Suspenders []string `json:"suspenders"`
	}) (any, error) {
		s.render.Suspend(WebService, in.Suspenders...)
		return done{}, nil
	}))
	mux.HandleFunc("POST /_control/render/rollback", control(func(_ context.Context, in struct {
		DelayMilliseconds int `json:"delayMilliseconds"`
	}) (any, error) {
		s.render.SetRollbackDelay(time.Duration(in.DelayMilliseconds) * time.Millisecond)
		return done{}, nil
	}))
	mux.HandleFunc("POST /_control/render/faults", control(func(_ context.Context, in struct {
		Faults []RenderFault `json:"faults"`
	}) (any, error) {
		s.render.SetFaults(in.Faults...)
		return in, nil
	}))
}
