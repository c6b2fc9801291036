package paging_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const (
	routingKey = "R0utingKeyThatNobodyMaySee012345"
	slackToken = "S1ackTokenThatNobodyMaySee"
	hookToken  = "H00kTokenThatNobodyMaySee"
)

var webhookSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("a webhook secret that nobody may see"))

// secrets that no error may hold, nor a piece of them that gives them away.
var secrets = []string{routingKey, slackToken, hookToken, webhookSecret, strings.TrimPrefix(webhookSecret, "whsec_"),
	"nobody may see"}

// leaked is the secret that an error holds in any of its texts, or in those of its causes.
func leaked(err error) string {
	for ; err != nil; err = errors.Unwrap(err) {
		text := strings.ToLower(fmt.Sprintf("%v %+v %#v", err, err, err))
		for _, secret := range secrets {
			if strings.Contains(text, strings.ToLower(secret)) {
				return secret
			}
		}
	}
	return ""
}

// services are the stand-in's, with a channel of each type that is received there.
type services struct {
	*logi.Services
	url      string
	channels map[string]paging.Channel
}

func start(t *testing.T) services {
	t.Helper()
	far := logi.NewServices()
	server := httptest.NewServer(far)
	t.Cleanup(server.Close)
	far.SetWebhookSecret(hookToken, webhookSecret)
	return services{far, server.URL, open(t, server.URL)}
}

// open makes the channels by service of the stand-in.
func open(t *testing.T, url string) map[string]paging.Channel {
	t.Helper()
	channels := map[string]paging.Channel{}
	for service, c := range map[string]struct {
		kind   string
		secret map[string][]byte
	}{
		logi.PagerDuty: {paging.TypePagerDuty,
			map[string][]byte{"routingKey": []byte(routingKey + "\n"), "url": []byte(url + "/pagerduty/v2/enqueue")}},
		logi.Slack: {paging.TypeSlack,
			map[string][]byte{"url": []byte(url + "/slack/services/T0000/B0000/" + slackToken + "\n")}},
		logi.Hooks: {paging.TypeWebhook,
			map[string][]byte{"url": []byte(url + "/hooks/" + hookToken), "secret": []byte(webhookSecret + "\n")}},
	} {
		channel, err := paging.Open(c.kind, c.secret)
		if err != nil {
			t.Fatal(err)
		}
		channels[service] = channel
	}
	return channels
}

func (s services) arrived(service string) int {
	switch service {
	case logi.PagerDuty:
		return len(s.Pages())
	case logi.Slack:
		return len(s.Chats())
	}
	return len(s.Webhooks())
}

var onset = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

func message(event paging.Event) paging.Message {
	return paging.Message{
		Key: "identity/production/3f2a/oncall-engineer", Event: event, Summary: "api.1pass.dev answers 502", Severity: "sev1",
		Source: "identity/production", URL: "https://runbooks.1pass.dev/outage?a=1&b=2", At: onset,
		Details: map[string]string{"tier": "oncall-engineer"},
	}
}

func class(err error) string {
	refused, limited := (*outbound.Refused)(nil), (*outbound.Limited)(nil)
	switch {
	case err == nil:
		return "accepted"
	case errors.As(err, &refused):
		return fmt.Sprintf("refused %d", refused.Status)
	case errors.As(err, &limited):
		return fmt.Sprintf("limited %s", limited.After)
	}
	return "again"
}

func TestTheSearchForSecretsFindsThem(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.SetFault(logi.Slack, logi.ServiceFault{Refuse: true})
	for _, token := range []string{slackToken, hookToken} {
		// net/http's own words repeat the URL.
		_, err := http.Post(s.url+"/slack/"+token, "application/json", nil)
		if leaked(err) != token || leaked(fmt.Errorf("paging: %w", err)) != token {
			t.Errorf("%q was not found in %v", token, err)
		}
	}
	// And where the answer is not HTTP, it repeats the answer's first line.
	s.SetFault(logi.PagerDuty, logi.ServiceFault{Garbage: true})
	_, err := http.Post(s.url+"/pagerduty/v2/enqueue?"+routingKey, "application/json", nil)
	if inner := errors.Unwrap(err); leaked(inner) != routingKey {
		t.Errorf("the routing key was not found in %v", inner)
	}
	for _, secret := range secrets {
		if leaked(&outbound.Refused{Status: 400, Message: "no such key: " + secret}) == "" {
			t.Errorf("%q was not found", secret)
		}
	}
}

func TestEveryFaultIsOfOneClassAndTellsNoSecret(t *testing.T) {
	t.Parallel()
	echoed := func(status int) logi.ServiceFault { return logi.ServiceFault{Status: status, Echo: true} }
	for name, c := range map[string]struct {
		fault logi.ServiceFault
		want  string
		taken bool
	}{
		"well":               {logi.ServiceFault{}, "accepted", true},
		"400":                {echoed(400), "refused 400", false},
		"401":                {echoed(401), "refused 401", false},
		"403":                {echoed(403), "refused 403", false},
		"404":                {echoed(404), "refused 404", false},
		"408":                {echoed(408), "again", false},
		"409":                {echoed(409), "refused 409", false},
		"410":                {echoed(410), "refused 410", false},
		"413":                {echoed(413), "refused 413", false},
		"420":                {logi.ServiceFault{Status: 420, RetryAfter: "1"}, "limited 1s", false},
		"429 without a time": {echoed(429), "limited 0s", false},
		"429 with seconds":   {logi.ServiceFault{Status: 429, RetryAfter: " 30 "}, "limited 30s", false},
		"429 with a date gone by": {logi.ServiceFault{Status: 429, RetryAfter: "Sun, 06 Nov 1994 08:49:37 GMT"},
			"limited 1s", false},
		"429 with too many seconds": {logi.ServiceFault{Status: 429, RetryAfter: "99999999999999999999"},
			"limited 5m0s", false},
		"429 with a negative time": {logi.ServiceFault{Status: 429, RetryAfter: "-3"}, "limited 1s", false},
		"429 with what is no time": {logi.ServiceFault{Status: 429, RetryAfter: routingKey}, "limited 0s", false},
		"500":                      {echoed(500), "again", false},
		"502 in HTML": {logi.ServiceFault{Status: 502, Body: "<html>Bad Gateway " + routingKey},
			"again", false},
		"503 with Retry-After": {logi.ServiceFault{Status: 503, RetryAfter: "5"}, "again", false},
		"400 with 10 MB":       {logi.ServiceFault{Status: 400, BodyBytes: 10 << 20}, "refused 400", false},
		"503 with 10 MB":       {logi.ServiceFault{Status: 503, BodyBytes: 10 << 20}, "again", false},
		"a redirect": {logi.ServiceFault{Status: 307, Location: "/pagerduty/v2/enqueue", Echo: true},
			"again", false},
		"a redirect to metadata": {logi.ServiceFault{Status: 302, Location: "http://169.254.169.254/latest/meta-data/"},
			"again", false},
		"a redirect that is no URL": {logi.ServiceFault{Status: 302, Location: "http://" + slackToken + "%zz/"},
			"again", false},
		"closed before taking it": {logi.ServiceFault{Refuse: true}, "again", false},
		"a lost reply":            {logi.ServiceFault{LoseReply: true}, "again", true},
		"no HTTP":                 {logi.ServiceFault{Garbage: true}, "again", false},
		"too slow":                {logi.ServiceFault{DelayMilliseconds: 60_000}, "again", false},
		"an error that stalls":    {logi.ServiceFault{Status: 503, Stall: true}, "again", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			for service, channel := range s.channels {
				s.SetFault(service, c.fault)
				ctx, cancel := context.WithTimeout(t.Context(), deadlineFor(c.fault))
				err := channel.Send(ctx, nil, message(paging.Trigger))
				cancel()
				if got := class(err); got != c.want {
					t.Errorf("%s: %s, want %s: %v", service, got, c.want, err)
				}
				if secret := leaked(err); secret != "" {
					t.Errorf("%s: the error holds %q: %v", service, secret, err)
				}
				if taken := s.arrived(service) == 1; taken != c.taken {
					t.Errorf("%s: taken is %v", service, taken)
				}
				if n := s.Requests(service); n != 1 {
					t.Errorf("%s was asked %d times", service, n)
				}
			}
		})
	}
}

// deadlineFor a fault is short where it never answers.
func deadlineFor(f logi.ServiceFault) time.Duration {
	if f.DelayMilliseconds > 0 || f.Stall {
		return 2 * time.Second
	}
	return time.Minute
}

// A date is compared with the answer's own Date, whatever this machine's clock says.
func TestRetryAfterAsADateIsByTheFarSidesClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", now.Format(http.TimeFormat))
		w.Header().Set("Retry-After", now.Add(42*time.Second).Format(http.TimeFormat))
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer server.Close()
	for service, channel := range open(t, server.URL) {
		if got := class(channel.Send(t.Context(), nil, message(paging.Trigger))); got != "limited 42s" {
			t.Errorf("%s: %s", service, got)
		}
	}
}

func TestWhatCanNotBeReachedIsTriedAgain(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	closed.Close()
	untrusted := httptest.NewTLSServer(logi.NewServices())
	defer untrusted.Close()
	plain := httptest.NewServer(logi.NewServices())
	defer plain.Close()
	for url, want := range map[string]string{
		closed.URL:    "connecting: connection refused",
		untrusted.URL: "the TLS certificate is not trusted",
		strings.Replace(plain.URL, "http:", "https:", 1): "the far side does not speak TLS",
		"http://" + slackToken + ".invalid":              "the host's name",
		"http://169.254.169.254":                         "link-local",
	} {
		for service, channel := range open(t, url) {
			err := channel.Send(t.Context(), nil, message(paging.Trigger))
			if class(err) != "again" || !strings.Contains(err.Error(), want) || leaked(err) != "" {
				t.Errorf("%s at %s: %v, want %q", service, url, err, want)
			}
		}
	}
}

func TestACancelledSendSaysSo(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for service, channel := range s.channels {
		if err := channel.Send(ctx, nil, message(paging.Trigger)); class(err) != "again" ||
			!errors.Is(err, context.Canceled) || leaked(err) != "" {
			t.Errorf("%s: %v", service, err)
		}
	}
}

// A channel that never answers is given up, also where the caller sets no deadline.
func TestASendEndsByItself(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.SetFault(logi.PagerDuty, logi.ServiceFault{DelayMilliseconds: 60_000})
	if err := s.channels[logi.PagerDuty].Send(t.Context(), nil, message(paging.Trigger)); class(err) != "again" ||
		!errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestThe2xxThatAccepts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault logi.ServiceFault
		want  map[string]string
	}{
		"200 ok": {logi.ServiceFault{Status: 200, Body: "ok"},
			map[string]string{logi.PagerDuty: "again", logi.Slack: "accepted", logi.Hooks: "accepted"}},
		"200 in HTML": {logi.ServiceFault{Status: 200, Body: "<html>Sign in " + slackToken},
			map[string]string{logi.PagerDuty: "again", logi.Slack: "again", logi.Hooks: "accepted"}},
		"200 and 10 MB": {logi.ServiceFault{Status: 200, Body: "ok", BodyBytes: 10 << 20},
			map[string]string{logi.PagerDuty: "again", logi.Slack: "again", logi.Hooks: "accepted"}},
		"202": {logi.ServiceFault{Status: 202},
			map[string]string{logi.PagerDuty: "accepted", logi.Slack: "again", logi.Hooks: "accepted"}},
		"202 and 10 MB": {logi.ServiceFault{Status: 202, BodyBytes: 10 << 20},
			map[string]string{logi.PagerDuty: "accepted", logi.Slack: "again", logi.Hooks: "accepted"}},
		"204": {logi.ServiceFault{Status: 204},
			map[string]string{logi.PagerDuty: "again", logi.Slack: "again", logi.Hooks: "accepted"}},
		"accepted, but it stalls": {logi.ServiceFault{Stall: true},
			map[string]string{logi.PagerDuty: "accepted", logi.Slack: "again", logi.Hooks: "accepted"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			for service, channel := range s.channels {
				s.SetFault(service, c.fault)
				ctx, cancel := context.WithTimeout(t.Context(), deadlineFor(c.fault))
				err := channel.Send(ctx, nil, message(paging.Trigger))
				cancel()
				if got := class(err); got != c.want[service] || leaked(err) != "" {
					t.Errorf("%s: %s, want %s: %v", service, got, c.want[service], err)
				}
			}
		})
	}
}

func TestOpenSaysHowASecretShouldLook(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind   string
		secret map[string][]byte
		want   string
	}{
		"no such type":   {"Pigeon", nil, `there is no channel type "Pigeon"`},
		"no routing key": {paging.TypePagerDuty, nil, `"routingKey"`},
		"a short routing key": {paging.TypePagerDuty, map[string][]byte{"routingKey": []byte(routingKey[1:])},
			`"routingKey"`},
		"no Slack URL":   {paging.TypeSlack, map[string][]byte{"url": []byte(" \n")}, `"url"`},
		"no webhook URL": {paging.TypeWebhook, map[string][]byte{"secret": []byte(webhookSecret)}, `"url"`},
		"no webhook secret": {paging.TypeWebhook, map[string][]byte{"url": []byte("https://" + hookToken)},
			`key "secret" must be "whsec_"`},
		"a secret of no base64": {paging.TypeWebhook,
			map[string][]byte{"url": []byte("https://x"), "secret": []byte(webhookSecret + "!")}, "base64"},
		"a secret of no prefix": {paging.TypeWebhook,
			map[string][]byte{"url": []byte("https://x"), "secret": []byte(webhookSecret[6:])}, "whsec_"},
		"a secret of few bytes": {paging.TypeWebhook,
			map[string][]byte{"url": []byte("https://x"), "secret": []byte("whsec_AAAA")}, "24 to 64"},
		"a secret of many bytes": {paging.TypeWebhook,
			map[string][]byte{"url": []byte("https://x"), "secret": []byte("whsec_" + strings.Repeat("AAAA", 30))}, "24 to 64"},
	} {
		channel, err := paging.Open(c.kind, c.secret)
		if err == nil || !strings.Contains(err.Error(), c.want) || leaked(err) != "" || channel != nil {
			t.Errorf("%s: %v, %v", name, channel, err)
		}
	}
}

func TestAURLThatIsNoneIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	for _, url := range []string{slackToken, "https://" + slackToken + "%zz", "ftp://host/" + slackToken, "https:///" +
		slackToken, "http://host:" + slackToken, "https://host/\x7f" + slackToken} {
		for kind, channel := range map[string]paging.Channel{
			paging.TypePagerDuty: paging.PagerDuty{URL: url, RoutingKey: routingKey}, paging.TypeSlack: paging.Slack{URL: url},
			paging.TypeWebhook: paging.Webhook{URL: url, Secret: webhookSecret},
		} {
			_, err := paging.Open(kind, map[string][]byte{"url": []byte(url), "routingKey": []byte(routingKey),
				"secret": []byte(webhookSecret)})
			if err == nil || !strings.Contains(err.Error(), `key "url" can't be used`) || leaked(err) != "" {
				t.Errorf("a Secret for %s with %q: %v", kind, url, err)
			}
			if err := channel.Send(t.Context(), nil, message(paging.Trigger)); class(err) != "refused 0" || leaked(err) != "" {
				t.Errorf("%s at %q: %v", kind, url, err)
			}
		}
	}
}
