//go:build capture

package upgrade_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const (
	// withoutSigning is a database whose private keys nobody here can read, for a key that the platform's own rake ends.
	withoutSigning = `  database: {secretRef: {name: "${SITE}-database"}, readOnlySecretRef: {name: "${SITE}-monitor"}}
`
	asJobs = `  commands: {type: RenderJob, service: web, directory: "${DIR}", bundle: "${DIR}/bundle", timeoutSeconds: 1}
`
	asksFirst = `  requireApproval: [{kind: KeyCompromise, step: Revoked}]
`
)

// outbox makes acme with five dead webhooks and two that wait, under a kid that leaked.
func (c *capture) outbox() {
	c.Helper()
	if err := c.CreateApplication(c.ctx, acme, "acme"); err != nil {
		c.Fatal(err)
	}
	if _, err := c.SeedDead(c.ctx, acme, 3, "HTTP 503: Service Unavailable", 7); err != nil {
		c.Fatal(err)
	}
	if _, err := c.Enqueue(c.ctx, acme, 2); err != nil {
		c.Fatal(err)
	}
	c.exec(`UPDATE webhook_signing_keys SET kid = 'whk_leaked'; UPDATE webhook_outbox_entries SET kid = 'whk_leaked'`)
}

// leaks are the scenarios of a KeyCompromise.
var leaks = []struct {
	name, settings, spec string
	play                 func(*capture)
}{
	{"revocation", withDatabase, "{}", func(c *capture) {
		c.SetFault(acme, logi.Fault{Status: http.StatusUnauthorized})
		go func() {
			time.Sleep(8 * time.Second)
			c.SetFault(acme, logi.Fault{})
		}()
		c.play()
	}},
	{"deferred", withDatabase + "  signingKeys: {resignLimit: 0}\n", "{}", func(c *capture) { c.play() }},
	{"approval", withDatabase + asksFirst, "{}", func(c *capture) { c.play() }},
	{"observed", withDatabase + "  automation: ObserveOnly\n", "{}", func(c *capture) { c.play() }},
	{"published", withDatabase, "{publishTimeoutSeconds: 8}", func(c *capture) {
		c.SetJWKSFault(logi.JWKSError)
		c.play()
	}},
	{"job", withoutSigning + asJobs, "{via: Command}", func(c *capture) {
		c.SetRakeFault(logi.RakeFault{Hang: time.Second})
		c.play()
	}},
	{"job-lost", withoutSigning + asJobs, "{via: Command}", func(c *capture) {
		c.Render().SetFaults(logi.RenderFault{Method: http.MethodPost, Path: "/jobs", AfterEffect: true, Refuse: true,
			Times: 1})
		c.play()
	}},
	{"job-unknown", withoutSigning + asJobs, "{via: Command}", func(c *capture) {
		c.Render().SetFaults(logi.RenderFault{Method: http.MethodPost, Path: "/jobs", Status: http.StatusBadGateway,
			Times: 1})
		c.play()
	}},
	{"job-failed", withoutSigning + asJobs, "{via: Command}", func(c *capture) {
		c.SetRakeFault(logi.RakeFault{Fail: true})
		c.play()
	}},
	{"job-refused", withoutSigning + asJobs, "{via: Command}", func(c *capture) {
		c.Render().SetFaults(logi.RenderFault{Method: http.MethodPost, Path: "/jobs", Status: http.StatusBadRequest})
		c.play()
	}},
	{"unrecorded", asJobs, "{via: Command}", func(c *capture) { c.play() }},
}

func TestCaptureKeyCompromises(t *testing.T) {
	if err := os.RemoveAll("testdata/keycompromise"); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, leak := range leaks {
		t.Run(leak.name, func(t *testing.T) {
			c := record(newScene(t, "captured-keyc-"+leak.name, "KeyCompromise", leak.settings), leak.settings, leak.name, seen)
			c.outbox()
			c.open(strings.Replace(leak.spec, "{", `{applicationID: "42", kid: whk_leaked, reason: found in a log, `, 1))
			leak.play(c)
			c.take()
			t.Log(c.condition(v1alpha1.ConditionReady))
			c.save()
		})
	}
}
