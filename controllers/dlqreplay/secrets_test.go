package dlqreplay_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// said is everything that the manager tells the world: its log, its metrics, events, and all objects.
func (s *scene) said() map[string]string {
	s.Helper()
	response, err := http.Get(shared.MetricsURL)
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	said := map[string]string{"the log": shared.Manager.Log(), "the metrics": string(metrics)}
	for name, list := range map[string]client.ObjectList{
		"an event": &eventsv1.EventList{}, "a replay": &v1alpha1.DLQReplayList{}, "a " +
			"Platform": &v1alpha1.PlatformList{}, "a ConfigMap": &corev1.ConfigMapList{},
	} {
		if err := shared.Kube.List(s.Ctx, list, client.InNamespace(world.Namespace)); err != nil {
			s.Fatal(err)
		}
		said[name] = stage.JSON(list)
	}
	return said
}

func TestSecretsAndTheRelyingPartysWordsAreNotRepeated(t *testing.T) {
	s := newScene(t, "secrets", quick)
	const nonce, oldWords, newWords = "nonce-7d1f0e", "words-5b2c9a", "words-c04e77"
	const password, token = "password-91ab3d", "token-2e8f60"
	planted := map[string]string{
		"the nonce": nonce, "the relying party's old words": oldWords, "its new words": newWords, "the wrong " +
			"password": password,
		"the admin token": token, "the database's password": shared.OperatorPassword, "the monitor's " +
			"password": shared.MonitorPassword, "the right admin token": s.AdminToken(),
	}

	ids := s.seed(30, "HTTP 502: "+oldWords, 7)
	s.SetFault(acme, logi.Fault{Status: 503, Body: newWords})
	name := s.apply("canary", "{}")
	s.AwaitStalled(name, v1alpha1.ReasonCanaryFailed)

	// The platform's admin API refuses a nonce, and then a token.
	s.nonces(map[int64]string{ids[25]: nonce, ids[26]: nonce})
	s.AwaitStalled(s.apply("nonce", s.viaAdminAPI(ids[25])), v1alpha1.ReasonRefused)
	s.Patch(&corev1.Secret{}, s.Name+"-admin-api", `{"stringData":{"token":"`+token+`"}}`)
	s.AwaitStalled(s.apply("token", s.viaAdminAPI(ids[26])), v1alpha1.ReasonRefused)

	// A database refuses a password, and a URL can't be parsed.
	for trouble, c := range map[string]struct {
		change func(*url.URL)
		reason string
	}{
		"password": {func(u *url.URL) { u.User = url.UserPassword("playbook_operator", password) },
			v1alpha1.ReasonDatabaseUnreachable},
		"malformed": {func(u *url.URL) { u.Host, u.User = "[malformed", url.UserPassword("playbook_operator", password) },
			v1alpha1.ReasonSecretUnusable},
	} {
		s := newSceneIn(t, shared.World, "secrets-"+trouble, quick)
		s.applyManifest(s.secrets())
		s.databaseURL(s.altered(c.change))
		s.applyManifest(strings.TrimPrefix(s.Manifest(), s.secrets()))
		s.AwaitReason(s.apply("r", "{}"), c.reason)
	}

	// A search that can't find what is there proves nothing. This replay's name is in all of them but metrics, which has
	// the Platform's.
	for where, text := range s.said() {
		if where != "a ConfigMap" && !strings.Contains(text, "secrets") {
			t.Errorf("%s was searched and does not even have the Platform's name", where)
		}
		for what, secret := range planted {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %s", where, what)
			}
		}
	}
	s.Patch(&v1alpha1.DLQReplay{}, name, `{"metadata":{"annotations":{"planted":"`+password+`"}}}`)
	if !strings.Contains(s.said()["a replay"], password) {
		t.Error("the search does not find what was planted")
	}
	// The ledger is where evidence belongs.
	if got := s.count(`SELECT count(*) FROM playbook.replay_entries WHERE last_error LIKE '%' || $1`,
		oldWords); got != 10 {
		t.Errorf("the ledger has the words of %d entries", got)
	}
}
