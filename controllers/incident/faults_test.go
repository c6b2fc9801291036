package incident_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// shortly is how long the far sides of these tests have: the timeouts of the clients are paging's, render's and
// statuspage's own.
const shortly = 3 * time.Second

type hasty struct{ next http.RoundTripper }

func (h hasty) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(request.Context(), shortly)
	response, err := h.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = cancelled{response.Body, cancel}
	return response, nil
}

type cancelled struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c cancelled) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// A trouble is a way in which a far side fails, for as long as it isn't mended.
type trouble struct {
	name    string
	service logi.ServiceFault
	render  logi.RenderFault
	// refused says that it did nothing, and would say so again: the next channel isn't waited for.
	refused bool
	// wait is how long it wants to be left alone.
	wait time.Duration
	// says is what a person reads of it, where a service or Render fails so.
	says, saysRender string
}

const html = "<html><body>Bad gateway</body></html>"

func troubles() []trouble {
	linkLocal := "http://169.254.169.254/latest/meta-data"
	status := func(code int, says string) trouble {
		message := fmt.Sprintf(`{"message":"answered %d","error":"answered %d"}`, code, code)
		return trouble{
			name: "http-" + strconv.Itoa(code), refused: code/100 == 4, says: says, saysRender: says,
			service: logi.ServiceFault{Status: code, Body: message, ContentType: "application/json", Echo: true},
			render:  logi.RenderFault{Status: code, Body: message},
		}
	}
	return []trouble{
		{name: "refused", service: logi.ServiceFault{Refuse: true}, render: logi.RenderFault{Refuse: true},
			says: "the connection was closed without an answer", saysRender: "the connection was closed without an answer"},
		{name: "timeout", service: logi.ServiceFault{DelayMilliseconds: 6000},
			render: logi.RenderFault{DelayMilliseconds: 6000}, says: "no answer in time", saysRender: "no answer in time"},
		{name: "slow-body", service: logi.ServiceFault{Status: 200, Stall: true},
			render: logi.RenderFault{Status: 200, SlowBody: true, DelayMilliseconds: 9000}, says: "broke off or is too " +
				"long", saysRender: "broke off or is too long"},
		{name: "10-mb", service: logi.ServiceFault{Status: 200, BodyBytes: 10 << 20},
			render: logi.RenderFault{Status: 200, Megabytes: 10}, says: "broke off or is too long", saysRender: "broke off " +
				"or is too long"},
		{name: "html", service: logi.ServiceFault{Status: 200, Body: html, Echo: true},
			render: logi.RenderFault{Status: 200, Body: html}, says: "is not this API's", saysRender: "is not this API's"},
		status(401, "401"), status(404, "404"), status(409, "409"),
		{name: "429-seconds", service: logi.ServiceFault{Status: 429, RetryAfter: "30"},
			render: logi.RenderFault{Status: 429, Header: map[string]string{"Retry-After": "30"}},
			wait:   30 * time.Second, saysRender: "fewer requests"},
		{name: "429-date", service: logi.ServiceFault{Status: 429, RetryInSeconds: 30},
			render: logi.RenderFault{Status: 429, ResetInSeconds: 30},
			wait:   30 * time.Second, saysRender: "fewer requests"},
		{name: "503", service: logi.ServiceFault{Status: 503, Body: html, Echo: true},
			render: logi.RenderFault{Status: 503, Body: html}, says: "HTTP 503", saysRender: "HTTP 503"},
		{name: "redirect", service: logi.ServiceFault{Status: 307, Location: linkLocal, Echo: true},
			render: logi.RenderFault{Status: 307, Header: map[string]string{"Location": linkLocal}},
			says:   "a redirect, which is not followed", saysRender: "a redirect, which is not followed"},
	}
}

const slackToken = "SlackT0kenThatNobodyMaySee"

// hurried is a scene whose far sides have little time, and whose Slack has a token in its URL as the real one has.
func hurried(t *testing.T, name string) *scene {
	t.Helper()
	s := newScene(t, name)
	s.transport = hasty{outbound.NewTransport()}
	s.setSecret("slack", "url", s.URL()+"/slack/services/T/B/"+slackToken)
	return s
}

func (s *scene) setSecret(suffix, key, value string) {
	s.Helper()
	if _, err := w.Kubectl(s.ctx, "-n", world.Namespace, "patch", "secret", s.Name+"-"+suffix, "--type=merge", "-p",
		fmt.Sprintf(`{"stringData":{%q:%q}}`, key, value)); err != nil {
		s.Fatal(err)
	}
}

// said is everything that the manager tells the world of an incident: its object and its events.
func (s *scene) said(name string) string {
	s.Helper()
	text, err := json.Marshal(s.get(name))
	if err != nil {
		s.Fatal(err)
	}
	all, err := json.Marshal(s.platform().Status)
	if err != nil {
		s.Fatal(err)
	}
	for {
		select {
		case event := <-s.recorder.Events:
			s.events = append(s.events, event)
		default:
			return string(text) + string(all) + strings.Join(s.events, "\n")
		}
	}
}

// secrets lists those that a text holds.
func (s *scene) secrets(text string) (found []string) {
	for what, secret := range map[string]string{
		"the routing key": routingKey, "the owner's routing key": ownerRoutingKey, "Slack's token": slackToken,
		"Render's key": s.Server.Render().Key(), "the status page's key": s.Services.StatuspageKey(),
	} {
		if strings.Contains(text, secret) {
			found = append(found, what)
		}
	}
	return found
}

func TestTheSearchForSecretsFindsThem(t *testing.T) {
	s := hurried(t, "search")
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502 to "+s.Server.Render().Key())
	name := s.open("inc", fmt.Sprintf("{rollback: Never, summary: %s and %s}", routingKey, slackToken))
	s.pass(name)
	if got := s.secrets(s.said(name)); len(got) != 3 {
		t.Errorf("of three secrets it found %q", got)
	}
	if got := s.secrets(strings.Join(s.events, "\n")); !slices.Contains(got, "Render's key") {
		t.Errorf("in the events it found %q", got)
	}
}

// clear fails where a text holds a secret, or does not say what it should.
func (s *scene) clear(name, says string) {
	s.Helper()
	text := s.said(name)
	if found := s.secrets(text); len(found) > 0 {
		s.Errorf("the manager tells %q: %s", found, text)
	}
	if !strings.Contains(text, says) {
		s.Errorf("nothing says %q: %s", says, text)
	}
}

func TestAPagerInTroubleMovesOnToSomebodyElse(t *testing.T) {
	for _, trouble := range troubles() {
		t.Run(trouble.name, func(t *testing.T) {
			s := hurried(t, "pd-"+trouble.name)
			s.Services.SetFault(logi.PagerDuty, trouble.service)
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
			name := s.open("inc", "{category: Outage, rollback: Never}")
			wait := s.pass(name)
			if !trouble.refused {
				longest := max(5*time.Second, trouble.wait)
				if got := len(s.Services.Chats()); got != 0 || wait <= trouble.wait/2 || wait > longest {
					t.Errorf("%d messages while PagerDuty has time; it is tried again after %s", got, wait)
				}
				s.clear(name, trouble.says)
				s.after(61*time.Second, name)
			}
			if got := len(s.Services.Chats()); got != 1 {
				t.Errorf("%d messages at Slack", got)
			}
			s.clear(name, trouble.says)
			s.expect(name, "Escalated Unknown Paging")
			s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{})
			s.after(16*time.Minute, name)
			s.expectPages("owner 1 triggered")
			s.clear(name, "")
		})
	}
}

func TestAPagerThatWantsToBeLeftAloneForTooLongIsNotWaitedFor(t *testing.T) {
	s := newScene(t, "limited-pager")
	s.Services.SetFault(logi.PagerDuty, logi.ServiceFault{Status: 429, RetryAfter: "61"})
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	name := s.open("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	if got := len(s.Services.Chats()); got != 1 {
		t.Errorf("%d messages at Slack", got)
	}
}

func TestAChatInTroubleMovesOnToTheNextTier(t *testing.T) {
	for _, trouble := range troubles() {
		t.Run(trouble.name, func(t *testing.T) {
			s := hurried(t, "slack-"+trouble.name)
			p := s.platform()
			p.Spec.Oncall.Tiers[0].Notify = p.Spec.Oncall.Tiers[0].Notify[1:]
			if err := admin.Update(s.ctx, p); err != nil {
				t.Fatal(err)
			}
			s.Services.SetFault(logi.Slack, trouble.service)
			s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
			name := s.open("inc", "{category: Outage, rollback: Never}")
			s.pass(name)
			s.clear(name, trouble.says)
			if !trouble.refused {
				s.expectPages()
				s.after(61*time.Second, name)
			}
			// Nobody in the first tier heard it, so the second is not kept waiting.
			s.expectPages("owner 1 triggered")
			s.clear(name, trouble.says)
		})
	}
}

func TestAStatusPageInTroubleHoldsUpNothingAndIsToldOnce(t *testing.T) {
	for _, trouble := range troubles() {
		t.Run(trouble.name, func(t *testing.T) {
			s := hurried(t, "page-"+trouble.name)
			s.Services.SetFault(logi.Statuspage, trouble.service)
			name := s.regression("inc", "{category: Outage, notice: Publish}")
			s.pass(name)
			s.expectPages("oncall 1 triggered")
			s.until(name, "RolledBack True Succeeded")
			s.rollbacks(1)
			s.clear(name, trouble.says)
			s.expect(name, "Announced Unknown Retrying")
			s.Services.SetFault(logi.Statuspage, logi.ServiceFault{})
			s.after(31*time.Second, name)
			s.expect(name, "Announced Unknown Published")
			s.good()
			s.after(301*time.Second, name)
			if got := s.Services.Notices(); len(got) != 1 || got[0].Status != "resolved" {
				t.Errorf("the status page has %+v", got)
			}
			s.clear(name, "")
		})
	}
}

func TestRenderInTroubleHoldsUpNoPageAndIsAskedForOneRollback(t *testing.T) {
	for _, trouble := range troubles() {
		t.Run(trouble.name, func(t *testing.T) {
			s := hurried(t, "render-"+trouble.name)
			s.Server.Render().SetFaults(trouble.render)
			name := s.regression("inc", "{category: Outage}")
			s.pass(name)
			s.expectPages("oncall 1 triggered")
			s.after(61*time.Second, name)
			s.after(time.Second, name)
			s.expect(name, "RolledBack Unknown Retrying")
			s.clear(name, trouble.saysRender)
			s.Server.Render().SetFaults()
			s.after(31*time.Second, name)
			s.until(name, "RolledBack True Succeeded")
			s.rollbacks(1)
			s.clear(name, "")
		})
	}
}

// Each trouble at the one call that must not be made twice.
func TestARollbackInTroubleIsAskedForOnceAtMost(t *testing.T) {
	for _, trouble := range troubles() {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after the effect %t", trouble.name, after), func(t *testing.T) {
				s := hurried(t, fmt.Sprintf("once-%s-%t", trouble.name, after))
				fault := trouble.render
				fault.Method, fault.Path, fault.Times, fault.AfterEffect = "POST", "/rollback", 1, after
				s.Server.Render().SetFaults(fault)
				name := s.regression("inc", "{category: Outage}")
				s.pass(name)
				s.clear(name, "")
				s.after(31*time.Second, name)
				s.after(31*time.Second, name)
				done, state := s.Server.Render().Counts().Rollbacks, s.condition(name, "RolledBack")
				switch {
				case done > 1:
					t.Errorf("Render was told to roll back %d times", done)
				case done == 0 && state != "False OutcomeUnknown" && state != "False Refused":
					t.Errorf("Render was told nothing, and RolledBack is %s", state)
				case after && done != 1:
					t.Errorf("Render was told to roll back %d times", done)
				}
				s.expectPages("oncall 1 triggered")
				s.clear(name, "")
			})
		}
	}
}

func TestAFarSideAtALinkLocalAddressIsRefused(t *testing.T) {
	s := hurried(t, "link-local")
	s.setSecret("pagerduty", "url", "http://169.254.169.254/v2/enqueue")
	s.setSecret("statuspage", "url", "http://[fe80::1]/v1")
	p := s.platform()
	p.Spec.Render.URL = "http://169.254.169.254/render"
	if err := admin.Update(s.ctx, p); err != nil {
		t.Fatal(err)
	}
	name := s.regression("inc", "{category: Outage, notice: Publish}")
	s.pass(name)
	s.after(61*time.Second, name)
	if got := len(s.Services.Chats()); got != 1 {
		t.Errorf("%d messages at Slack", got)
	}
	for _, step := range []string{"Announced", "RolledBack"} {
		if got := s.message(name, step); !strings.Contains(got, "link-local") {
			t.Errorf("%s says %q", step, got)
		}
	}
	s.clear(name, "could not be paged by link-local-pagerduty: the address 169.254.169.254 is refused")
}

// Render hangs for longer than this test looks: what is due to people happens all the same.
func TestRenderThatHangsHoldsUpNoPage(t *testing.T) {
	s := hurried(t, "render-hangs")
	s.Server.Render().SetFaults(logi.RenderFault{DelayMilliseconds: 60_000})
	s.bad(v1alpha1.Sev2, "/api answers HTTP 500")
	name := s.open("inc", "{category: Outage}")
	manager := s.manager()
	look := func() {
		t.Helper()
		if _, err := manager.Reconcile(s.ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: world.Namespace,
			Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	look()
	s.expectPages("oncall 1 triggered")
	s.expect(name, "Triaged Unknown Looking")
	// It gets worse while Render is still being read.
	s.bad(v1alpha1.Sev1, "/up answers HTTP 502")
	look()
	s.expectPages("oncall 1 triggered", "oncall 1 triggered")
	s.expect(name, "Triaged Unknown Looking")
}

func TestAServiceSuspendedByBillingIsNotRolledBack(t *testing.T) {
	s := newScene(t, "billing")
	s.Server.Render().Suspend(logi.WebService, "billing")
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.expect(name, "Triaged True Succeeded", "RolledBack Unknown NoSuspect")
	for _, step := range []string{"Triaged", "RolledBack"} {
		if got := s.message(name, step); !strings.Contains(got, "billing") {
			t.Errorf("%s says %q", step, got)
		}
	}
	s.expectPages("oncall 1 triggered")
	s.rollbacks(0)
}

func TestADeployInProgressIsWaitedFor(t *testing.T) {
	s := newScene(t, "in-progress")
	name := s.regression("inc", "{category: Outage}")
	fix := s.Server.Render().AddDeploy(logi.WebService, "fix", "build_in_progress", "new_commit", time.Now())
	wait := s.pass(name)
	s.expect(name, "RolledBack Unknown WaitingForDeploy")
	if got := s.message(name, "RolledBack"); !strings.Contains(got, fix) || wait == 0 || wait > 10*time.Second {
		t.Errorf("it says %q and comes back after %s", got, wait)
	}
	s.after(time.Minute, name)
	s.rollbacks(0)
	s.Server.Render().SetDeployStatus(logi.WebService, fix, "build_failed")
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
}

// Writes fail, and reads don't: what is not written down beforehand is not done.
func TestNothingIsDoneThatCannotBeWrittenDownFirst(t *testing.T) {
	s := newScene(t, "no-writes")
	name := s.regression("inc", "{category: Outage, notice: Publish}")
	away := errors.New("the API server takes no writes")
	broken := interceptor.NewClient(kube, interceptor.Funcs{
		SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch,
			...client.SubResourcePatchOption) error {
			return away
		},
	})
	manager := s.manager()
	manager.Client = broken
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: world.Namespace, Name: name}}
	for range 3 {
		if _, err := manager.Reconcile(s.ctx, request); !errors.Is(err, away) {
			t.Fatalf("a pass without writes came to %v", err)
		}
		s.offset += time.Minute
	}
	s.expectPages()
	if got := s.Server.Render().Counts(); got.Rollbacks+got.AutoDeployPatches != 0 {
		t.Errorf("Render was told %+v", got)
	}
	if got := len(s.Services.Notices()); got != 0 {
		t.Errorf("%d notices", got)
	}
	s.pass(name)
	s.expectPages("oncall 1 triggered")
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
}
