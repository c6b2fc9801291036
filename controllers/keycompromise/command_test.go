package keycompromise_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// A shell is a scene whose platform runs commands by a real sshd.
type shell struct {
	*scene
	sshd *servers.SSHD
	dir  string
}

// newShell makes a scene whose Platform has spec.commands, and no role that reads private keys.
func newShell(t *testing.T, name string, config logi.Config) *shell {
	t.Helper()
	s := &shell{scene: newScene(t, name, config), dir: t.TempDir()}
	var err error
	if s.sshd, err = servers.StartSSHD(s.Ctx, filepath.Join(t.TempDir(), "sshd")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.sshd.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	bundle, err := s.InstallBundle(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	secret := s.CreateSecret("ssh", map[string]string{"privateKey": string(s.sshd.PrivateKey()),
		"knownHosts": string(s.sshd.KnownHosts())})
	s.Patch(&v1alpha1.Platform{}, name, fmt.Sprintf(`{"spec":{"database":{"signingSecretRef":null},
		"commands":{"type":"SSH","directory":%q,"bundle":%q,
		"ssh":{"host":%q,"port":%d,"user":%q,"secretRef":{"name":%q}}}}}`,
		s.dir, bundle, s.sshd.Host(), s.sshd.Port(), s.sshd.User(), secret))
	return s
}

// secret puts a value into the Secret of the platform's host.
func (s *shell) secret(key string, value []byte) {
	s.Helper()
	s.Patch(&corev1.Secret{}, s.Name+"-ssh", stage.JSON(map[string]any{"data": map[string][]byte{key: value}}))
}

// runs is how often the platform's rake was started.
func (s *shell) runs(want int) {
	s.Helper()
	if runs := s.RakeRuns(); len(runs) != want {
		s.Errorf("the rake was started %d times rather than %d: %q", len(runs), want, runs)
	}
}

const viaCommand = "via: Command"

func TestThePlatformsOwnRakeEndsAKeyThatIsEncrypted(t *testing.T) {
	s := newShell(t, "rake", logi.Config{JWKSMaxAge: 2 * time.Second})
	if err := s.EncryptKeys(s.Ctx); err != nil {
		t.Fatal(err)
	}
	kid := s.kid()
	if _, err := s.SeedDead(s.Ctx, acme, 50, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitReady(s.apply("key", kid, viaCommand))
	for _, step := range stepNames {
		if c := stage.Condition(k, step); c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonSucceeded {
			t.Errorf("%s is %s, %s: %s", step, c.Status, c.Reason, c.Message)
		}
	}
	st := k.Status
	if st.SuccessorKid != s.kid() || *st.ResignedEntries != 50 || st.EventEntryID == "" || st.Command == nil ||
		st.Command.Outcome != v1alpha1.CommandSucceeded || *st.Command.ExitStatus != 0 {
		t.Errorf("%s", stage.JSON(st))
	}
	s.runs(1)
	if run := s.RakeRuns()[0]; run.Directory != s.dir || !slices.Equal(run.Arguments,
		[]string{"exec", "rails", "webhooks:compromise[42," + kid + "]", "RAILS_ENV=production"}) {
		t.Errorf("%q", run)
	}
	if output := stage.Query[string](s.Scene, `SELECT output FROM playbook.command_runs`); !strings.Contains(output,
		"re-signed 50 entries") {
		t.Errorf("the evidence is %s", output)
	}
}

func TestAnEncryptedKeyNeedsTheRake(t *testing.T) {
	s := newScene(t, "encrypted", idle)
	if err := s.EncryptKeys(s.Ctx); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitStalled(s.apply("key", s.kid(), "{}"), v1alpha1.ReasonSpecInvalid)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, viaCommand) {
		t.Error(message)
	}
	k = s.AwaitStalled(s.apply("no-commands", s.kid(), viaCommand), v1alpha1.ReasonSpecInvalid)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "spec.commands") {
		t.Error(message)
	}
}

func TestARakeWhoseConnectionBrokeAfterItsWorkIsNotRunAgain(t *testing.T) {
	newShell(t, "rake-lost", logi.Config{JWKSMaxAge: time.Second}).loseReply()
}

// loseReply ends a key by a rake that does its work and whose connection then breaks: it is not run again.
func (s *shell) loseReply() {
	s.Helper()
	s.SetRakeFault(logi.RakeFault{Drop: true})
	k := s.AwaitReady(s.apply("key", s.kid(), viaCommand))
	if k.Status.Command.Outcome != v1alpha1.CommandLost || k.Status.SuccessorKid != s.kid() {
		s.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(1)
}

func TestARakeThatFailedStallsAndIsRunAgainOnRequest(t *testing.T) {
	s := newShell(t, "rake-fails", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.SetRakeFault(logi.RakeFault{Fail: true, Print: "booting\n"})
	name := s.apply("key", kid, viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonCommandFailed)
	message := stage.Condition(k, v1alpha1.StepRevoked).Message
	if !strings.Contains(message, "exit status 1 ") || !strings.Contains(message, "playbook.command_runs") ||
		strings.Contains(message, "booting") {
		t.Error(message)
	}
	// What the message says finds the evidence.
	sql := message[strings.Index(message, "SELECT"):]
	if output := stage.Query[string](s.Scene, sql[:strings.Index(sql, "'.")+1]); !strings.Contains(output, "booting") ||
		!strings.Contains(output, "ConnectionNotEstablished") {
		t.Error(output)
	}
	if s.kid() != kid {
		t.Error("the key was revoked")
	}
	s.runs(1)
	s.SetRakeFault(logi.RakeFault{})
	s.request(name, "again")
	s.AwaitReady(name)
	s.runs(2)
}

func TestARakeWhoseOutcomeCantBeToldIsNotRunAgain(t *testing.T) {
	s := newShell(t, "rake-unknown", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"commands":{"timeoutSeconds":1}}}`)
	s.SetRakeFault(logi.RakeFault{DropBefore: true})
	name := s.apply("key", kid, viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "not run again") ||
		!strings.Contains(message, "the key is not revoked") {
		t.Error(message)
	}
	s.SetRakeFault(logi.RakeFault{})
	s.request(name, "again")
	s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	s.runs(1)
	// A person looks, and runs it by hand.
	if printed, ok := s.Rake(s.Ctx, s.dir, []string{"exec", "rails", "webhooks:compromise[42," + kid + "]",
		"RAILS_ENV=production"}, 0); !ok {
		t.Fatal(printed)
	}
	s.request(name, "by hand")
	s.AwaitReady(name)
	s.runs(2)
}

// intended makes an object as it is after a manager wrote its intent to the status and then died.
func (s *shell) intended(kid string) (name string, startedAt time.Time) {
	s.Helper()
	platform := &v1alpha1.Platform{}
	if err := shared.Kube.Get(s.Ctx, client.ObjectKey{Namespace: world.Namespace, Name: s.Name}, platform); err != nil {
		s.Fatal(err)
	}
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"commands":null}}`)
	name = s.apply("key", kid, viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonSpecInvalid)
	startedAt = time.Now().Truncate(time.Microsecond)
	k.Status.Command = &v1alpha1.CommandRun{StartedAt: new(metav1.NewMicroTime(startedAt)), Target: "ssh"}
	if err := shared.Kube.Status().Update(s.Ctx, k); err != nil {
		s.Fatal(err)
	}
	s.Patch(&v1alpha1.Platform{}, s.Name,
		stage.JSON(map[string]any{"spec": map[string]any{"commands": platform.Spec.Commands}}))
	return name, startedAt
}

func TestAnIntentWhoseCommandCertainlyWasNotSentIsWithdrawn(t *testing.T) {
	s := newShell(t, "rake-unsent", logi.Config{JWKSMaxAge: time.Second})
	name, _ := s.intended(s.kid())
	s.request(name, "go")
	s.AwaitReady(name)
	s.runs(1)
	// The one that died may have been asleep: its door is shut.
	if n := stage.Query[int64](s.Scene, `SELECT count(*) FROM playbook.command_runs WHERE outcome = 'not sent'`); n != 1 {
		t.Errorf("%d runs were given up", n)
	}
}

func TestAnIntentWhoseCommandMayHaveBeenSentIsOnlyObserved(t *testing.T) {
	s := newShell(t, "rake-begun", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"commands":{"timeoutSeconds":1}}}`)
	name, startedAt := s.intended(kid)
	s.Exec(`INSERT INTO playbook.command_runs (operation_id, started_at, kid, target, command)
		SELECT id, $1, $2, 'ssh', 'x' FROM playbook.operations`, startedAt, kid)
	s.request(name, "go")
	s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	s.runs(0)
}

func TestALedgerThatKnowsOfARunForbidsAnother(t *testing.T) {
	s := newShell(t, "rake-restored", idle)
	kid := s.kid()
	// The object's status was lost after the run, as by a restore of the cluster.
	name, startedAt := s.intended(kid)
	s.Exec(`INSERT INTO playbook.command_runs (operation_id, started_at, kid, target, command)
		SELECT id, $1, $2, 'ssh', 'x' FROM playbook.operations`, startedAt, kid)
	k := s.Get(name)
	k.Status.Command = nil
	if err := shared.Kube.Status().Update(s.Ctx, k); err != nil {
		t.Fatal(err)
	}
	s.request(name, "go")
	s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	s.runs(0)
}

func TestAKeyThatSomebodyEndedByHandIsAdopted(t *testing.T) {
	s := newShell(t, "rake-by-hand", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	if printed, ok := s.Rake(s.Ctx, s.dir, []string{"exec", "rails", "webhooks:compromise[42," + kid + "]",
		"RAILS_ENV=production"}, 0); !ok {
		t.Fatal(printed)
	}
	successor := s.kid()
	k := s.AwaitReady(s.apply("key", kid, viaCommand))
	if k.Status.Command != nil || k.Status.SuccessorKid != successor || s.kid() != successor {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(1)
}

func TestASecondCommandForTheSameKeyWaitsForTheFirst(t *testing.T) {
	s := newShell(t, "rake-twin", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.SetRakeFault(logi.RakeFault{Hang: 5 * time.Second})
	first := s.apply("first", kid, viaCommand)
	stage.Eventually(t, "the rake runs", func() bool { return len(s.RakeRuns()) == 1 })
	if k := s.Get(first); stage.Condition(k, v1alpha1.ConditionReady).Reason != v1alpha1.ReasonRevoking ||
		k.Status.Command == nil || k.Status.Command.Outcome != "" {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	second := s.apply("second", kid, viaCommand)
	s.AwaitReason(second, v1alpha1.ReasonWaitingForTwin)
	// Whichever sees first that the key is ended enters that, and goes on. The other one names it.
	one, other := s.AwaitReady(first), s.AwaitReady(second)
	if stage.Condition(one, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonAlreadyDone {
		one, other = other, one
	}
	is, names := stage.Condition(one, v1alpha1.ConditionReady), stage.Condition(other, v1alpha1.ConditionReady)
	if is.Reason != v1alpha1.ReasonSucceeded || names.Reason != v1alpha1.ReasonAlreadyDone ||
		!strings.Contains(names.Message, one.Name) {
		t.Errorf("%s: %s; %s: %s", is.Reason, is.Message, names.Reason, names.Message)
	}
	s.runs(1)
}

func TestAChangedHostKeyStalls(t *testing.T) {
	s := newShell(t, "rake-host-key", logi.Config{JWKSMaxAge: time.Second})
	if err := s.sshd.Stop(s.Ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.sshd.ChangeHostKey(); err != nil {
		t.Fatal(err)
	}
	if err := s.sshd.Start(s.Ctx); err != nil {
		t.Fatal(err)
	}
	name := s.apply("key", s.kid(), viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonHostKeyRefused)
	message := stage.Condition(k, v1alpha1.StepRevoked).Message
	line := strings.TrimSpace(string(s.sshd.KnownHosts()))
	if strings.Count(message, "SHA256:") != 2 || !strings.Contains(message, line) ||
		!strings.Contains(message, s.Name+"-ssh") || k.Status.Command != nil {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(0)
	s.secret("knownHosts", []byte(line))
	s.request(name, "pinned")
	s.AwaitReady(name)
	s.runs(1)
}

func TestAHostThatCantBeReachedOrRefusesIsTriedAgain(t *testing.T) {
	s := newShell(t, "rake-unreachable", logi.Config{JWKSMaxAge: time.Second})
	right := s.sshd.PrivateKey()
	other, err := servers.StartSSHD(s.Ctx, filepath.Join(t.TempDir(), "sshd"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	s.secret("privateKey", other.PrivateKey())
	name := s.apply("key", s.kid(), viaCommand)
	k := s.AwaitReason(name, v1alpha1.ReasonSecretUnusable)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "does not accept") {
		t.Error(message)
	}
	if err := s.sshd.Stop(s.Ctx); err != nil {
		t.Fatal(err)
	}
	k = s.AwaitReason(name, v1alpha1.ReasonRetrying)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "connection refused") ||
		k.Status.Command != nil {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.secret("privateKey", right)
	if err := s.sshd.Start(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.AwaitReady(name)
	s.runs(1)
}

// The API server refuses what the command can't be made of, and nothing else.
func TestAKidThatRakeCantBeGivenIsRefusedAtApply(t *testing.T) {
	t.Parallel()
	for kid, can := range map[string]bool{
		"a,b": false, "a]": false, "]": false, `a\b`: false, "a\nb": false, "a\n": false, "a\tb": false, "a\x7f": false,
		"a\u0085b": false, " a": false, "a ": false, " ": false,
		"a\u00a0": false, "\u2003a": false, "\u3000": false, "a\u2028": false,
		"a": true, "whk_2026_08": true, "a b": true, "a[b": true, "é": true, "it's": true, `"$(id)"; rm -rf *`: true,
		"a\u00a0b": true, "a\u200b": true, strings.Repeat("x", 255): true,
	} {
		_, err := ssh.Rails{}.Compromise(acme, kid)
		if (err == nil) != can {
			t.Errorf("%q: %v", kid, err)
		}
		for _, via := range []v1alpha1.CompromiseVia{v1alpha1.CompromiseViaCommand, v1alpha1.CompromiseViaDatabase} {
			err := shared.Kube.Create(t.Context(), &v1alpha1.KeyCompromise{
				ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "rake-kid-refused"},
				Spec: v1alpha1.KeyCompromiseSpec{PlatformRef: v1alpha1.PlatformReference{Name: "p"}, ApplicationID: "42",
					Kid: kid, Reason: "r", Via: via},
			}, client.DryRunAll)
			if want := can || via == v1alpha1.CompromiseViaDatabase; (err == nil) != want || err != nil &&
				!strings.Contains(err.Error(), "write via: Database") {
				t.Errorf("%q via %s: %v", kid, via, err)
			}
		}
	}
}

func TestAKidThatAShellWouldReadOtherwiseArrivesAsItIs(t *testing.T) {
	s := newShell(t, "rake-kid", idle)
	s.AwaitStalled(s.apply("unknown", "whk_nobody", viaCommand), v1alpha1.ReasonUnknownKid)
	s.runs(0)
	const odd = `it's "$(id)" ; rm -rf * #é`
	s.Exec(`UPDATE webhook_signing_keys SET kid = $1`, odd)
	s.AwaitReason(s.apply("odd", odd, viaCommand), v1alpha1.ReasonNotifying)
	s.runs(1)
}

func TestNothingThatTheRakePrintsIsTold(t *testing.T) {
	s := newShell(t, "rake-secrets", logi.Config{JWKSMaxAge: time.Second})
	const key = "MC4CAQAwBQYDK2VwBCIEIPlantedPlantedPlantedPlantedPlanted1234"
	const password, token, header = "planted-password-5b2c", "planted-token-91ab3d", "planted-header-2e8f60"
	s.SetRakeFault(logi.RakeFault{Print: "harmless-words-17\n-----BEGIN PRIVATE KEY-----\n" + key +
		"\n-----END PRIVATE KEY-----\nDATABASE_URL=postgres://owner:" + password +
		"@db/identity\nRENDER_API_TOKEN=" + token + "\nAuthorization: Bearer " + header + "\n"})
	planted := map[string]string{
		"printed-key": key, "printed-password": password, "printed-token": token, "printed-header": header,
		"harmless-output": "harmless-words-17",
		// The line of the file that has the private part: those before it are in each such file, or public.
		"ssh-key": strings.Split(string(s.sshd.PrivateKey()), "\n")[4],
	}
	s.AwaitReady(s.apply("key", s.kid(), viaCommand))
	// A key that was put into the wrong field is not repeated either.
	s.secret("knownHosts", s.sshd.PrivateKey())
	swapped := s.apply("swapped", s.kid(), viaCommand)
	s.AwaitReason(swapped, v1alpha1.ReasonSecretUnusable)
	// A search that can't find what is there proves nothing.
	s.Patch(&v1alpha1.KeyCompromise{}, swapped,
		stage.JSON(map[string]any{"metadata": map[string]any{"annotations": planted}}))
	if found := s.found(planted); len(found) != len(planted) {
		t.Errorf("of what was planted the search finds %q", found)
	}
	s.Patch(&v1alpha1.KeyCompromise{}, swapped, `{"metadata":{"annotations":null}}`)
	for _, found := range s.found(planted) {
		t.Error(found)
	}
	evidence := stage.Query[string](s.Scene, `SELECT output || command || target FROM playbook.command_runs`)
	if !strings.Contains(evidence, "harmless-words-17") || !strings.Contains(evidence, "re-signed") {
		t.Errorf("the ledger has no evidence: %s", evidence)
	}
	delete(planted, "harmless-output")
	for what, secret := range planted {
		if strings.Contains(evidence, secret) {
			t.Errorf("the evidence has %s", what)
		}
	}
}

func TestCommandsThatCantBeRunAreRefusedAtApply(t *testing.T) {
	s := newScene(t, "commands-refused", idle)
	ssh := `"ssh":{"host":"ssh.oregon.render.com","secretRef":{"name":"x"}}`
	render := `,"render":{"secretRef":{"name":"x"},"services":[{"name":"web","serviceID":"srv-abc"}]}`
	for text, want := range map[string]string{
		`"commands":{"type":"SSH"}`:                                                     "type SSH needs ssh",
		`"commands":{"type":"SSH",` + ssh + `}`:                                         "the user to log in as is not known",
		`"commands":{"type":"RenderJob"}` + render:                                      "a Render job runs beside a service",
		`"commands":{"type":"RenderJob","service":"web"}`:                               "is not in render.services",
		`"commands":{"type":"RenderJob","service":"worker"}` + render:                   "is not in render.services",
		`"commands":{"type":"RenderJob","service":"web",` + ssh + `}` + render:          "ssh is for type SSH",
		`"commands":{"type":"Telnet"}`:                                                  "Unsupported value",
		`"commands":{"type":"RenderJob","service":"web","directory":"a\nb"}` + render:   "directory",
		`"commands":{"type":"RenderJob","service":"web","environment":"a; b"}` + render: "environment",
		`"commands":{"type":"SSH","service":"web",` + ssh + `}` + render:                "",
		`"commands":{"type":"RenderJob","service":"web"}` + render:                      "",
	} {
		out, err := shared.Kubectl(s.Ctx, "-n", world.Namespace, "patch", "platform", s.Name, "--dry-run=server",
			"--type=merge", "-p", `{"spec":{`+text+`}}`)
		if (err == nil) != (want == "") || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s", text, err, out)
		}
	}
	name := s.apply("key", "whk_nobody", viaCommand)
	if out, err := shared.Kubectl(s.Ctx, "-n", world.Namespace, "patch", "keyc", name, "--type=merge", "-p",
		`{"spec":{"via":"Database"}}`); err == nil || !strings.Contains(out, "via is fixed once") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestARakeThatSucceededElsewhereIsTold(t *testing.T) {
	s := newShell(t, "rake-elsewhere", idle)
	kid := s.kid()
	other, err := shared.NewSite(s.Ctx, "rake-other", idle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := other.CreateApplication(s.Ctx, acme, "acme"); err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(s.Ctx, other.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	if _, err := db.Exec(s.Ctx, `UPDATE webhook_signing_keys SET kid = $1`, kid); err != nil {
		t.Fatal(err)
	}
	if _, err := other.InstallBundle(s.dir); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitStalled(s.apply("key", kid, viaCommand), v1alpha1.ReasonOutcomeUnknown)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "exit status 0") ||
		!strings.Contains(message, "another platform") || s.kid() != kid {
		t.Error(message)
	}
}
