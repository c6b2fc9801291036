package main

import (
	"context"
	_ "embed"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/hack/servers"
)

// seen is what a reader of the page has on the screen.
//
//go:embed testdata/seen.js
var seen string

type onScreen struct {
	Scrolls  int      `json:"scrolls"`
	Width    int      `json:"width"`
	Outside  []string `json:"outside"`
	Faint    []string `json:"faint"`
	Headings []int    `json:"headings"`
	Twice    []string `json:"twice"`
}

// Each page is looked at in a real browser, on a small phone and on a desk, in both colour schemes. Screenshots stay
// with -artifacts.
func TestThePageIsReadableOnEveryScreen(t *testing.T) {
	t.Parallel()
	browser, err := servers.StartChromium(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := browser.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for name, site := range scenes() {
		server := httptest.NewServer(site.handler())
		for _, screen := range []servers.Screen{{Width: 320}, {Width: 360}, {Width: 360, Dark: true}, {Width: 1280},
			{Width: 1280, Dark: true}} {
			at := fmt.Sprintf("%s-%d", name, screen.Width)
			if screen.Dark {
				at += "-dark"
			}
			complaints, err := browser.Open(server.URL, screen)
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			if len(complaints) > 0 {
				t.Errorf("%s: the browser complains: %s", at, complaints)
			}
			look(t, at, browser)
		}
		server.Close()
	}
}

func look(t *testing.T, at string, browser *servers.Chromium) {
	t.Helper()
	var got onScreen
	if err := browser.Evaluate(seen, &got); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	if got.Scrolls > got.Width {
		t.Errorf("%s: the page is %d pixels wide, and the screen %d", at, got.Scrolls, got.Width)
	}
	if len(got.Outside) > 0 {
		t.Errorf("%s: does not fit: %q", at, got.Outside)
	}
	if len(got.Faint) > 0 {
		t.Errorf("%s: too little contrast: %q", at, got.Faint)
	}
	if len(got.Twice) > 0 {
		t.Errorf("%s: two elements have one id: %q", at, got.Twice)
	}
	level := 0
	for _, next := range got.Headings {
		if next > level+1 {
			t.Errorf("%s: a heading is left out: %v", at, got.Headings)
		}
		level = next
	}
	shot, err := browser.Screenshot()
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), at+".png"), shot, 0o644); err != nil {
		t.Fatal(err)
	}
}

// scenes are pages in every state that there is.
func scenes() map[string]Site {
	const is, was = "Sign-in is unavailable", "Sign-in was unavailable"
	long := strings.Repeat("Sign-in_is_unavailable", 12)[:255]
	outage := func(id, title string, began, ended time.Duration) Notice {
		n := Notice{ID: id, Title: title, State: "Resolved", StartedAt: ago(began), ResolvedAt: new(ago(ended))}
		n.Updates = []Update{
			{ago(ended - 5*time.Minute), "Resolved", "Sign-in works again. Users may have been unable to sign in from " +
				clock(ago(began)) + " UTC to " + clock(ago(ended)) + " UTC."},
			{ago(began - 35*time.Minute), "Identified", "Users may still be unable to sign in. The likely cause is a recent " +
				"change of ours. We have begun to undo it."},
			{ago(began - 31*time.Minute), "Investigating", "Users may have been unable to sign in since " + clock(ago(began)) +
				" UTC. We are looking for the cause."},
		}
		return n
	}
	open := func(id, title string, began time.Duration) Notice {
		n := outage(id, title, began, 0)
		n.State, n.ResolvedAt, n.Updates = "Identified", nil, n.Updates[1:]
		return n
	}
	watched := open("w", was, 50*time.Minute)
	watched.State = "Monitoring"
	watched.Updates = append([]Update{{ago(3 * time.Minute), "Monitoring", "Users have been able to sign in again since " +
		"02:55 UTC. We keep watching it."}}, watched.Updates...)
	resolved := []Notice{
		outage("a", was, 20*time.Hour, 19*time.Hour+13*time.Minute),
		outage("b", was, 27*time.Hour+10*time.Minute, 25*time.Hour),
		outage("c", was, 31*time.Hour, 30*time.Hour+12*time.Minute),
	}
	many := []Notice{open("o1", is, 50*time.Minute), open("o2", is, 45*time.Minute), watched}
	for i := range 40 {
		began := time.Duration(i+2) * 4 * time.Hour
		many = append(many, outage(fmt.Sprint("m", i), was, began, began-90*time.Minute))
	}
	foreign := "登录不可用，用户无法登录 · تسجيل الدخول غير متاح · Вход недоступен 🔑"
	texts := open("t1", foreign, time.Hour)
	texts.Updates[0].Text = strings.Repeat("https://example.com/"+strings.Repeat("a", 80)+" ", 3) + foreign
	scene := func(lost time.Duration, notices ...Notice) Site {
		lostAt := time.Time{}
		if lost > 0 {
			lostAt = ago(lost).Time
		}
		return Site{Title: "1pass.dev status", URL: "./", Now: func() time.Time { return now },
			Latest: func() ([]Notice, time.Time, bool) { return notices, lostAt, true }}
	}
	named := scene(0, resolved...)
	named.Title = long
	return map[string]Site{
		"quiet": scene(0), "down": scene(0, append([]Notice{many[0]}, resolved...)...),
		"watched": scene(0, watched), "many": scene(0, many...), "stale": scene(12*time.Minute, resolved...),
		"stale-down": scene(26*time.Hour, open("s", is, 28*time.Hour)),
		"long":       scene(0, open("l1", long, time.Hour), outage("l2", long, 20*time.Hour, 19*time.Hour)),
		"unicode":    scene(0, texts), "long-name": named,
		"empty": scene(0, Notice{ID: "e", Title: is, State: "Investigating", StartedAt: ago(0)}),
	}
}
