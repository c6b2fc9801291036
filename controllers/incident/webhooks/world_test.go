package webhooks_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// shared by all tests: a control plane, a Postgres and the real manager.
var shared stage.Stage

const (
	acme    = 42
	initech = 43
	// inBulk is what the dispatcher writes of an answer 503, and conflict of a 409 to a retry.
	inBulk   = "HTTP 503:"
	conflict = "HTTP 409:"
)

func TestMain(m *testing.M) { stage.Main(m, &shared, map[string]string{"max_connections": "400"}) }

// A scene is a platform of the test's own, with its Platform applied and two relying parties.
type scene struct {
	*stage.Scene[*v1alpha1.Incident]
}

// quick is a platform whose dispatcher gives up after a fraction of a second.
var quick = logi.Config{Workers: 2, Backoff: []time.Duration{50 * time.Millisecond, 50 * time.Millisecond}}

func newScene(t *testing.T, name string) *scene {
	t.Helper()
	t.Parallel()
	s := &scene{stage.New[*v1alpha1.Incident](t, &shared, shared.World, name, quick)}
	// No controller of Kubernetes deletes here what goes with its owner.
	t.Cleanup(func() {
		for _, made := range s.replays() {
			if err := shared.Kube.Delete(context.Background(), &made); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
	})
	for id, name := range map[int64]string{acme: "acme", initech: "initech"} {
		if err := s.CreateApplication(s.Ctx, id, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply(s.Ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// dead puts n dead webhooks of an application into the outbox.
func (s *scene) dead(application int64, n int, lastError string, attempts int) {
	s.Helper()
	if _, err := s.SeedDead(s.Ctx, application, n, lastError, attempts); err != nil {
		s.Fatal(err)
	}
}

// enqueue a fresh webhook.
func (s *scene) enqueue(application int64) {
	s.Helper()
	if _, err := s.Enqueue(s.Ctx, application, 1); err != nil {
		s.Fatal(err)
	}
}

// open applies an Incident about webhooks; spec is YAML.
func (s *scene) open(name, spec string) string {
	s.Helper()
	return s.Create(s.Object(name, spec, map[string]any{"category": "WebhookDelivery"}))
}

func (s *scene) platform(merge string) *v1alpha1.Platform {
	s.Helper()
	p := &v1alpha1.Platform{}
	s.Patch(p, s.Name, merge)
	return p
}

func (s *scene) count(sql string, args ...any) int64 {
	s.Helper()
	return stage.Query[int64](s.Scene, sql, args...)
}

// step waits until a step has a reason, and returns its message.
func (s *scene) step(name, step, reason string) string {
	s.Helper()
	obj := s.Await(name, step+" "+reason, func(i *v1alpha1.Incident) bool {
		return stage.Condition(i, step).Reason == reason
	})
	return stage.Condition(obj, step).Message
}

// replays of the scene's Platform.
func (s *scene) replays() []v1alpha1.DLQReplay {
	s.Helper()
	var list v1alpha1.DLQReplayList
	if err := shared.Kube.List(context.Background(), &list, client.InNamespace(world.Namespace)); err != nil {
		s.Fatal(err)
	}
	var own []v1alpha1.DLQReplay
	for _, r := range list.Items {
		if r.Spec.PlatformRef.Name == s.Name {
			own = append(own, r)
		}
	}
	return own
}

// typeIn types what a message says that a person types, with the test's kubectl.
func (s *scene) typeIn(message string) {
	s.Helper()
	at := strings.Index(message, "echo '")
	if at < 0 {
		s.Fatalf("no command in %q", message)
	}
	kubectl, err := shared.ControlPlane.Kubectl(s.Ctx)
	if err != nil {
		s.Fatal(err)
	}
	line := strings.ReplaceAll(message[at:], "kubectl", fmt.Sprintf("%s --kubeconfig %s", kubectl,
		shared.ControlPlane.Kubeconfig()))
	if out, err := exec.CommandContext(s.Ctx, "sh", "-c", line).CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// resolve the incident by hand.
func (s *scene) resolve(name string) {
	s.Helper()
	s.Change(name, `{"spec":{"resolution":{"by":"kim"}}}`)
	s.AwaitReady(name)
}

// says fails where a text lacks one of these.
func (s *scene) says(text string, wanted ...string) {
	s.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			s.Errorf("%q lacks %q", text, want)
		}
	}
}

// secret of a Slack channel of a relying party.
func (s *scene) slack(suffix, channel string) string {
	s.Helper()
	return s.CreateSecret(suffix, map[string]string{"url": s.URL() + "/slack/services/T0000/B0000/" + channel})
}

// chats that a channel got.
func (s *scene) chats(channel string) (texts []string) {
	for _, c := range s.Services.Chats() {
		if strings.HasSuffix(c.Channel, channel) {
			texts = append(texts, c.Text)
		}
	}
	return texts
}
