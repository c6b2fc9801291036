package logi_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const routingKey = "0123456789abcdef0123456789abcdef"

// call a service, and return its status and what it says.
func call(t *testing.T, method, url, body string, header map[string]string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func services(t *testing.T) (*logi.Services, string) {
	t.Helper()
	s := logi.NewServices()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func TestPagerDutyRefusesWhatTheRealOneRefuses(t *testing.T) {
	t.Parallel()
	s, url := services(t)
	good := func() map[string]any {
		return map[string]any{"routing_key": routingKey, "event_action": "trigger", "dedup_key": "k",
			"payload": map[string]any{
				"summary": "s", "source": "x", "severity": "critical", "timestamp": "2026-11-23T03:00:00Z",
			}}
	}
	for want, change := range map[string]func(event, payload map[string]any){
		"":                       func(_, _ map[string]any) {},
		"'routing_key'":          func(e, _ map[string]any) { e["routing_key"] = "short" },
		"'event_action'":         func(e, _ map[string]any) { e["event_action"] = "page" },
		"'dedup_key' is too":     func(e, _ map[string]any) { e["dedup_key"] = strings.Repeat("k", 256) },
		"'dedup_key' is miss":    func(e, _ map[string]any) { e["event_action"], e["dedup_key"] = "resolve", "" },
		"'payload' is":           func(e, _ map[string]any) { delete(e, "payload") },
		"'payload.summary' is m": func(_, p map[string]any) { p["summary"] = "" },
		"'payload.summary' is t": func(_, p map[string]any) { p["summary"] = strings.Repeat("s", 1025) },
		"'payload.source'":       func(_, p map[string]any) { delete(p, "source") },
		"'payload.severity'":     func(_, p map[string]any) { p["severity"] = "sev1" },
		"'payload.timestamp'":    func(_, p map[string]any) { p["timestamp"] = "yesterday" },
		"larger than":            func(e, _ map[string]any) { e["client"] = strings.Repeat("c", 512<<10) },
	} {
		event := good()
		change(event, event["payload"].(map[string]any))
		body, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		status, text := call(t, http.MethodPost, url+"/pagerduty/v2/enqueue", string(body), nil)
		if want == "" && (status != http.StatusAccepted || !strings.Contains(text, `"dedup_key":"k"`)) || want != "" &&
			(status != http.StatusBadRequest || !strings.Contains(text, want)) {
			t.Errorf("%q: %d %s", want, status, text)
		}
	}
	if n := len(s.Pages()); n != 1 {
		t.Errorf("%d pages", n)
	}
}

// The worked example of Standard Webhooks' reference implementation, at another time: its own is of 2021.
func TestAReceiverVerifiesWebhooks(t *testing.T) {
	t.Parallel()
	s, url := services(t)
	s.SetWebhookSecret("ops", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	const id, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", `{"test": 2432232314}`
	sign := func(id, at string) string {
		key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, key)
		_, _ = mac.Write([]byte(id + "." + at + "." + body))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	at := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	now, old, early := at(0), at(-6*time.Minute), at(6*time.Minute)
	for name, c := range map[string]struct {
		hook, id, at, signature string
		want                    int
	}{
		"right":                {"ops", id, now, sign(id, now), 200},
		"one of several":       {"ops", id, now, "v1,AAAA v1a,AAAA " + sign(id, now), 200},
		"wrong":                {"ops", id, now, sign(id, early), 401},
		"another version":      {"ops", id, now, strings.Replace(sign(id, now), "v1", "v2", 1), 401},
		"none":                 {"ops", id, now, "", 401},
		"another id":           {"ops", "msg_2", now, sign(id, now), 401},
		"no id":                {"ops", "", now, sign("", now), 400},
		"an id with a dot":     {"ops", "a.b", now, sign("a.b", now), 400},
		"no timestamp":         {"ops", id, "", sign(id, ""), 400},
		"old":                  {"ops", id, old, sign(id, old), 400},
		"from the future":      {"ops", id, early, sign(id, early), 400},
		"the example, of 2021": {"ops", id, "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", 400},
		"no such receiver":     {"dev", id, now, sign(id, now), 404},
	} {
		status, text := call(t, http.MethodPost, url+"/hooks/"+
			c.hook, body, map[string]string{"webhook-id": c.id, "webhook-timestamp": c.at, "webhook-signature": c.signature})
		if status != c.want {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if got := s.Webhooks(); len(got) != 1 || got[0] != (logi.Webhook{Name: "ops", ID: id, Body: body, Times: 2}) {
		t.Errorf("%+v", got)
	}
	if got, want := sign(id, "1614265330"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want the reference implementation's %s", got, want)
	}
}

func TestStatuspageRefusesWhatTheRealOneRefuses(t *testing.T) {
	t.Parallel()
	s, url := services(t)
	key := map[string]string{"Authorization": "OAuth " + s.StatuspageKey()}
	incidents := url + "/statuspage/v1/pages/p/incidents"
	for name, c := range map[string]struct {
		method, url, body string
		header            map[string]string
		want              int
	}{
		"no key": {http.MethodPost, incidents, `{"incident": {"name": "x"}}`, nil, 401},
		"a bearer": {http.MethodPost, incidents, `{"incident": {"name": "x"}}`,
			map[string]string{"Authorization": "Bearer " + s.StatuspageKey()}, 401},
		"no name": {http.MethodPost, incidents, `{"incident": {}}`, key, 422},
		"a long name": {http.MethodPost, incidents, `{"incident": {"name": "` + strings.Repeat("x", 256) +
			`"}}`, key, 422},
		"a long body": {http.MethodPost, incidents, `{"incident": {"name": "x", "body": "` +
			strings.Repeat("x", 25001) + `"}}`, key, 422},
		"a status": {http.MethodPost, incidents, `{"incident": {"name": "x", "status": "broken"}}`, key, 422},
		"an impact": {http.MethodPost, incidents, `{"incident": {"name": "x", "impact_override": "huge"}}`, key,
			422},
		"metadata of a string": {http.MethodPost, incidents, `{"incident": {"name": "x", "metadata": {"key": "y"}}}`, key,
			422},
		"no JSON":          {http.MethodPost, incidents, `name=x`, key, 422},
		"no such incident": {http.MethodPatch, incidents + "/y", `{"incident": {"status": "resolved"}}`, key, 404},
	} {
		if status, text := call(t, c.method, c.url, c.body, c.header); status != c.want ||
			!strings.Contains(text, `"error"`) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if n := len(s.Notices()); n != 0 {
		t.Errorf("%d notices", n)
	}
}

func TestAFaultHitsAsOftenAsItSays(t *testing.T) {
	t.Parallel()
	s, url := services(t)
	s.SetFault(logi.Slack, logi.ServiceFault{Status: 503, Times: 2})
	var got []int
	for range 3 {
		status, _ := call(t, http.MethodPost, url+"/slack/services/T/B/X", `{"text": "hello"}`, nil)
		got = append(got, status)
	}
	if got[0] != 503 || got[1] != 503 || got[2] != 200 || len(s.Chats()) != 1 || s.Requests(logi.Slack) != 3 {
		t.Errorf("%v, %v", got, s.Chats())
	}
}

func TestServicesAreServedBesideThePlatform(t *testing.T) {
	t.Parallel()
	p := start(t, logi.Config{})
	if status, text := call(t, http.MethodPost, p.URL()+
		"/slack/services/T/B/X", `{"text": "hello"}`, nil); status != http.StatusOK || text != "ok" {
		t.Errorf("%d %s", status, text)
	}
	if status, text := call(t, http.MethodPost, p.URL()+
		"/_control/services", `{"service": "pagerduty", "fault": {"status": 503}}`, nil); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := call(t, http.MethodPost, p.URL()+"/pagerduty/v2/enqueue", `{}`,
		nil); status != http.StatusServiceUnavailable {
		t.Errorf("%d", status)
	}
	if status, text := call(t, http.MethodPost, p.URL()+
		"/_control/services", `{"service": "pigeon"}`, nil); status != http.StatusInternalServerError ||
		!strings.Contains(text, "pigeon") {
		t.Errorf("%d %s", status, text)
	}
	if _, text := call(t, http.MethodGet, p.URL()+
		"/_control/services", "", nil); !strings.Contains(text, `"chats":[{"channel":"services/T/B/X","text":"hello"}]`) {
		t.Error(text)
	}
	p.Forget()
	if n := len(p.Services.Chats()); n != 0 || p.Services.Requests(logi.Slack) != 0 {
		t.Errorf("%d messages", n)
	}
}
