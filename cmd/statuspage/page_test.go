package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func notice(title, state string, started time.Duration, resolved ...time.Duration) Notice {
	n := Notice{ID: "uid-" + title, Title: title, State: state, StartedAt: ago(started),
		Updates: []Update{{At: ago(started), State: "Investigating", Text: "We are looking into " + title + "."}}}
	for _, d := range resolved {
		n.ResolvedAt = new(ago(d))
	}
	return n
}

// get returns what the page shows of notices, over HTTP.
func get(t *testing.T, path string, notices []Notice, lostAt time.Time, known bool) (*http.Response, string) {
	t.Helper()
	site := Site{Title: "1pass.dev <status>", URL: "https://status.example.com/",
		Latest: func() ([]Notice, time.Time, bool) { return notices, lostAt, known }, Now: func() time.Time { return now }}
	server := httptest.NewServer(site.handler())
	defer server.Close()
	response, err := http.Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "no-referrer"} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: %s is %q, want %q", path, name, got, want)
		}
	}
	return response, string(body)
}

func contains(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("%q is not in %s", text, body)
		}
	}
}

func lacks(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(body, text) {
			t.Errorf("%q is in %s", text, body)
		}
	}
}

func TestAQuietPageSaysSo(t *testing.T) {
	t.Parallel()
	response, body := get(t, "/", nil, time.Time{}, true)
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/html; charset=utf-8" ||
		response.Header.Get("Cache-Control") != "public, max-age=10" {
		t.Errorf("%s %v", response.Status, response.Header)
	}
	contains(t, body, `<html lang="en">`, "<title>No incidents reported · 1pass.dev &lt;status&gt;</title>",
		`<h1 dir="auto">1pass.dev &lt;status&gt;</h1>`, `<h2 id="overall" dir="auto">No incidents reported</h2>`,
		"once it is confirmed", `href="feed.atom"`, ">25 November 2026, 03:00 UTC</time>")
	lacks(t, body, "<script", "what was known")
	response, body = get(t, "/incidents.json", nil, time.Time{}, true)
	if response.Header.Get("Content-Type") != "application/json" ||
		response.Header.Get("Cache-Control") != "public, max-age=10" {
		t.Errorf("%v", response.Header)
	}
	if want := `{"asOf":"2026-11-25T03:00:00Z","stale":false,"current":[],"past":[]}`; body != want {
		t.Errorf("%s, want %s", body, want)
	}
}

// The browser accepts the page's style by its hash. The hash must be that of the text between the tags.
func TestTheStyleIsTheOneThatThePolicyAllows(t *testing.T) {
	t.Parallel()
	_, body := get(t, "/", nil, time.Time{}, true)
	found := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(body)
	if found == nil {
		t.Fatal("there is no style")
	}
	sum := sha256.Sum256([]byte(found[1]))
	contains(t, policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+
		"'", "default-src 'none'", "frame-ancestors 'none'")
	lacks(t, body, " style=")
}

func TestSeveralNoticesAndWhatIsPast(t *testing.T) {
	t.Parallel()
	notices := []Notice{
		notice("sign-in", "Identified", time.Hour),
		notice("tokens", "Monitoring", 2*time.Hour),
		notice("last week", "Resolved", 8*24*time.Hour, 7*24*time.Hour-time.Second),
		notice("long ago", "Resolved", 9*24*time.Hour, 7*24*time.Hour),
	}
	_, body := get(t, "/", notices, time.Time{}, true)
	contains(t, body, ">2 incidents are open</h2>", `<section class="now down"`,
		`<article id="uid-sign-in" class="down">`, `<h3 dir="auto">sign-in</h3>`,
		">25 November 2026, 02:00 UTC</time> <span>(1 hour so far)</span>",
		`<article id="uid-tokens" class="watched">`, `<h3 dir="auto">tokens</h3>`, "We are looking into tokens.",
		"Began <time datetime=\"2026-11-25T01:00:00Z\">25 November 2026, 01:00 UTC</time></p>",
		"<h3>Tuesday, 17 November 2026</h3>", `<h4 dir="auto">last week</h4>`,
		"03:00</time> to <time datetime=\"2026-11-18T03:00:01Z\">03:00 UTC on 18 November 2026</time> <span>(1 day)</span>")
	lacks(t, body, "long ago", "No incidents reported")
	if strings.Index(body, "sign-in") > strings.Index(body, "tokens") ||
		strings.Index(body, "tokens") > strings.Index(body, "last week") {
		t.Error("the order is wrong")
	}
	_, body = get(t, "/incidents.json", notices, time.Time{}, true)
	var got View
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.Current) != 2 || len(got.Past) != 1 ||
		got.Past[0].Title != "last week" || got.Past[0].ResolvedAt == nil {
		t.Errorf("%s, %v", body, err)
	}
	contains(t, body, `{"id":"uid-sign-in","title":"sign-in"`,
		`"updates":[{"at":"2026-11-25T02:00:00Z","state":"Investigating","text":"We are looking into sign-in."}]`)
}

func TestANoticesTextIsTextOnly(t *testing.T) {
	t.Parallel()
	evil := `<script>alert(1)</script>"><img src=x onerror=alert(2)>`
	n := Notice{ID: evil, Title: evil, State: evil, StartedAt: ago(time.Hour),
		Updates: []Update{{At: ago(time.Minute), State: evil, Text: evil + "\n</p></style>"}}}
	_, body := get(t, "/", []Notice{n}, time.Time{}, true)
	lacks(t, body, "<script", "<img", "</p></style>")
	contains(t, body, "&lt;script&gt;alert(1)&lt;/script&gt;")
	response, body := get(t, "/incidents.json", []Notice{n}, time.Time{}, true)
	lacks(t, body, "<script", "<img")
	var got View
	if err := json.Unmarshal([]byte(body), &got); err != nil || got.Current[0].Title != evil ||
		response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s, %v", body, err)
	}
}

func TestWithoutTheAPIServerThePageSaysHowOldItIs(t *testing.T) {
	t.Parallel()
	notices := []Notice{notice("sign-in", "Identified", time.Hour)}
	_, body := get(t, "/", notices, now.Add(-12*time.Minute-30*time.Second), true)
	contains(t, body, ">sign-in</h2>", "This is what was known at", ">02:47 UTC on 25 November 2026</time>, 12 minutes "+
		"ago.",
		"(47 minutes by then)")
	_, body = get(t, "/", nil, now.Add(-12*time.Minute), true)
	contains(t, body, "No incidents were reported when we last knew", "That may have changed since.",
		`<section class="now unknown"`)
	lacks(t, body, "No incidents reported<")
	_, body = get(t, "/incidents.json", notices, now.Add(-12*time.Minute), true)
	contains(t, body, `{"asOf":"2026-11-25T02:48:00Z","stale":true,"current":[{"id":"uid-sign-in","title":"sign-in"`)
}

func TestBeforeAnythingIsKnownNothingIsClaimed(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/feed.atom", "/incidents.json"} {
		response, body := get(t, path, nil, time.Time{}, false)
		if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Cache-Control") != "no-store" ||
			response.Header.Get("Retry-After") == "" {
			t.Errorf("%s %v", response.Status, response.Header)
		}
		lacks(t, body, "No incidents", "<feed", "current")
	}
}

func TestNothingElseIsServed(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{"/healthz": 204, "/metrics": 404, "/index.html": 404, "/incidents.json/x": 404,
		"/..%2f": 404} {
		if response, _ := get(t, path, nil, time.Time{}, false); response.StatusCode != want {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	recorder := httptest.NewRecorder()
	Site{}.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/", nil))
	if recorder.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", recorder.Code)
	}
}
