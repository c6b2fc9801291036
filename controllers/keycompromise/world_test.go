package keycompromise_test

import (
	"fmt"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// shared by all tests.
var shared stage.Stage

// acme is the application that most tests are about.
const acme = 42

func TestMain(m *testing.M) {
	stage.Main(m, &shared, map[string]string{"max_connections": "400", "max_prepared_transactions": "10"})
}

// A scene is a platform of the test's own, with its Platform applied and the application acme registered.
type scene struct {
	*stage.Scene[*v1alpha1.KeyCompromise]
}

// newScene makes a scene whose Platform has the given name, and which ends with the test.
func newScene(t *testing.T, name string, config logi.Config) *scene {
	t.Helper()
	t.Parallel()
	return newSceneIn(t, shared.World, name, config, jose.EdDSA)
}

// newSceneIn is newScene in a World of the caller's, with a signing key of the algorithm.
func newSceneIn(t *testing.T, w *world.World, name string, config logi.Config,
	algorithm jose.SignatureAlgorithm) *scene {
	t.Helper()
	s := &scene{stage.New[*v1alpha1.KeyCompromise](t, &shared, w, name, config)}
	if err := s.CreateApplicationWithKey(s.Ctx, acme, "acme", algorithm); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(s.Ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// kid of acme's newest active key.
func (s *scene) kid() string {
	s.Helper()
	return stage.Query[string](s.Scene, `SELECT kid FROM webhook_signing_keys
		WHERE oauth_application_id = $1 AND status = 'active' ORDER BY activated_at DESC LIMIT 1`, acme)
}

// apply creates a KeyCompromise of acme's kid and returns its name. spec is YAML that adds to the spec, indented by
// nothing.
func (s *scene) apply(name, kid, spec string) string {
	s.Helper()
	return s.Create(s.Object(name, spec, map[string]any{"applicationID": "42", "kid": kid,
		"reason": "private key found in a CI log"}))
}

// patched is patch of a KeyCompromise's spec, and returns its generation then.
func (s *scene) patched(name, merge string) int64 {
	s.Helper()
	s.Change(name, merge)
	return s.Get(name).Generation
}

// request asks a stalled KeyCompromise to go on, and waits until it does.
func (s *scene) request(name, value string) {
	s.Helper()
	s.Change(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationRequestedAt, value))
	s.Await(name, "the request is handled",
		func(k *v1alpha1.KeyCompromise) bool { return k.Status.LastHandledRequestedAt == value })
}
