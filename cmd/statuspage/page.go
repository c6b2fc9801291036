package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed page.html
var pageText string

//go:embed page.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"day": day, "clock": clock, "words": words,
	"machine": func(t metav1.Time) string { return t.UTC().Format(time.RFC3339) },
	"css":     func() template.CSS { return template.CSS(style) },
}).Parse(pageText))

// policy lets a browser use the page's own style, and nothing else. If a notice's text got past the escaping, it still
// could not run a script.
var policy = func() string {
	sum := sha256.Sum256([]byte(style))
	return fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; "+
		"frame-ancestors 'none'", base64.StdEncoding.EncodeToString(sum[:]))
}()

// Site is what the handler serves.
type Site struct {
	// Title above the page, and of the feed.
	Title string
	// URL of the page, with a slash at its end. It may be relative to the feed.
	URL string
	// Latest is Incidents.Notices.
	Latest func() (notices []Notice, lostAt time.Time, known bool)
	Now    func() time.Time
}

// handler serves the page, the feed, /incidents.json and /healthz. /healthz is about this process, not about the
// platform.
func (s Site) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, served := range map[string]struct {
		contentType string
		render      func(View) ([]byte, error)
	}{
		"GET /{$}":            {"text/html; charset=utf-8", s.html},
		"GET /feed.atom":      {"application/atom+xml; charset=utf-8", s.atom},
		"GET /incidents.json": {"application/json", func(v View) ([]byte, error) { return json.Marshal(v) }},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			s.serve(w, served.contentType,
				served.render)
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

func (s Site) serve(w http.ResponseWriter, contentType string, render func(View) ([]byte, error)) {
	notices, lostAt, known := s.Latest()
	if !known {
		// Nothing is known yet, so the page must not say that all is well.
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Retry-After", "5")
		http.Error(w, "The status is not known yet. Please try again in a moment.", http.StatusServiceUnavailable)
		return
	}
	body, err := render(view(notices, lostAt, s.Now()))
	if err != nil {
		http.Error(w, "The status could not be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	// Many readers come at once, and a cache in front may answer them.
	w.Header().Set("Cache-Control", "public, max-age=10")
	_, _ = w.Write(body) // it fails only if the reader has gone
}

func (s Site) html(v View) ([]byte, error) {
	var text bytes.Buffer
	err := page.Execute(&text, struct {
		View
		Title string
		Age   time.Duration
	}{v, s.Title, s.Now().Sub(v.AsOf.Time)})
	return text.Bytes(), err
}
