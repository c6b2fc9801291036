//go:build capture

package upgrade_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const (
	// slowly requeues a few entries at a time, so that states in the middle are stored.
	slowly = "canary: {entries: 2}, maxInFlight: 1"
	byHand = `via: AdminAPI, adminAPI: {nonceSecretRef: {name: "${SITE}-nonces"}}, selector: {entryIDs: ["1", "2"]}`
	gated  = `  requireApproval: [{kind: DLQReplay, step: Requeued}]
`
)

// down is a relying party that refuses each webhook, and stays so.
var down = logi.Fault{Status: http.StatusUnauthorized}

// replays are the scenarios of a DLQReplay of six entries.
var replays = []struct {
	name, settings, spec string
	play                 func(*capture)
}{
	{"replay", withDatabase, slowly, (*capture).replay},
	{"approval", withDatabase + gated, slowly, (*capture).replay},
	{"observed", withDatabase + "  automation: ObserveOnly\n", slowly, (*capture).replay},
	{"suspended", withDatabase, slowly, func(c *capture) {
		if _, err := c.pass(); err != nil {
			c.Fatal(err)
		}
		c.patch(`{"spec":{"suspend":true}}`)
		c.replay()
	}},
	{"plan", withDatabase, "mode: Plan", (*capture).replay},
	{"too-large", withDatabase, "maxEntries: 3", (*capture).replay},
	{"canary-failed", withDatabase, slowly, func(c *capture) {
		c.SetFault(acme, down)
		c.replay()
	}},
	{"breaker", withDatabase, "canary: {entries: 0}, maxInFlight: 4", func(c *capture) {
		c.SetFault(acme, logi.Fault{Status: http.StatusServiceUnavailable})
		c.replay()
	}},
	{"admin", withDatabase, byHand, func(c *capture) {
		c.nonces()
		c.replay()
	}},
	{"admin-no-nonce", withDatabase, byHand, (*capture).replay},
	{"admin-refused", withDatabase, byHand, func(c *capture) {
		c.secret("nonces", map[string]string{"1": "guessed", "2": "guessed"})
		c.replay()
	}},
	{"admin-unknown", withDatabase, byHand, func(c *capture) {
		c.nonces()
		c.transport = lostRetry{}
		c.replay()
	}},
}

// lostRetry loses each call of the admin API that retries an entry, before it arrives.
type lostRetry struct{}

func (lostRetry) RoundTrip(request *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(request.URL.Path, "/retry") {
		return http.DefaultTransport.RoundTrip(request)
	}
	return &http.Response{StatusCode: http.StatusBadGateway, Body: http.NoBody, Header: http.Header{}, Request: request},
		nil
}

// replay is play. It ends where only the dispatcher's backoff is waited for.
func (c *capture) replay() {
	c.Helper()
	c.patient(func(ready string) bool {
		return ready == "False "+v1alpha1.ReasonDelivering &&
			c.count(`SELECT count(*) FROM webhook_outbox_entries WHERE next_retry_at > now()`) > 0
	})
}

func TestCaptureDLQReplays(t *testing.T) {
	if err := os.RemoveAll("testdata/dlqreplay"); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, replay := range replays {
		t.Run(replay.name, func(t *testing.T) {
			c := record(newScene(t, "captured-dlqr-"+replay.name, "DLQReplay", replay.settings), replay.settings, replay.name,
				seen)
			if err := c.CreateApplication(c.ctx, acme, "acme"); err != nil {
				t.Fatal(err)
			}
			n := 6
			if replay.name == "breaker" {
				n = 22 // it judges no fewer than 20
			}
			if _, err := c.SeedDead(c.ctx, acme, n-1, "HTTP 503: Service Unavailable", 7); err != nil {
				t.Fatal(err)
			}
			if _, err := c.SeedDead(c.ctx, acme, 1, "HTTP 409: already processed", 3); err != nil {
				t.Fatal(err)
			}
			c.open(strings.ReplaceAll(`{applicationID: "42", `+replay.spec+"}", "${SITE}", c.Name))
			replay.play(c)
			c.take()
			t.Log(c.condition(v1alpha1.ConditionReady))
			c.save()
		})
	}
}
