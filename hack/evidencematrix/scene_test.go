package evidencematrix

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/opening"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const (
	engineerKey = "R0utingKeyOfTheOncallEngineer000"
	ownerKey    = "R0utingKeyOfTheProjectOwner00000"
)

// A scene is for one cell: a namespace, a Platform, other systems and a clock of its own.
type scene struct {
	ctx      context.Context
	name     string
	render   *logi.Render
	services *logi.Services
	now      time.Time
	opened   time.Time
	signals  []signals.Signal
	manager  *incident.Reconciler
	managers []*incident.Reconciler // also those that ended
	spec     v1alpha1.PlatformSpec
	faulty   faults
}

// faults are the differences of a broken manager.
type faults struct {
	client    func(client.WithWatch) client.Client
	signals   func([]signals.Signal) []signals.Signal
	transport http.RoundTripper
	// before runs before each pass over an Incident.
	before func(*scene, string) error
}

func newScene(ctx context.Context, name string, c cell, faulty faults) (*scene, error) {
	s := &scene{ctx: ctx, name: name, render: logi.NewRender(), services: logi.NewServices(),
		now: time.Now().Truncate(time.Second), faulty: faulty}
	mux := http.NewServeMux()
	mux.Handle(logi.RenderPath+"/", http.StripPrefix(logi.RenderPath, s.render))
	mux.Handle("/", s.services)
	farSides.Store(name, mux)
	s.render.AddDeploy(logi.WebService, "a1", "live", "new_commit", s.now.Add(-10*time.Hour))
	s.render.AddDeploy(logi.WebService, "b2", "live", "new_commit", s.now.Add(-time.Minute))
	if err := kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		return nil, err
	}
	if err := s.createSecrets(map[string]map[string]string{
		"engineer":   {"routingKey": engineerKey, "url": s.url() + "/pagerduty/v2/enqueue"},
		"owner":      {"routingKey": ownerKey, "url": s.url() + "/pagerduty/v2/enqueue"},
		"render":     {"apiKey": s.render.Key()},
		"statuspage": {"apiKey": s.services.StatuspageKey(), "url": s.url() + "/statuspage/v1"},
	}); err != nil {
		return nil, err
	}
	ref := func(name string) v1alpha1.SecretReference { return v1alpha1.SecretReference{Name: name} }
	tier := func(name, secret string) v1alpha1.OncallTier {
		return v1alpha1.OncallTier{Name: name, Notify: []v1alpha1.Channel{{Type: "PagerDuty", SecretRef: ref(secret)}}}
	}
	s.spec = v1alpha1.PlatformSpec{
		URL: address, Automation: c.automation(),
		Database: &v1alpha1.PlatformDatabase{SecretRef: ref("nowhere"), SigningSecretRef: new(ref("nowhere"))},
		Rollback: &v1alpha1.PlatformRollback{Service: "web"},
		Render: &v1alpha1.PlatformRender{
			SecretRef: ref("render"), URL: s.url() + logi.RenderPath, Services: []v1alpha1.RenderService{{Name: "web",
				ServiceID: logi.WebService}},
		},
		Probes: &v1alpha1.PlatformProbes{IntervalSeconds: 10},
		Oncall: &v1alpha1.PlatformOncall{Tiers: []v1alpha1.OncallTier{tier("engineer", "engineer"),
			tier("owner", "owner")}},
		StatusPage: &v1alpha1.PlatformStatusPage{PageID: "page", SecretRef: new(ref("statuspage"))},
		AutoOpen:   []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage, v1alpha1.CategoryWebhookDelivery},
	}
	if c.category == webhook {
		if err := s.relyingParties(); err != nil {
			return nil, err
		}
	}
	s.manager = s.newManager()
	return s, s.applyPlatform()
}

func (s *scene) createSecrets(secrets map[string]map[string]string) error {
	for name, data := range secrets {
		if err := kube.Create(s.ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: name,
				Labels: map[string]string{v1alpha1.LabelPlatform: "p"}}, StringData: data,
		}); err != nil {
			return err
		}
	}
	return nil
}

// end of a cell.
func (s *scene) end() {
	farSides.Delete(s.name)
	for _, manager := range s.managers {
		manager.Connections.Close()
	}
}

func (s *scene) url() string { return address + "/" + s.name }

func (s *scene) applyPlatform() error {
	return kube.Create(s.ctx, &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: "p"},
		Spec: s.spec})
}

// newManager is a manager that has just started.
func (s *scene) newManager() *incident.Reconciler {
	c := client.Client(kube)
	if s.faulty.client != nil {
		c = s.faulty.client(kube)
	}
	manager := &incident.Reconciler{
		Client: c, APIReader: c, Recorder: &events.FakeRecorder{}, Now: func() time.Time { return s.now },
		Connections: &access.Connections{Secrets: kube, Transport: s.faulty.transport},
		Signals: func(client.ObjectKey) signals.Signals {
			each := s.signals
			if s.faulty.signals != nil {
				each = s.faulty.signals(each)
			}
			return signals.Signals{Each: each}
		},
	}
	s.managers = append(s.managers, manager)
	return manager
}

// open creates an Incident like a person or an alert, and sets the clock to its creation.
func (s *scene) open(i *v1alpha1.Incident) (string, error) {
	i.Namespace, i.Spec.PlatformRef.Name = s.name, "p"
	if err := kube.Create(s.ctx, i); err != nil {
		return "", err
	}
	s.opened, s.now = i.CreationTimestamp.Time, i.CreationTimestamp.Time
	return i.Name, nil
}

// openBySignals lets the Opener open an Incident of a category for what the signals say.
func (s *scene) openBySignals(category v1alpha1.IncidentCategory, each []signals.Signal) (string, error) {
	p := &v1alpha1.Platform{}
	if err := kube.Get(s.ctx, types.NamespacedName{Namespace: s.name, Name: "p"}, p); err != nil {
		return "", err
	}
	opener := opening.Opener{
		Claims:   claims.Claims{Client: kube, APIReader: kube, Now: func() time.Time { return s.now }},
		Recorder: &events.FakeRecorder{},
	}
	before, seen := p.DeepCopy(), signals.Signals{Each: each}
	claimed, err := opener.Claim(s.ctx, p, seen)
	if err != nil {
		return "", err
	}
	if err := playbook.PatchStatus(s.ctx, kube, before, p); err != nil {
		return "", err
	}
	if _, err := opener.Open(s.ctx, p, seen, claimed); err != nil {
		return "", err
	}
	var list v1alpha1.IncidentList
	if err := kube.List(s.ctx, &list, client.InNamespace(s.name)); err != nil {
		return "", err
	}
	for _, i := range list.Items {
		if i.Spec.Category == category && i.Annotations[v1alpha1.AnnotationSeenBy] != "" {
			s.opened, s.now = i.CreationTimestamp.Time, i.CreationTimestamp.Time
			return i.Name, nil
		}
	}
	return "", fmt.Errorf("the signals opened no Incident of category %s", category)
}

// pass lets the manager look until it has nothing more to do now.
func (s *scene) pass(name string) error {
	if s.faulty.before != nil {
		if err := s.faulty.before(s, name); err != nil {
			return err
		}
	}
	for range 50 {
		result, err := s.manager.Reconcile(s.ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: s.name,
			Name: name}})
		if err != nil {
			return err
		}
		// It comes back within a tenth of a second for a call that it has under way, as on a busy machine.
		if result.RequeueAfter == 0 || result.RequeueAfter > 100*time.Millisecond {
			return nil
		}
	}
	return fmt.Errorf("%s does not come to rest", name)
}

func (s *scene) patch(obj client.Object, name, merge string) error {
	obj.SetNamespace(s.name)
	obj.SetName(name)
	return kube.Patch(s.ctx, obj, client.RawPatch(types.MergePatchType, []byte(merge)))
}

func (s *scene) get(name string) (*v1alpha1.Incident, error) {
	obj := &v1alpha1.Incident{}
	return obj, kube.Get(s.ctx, types.NamespacedName{Namespace: s.name, Name: name}, obj)
}

// outcome is what the other systems received, and the state of the Incident by its own words.
func (s *scene) outcome(name string) (string, error) {
	obj, err := s.get(name)
	if err != nil {
		return "", err
	}
	did := s.rolledBack(obj)
	for _, more := range []func(*v1alpha1.Incident) (string, error){s.endedKeys, s.webhookWork} {
		done, err := more(obj)
		if err != nil {
			return "", err
		}
		if done != "-" {
			did = strings.TrimPrefix(did+" "+done, "- ")
		}
	}
	return fmt.Sprintf("%s; %s; %s; %s", s.pages(), did, state(obj), s.public()), nil
}

// pages are the alerts of PagerDuty, as the tier's initial and the severity. r is resolved, a is acknowledged. Without
// a letter, the page still rings.
func (s *scene) pages() string {
	var texts []string
	for _, p := range s.services.Pages() {
		text := map[string]string{engineerKey: "E", ownerKey: "O"}[p.RoutingKey] +
			map[string]string{"critical": "1", "error": "2", "warning": "3"}[p.Severity] +
			map[string]string{"triggered": "", "acknowledged": "a", "resolved": "r"}[p.State]
		if p.Triggers > 1 {
			text += fmt.Sprintf("x%d", p.Triggers)
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return "-"
	}
	return strings.Join(texts, " ")
}

// rolledBack is what Render was asked for. If it was not asked, it is what the Incident waits for.
func (s *scene) rolledBack(obj *v1alpha1.Incident) string {
	text := "-"
	c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.StepRolledBack)
	switch n := s.render.Counts().Rollbacks; {
	case n == 1:
		text = "back"
	case n > 1:
		text = fmt.Sprintf("back %d times", n)
	case c == nil || c.Reason == v1alpha1.ReasonNotNeeded:
	case c.Reason == v1alpha1.ReasonWaitingForApproval:
		text = "asks"
	default:
		text = c.Reason
	}
	if off := !s.render.AutoDeploy(logi.WebService); off != (text == "back") {
		text += map[bool]string{true: " and auto-deploy off", false: " and auto-deploy on"}[off]
	}
	return text
}

// endedKeys is how many KeyCompromises there are. If there is none, it is what a KeyExposure waits for.
func (s *scene) endedKeys(obj *v1alpha1.Incident) (string, error) {
	var list v1alpha1.KeyCompromiseList
	if err := kube.List(s.ctx, &list, client.InNamespace(s.name)); err != nil {
		return "", err
	}
	c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.StepKeyCompromised)
	switch n := len(list.Items); {
	case n == 1:
		return "ends", nil
	case n > 1:
		return fmt.Sprintf("ends %d times", n), nil
	case c == nil || c.Reason == v1alpha1.ReasonNotNeeded:
		return "-", nil
	case c.Reason == v1alpha1.ReasonWaitingForApproval:
		return "asks", nil
	default:
		return c.Reason, nil
	}
}

// state is closed, or what the Incident waits for by its own words.
func state(obj *v1alpha1.Incident) string {
	if obj.Status.ResolvedAt != nil {
		return "closed"
	}
	if c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.StepRecovered); c != nil &&
		c.Reason == v1alpha1.ReasonSignalsUnknown {
		return "deaf"
	}
	for _, step := range []string{v1alpha1.StepMitigated, v1alpha1.StepResolved} {
		if c := meta.FindStatusCondition(obj.Status.Conditions, step); c != nil {
			return map[string]string{
				v1alpha1.ReasonAwaitingMitigation: "bad", v1alpha1.ReasonNotConfirmed: "unconfirmed",
				v1alpha1.ReasonSignalsUnknown:     "lost",
				v1alpha1.ReasonAwaitingResolution: "person", v1alpha1.ReasonEndingKey: "ending",
			}[c.Reason]
		}
	}
	return "nothing"
}

func (s *scene) public() string {
	text := "-"
	for _, n := range s.services.Notices() {
		text = map[bool]string{true: "told", false: "public"}[n.Status == "resolved"]
	}
	return text
}
