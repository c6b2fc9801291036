package logi

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Notice is an incident on a page of Statuspage.io.
type Notice struct {
	PageID    string                     `json:"page_id"`
	ID        string                     `json:"id"`
	Name      string                     `json:"name"`
	Status    string                     `json:"status"`
	Impact    string                     `json:"impact"`
	Metadata  map[string]json.RawMessage `json:"metadata"`
	CreatedAt time.Time                  `json:"created_at"`
	// ResolvedAt is nil while it is open.
	ResolvedAt *time.Time `json:"resolved_at"`
	// Updates have the newest first. The slice is never changed, only replaced.
	Updates []NoticeUpdate `json:"incident_updates"`
}

// NoticeUpdate is an update that subscribers were sent.
type NoticeUpdate struct {
	Status    string    `json:"status"`
	Body      string    `json:"body"`
	CreatedAt time.Time `json:"created_at"`
}

// StatuspageKey opens the API of Statuspage, for every page.
func (s *Services) StatuspageKey() string { return s.statuspageKey }

// Notices on all pages, in the order in which they were made.
func (s *Services) Notices() []Notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notices)
}

func (s *Services) statuspageRoutes() {
	for pattern, do := range map[string]func(*http.Request, []byte) (int, any){
		"GET /statuspage/v1/pages/{page}/incidents/unresolved": s.unresolvedNotices,
		"POST /statuspage/v1/pages/{page}/incidents":           s.createNotice,
		"PATCH /statuspage/v1/pages/{page}/incidents/{id}":     s.updateNotice,
	} {
		s.mux.HandleFunc(pattern, s.faulty(Statuspage, func(r *http.Request, body []byte) (int, any) {
			if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("OAuth "+s.statuspageKey)) != 1 {
				return http.StatusUnauthorized, map[string]string{"error": "Could not authenticate"}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return do(r, body)
		}))
	}
}

func (s *Services) unresolvedNotices(r *http.Request, _ []byte) (int, any) {
	open := []Notice{}
	for _, n := range slices.Backward(s.notices) {
		if n.PageID == r.PathValue("page") && n.ResolvedAt == nil {
			open = append(open, n)
		}
	}
	page, per := number(r, "page", 1), min(number(r, "per_page", 100), 100)
	start := min(len(open), (page-1)*per)
	return http.StatusOK, open[start:min(len(open), start+per)]
}

func number(r *http.Request, name string, other int) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil || n < 1 {
		return other
	}
	return n
}

type noticeInput struct {
	Incident struct {
		Name     *string                    `json:"name"`
		Status   string                     `json:"status"`
		Impact   string                     `json:"impact_override"`
		Body     string                     `json:"body"`
		Metadata map[string]json.RawMessage `json:"metadata"`
	} `json:"incident"`
}

func readNotice(body []byte) (in noticeInput, problems []string) {
	if json.Unmarshal(body, &in) != nil {
		return in, []string{"the body is no incident"}
	}
	i := in.Incident
	if i.Name != nil && (*i.Name == "" || len([]rune(*i.Name)) > 255) {
		problems = append(problems, "Name must be between 1 and 255 characters")
	}
	if !slices.Contains([]string{"", "investigating", "identified", "monitoring", "resolved"}, i.Status) {
		problems = append(problems, "Status is invalid")
	}
	if !slices.Contains([]string{"", "none", "minor", "major", "critical"}, i.Impact) {
		problems = append(problems, "Impact override is invalid")
	}
	if len([]rune(i.Body)) > 25000 {
		problems = append(problems, "Body is too long (maximum is 25000 characters)")
	}
	for name, value := range i.Metadata {
		if !strings.HasPrefix(strings.TrimSpace(string(value)), "{") {
			problems = append(problems, fmt.Sprintf("Metadata %s must be an object", name))
		}
	}
	return in, problems
}

func (s *Services) createNotice(r *http.Request, body []byte) (int, any) {
	in, problems := readNotice(body)
	if in.Incident.Name == nil {
		problems = append(problems, "Name can't be blank")
	}
	if len(problems) > 0 {
		return http.StatusUnprocessableEntity, map[string]any{"error": problems}
	}
	n := Notice{
		PageID: r.PathValue("page"), ID: strings.ToLower(rand.Text()[:12]), Status: "investigating", Impact: "none",
		Metadata: in.Incident.Metadata, CreatedAt: time.Now().UTC(),
	}
	n.apply(in)
	s.notices = append(s.notices, n)
	return http.StatusCreated, n
}

func (s *Services) updateNotice(r *http.Request, body []byte) (int, any) {
	at := slices.IndexFunc(s.notices,
		func(n Notice) bool { return n.PageID == r.PathValue("page") && n.ID == r.PathValue("id") })
	if at < 0 {
		return http.StatusNotFound, map[string]string{"error": "Not found"}
	}
	in, problems := readNotice(body)
	if len(problems) > 0 {
		return http.StatusUnprocessableEntity, map[string]any{"error": problems}
	}
	n := s.notices[at]
	n.apply(in)
	s.notices[at] = n
	return http.StatusOK, n
}

func (n *Notice) apply(in noticeInput) {
	now := time.Now().UTC()
	if in.Incident.Name != nil {
		n.Name = *in.Incident.Name
	}
	n.Status, n.Impact = orElse(in.Incident.Status, n.Status), orElse(in.Incident.Impact, n.Impact)
	n.ResolvedAt = nil
	if n.Status == "resolved" {
		n.ResolvedAt = &now
	}
	n.Updates = append([]NoticeUpdate{{n.Status, in.Incident.Body, now}}, n.Updates...)
}
