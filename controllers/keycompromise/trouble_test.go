package keycompromise_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// jwks answers in the platform's place, with the Platform's URL pointing to it.
func (s *scene) jwks(answer http.HandlerFunc) {
	s.Helper()
	server := httptest.NewServer(answer)
	s.Cleanup(server.Close)
	s.Patch(&v1alpha1.Platform{}, s.Name, fmt.Sprintf(`{"spec":{"url":%q}}`, server.URL))
}

func TestTooManyBytesAndWhatIsFixedAreRefusedAtApply(t *testing.T) {
	s := newScene(t, "refused", idle)
	manifest := func(kid, more string) string {
		return fmt.Sprintf(`{"apiVersion": "playbook.1pass.dev/v1alpha1", "kind": "KeyCompromise",
			"metadata": {"name": "refused-key", "namespace": %q},
			"spec": {"platformRef": {"name": %q}, "applicationID": "42", "kid": %q, "reason": "r"%s}}`,
			world.Namespace, s.Name, kid, more)
	}
	for want, text := range map[string]string{
		"Too long": manifest(strings.Repeat("x", 10_000), ""), "spec.kid": manifest("", ""), "unknown field": manifest("a",
			`, "kids": "b"`),
	} {
		if out, err := shared.KubectlInput(s.Ctx, text, "apply", "-f", "-"); err == nil || !strings.Contains(out, want) {
			t.Errorf("want %q: %v\n%s", want, err, out)
		}
	}
	name := s.apply("key", "whk_nobody", "{}")
	for _, field := range []string{"kid", "reason", "applicationID"} {
		out, err := shared.Kubectl(s.Ctx, "-n", world.Namespace, "patch", "keyc", name, "--type=merge", "-p",
			fmt.Sprintf(`{"spec":{%q:"7"}}`, field))
		if err == nil || !strings.Contains(out, "is fixed once the key compromise exists") {
			t.Errorf("%s: %v\n%s", field, err, out)
		}
	}
}

func TestAStalledKeyCompromiseThatCanNotGoOnYetSaysSo(t *testing.T) {
	s := newScene(t, "resume-later", idle)
	name := s.apply("leak", "whk_unheard_of", "{}")
	s.AwaitStalled(name, v1alpha1.ReasonUnknownKid)
	s.Exec(`ALTER SCHEMA playbook RENAME TO elsewhere`)
	s.Change(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:"now"}}}`, v1alpha1.AnnotationRequestedAt))
	k := s.AwaitStalled(name, v1alpha1.ReasonLedgerNotReady)
	message := stage.Condition(k, v1alpha1.ConditionReady).Message
	if !strings.Contains(message, "asked to go on, which can't be done yet: ") || k.Status.LastHandledRequestedAt != "" {
		t.Errorf("with lastHandledRequestedAt %q the message is %q", k.Status.LastHandledRequestedAt, message)
	}
	s.Exec(`ALTER SCHEMA elsewhere RENAME TO playbook`)
	s.Await(name, "the request is handled",
		func(k *v1alpha1.KeyCompromise) bool { return k.Status.LastHandledRequestedAt == "now" })
	s.AwaitStalled(name, v1alpha1.ReasonUnknownKid)
}
