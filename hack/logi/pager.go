package logi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Services plays the services that notify people: PagerDuty, Slack, receivers of signed webhooks, and Statuspage.io. It
// serves HTTP by itself, and as a part of Server.
type Services struct {
	mux           *http.ServeMux
	statuspageKey string

	mu       sync.Mutex
	faults   map[string]ServiceFault
	requests map[string]int
	pages    []Page
	chats    []Chat
	secrets  map[string]string // of webhooks, by name
	webhooks []Webhook
	notices  []Notice
}

// The services, as faults and counts name them.
const (
	PagerDuty  = "pagerduty"
	Slack      = "slack"
	Hooks      = "hooks"
	Statuspage = "statuspage"
)

// ServiceFault is how a service fails. The zero ServiceFault is no fault.
type ServiceFault struct {
	// Status answers instead, with Body; nothing is taken.
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	// ContentType of Body; the default is text/html, as of a proxy.
	ContentType string `json:"contentType,omitempty"`
	// RetryAfter and Location are headers of that answer. RetryInSeconds gives Retry-After as a date, so many seconds
	// after the answer.
	RetryAfter     string `json:"retryAfter,omitempty"`
	RetryInSeconds int    `json:"retryInSeconds,omitempty"`
	Location       string `json:"location,omitempty"`
	// BodyBytes are so many more bytes after Body.
	BodyBytes int `json:"bodyBytes,omitempty"`
	// Echo answers with the request's own headers and body after Body.
	Echo bool `json:"echo,omitempty"`
	// DelayMilliseconds before any answer.
	DelayMilliseconds int `json:"delayMilliseconds,omitempty"`
	// Stall sends the answer's status and no body, until the client has gone, for a minute at most.
	Stall bool `json:"stall,omitempty"`
	// Refuse closes the connection before the request is handled. LoseReply closes it afterwards.
	Refuse    bool `json:"refuse,omitempty"`
	LoseReply bool `json:"loseReply,omitempty"`
	// Garbage answers with bytes that are not HTTP, and that contain the request's own headers and body.
	Garbage bool `json:"garbage,omitempty"`
	// Times is how many requests are hit; 0 means each.
	Times int `json:"times,omitempty"`
}

// Page is an alert at PagerDuty.
type Page struct {
	RoutingKey string `json:"routingKey"`
	DedupKey   string `json:"dedupKey"`
	// State is triggered, acknowledged or resolved.
	State string `json:"state"`
	// Triggers that it took while it was open.
	Triggers int               `json:"triggers"`
	Summary  string            `json:"summary"`
	Severity string            `json:"severity"`
	Source   string            `json:"source"`
	Links    []string          `json:"links"`
	Details  map[string]string `json:"details"`
	// The times at which it was first triggered, acknowledged and resolved, or zero.
	TriggeredAt    time.Time `json:"triggeredAt"`
	AcknowledgedAt time.Time `json:"acknowledgedAt"`
	ResolvedAt     time.Time `json:"resolvedAt"`
}

// Chat is a message at Slack. Channel is the path of its webhook after /slack/.
type Chat struct {
	Channel string `json:"channel"`
	Text    string `json:"text"`
}

// Webhook is a webhook with a valid signature.
type Webhook struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	Body string `json:"body"`
	// Times is how often it was accepted, by its ID.
	Times int `json:"times"`
}

// NewServices makes services without faults and without clients.
func NewServices() *Services {
	s := &Services{
		mux: http.NewServeMux(), statuspageKey: rand.Text(),
		faults: map[string]ServiceFault{}, requests: map[string]int{}, secrets: map[string]string{},
	}
	s.mux.HandleFunc("POST /pagerduty/v2/enqueue", s.faulty(PagerDuty, s.enqueue))
	s.mux.HandleFunc("/slack/{channel...}", s.faulty(Slack, s.chat))
	s.mux.HandleFunc("POST /hooks/{name}", s.faulty(Hooks, s.receive))
	s.statuspageRoutes()
	s.mux.HandleFunc("POST /_control/services", control(func(_ context.Context, in struct {
		Service string       `json:"service"`
		Fault   ServiceFault `json:"fault"`
	}) (any, error) {
		if !slices.Contains([]string{PagerDuty, Slack, Hooks, Statuspage}, in.Service) {
			return nil, fmt.Errorf("there is no service %q", in.Service)
		}
		s.SetFault(in.Service, in.Fault)
		return in.Fault, nil
	}))
	s.mux.HandleFunc("GET /_control/services", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK,
			map[string]any{"pages": s.Pages(), "chats": s.Chats(), "webhooks": s.Webhooks(), "notices": s.Notices(),
				"statuspageKey": s.StatuspageKey()})
	})
	return s
}

func (s *Services) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// SetFault changes how a service answers.
func (s *Services) SetFault(service string, fault ServiceFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[service] = fault
}

// SetWebhookSecret makes the receiver of /hooks/<name>, or changes its secret: "whsec_" and base64.
func (s *Services) SetWebhookSecret(name, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name] = secret
}

// Requests counts what reached a service, whatever became of it.
func (s *Services) Requests(service string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[service]
}

// Pages in the order in which they were opened.
func (s *Services) Pages() []Page {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pages)
}

// Chats in the order in which they arrived.
func (s *Services) Chats() []Chat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.chats)
}

// Webhooks in the order in which they first arrived.
func (s *Services) Webhooks() []Webhook {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.webhooks)
}

// Forget drops faults, counts and everything that arrived, as if the services had just started. Secrets stay.
func (s *Services) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
	clear(s.requests)
	s.pages, s.chats, s.webhooks, s.notices = nil, nil, nil, nil
}

// faulty reads the request. Unless a fault of the service prevents it, do handles the request and returns the answer.
func (s *Services) faulty(service string,
	do func(r *http.Request, body []byte) (status int, answer any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return // a client that has gone
		}
		fault := s.hit(service)
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Duration(fault.DelayMilliseconds) * time.Millisecond):
		}
		request := fmt.Sprintf("%s %s %v %s", r.Method, r.URL, r.Header, body)
		switch {
		case fault.Refuse:
			panic(http.ErrAbortHandler)
		case fault.Garbage:
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				// It is one word, since net/http repeats one word in its error.
				_, _ = io.WriteString(conn, strings.ReplaceAll(request, " ", "_")+"\r\n\r\n")
				_ = conn.Close()
			}
			return
		case fault.Status != 0:
			fault.answer(w, r, request)
			return
		}
		status, answer := do(r, body)
		if fault.LoseReply {
			panic(http.ErrAbortHandler)
		}
		if fault.Stall {
			w.WriteHeader(status)
			stall(w, r)
			return
		}
		if text, plain := answer.(string); plain {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text) // a client that has gone
			return
		}
		respond(w, status, answer)
	}
}

// answer in place of the service. request is what an echo repeats.
func (fault ServiceFault) answer(w http.ResponseWriter, r *http.Request, request string) {
	w.Header().Set("Content-Type", orElse(fault.ContentType, "text/html"))
	for name, value := range map[string]string{"Retry-After": fault.RetryAfter, "Location": fault.Location} {
		if value != "" {
			w.Header().Set(name, value)
		}
	}
	if fault.RetryInSeconds != 0 {
		until := time.Now().Add(time.Duration(fault.RetryInSeconds) * time.Second)
		w.Header().Set("Retry-After", until.UTC().Format(http.TimeFormat))
	}
	w.WriteHeader(fault.Status)
	if fault.Stall {
		stall(w, r)
		return
	}
	_, _ = io.WriteString(w, fault.Body)
	if fault.Echo {
		_, _ = io.WriteString(w, request)
	}
	_, _ = io.Copy(w, io.LimitReader(xs{}, int64(fault.BodyBytes)))
}

func stall(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-time.After(time.Minute): // a client that waits for ever
	}
}

// xs reads as an endless sequence of x.
type xs struct{}

func (xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// hit is the fault that hits this request.
func (s *Services) hit(service string) ServiceFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[service]++
	fault := s.faults[service]
	if fault.Times == 1 {
		delete(s.faults, service)
	} else if fault.Times > 1 {
		left := fault
		left.Times--
		s.faults[service] = left
	}
	return fault
}

var routingKeyPattern = regexp.MustCompile(`^[A-Za-z0-9]{32}$`)

// event of PagerDuty's Events API v2.
type event struct {
	RoutingKey  string `json:"routing_key"`
	EventAction string `json:"event_action"`
	DedupKey    string `json:"dedup_key"`
	Payload     *struct {
		Summary       string            `json:"summary"`
		Source        string            `json:"source"`
		Severity      string            `json:"severity"`
		Timestamp     string            `json:"timestamp"`
		CustomDetails map[string]string `json:"custom_details"`
	} `json:"payload"`
	Links []struct {
		Href string `json:"href"`
	} `json:"links"`
}

// problem is PagerDuty's reason to refuse an event. It is empty if the event is accepted.
func (in *event) problem() string {
	switch p := in.Payload; {
	case !routingKeyPattern.MatchString(in.RoutingKey):
		return "'routing_key' must be 32 characters long"
	case len(in.DedupKey) > 255:
		return "'dedup_key' is too long (maximum is 255 characters)"
	case in.EventAction == "acknowledge", in.EventAction == "resolve":
		if in.DedupKey == "" {
			return "'dedup_key' is missing or blank"
		}
		return ""
	case in.EventAction != "trigger":
		return "'event_action' must be one of: trigger, acknowledge, resolve"
	case p == nil:
		return "'payload' is missing or blank"
	case p.Summary == "":
		return "'payload.summary' is missing or blank"
	case len([]rune(p.Summary)) > 1024:
		return "'payload.summary' is too long (maximum is 1024 characters)"
	case p.Source == "":
		return "'payload.source' is missing or blank"
	case !slices.Contains([]string{"critical", "error", "warning", "info"}, p.Severity):
		return "'payload.severity' is invalid (must be one of the following: 'critical', 'warning', 'error' or 'info')"
	}
	if _, err := time.Parse(time.RFC3339, in.Payload.Timestamp); in.Payload.Timestamp != "" && err != nil {
		return "'payload.timestamp' is no ISO 8601 time"
	}
	return ""
}

// enqueue answers POST /v2/enqueue of PagerDuty's Events API v2.
func (s *Services) enqueue(_ *http.Request, body []byte) (int, any) {
	var in event
	if err := json.Unmarshal(body, &in); err != nil {
		return invalidEvent("the body is no JSON")
	}
	if len(body) > 512<<10 {
		return invalidEvent("the event is larger than 512 KB")
	}
	if problem := in.problem(); problem != "" {
		return invalidEvent(problem)
	}
	if in.DedupKey == "" {
		in.DedupKey = strings.ToLower(rand.Text())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	open := slices.IndexFunc(s.pages, func(p Page) bool {
		return p.RoutingKey == in.RoutingKey && p.DedupKey == in.DedupKey && p.State != "resolved"
	})
	now := time.Now()
	switch {
	case in.EventAction == "trigger" && open < 0:
		page := Page{
			RoutingKey: in.RoutingKey, DedupKey: in.DedupKey, State: "triggered", Triggers: 1, TriggeredAt: now,
			Summary: in.Payload.Summary, Severity: in.Payload.Severity, Source: in.Payload.Source,
			Details: in.Payload.CustomDetails,
		}
		for _, link := range in.Links {
			page.Links = append(page.Links, link.Href)
		}
		s.pages = append(s.pages, page)
	case open < 0: // it is dropped, but the answer is still 202
	case in.EventAction == "trigger":
		s.pages[open].Triggers++
	case in.EventAction == "acknowledge":
		if s.pages[open].State == "triggered" {
			s.pages[open].State, s.pages[open].AcknowledgedAt = "acknowledged", now
		}
	default:
		s.pages[open].State, s.pages[open].ResolvedAt = "resolved", now
	}
	return http.StatusAccepted,
		map[string]string{"status": "success", "message": "Event processed", "dedup_key": in.DedupKey}
}

func invalidEvent(problem string) (int, any) {
	return http.StatusBadRequest,
		map[string]any{"status": "invalid event", "message": "Event object is invalid", "errors": []string{problem}}
}

// chat answers a Slack incoming webhook, in plain text.
func (s *Services) chat(r *http.Request, body []byte) (int, any) {
	var in struct {
		Text string `json:"text"`
	}
	if r.Method != http.MethodPost || json.Unmarshal(body, &in) != nil {
		return http.StatusBadRequest, "invalid_payload"
	}
	if in.Text == "" {
		return http.StatusBadRequest, "no_text"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chats = append(s.chats, Chat{r.PathValue("channel"), in.Text})
	return http.StatusOK, "ok"
}

// webhookTolerance is how far a webhook's timestamp may be from the receiver's clock, as in the libraries of Standard
// Webhooks.
const webhookTolerance = 5 * time.Minute

// receive verifies a webhook by Standard Webhooks 1.0.0.
func (s *Services) receive(r *http.Request, body []byte) (int, any) {
	name, id, sent := r.PathValue("name"), r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, known := s.secrets[name]
	if !known {
		return http.StatusNotFound, "no such webhook"
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return http.StatusInternalServerError, "the receiver's secret is no base64"
	}
	seconds, err := strconv.ParseInt(sent, 10, 64)
	if err != nil || id == "" || strings.Contains(id, ".") ||
		math.Abs(float64(time.Now().Unix()-seconds)) > webhookTolerance.Seconds() {
		return http.StatusBadRequest, "webhook-id or webhook-timestamp is missing or out of range"
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(id + "." + sent + "." + string(body)))
	right := slices.ContainsFunc(strings.Fields(r.Header.Get("webhook-signature")), func(text string) bool {
		encoded, v1 := strings.CutPrefix(text, "v1,")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		return v1 && err == nil && hmac.Equal(signature, mac.Sum(nil))
	})
	if !right {
		return http.StatusUnauthorized, "no signature matches"
	}
	if at := slices.IndexFunc(s.webhooks, func(w Webhook) bool { return w.Name == name && w.ID == id }); at >= 0 {
		s.webhooks[at].Times++
	} else {
		s.webhooks = append(s.webhooks, Webhook{Name: name, ID: id, Body: string(body), Times: 1})
	}
	return http.StatusOK, ""
}
