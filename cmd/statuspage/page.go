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
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// past is how long a resolved notice is shown.
const past = 7 * 24 * time.Hour

//go:embed page.html
var pageText string

//go:embed page.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"utc":     func(t metav1.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
	"machine": func(t metav1.Time) string { return t.UTC().Format(time.RFC3339) },
	"css":     func() template.CSS { return template.CSS(style) },
	"lower":   strings.ToLower,
}).Parse(pageText))

// policy lets a browser use the page's own style, and nothing else. If a notice's text got past the escaping, it still
// could not run a script.
var policy = func() string {
	sum := sha256.Sum256([]byte(style))
	return fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; "+
		"frame-ancestors 'none'", base64.StdEncoding.EncodeToString(sum[:]))
}()

// View is /incidents.json, and what the page shows.
type View struct {
	// AsOf is the time at which the notices were right: now, or when the API server was last reached.
	AsOf metav1.Time `json:"asOf"`
	// Stale says that AsOf is in the past.
	Stale bool `json:"stale"`
	// Current has the open notices, and Past those resolved within the last 7 days, newest first.
	Current []Notice `json:"current"`
	Past    []Notice `json:"past"`
}

func view(notices []Notice, lostAt, now time.Time) View {
	v := View{AsOf: metav1.NewTime(now), Current: []Notice{}, Past: []Notice{}}
	if !lostAt.IsZero() {
		v.AsOf, v.Stale = metav1.NewTime(lostAt), true
	}
	for _, n := range notices {
		switch {
		case n.ResolvedAt == nil:
			v.Current = append(v.Current, n)
		case now.Sub(n.ResolvedAt.Time) < past:
			v.Past = append(v.Past, n)
		}
	}
	return v
}

// handler serves the page, /incidents.json and /healthz. /healthz is about this process, not about the platform. latest
// is Incidents.Notices.
func handler(title string, latest func() (notices []Notice, lostAt time.Time, known bool),
	now func() time.Time) http.Handler {
	mux := http.NewServeMux()
	serve := func(w http.ResponseWriter, contentType string, render func(View) ([]byte, error)) {
		notices, lostAt, known := latest()
		if !known {
			// Nothing is known yet, so the page must not say "no incidents".
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Retry-After", "5")
			http.Error(w, "The status is not known yet. Please try again in a moment.", http.StatusServiceUnavailable)
			return
		}
		body, err := render(view(notices, lostAt, now()))
		if err != nil {
			http.Error(w, "The status could not be shown.", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		// Many readers come at once, and a cache in front may answer them.
		w.Header().Set("Cache-Control", "public, max-age=10")
		_, _ = w.Write(body) // it fails only if the reader has gone
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		serve(w, "text/html; charset=utf-8", func(v View) ([]byte, error) {
			var text bytes.Buffer
			err := page.Execute(&text, struct {
				View
				Title string
				Age   string
			}{v, title, age(now().Sub(v.AsOf.Time))})
			return text.Bytes(), err
		})
	})
	mux.HandleFunc("GET /incidents.json", func(w http.ResponseWriter, _ *http.Request) {
		serve(w, "application/json", func(v View) ([]byte, error) { return json.Marshal(v) })
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

// age in words, such as "12 minutes".
func age(d time.Duration) string {
	count := func(n int, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	switch {
	case d < time.Minute:
		return count(int(max(0, d.Seconds())), "second")
	case d < 2*time.Hour:
		return count(int(d.Minutes()), "minute")
	case d < 48*time.Hour:
		return count(int(d.Hours()), "hour")
	}
	return count(int(d.Hours()/24), "day")
}
