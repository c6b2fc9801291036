package paging_test

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestAWebhookIsSignedAndKeepsItsID(t *testing.T) {
	t.Parallel()
	s := start(t)
	send := func(change func(*paging.Message)) {
		t.Helper()
		m := message(paging.Trigger)
		change(&m)
		if err := s.channels[logi.Hooks].Send(t.Context(), nil, m); err != nil {
			t.Fatal(err)
		}
	}
	send(func(*paging.Message) {})
	// A manager that was restarted reads the time from the status, which has whole seconds.
	send(func(m *paging.Message) { m.At = m.At.Add(7 * time.Millisecond).Local() })
	send(func(m *paging.Message) { m.At = m.At.Add(time.Hour) })
	send(func(m *paging.Message) { m.Event = paging.Resolve })
	send(func(m *paging.Message) { m.Key += "." })
	got := s.Webhooks()
	if len(got) != 4 || got[0].Times != 2 {
		t.Fatalf("%+v", got)
	}
	want := `{"type":"page.triggered","timestamp":"2026-11-23T03:00:00Z","data":{` +
		`"key":"identity/production/3f2a/oncall-engineer","severity":"sev1",` +
		`"summary":"api.1pass.dev answers 502","source":"identity/production",` +
		`"url":"https://runbooks.1pass.dev/outage?a=1\u0026b=2",` +
		`"details":{"tier":"oncall-engineer"}}}`
	if got[0].Body != want {
		t.Errorf("%s\nwant %s", got[0].Body, want)
	}
	s.SetWebhookSecret(hookToken,
		"whsec_"+base64.StdEncoding.EncodeToString([]byte("another secret, as after a rotation")))
	if err := s.channels[logi.Hooks].Send(t.Context(), nil, message(paging.Trigger)); class(err) != "refused 401" ||
		leaked(err) != "" {
		t.Error(err)
	}
}

// The example is the reference implementation's (standard-webhooks, libraries/go/webhook_test.go). In the other tests
// signer and receiver are both ours, and could be wrong together.
func TestTheSignatureIsTheReferenceImplementations(t *testing.T) {
	t.Parallel()
	got, err := paging.Sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330",
		[]byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}
