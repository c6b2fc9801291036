package crashmatrix_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// newOutageSlot makes a platform with somebody to page, a service at Render and a page for the public.
func (s *stage) newOutageSlot(ctx context.Context, name string) (_ *slot, err error) {
	o := &slot{stage: s, name: name}
	if o.site, err = s.NewSite(ctx, name, logi.Config{ManualDispatch: true, Workers: 1}); err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	hook := "whsec_" + base64.StdEncoding.EncodeToString(key)
	o.site.Services.SetWebhookSecret("manager", hook)
	ref := func(suffix string) v1alpha1.SecretReference {
		return v1alpha1.SecretReference{Name: name + "-" + suffix}
	}
	tier := func(name, kind, suffix string, after time.Duration) v1alpha1.OncallTier {
		return v1alpha1.OncallTier{Name: name, AfterSeconds: new(int32(after.Seconds())),
			Notify: []v1alpha1.Channel{{Type: kind, SecretRef: ref(suffix)}}}
	}
	for _, object := range []client.Object{
		o.secret("pagerduty", map[string]string{"routingKey": strings.Repeat("k", 32), "url": o.site.URL() +
			"/pagerduty/v2/enqueue"}),
		o.secret("slack", map[string]string{"url": o.site.URL() + "/slack/services/T/B/S"}),
		o.secret("hook", map[string]string{"url": o.site.URL() + "/hooks/manager", "secret": hook}),
		o.secret("database", map[string]string{"url": o.site.URLAs("playbook_monitor")}),
		o.secret("render", map[string]string{"apiKey": o.site.Render().Key()}),
		o.secret("statuspage", map[string]string{"apiKey": o.site.Services.StatuspageKey(), "url": o.site.URL() +
			"/statuspage/v1"}),
		&v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}, Spec: v1alpha1.PlatformSpec{
			URL: o.site.URL(),
			Database: &v1alpha1.PlatformDatabase{SecretRef: v1alpha1.SecretReference{Name: "nowhere"},
				ReadOnlySecretRef: new(ref("database"))},
			Render: &v1alpha1.PlatformRender{
				SecretRef: ref("render"), URL: o.site.URL() + logi.RenderPath, Services: []v1alpha1.RenderService{{Name: "web",
					ServiceID: logi.WebService}},
			},
			Rollback: &v1alpha1.PlatformRollback{Service: "web"},
			Probes:   &v1alpha1.PlatformProbes{ClearSeconds: int32(clearAfter.Seconds())},
			Oncall: &v1alpha1.PlatformOncall{RepeatSeconds: 86400, Tiers: []v1alpha1.OncallTier{
				tier("first", "PagerDuty", "pagerduty", 0), tier("second", "Slack", "slack", secondTierAfter), tier("third",
					"Webhook", "hook", thirdTierAfter),
			}},
			StatusPage: &v1alpha1.PlatformStatusPage{PageID: name, SecretRef: new(ref("statuspage")),
				AfterSeconds: new(int32(noticeAfter.Seconds()))},
		}},
	} {
		if err := s.admin.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("applying the Platform: %w", err)
		}
	}
	return o, o.site.AddMigration(ctx, time.Now().Add(-time.Hour))
}

// begin puts the platform back to where each run begins: a bad commit is live. Then it opens the Incident, whose
// creation is when the clock stands still.
func (e *emergency) begin(ctx context.Context) error {
	e.site.Services.Forget()
	r := e.site.Render()
	r.Forget()
	obj := &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.object.Namespace, Name: e.object.Name},
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: e.slot.name},
			Category: v1alpha1.CategoryOutage},
	}
	if err := e.admin.Create(ctx, obj); err != nil {
		return fmt.Errorf("opening the incident: %w", err)
	}
	now := obj.CreationTimestamp.Time
	e.wait(now)
	r.AddDeploy(logi.WebService, "good", "live", "new_commit", now.Add(-10*time.Hour))
	r.AddDeploy(logi.WebService, "bad", "live", "new_commit", now.Add(-time.Minute))
	e.see(signals.Signals{Each: []signals.Signal{{
		Condition: v1alpha1.ConditionUpAnswers, State: metav1.ConditionFalse, Severity: v1alpha1.Sev1, Message: "/up " +
			"answers HTTP 502",
		Ground: true, Since: now, BadFrom: now, EnoughFrom: now,
	}}})
	return nil
}

func good(since time.Time) signals.Signals {
	return signals.Signals{Each: []signals.Signal{{Condition: v1alpha1.ConditionUpAnswers, State: metav1.ConditionTrue,
		Since: since}}}
}

// forget removes the incident, and what the Platform remembers of it.
func (e *emergency) forget(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, connections := range e.connections {
		connections.Close()
	}
	obj := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: e.object.Namespace, Name: e.object.Name}}
	p := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: e.slot.name}}
	return errors.Join(
		client.IgnoreNotFound(e.admin.Delete(ctx, obj)),
		client.IgnoreNotFound(e.admin.Patch(ctx, obj, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"finalizers":null}}`)))),
		e.admin.Status().Patch(ctx, p, client.RawPatch(types.MergePatchType,
			[]byte(`{"status":{"rollbacks":null,"notice":null,"incidents":null,"suspects":null}}`))),
	)
}

// newManager puts a manager together as cmd/manager does, with everything that leaves it going over the wire.
func (e *emergency) newManager(wire *crashmatrix.Wire, v variant, stale bool) (*incident.Reconciler, error) {
	c, err := e.over(wire, e.write, v)
	if err != nil {
		return nil, err
	}
	transport := wire.Transport(&http.Transport{DisableKeepAlives: true}, told)
	if v.http != nil {
		transport = v.http(transport)
	}
	connections := &access.Connections{Secrets: c, Transport: transport, Dial: wire.Dial}
	e.mu.Lock()
	e.connections = append(e.connections, connections)
	e.mu.Unlock()
	return &incident.Reconciler{
		Client: e.cached(c, stale), APIReader: c, Recorder: &events.FakeRecorder{},
		Connections: connections,
		Signals:     e.signals,
		Now:         e.now,
	}, nil
}

// write names a write to the API server; reads are no effects.
func (e *emergency) write(request *http.Request) string {
	return strings.ReplaceAll(kubernetesWrite(request), "/"+e.slot.name, "")
}

// told names what a far side is told; reads are no effects.
func told(request *http.Request) string {
	if request.Method == http.MethodGet {
		return ""
	}
	return request.Method + " " + pageID.ReplaceAllString(noticeID.ReplaceAllString(request.URL.Path, "/incidents/:id"),
		"/pages/:page/")
}

// left reads what the run left behind.
func (e *emergency) left(ctx context.Context, obj *v1alpha1.Incident, unknown bool) (*outage, error) {
	r, services := e.site.Render(), e.site.Services
	got := &outage{
		Rollbacks: r.Counts().Rollbacks, AutoDeploy: r.AutoDeploy(logi.WebService), Unknown: unknown,
		Pages: map[string]int{}, Alerts: map[string]int{}, Resolved: map[string]bool{}, Conditions: map[string]string{},
	}
	for _, page := range services.Pages() {
		got.Alerts[page.State]++
		got.Pages["first"] += page.Triggers
	}
	for _, chat := range services.Chats() {
		if strings.HasPrefix(chat.Text, "Resolved: ") {
			got.Resolved["second"] = true
		} else {
			got.Pages["second"]++
		}
	}
	for _, hook := range services.Webhooks() {
		if strings.Contains(hook.Body, `"type":"page.resolved"`) {
			got.Resolved["third"] = true
		} else {
			got.Pages["third"] += hook.Times
		}
	}
	for _, notice := range services.Notices() {
		var statuses []string
		last := ""
		for _, update := range slices.Backward(notice.Updates) {
			if update.Body == last {
				got.Repeated = last
			}
			last = update.Body
			statuses = append(statuses, update.Status)
		}
		got.Notices = append(got.Notices, strings.Join(statuses, " "))
	}
	p := &v1alpha1.Platform{}
	if err := e.admin.Get(ctx, client.ObjectKey{Namespace: world.Namespace, Name: e.slot.name}, p); err != nil {
		return nil, err
	}
	if p.Status.Notice != nil {
		got.Held = "notice"
	}
	for _, rollback := range p.Status.Rollbacks {
		got.Held += string(rollback.State) + " " + string(rollback.AutoDeploy)
	}
	if obj != nil {
		for _, c := range obj.Status.Conditions {
			got.Conditions[c.Type] = string(c.Status) + " " + c.Reason
		}
	}
	return got, nil
}
