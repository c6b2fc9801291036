package keycompromise_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// said is everything that the manager tells the world: its log, its metrics, events, and all objects with the error
// texts in their statuses.
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
	for what, list := range map[string]client.ObjectList{
		"an event": &eventsv1.EventList{}, "a KeyCompromise": &v1alpha1.KeyCompromiseList{}, "a " +
			"DLQReplay": &v1alpha1.DLQReplayList{},
		"a Platform": &v1alpha1.PlatformList{}, "a ConfigMap": &corev1.ConfigMapList{},
	} {
		if err := shared.Kube.List(s.Ctx, list, client.InNamespace(world.Namespace)); err != nil {
			s.Fatal(err)
		}
		said[what] = stage.JSON(list)
	}
	return said
}

// found lists where something planted is told, as "the log has the signer's password".
func (s *scene) found(planted map[string]string) (found []string) {
	s.Helper()
	said := s.said()
	for what, secret := range planted {
		// What is short may be found by chance.
		if len(secret) < 12 {
			s.Errorf("%s is only %d long", what, len(secret))
		}
		for where, text := range said {
			if strings.Contains(text, secret) {
				found = append(found, where+" has "+what)
			}
		}
	}
	return found
}

// plantKeys adds the private keys that a platform has now: whole, and each line of their base64, since a text may be
// cut or its line breaks escaped.
func (s *scene) plantKeys(planted map[string]string) {
	s.Helper()
	for _, pem := range strings.SplitAfter(stage.Query[string](s.Scene,
		`SELECT string_agg(private_key, '') FROM webhook_signing_keys`), "-----END PRIVATE KEY-----\n") {
		if pem == "" {
			continue
		}
		planted[fmt.Sprintf("private key %d of %s", len(planted), s.Name)] = pem
		for line := range strings.Lines(pem) {
			// The first characters of each key of an algorithm are the same, and the last line may be short.
			if line = strings.TrimSpace(line); len(line) >= 12 && !strings.HasPrefix(line, "-----") {
				planted[fmt.Sprintf("line %d of a private key of %s", len(planted), s.Name)] = line
			}
		}
	}
}

// signBy makes the Platform sign with the URL of another Secret than before: one that is known is read again only after
// a while.
func (s *scene) signBy(name, u string) {
	s.Helper()
	s.Patch(&v1alpha1.Platform{}, s.Name, fmt.Sprintf(`{"spec":{"database":{"signingSecretRef":{"name":%q}}}}`,
		s.CreateSecret(name, map[string]string{"url": u})))
}

func TestNothingSecretIsTold(t *testing.T) {
	s := newScene(t, "secrets", idle)
	const password, words, encrypted = "password-91ab3d77", "words-5b2c9a04c1", "Y2lwaGVydGV4dA0aa17bd"
	planted := map[string]string{
		"the signer's password": shared.SignerPassword, "the operator's password": shared.OperatorPassword, "the " +
			"monitor's password": shared.MonitorPassword,
		"a wrong password": password, "what the relying party answered": words, "an encrypted key": encrypted, "the admin " +
			"token": s.AdminToken(),
	}
	for _, role := range []string{"playbook_operator", "playbook_monitor", "playbook_signer"} {
		planted["the URL of "+role] = s.URLAs(role)
	}

	// A key is stage.Ended whose event is refused at first, and another is unknown.
	s.plantKeys(planted)
	kid := s.kid()
	s.SetFault(acme, logi.Fault{Status: http.StatusUnauthorized, Body: words})
	name := s.apply("key", kid, "reason: canary-reason-17")
	s.AwaitReason(name, v1alpha1.ReasonNotifying)
	if _, err := s.DispatchOnce(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.plantKeys(planted)
	s.SetFault(acme, logi.Fault{})
	s.deliver()
	s.AwaitReady(name)
	s.AwaitStalled(s.apply("unknown", "whk_nobody", "{}"), v1alpha1.ReasonUnknownKid)

	// The platform's database refuses a password, and the Secret has a URL that can't be parsed.
	wrong := func(change func(*url.URL)) string {
		u, err := url.Parse(s.URLAs("playbook_signer"))
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return u.String()
	}
	for trouble, c := range map[string]struct{ url, reason string }{
		"password": {wrong(func(u *url.URL) { u.User = url.UserPassword("playbook_signer", password) }),
			v1alpha1.ReasonDatabaseUnreachable},
		"malformed": {wrong(func(u *url.URL) {
			u.Host, u.User = "[malformed", url.UserPassword("playbook_signer",
				password)
		}), v1alpha1.ReasonSecretUnusable},
	} {
		s.signBy(trouble, c.url)
		s.AwaitReason(s.apply(trouble, s.kid(), "{}"), c.reason)
	}

	// A row with the successor's private key is refused: Postgres' error shows the row in its detail. RSA's keys have many
	// lines.
	refused := newSceneIn(t, shared.World, "secrets-refused", idle, jose.RS256)
	refused.plantKeys(planted)
	refused.Exec(`CREATE TABLE logi_test.refused (private_key text);
		CREATE FUNCTION logi_test.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
			RAISE unique_violation USING MESSAGE = 'refused', DETAIL = NEW.private_key, HINT = NEW.private_key; END $$;
		CREATE TRIGGER see BEFORE INSERT ON webhook_signing_keys FOR EACH ROW EXECUTE FUNCTION logi_test.see()`)
	refused.AwaitReason(refused.apply("row", refused.kid(), "{}"), v1alpha1.ReasonRetrying)

	// The column holds something else than a key.
	garbled := newSceneIn(t, shared.World, "secrets-garbled", idle, jose.EdDSA)
	for i, text := range []string{`{"p":"` + encrypted + `"}`, "-----BEGIN PRIVATE KEY-----\n" + encrypted +
		"AAA\n-----END PRIVATE KEY-----\n"} {
		garbled.Exec(`UPDATE webhook_signing_keys SET private_key = $1`, text)
		garbled.AwaitStalled(garbled.apply(fmt.Sprint("column-", i), garbled.kid(), "{}"), v1alpha1.ReasonSpecInvalid)
	}

	// A search that can't find what is there proves nothing.
	for where, text := range s.said() {
		if where != "a ConfigMap" && where != "a DLQReplay" && !strings.Contains(text, "secrets") {
			t.Errorf("%s was searched and does not even have the Platform's name", where)
		}
	}
	if !strings.Contains(s.said()["a KeyCompromise"], "canary-reason-17") {
		t.Error("the search does not find the reason")
	}
	for _, f := range s.found(planted) {
		t.Error(f)
	}
	line := stage.Query[string](s.Scene,
		`SELECT split_part(private_key, E'\n', 2) FROM webhook_signing_keys WHERE kid = $1`, kid)
	s.Patch(&v1alpha1.KeyCompromise{}, name, fmt.Sprintf(`{"metadata":{"annotations":{"planted":%q,"another":%q}}}`,
		line, shared.SignerPassword))
	if got := strings.Join(s.found(planted), "; "); !strings.Contains(got, "line ") ||
		!strings.Contains(got, "the signer's password") {
		t.Errorf("of what was planted the search finds %q", got)
	}
}
