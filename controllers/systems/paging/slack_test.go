package paging_test

import (
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestSlackSaysWhyInOneWord(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{400, "invalid_payload", "refused with HTTP 400: invalid_payload"},
		{403, "action_prohibited", "refused with HTTP 403: action_prohibited"},
		{404, "no_service\n", "refused with HTTP 404: no_service"},
		{410, "channel_is_archived", "refused with HTTP 410: channel_is_archived"},
		{400, "<html>" + slackToken, "refused with HTTP 400"},
		{400, strings.ToLower(slackToken), "refused with HTTP 400"},
		{500, "rollup_error", "the answer was HTTP 500"},
	} {
		s.SetFault(logi.Slack, logi.ServiceFault{Status: c.status, Body: c.body})
		if err := s.channels[logi.Slack].Send(t.Context(), nil, message(paging.Trigger)); err == nil ||
			err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestWhatStandsAtSlack(t *testing.T) {
	t.Parallel()
	s := start(t)
	m := message(paging.Resolve)
	m.Summary = "sev1 <!channel> a & b\nare down"
	if err := s.channels[logi.Slack].Send(t.Context(), nil, m); err != nil {
		t.Fatal(err)
	}
	want := "Resolved: [sev1] &lt;!channel&gt; a &amp; b are down\n" +
		"identity/production, 2026-11-23T03:00:00Z\ntier: oncall-engineer\nhttps://runbooks.1pass.dev/outage?a=1&amp;b=2"
	if got := s.Chats()[0]; got.Text != want || got.Channel != "services/T0000/B0000/"+slackToken {
		t.Errorf("%+v", got)
	}
}
