package paging_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestPagerDutyOpensAcknowledgesAndResolves(t *testing.T) {
	t.Parallel()
	s := start(t)
	send := func(event paging.Event) {
		t.Helper()
		if err := s.channels[logi.PagerDuty].Send(t.Context(), nil, message(event)); err != nil {
			t.Fatal(err)
		}
	}
	state := func() (states []string) {
		for _, page := range s.Pages() {
			states = append(states, fmt.Sprint(page.State, page.Triggers))
		}
		return states
	}
	for _, c := range []struct {
		event paging.Event
		want  []string
	}{
		{paging.Resolve, nil},
		{paging.Acknowledge, nil},
		{paging.Trigger, []string{"triggered1"}},
		{paging.Trigger, []string{"triggered2"}},
		{paging.Acknowledge, []string{"acknowledged2"}},
		{paging.Trigger, []string{"acknowledged3"}},
		{paging.Resolve, []string{"resolved3"}},
		{paging.Resolve, []string{"resolved3"}},
		{paging.Trigger, []string{"resolved3", "triggered1"}},
	} {
		if send(c.event); !reflect.DeepEqual(state(), c.want) {
			t.Fatalf("after %s: %v, want %v", c.event, state(), c.want)
		}
	}
	page, m := s.Pages()[0], message(paging.Trigger)
	if page.RoutingKey != routingKey || page.DedupKey != m.Key || page.Summary != m.Summary ||
		page.Severity != "critical" || page.Source != m.Source ||
		!reflect.DeepEqual(page.Links, []string{m.URL}) || !reflect.DeepEqual(page.Details, m.Details) {
		t.Errorf("%+v", page)
	}
}

func TestSeverityAtPagerDuty(t *testing.T) {
	t.Parallel()
	for severity, want := range map[string]string{"sev1": "critical", "sev2": "error", "sev3": "warning", "": "critical",
		"sev9": "critical"} {
		s := start(t)
		m := message(paging.Trigger)
		m.Severity = severity
		if err := s.channels[logi.PagerDuty].Send(t.Context(), nil, m); err != nil || s.Pages()[0].Severity != want {
			t.Errorf("%q: %+v, %v", severity, s.Pages(), err)
		}
	}
}

// A page is never refused because it is long: its summary is cut, and its key is hashed.
func TestALongMessageIsTaken(t *testing.T) {
	t.Parallel()
	s := start(t)
	m := message(paging.Trigger)
	m.Key, m.Summary = strings.Repeat("k", 256), strings.Repeat("ü\n", 5000)
	for service, channel := range s.channels {
		if err := channel.Send(t.Context(), nil, m); err != nil {
			t.Errorf("%s: %v", service, err)
		}
	}
	page := s.Pages()[0]
	if len(page.Summary) > 1024 || !utf8.ValidString(page.Summary) || strings.ContainsRune(page.Summary, utf8.RuneError) ||
		!strings.HasSuffix(page.Summary, "…") || len(page.DedupKey) > 255 {
		t.Errorf("%+v", page)
	}
	m.Event = paging.Resolve
	if err := s.channels[logi.PagerDuty].Send(t.Context(), nil, m); err != nil || s.Pages()[0].State != "resolved" {
		t.Errorf("%+v, %v", s.Pages(), err)
	}
}

func TestPagerDutySaysWhatIsWrongWithAnEvent(t *testing.T) {
	t.Parallel()
	s := start(t)
	m := message(paging.Trigger)
	m.Source = ""
	err := s.channels[logi.PagerDuty].Send(t.Context(), nil, m)
	if want := "refused with HTTP 400: Event object is invalid; 'payload.source' is missing or blank"; err == nil ||
		err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	// PagerDuty's words are left out where they hold the key, or a piece of it.
	for _, text := range []string{"bad key " + routingKey, "bad key " + strings.ToLower(routingKey), "bad key " +
		routingKey[:12] + "…", "bad\nkey …" + routingKey[20:]} {
		body, _ := json.Marshal(map[string]any{"message": text})
		s.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 400, Body: string(body)})
		if err := s.channels[logi.PagerDuty].Send(t.Context(), nil, m); err == nil || err.Error() != "refused with HTTP 400" {
			t.Errorf("%s: %v", text, err)
		}
	}
	s.SetFault(logi.PagerDuty,
		logi.ServiceFault{Status: 400, Body: `{"message": "` + strings.Repeat("ü", 1000) + `\u0000\u001b[31m"}`})
	if err := s.channels[logi.PagerDuty].Send(t.Context(), nil, m); err == nil || len([]rune(err.Error())) > 400 ||
		strings.ContainsAny(err.Error(), "\x00\x1b") {
		t.Error(err)
	}
}
