package dlqreplay_test

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// databaseURL changes what the Secret says that the operator connects to.
func (s *scene) databaseURL(u string) {
	s.Helper()
	s.Patch(&corev1.Secret{}, s.Name+"-database", fmt.Sprintf(`{"stringData":{"url":%q}}`, u))
}

// altered is the operator's URL with a change.
func (s *scene) altered(change func(*url.URL)) string {
	s.Helper()
	u, err := url.Parse(s.URLAs("playbook_operator"))
	if err != nil {
		s.Fatal(err)
	}
	change(u)
	return u.String()
}

func TestATroubleIsNamedAndEndsWhenItIsMended(t *testing.T) {
	for trouble, c := range map[string]struct {
		make    func(*scene) // before there is a Platform, so that nothing is connected; nil leaves the Platform out
		mend    func(*scene)
		reason  string
		message string
	}{
		"no-platform": {
			nil,
			func(s *scene) { s.applyPlatform() },
			v1alpha1.ReasonPlatformNotFound, `there is no Platform "no-platform" in namespace "playbook-system": apply it`,
		},
		"no-secret": {
			func(s *scene) { s.deleteObject(&corev1.Secret{}, s.Name+"-database") },
			func(s *scene) { s.applyPlatform() },
			v1alpha1.ReasonSecretUnusable,
			`there is no Secret "no-secret-database" in namespace "playbook-system": create it with the label ` +
				`playbook.1pass.dev/platform=no-secret`,
		},
		"unlabelled": {
			func(s *scene) {
				s.Patch(&corev1.Secret{}, s.Name+"-database", `{"metadata":{"labels":null}}`)
			},
			func(s *scene) { s.applyPlatform() },
			v1alpha1.ReasonSecretUnusable,
			`kubectl -n playbook-system label secret unlabelled-database playbook.1pass.dev/platform=unlabelled`,
		},
		"malformed": {
			func(s *scene) { s.databaseURL("postgres://user:geheim@[host/database") },
			func(s *scene) { s.databaseURL(s.URLAs("playbook_operator")) },
			v1alpha1.ReasonSecretUnusable,
			`can't be parsed: write postgres://user:password@host:5432/database?sslmode=verify-full`,
		},
		"wrong-password": {
			func(s *scene) {
				s.databaseURL(s.altered(func(u *url.URL) { u.User = url.UserPassword("playbook_operator", "geheim") }))
			},
			func(s *scene) { s.databaseURL(s.URLAs("playbook_operator")) },
			v1alpha1.ReasonDatabaseUnreachable, `password authentication failed`,
		},
		"no-tls": {
			func(s *scene) { s.databaseURL(s.altered(func(u *url.URL) { u.RawQuery = "sslmode=require" })) },
			func(s *scene) { s.databaseURL(s.URLAs("playbook_operator")) },
			v1alpha1.ReasonDatabaseUnreachable, `server refused TLS connection`,
		},
		"no-host": {
			func(s *scene) { s.databaseURL(s.altered(func(u *url.URL) { u.Host = "127.0.0.1:1" })) },
			func(s *scene) { s.databaseURL(s.URLAs("playbook_operator")) },
			v1alpha1.ReasonDatabaseUnreachable, `connection refused`,
		},
		"no-index": {
			func(s *scene) { s.Exec(`DROP INDEX index_webhook_outbox_entries_dead`) },
			func(s *scene) { s.Exec(statementIn(s, "create it with: ")) },
			v1alpha1.ReasonLedgerNotReady, `the index of dead entries is missing; create it with: CREATE INDEX CONCURRENTLY`,
		},
		"no-table": {
			func(s *scene) { s.Exec(`ALTER TABLE webhook_outbox_entries RENAME TO elsewhere`) },
			func(s *scene) { s.Exec(`ALTER TABLE elsewhere RENAME TO webhook_outbox_entries`) },
			v1alpha1.ReasonLedgerNotReady, `webhook_outbox_entries.id is missing: is this the platform's database?`,
		},
		"no-ledger": {
			func(s *scene) { s.Exec(`ALTER SCHEMA playbook RENAME TO elsewhere`) },
			func(s *scene) { s.Exec(`ALTER SCHEMA elsewhere RENAME TO playbook`) },
			v1alpha1.ReasonLedgerNotReady, "run `manager migrate`",
		},
		"old-ledger": {
			func(s *scene) { s.Exec(`UPDATE playbook.schema_migrations SET version = -version`) },
			func(s *scene) { s.Exec(`UPDATE playbook.schema_migrations SET version = -version`) },
			v1alpha1.ReasonLedgerNotReady, "run `manager migrate`",
		},
		"newer-ledger": {
			func(s *scene) { s.Exec(`UPDATE playbook.schema_migrations SET works_since = 9999`) },
			func(s *scene) { s.Exec(`UPDATE playbook.schema_migrations SET works_since = 1`) },
			v1alpha1.ReasonLedgerNotReady, "works with managers of version 9999 and newer",
		},
		"no-grant": {
			func(s *scene) { s.Exec(`REVOKE ALL ON webhook_outbox_entries FROM playbook_operator`) },
			func(s *scene) { s.migrate() },
			v1alpha1.ReasonLedgerNotReady, "permission denied for table webhook_outbox_entries",
		},
	} {
		t.Run(trouble, func(t *testing.T) {
			s := newBareScene(t, trouble, quick)
			s.seed(12, "HTTP 503: down", 7)
			if c.make != nil {
				s.applyManifest(s.secrets())
				c.make(s)
				s.applyManifest(strings.TrimPrefix(s.Manifest(), s.secrets()))
			}
			name := s.apply("r", "{}")
			r := s.AwaitReason(name, c.reason)
			if !strings.Contains(message(r), c.message) {
				t.Errorf("the message lacks %q: %s", c.message, message(r))
			}
			s.awaitWarning(r, c.reason)
			if strings.Contains(stage.JSON(r), "geheim") {
				t.Errorf("the object shows a password: %s", stage.JSON(r))
			}
			c.mend(s)
			s.progress(s.AwaitReady(name), map[string]int64{"requeued": 12, "delivered": 12})
			s.eachOnce(12)
		})
	}
}

func TestAPlatformWithoutADatabaseIsNamedUntilItHasOne(t *testing.T) {
	s := newBareScene(t, "no-database", quick)
	s.seed(12, "HTTP 503: down", 7)
	before, rest, _ := strings.Cut(s.Manifest(), "  database:\n")
	_, after, _ := strings.Cut(rest, "  adminAPI:\n")
	s.applyManifest(before + "  adminAPI:\n" + after)
	var deleted *v1alpha1.DLQReplay
	for _, name := range []string{"r", "deleted"} {
		deleted = s.AwaitReason(s.apply(name, "{}"), v1alpha1.ReasonNoDatabase)
		want := `there is no spec.database in Platform "no-database": write its secretRef there`
		if !strings.Contains(message(deleted), want) {
			t.Errorf("the message lacks %q: %s", want, message(deleted))
		}
	}
	s.awaitWarning(deleted, v1alpha1.ReasonNoDatabase)
	// It has nothing to close, and does not wait for what it could be closed in.
	s.Delete(deleted.Name)
	for _, e := range s.events(deleted) {
		if e.Reason == "OperationLeftOpen" {
			t.Error(e.Note)
		}
	}
	s.applyPlatform()
	s.progress(s.AwaitReady(s.Name+"-r"), map[string]int64{"requeued": 12, "delivered": 12})
	s.eachOnce(12)
}

// awaitWarning waits for an event that tells of a trouble.
func (s *scene) awaitWarning(r *v1alpha1.DLQReplay, reason string) {
	s.Helper()
	stage.Eventually(s.T, "a warning", func() bool {
		return slices.ContainsFunc(s.events(r), func(e eventsv1.Event) bool {
			return e.Type == "Warning" &&
				e.Reason == reason
		})
	})
}

// events that tell of a replay.
func (s *scene) events(r *v1alpha1.DLQReplay) []eventsv1.Event {
	s.Helper()
	var all eventsv1.EventList
	if err := shared.Kube.List(s.Ctx, &all, client.InNamespace(world.Namespace)); err != nil {
		s.Fatal(err)
	}
	return slices.DeleteFunc(all.Items, func(e eventsv1.Event) bool { return e.Regarding.UID != r.UID })
}

// statementIn is the SQL that the message of the scene's replay gives after a phrase.
func statementIn(s *scene, phrase string) string {
	s.Helper()
	return s.command(s.Get(s.Name+"-r"), phrase)
}

func (s *scene) applyPlatform() {
	s.Helper()
	if err := s.Apply(s.Ctx); err != nil {
		s.Fatal(err)
	}
}

// secrets is the part of the manifest before the Platform.
func (s *scene) secrets() string {
	return s.Manifest()[:strings.LastIndex(s.Manifest(), "---\n")]
}

func (s *scene) applyManifest(manifest string) {
	s.Helper()
	if _, err := shared.KubectlInput(s.Ctx, manifest, "apply", "-f", "-"); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) deleteObject(obj client.Object, name string) {
	s.Helper()
	obj.SetNamespace(world.Namespace)
	obj.SetName(name)
	if err := shared.Kube.Delete(s.Ctx, obj); err != nil {
		s.Fatal(err)
	}
}

// migrate runs `manager migrate` as the database's owner does.
func (s *scene) migrate() {
	s.Helper()
	path, err := shared.World.Manager(s.Ctx)
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Ctx, path, "migrate")
	cmd.Env = []string{"DATABASE_URL=" + s.URLAs("")}
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("manager migrate: %v\n%s", err, out)
	}
}

func TestAStalledReplayThatCanNotGoOnYetSaysSo(t *testing.T) {
	s := newScene(t, "resume-later", manual)
	s.seed(12, "HTTP 503: down", 7)
	name := s.apply("r", "{canary: {timeoutSeconds: 1}}")
	s.AwaitStalled(name, v1alpha1.ReasonCanaryTimedOut)
	s.Exec(`ALTER SCHEMA playbook RENAME TO elsewhere`)
	s.request(name, "now")
	r := s.AwaitStalled(name, v1alpha1.ReasonLedgerNotReady)
	if !strings.Contains(message(r), "asked to go on, which can't be done yet: ") ||
		r.Status.LastHandledRequestedAt != "" {
		t.Errorf("with lastHandledRequestedAt %q the message is %q", r.Status.LastHandledRequestedAt, message(r))
	}
	s.Exec(`ALTER SCHEMA elsewhere RENAME TO playbook`)
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt == "now" })
	s.Change(name, `{"spec":{"canary":{"timeoutSeconds":3600}}}`)
	s.progress(s.dispatchUntil(name, "complete", stage.Ended), map[string]int64{"requeued": 12, "delivered": 12})
	s.eachOnce(12)
}

func TestAnApplicationThatDoesNotExistStalls(t *testing.T) {
	s := newScene(t, "no-application", manual)
	r := s.AwaitStalled(s.apply("r", `{applicationID: "4711"}`), v1alpha1.ReasonSpecInvalid)
	if !strings.Contains(message(r), "the platform has no application 4711") {
		t.Errorf("the message is %q", message(r))
	}
}

func TestALockHeldTooLongIsAnErrorThatPasses(t *testing.T) {
	s := newScene(t, "table-locked", quick)
	s.seed(12, "HTTP 503: down", 7)
	name := s.suspended("r", "{canary: {entries: 0}}")
	held <- struct{}{}
	release := s.lock(`LOCK TABLE playbook.replay_entries IN EXCLUSIVE MODE`)
	s.Change(name, `{"spec":{"suspend":false}}`)
	r := s.AwaitReason(name, v1alpha1.ReasonDatabaseTooSlow)
	<-held
	if !strings.Contains(message(r), "requeueing a batch: a statement took longer than it may") {
		t.Errorf("the message is %q", message(r))
	}
	release()
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 12, "delivered": 12})
	s.eachOnce(12)
}

func TestALedgerRestoredFromBeforeTheReplayStopsIt(t *testing.T) {
	for restored, forget := range map[string]string{
		"all": `DELETE FROM playbook.operations`,
		"plan": `UPDATE playbook.operations SET planned_at = NULL, plan = NULL, plan_digest = NULL,
			total = 0, remaining = 0, requeued = 0, waiting = 0`,
		"progress": `UPDATE playbook.operations SET remaining = remaining + requeued, requeued = 0, waiting = 0`,
	} {
		t.Run(restored, func(t *testing.T) {
			s := newScene(t, "behind-"+restored, manual)
			s.seed(30, "HTTP 503: down", 7)
			name := s.apply("r", "{maxInFlight: 12, canary: {entries: 0}}")
			s.Await(name, "12 in flight in the status", func(r *v1alpha1.DLQReplay) bool {
				return r.Status.Progress != nil && value(r.Status.Progress.Requeued) == 12
			})
			s.Change(name, `{"spec":{"suspend":true}}`)
			s.AwaitReason(name, v1alpha1.ReasonSuspended)
			// The dead letters are back as they were, as after a restore, and so is the ledger.
			s.Exec(`UPDATE webhook_outbox_entries SET dlq_at = clock_timestamp() - interval '1 hour'`)
			s.Exec(`TRUNCATE playbook.replay_entries, playbook.replay_pages`)
			s.Exec(forget)
			s.Change(name, `{"spec":{"suspend":false}}`)
			r := s.AwaitStalled(name, v1alpha1.ReasonLedgerBehind)
			if !strings.Contains(message(r), "as after a restore from a backup") {
				t.Errorf("the message is %q", message(r))
			}
			s.eachOnce(12)
			// Asking it to go on does not change what the ledger does not know.
			s.request(name, "please")
			s.Await(name, "stalled again", func(r *v1alpha1.DLQReplay) bool {
				return r.Status.LastHandledRequestedAt == "please" && stage.Ended(r) && reason(r) == v1alpha1.ReasonLedgerBehind
			})
			s.eachOnce(12)
		})
	}
}

func TestAStatusSetBackByHandRepeatsNothing(t *testing.T) {
	reset := func(s *scene, name string) {
		s.Helper()
		r := s.Get(name)
		r.Status = v1alpha1.DLQReplayStatus{ObservedGeneration: -1}
		if err := shared.Kube.Status().Update(s.Ctx, r); err != nil {
			s.Fatal(err)
		}
		s.nudge(name)
	}
	t.Run("running", func(t *testing.T) {
		s := newScene(t, "reset-running", manual)
		s.seed(30, "HTTP 503: down", 7)
		name := s.apply("r", "{maxInFlight: 12, canary: {entries: 4}}")
		s.dispatchUntil(name, "beyond the canary", func(*v1alpha1.DLQReplay) bool { return s.requeues() > 4 })
		reset(s, name)
		r := s.dispatchUntil(name, "complete", stage.Ended)
		s.progress(r, map[string]int64{"requeued": 30, "delivered": 30})
		s.eachOnce(30)
	})
	t.Run("finished", func(t *testing.T) {
		s := newScene(t, "reset-finished", quick)
		s.seed(30, "HTTP 503: down", 7)
		name := s.apply("r", "{}")
		s.AwaitReady(name)
		s.Exec(`UPDATE webhook_outbox_entries SET delivered_at = NULL, dlq_at = $1::timestamp - interval '1 second'`,
			stage.Query[any](s.Scene, `SELECT cutoff FROM playbook.operations`))
		reset(s, name)
		s.progress(s.AwaitReady(name), map[string]int64{"requeued": 30, "delivered": 30})
		s.eachOnce(30)
	})
	t.Run("planned", func(t *testing.T) {
		s := newScene(t, "reset-planned", manual)
		s.seed(30, "HTTP 503: down", 7)
		name := s.apply("r", "{mode: Plan}")
		before := s.AwaitReady(name)
		s.seed(5, "HTTP 503: down", 7)
		reset(s, name)
		r := s.AwaitReady(name)
		if r.Status.Plan.Digest != before.Status.Plan.Digest || reason(r) != v1alpha1.ReasonPlanOnly {
			t.Errorf("%s with the plan %s; it was %s", reason(r), stage.JSON(r.Status.Plan), stage.JSON(before.Status.Plan))
		}
	})
}

// ownPostgres is the World with another Postgres, which a test may stop.
func ownPostgres(t *testing.T, name string) *world.World {
	t.Helper()
	own, err := shared.WithPostgres(t.Context(), name, servers.PostgresOptions{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return own
}

func TestADatabaseThatStopsAndComesBackCostsNothing(t *testing.T) {
	t.Parallel()
	own := ownPostgres(t, "stopped")
	s := newSceneIn(t, own, "stopped", quick)
	s.applyPlatform()
	s.seed(400, "HTTP 503: down", 7)
	finished := s.apply("finished", "{mode: Plan}")
	s.AwaitReady(finished)
	name := s.apply("r", "{ratePerSecond: 40}")
	s.Await(name, "under way", func(*v1alpha1.DLQReplay) bool { return s.requeues() > 40 })
	if err := own.Postgres.Stop(s.Ctx); err != nil {
		t.Fatal(err)
	}
	r := s.AwaitReason(name, v1alpha1.ReasonDatabaseUnreachable)
	if strings.Contains(stage.JSON(r), own.OperatorPassword) {
		t.Error("the object shows the password")
	}

	// What is finished needs no database to be deleted.
	r = s.Get(finished)
	s.Delete(finished)
	if slices.ContainsFunc(s.events(r), func(e eventsv1.Event) bool { return e.Reason == "OperationLeftOpen" }) {
		t.Error("deleting a finished replay waited for the database")
	}

	if err := own.Postgres.Start(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 400, "delivered": 400})
	s.eachOnce(400)
	if c := s.Counts()[acme]; c.Received != 400 {
		t.Errorf("the relying party received %d", c.Received)
	}
}
