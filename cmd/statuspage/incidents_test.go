package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// apiServer answers list and watch of the Incidents of a namespace. It can be taken away.
type apiServer struct {
	*httptest.Server
	mu        sync.Mutex
	incidents []map[string]any
	down      bool
	streams   []context.CancelFunc
}

func newAPIServer(t *testing.T, incidents ...map[string]any) *apiServer {
	t.Helper()
	s := &apiServer{incidents: incidents}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		down, items := s.down, s.incidents
		s.mu.Unlock()
		if r.URL.Path != "/apis/playbook.1pass.dev/v1alpha1/namespaces/identity/incidents" {
			t.Errorf("asked for %s", r.URL)
		}
		if down {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			_ = json.NewEncoder(w).Encode(map[string]any{
				"apiVersion": "playbook.1pass.dev/v1alpha1", "kind": "IncidentList",
				"metadata": map[string]any{"resourceVersion": "10"}, "items": items,
			})
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		s.mu.Lock()
		s.streams = append(s.streams, cancel)
		s.mu.Unlock()
		event := func(kind string, object map[string]any) {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
		}
		if r.URL.Query().Get("sendInitialEvents") == "true" {
			for _, item := range items {
				event("ADDED", item)
			}
			event("BOOKMARK",
				map[string]any{"apiVersion": "playbook.1pass.dev/v1alpha1", "kind": "Incident", "metadata": map[string]any{
					"resourceVersion": "10", "annotations": map[string]any{"k8s.io/initial-events-end": "true"},
				}})
		}
		_ = http.NewResponseController(w).Flush()
		<-ctx.Done()
	}))
	t.Cleanup(func() {
		s.setDown(true)
		s.Close()
	})
	return s
}

func (s *apiServer) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	for _, cancel := range s.streams {
		cancel()
	}
	s.streams = nil
}

func incident(name, severity string, notice any) map[string]any {
	status := map[string]any{"severity": severity, "timeline": []any{map[string]any{"text": "an internal remark"}}}
	if notice != nil {
		status["notice"] = notice
	}
	return map[string]any{
		"apiVersion": "playbook.1pass.dev/v1alpha1", "kind": "Incident",
		"metadata": map[string]any{"name": name, "namespace": "identity", "uid": "uid-" +
			name, "resourceVersion": "5", "annotations": map[string]any{"a": "an internal remark"}},
		"spec":   map[string]any{"summary": "an internal remark"},
		"status": status,
	}
}

func told(title string) map[string]any {
	return map[string]any{
		"title": title, "state": "Monitoring", "startedAt": "2026-11-25T02:00:00Z", "updates": []any{
			map[string]any{"at": "2026-11-25T02:00:00Z", "state": "Investigating", "text": "first"},
			// A pass publishes two states within one second.
			map[string]any{"at": "2026-11-25T02:30:00Z", "state": "Identified", "text": "second"},
			map[string]any{"at": "2026-11-25T02:30:00Z", "state": "Monitoring", "text": "third"},
		},
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func follow(t *testing.T, s *apiServer) *Incidents {
	t.Helper()
	incidents, err := newIncidents(&rest.Config{Host: s.URL}, "identity")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { incidents.RunWithContext(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return incidents
}

func TestOnlySev1NoticesAreShownAndNothingElseIsKept(t *testing.T) {
	t.Parallel()
	resolved := told("over")
	resolved["state"] = "Resolved"
	declared := incident("declared", "", told("declared"))
	declared["spec"].(map[string]any)["severity"] = "sev1"
	strange := told("strange")
	strange["updates"] = "none"
	s := newAPIServer(t,
		incident("a", "sev1", told("shown")), incident("b", "sev2", told("sev2")), incident("c", "", told("unclassified")),
		incident("d", "sev1", nil), incident("e", "sev1", "no object"), incident("f", "sev1", strange),
		incident("g", "sev1", resolved), declared)
	incidents := follow(t, s)
	eventually(t, "known", func() bool { _, _, known := incidents.Notices(); return known })
	notices, lostAt, _ := incidents.Notices()
	var titles []string
	for _, n := range notices {
		titles = append(titles, n.Title)
	}
	if got := strings.Join(titles, ","); got != "declared,over,shown" || !lostAt.IsZero() {
		t.Errorf("%s, %v", got, lostAt)
	}
	n := notices[2]
	var texts []string
	for _, u := range n.Updates {
		texts = append(texts, u.Text)
	}
	if got := strings.Join(texts, ","); got != "third,second,first" || n.ResolvedAt != nil || n.ID != "uid-a" {
		t.Errorf("%s, %+v", got, n)
	}
	if n := notices[1]; n.ResolvedAt == nil || n.ResolvedAt.UTC().Format(time.TimeOnly) != "02:30:00" {
		t.Errorf("%+v", n)
	}
	kept, err := json.Marshal(incidents.GetStore().List())
	if text := string(kept); err != nil || strings.Contains(text, "internal") || strings.Contains(text, "sev2") ||
		!strings.Contains(text, "shown") {
		t.Errorf("%s, %v", text, err)
	}
}

func TestAnAPIServerThatIsAwayLeavesTheLastKnownState(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, incident("a", "sev1", told("shown")))
	s.setDown(true)
	incidents := follow(t, s)
	if _, _, known := incidents.Notices(); known {
		t.Fatal("something is known before the API server answered")
	}
	s.setDown(false)
	eventually(t, "known", func() bool { _, lostAt, known := incidents.Notices(); return known && lostAt.IsZero() })
	s.setDown(true)
	eventually(t, "known to be old", func() bool { _, lostAt, _ := incidents.Notices(); return !lostAt.IsZero() })
	notices, _, known := incidents.Notices()
	if len(notices) != 1 || !known {
		t.Errorf("%v, %v", notices, known)
	}
	s.setDown(false)
	eventually(t, "there again", func() bool { _, lostAt, _ := incidents.Notices(); return lostAt.IsZero() })
}
