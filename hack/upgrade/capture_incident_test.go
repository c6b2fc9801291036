//go:build capture

package upgrade_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// regression makes a bad deploy.
func (c *capture) regression() {
	r := c.Render()
	r.AddDeploy(logi.WebService, "good", "live", "new_commit", time.Now().Add(-10*time.Hour))
	r.SetRollbackDelay(time.Hour)
	r.BreakCommit("bad", logi.Breakage{})
	r.Push(logi.WebService, "bad")
	c.become(v1alpha1.Sev1)
}

// close makes the signals good for long enough, and the fix live.
func (c *capture) close() {
	c.Helper()
	c.become("")
	c.after(time.Second)
	c.after(301 * time.Second)
	c.Render().DeployCommit(logi.WebService, "fix")
	c.after(time.Minute)
}

// responses are the scenarios of an Incident.
var responses = []struct {
	name, spec string
	outage     bool // for category Outage only
	play       func(*capture)
}{
	{"rollback", "{}", false, func(c *capture) {
		c.rest()
		c.arrive("live")
		c.rest()
		c.after(2 * time.Minute)
		c.close()
	}},
	{"acknowledged", "{}", true, func(c *capture) {
		c.rest()
		c.patch(`{"spec":{"acknowledgement":{"by":"kim"}}}`)
		c.rest()
		c.arrive("live")
		c.rest()
		c.patch(resolution)
		c.rest()
	}},
	{"lost", "{}", false, func(c *capture) {
		c.Render().SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", AfterEffect: true, Refuse: true, Times: 1})
		c.rest()
		c.rest()
		c.arrive("live")
		c.rest()
	}},
	{"unknown", "{}", false, func(c *capture) {
		c.Render().SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", Status: 500, Times: 1})
		c.rest()
		c.after(31 * time.Second)
	}},
	{"refused", "{}", false, func(c *capture) {
		c.Render().SetFaults(logi.RenderFault{Method: "POST", Path: "rollback", Status: 400,
			Body: `{"message":"this deploy can't be rolled back to"}`})
		c.rest()
	}},
	{"failed", "{}", false, func(c *capture) {
		c.rest()
		c.arrive("update_failed")
		c.rest()
	}},
	{"preparing", "{}", false, func(c *capture) {
		c.Render().SetFaults(logi.RenderFault{Method: "PATCH", Status: 500})
		c.rest()
		c.patch(resolution)
		c.rest()
	}},
	{"approval", "{rollback: Approval}", false, func(c *capture) {
		c.rest()
		c.after(time.Minute)
		c.patch(resolution)
		c.rest()
	}},
	{"approved", "{rollback: Approval}", true, func(c *capture) {
		c.rest()
		obj := &v1alpha1.Incident{}
		if err := c.get(c.ctx, obj); err != nil {
			c.Fatal(err)
		}
		c.patch(`{"spec":{"approvals":[{"step":"RolledBack","digest":"` + obj.Status.Rollback.Digest + `","by":"kim"}]}}`)
		c.take()
		c.rest()
	}},
	{"never", "{rollback: Never}", false, func(c *capture) {
		c.rest()
		c.close()
	}},
	{"notice", "{rollback: Never}", true, func(c *capture) {
		c.rest()
		c.after(31 * time.Minute)
		c.become("")
		c.after(time.Second)
		c.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 500})
		c.after(301 * time.Second)
		c.Services.SetFault(logi.PagerDuty, logi.ServiceFault{})
		c.after(6 * time.Second)
	}},
	{"notice-lost", "{}", true, func(c *capture) {
		c.rest()
		c.Services.SetFault(logi.Statuspage, logi.ServiceFault{LoseReply: true})
		c.after(31 * time.Minute)
	}},
	{"pager", "{}", true, func(c *capture) {
		c.Services.SetFault(logi.PagerDuty, logi.ServiceFault{LoseReply: true})
		c.rest()
		c.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 500})
		c.after(61 * time.Second)
		c.Services.SetFault(logi.Slack, logi.ServiceFault{Status: 404})
		c.after(16 * time.Minute)
	}},
	{"sev2", "{severity: sev2}", true, func(c *capture) {
		c.rest()
		c.after(61 * time.Minute)
		c.close()
	}},
	{"sev3", "{severity: sev3, rollback: Never}", true, func(c *capture) { c.rest() }},
	{"good", "{severity: sev1}", true, func(c *capture) {
		c.become("")
		c.offset += time.Second
		c.rest()
		c.after(301 * time.Second)
	}},
}

// affected are the facts that a category is about.
var affected = map[string]string{
	"Outage": "", "Unclassified": "", "WebhookDelivery": `, affected: {applicationIDs: ["42"]}`,
	"MergeInconsistency": `, affected: {userIDs: ["12"]}`,
	"KeyMismatch":        `, affected: {applicationIDs: ["42"], kid: whk_2026_08}`,
	"KeyExposure":        `, affected: {applicationIDs: ["42"], kid: whk_2026_08}`,
}

func TestCaptureIncidents(t *testing.T) {
	if err := os.RemoveAll("testdata/incident"); err != nil {
		t.Fatal(err)
	}
	for category, facts := range affected {
		seen := map[string]bool{}
		for _, response := range responses {
			// The categories share one playbook. What each has beside its rollback is captured once.
			if response.outage && category != "Outage" || category != "Outage" && category != "MergeInconsistency" &&
				response.name != "rollback" {
				continue
			}
			t.Run(category+"-"+response.name, func(t *testing.T) {
				c := record(newScene(t, "captured-"+strings.ToLower(category)+"-"+response.name, "Incident", ""), "",
					strings.ToLower(category)+"-"+response.name, seen)
				c.brief = category != "Outage" && category != "MergeInconsistency"
				c.regression()
				c.open(strings.Replace("{category: "+category+facts+", "+strings.TrimPrefix(response.spec, "{"), ", }", "}", 1))
				response.play(c)
				c.take()
				c.save()
			})
		}
	}
}
