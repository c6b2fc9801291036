package incident_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const nowhere = "postgres://playbook_monitor:pa55word@127.0.0.1:1/identity"

// withAdminAPI gives the Platform the admin API.
func (s *scene) withAdminAPI() *scene {
	s.Helper()
	manifest := `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "` + s.Name + `-admin", "namespace": "` +
		world.Namespace + `", "labels": {"playbook.1pass.dev/platform": "` + s.Name + `"}},
		"stringData": {"token": "` + s.AdminToken() + `"}}`
	if _, err := w.KubectlInput(s.ctx, manifest, "apply", "-f", "-"); err != nil {
		s.Fatal(err)
	}
	s.spec(`{"adminAPI":{"secretRef":{"name":"` + s.Name + `-admin"}}}`)
	return s
}

func TestWithoutADatabaseTheAdminAPISaysWhatIsDead(t *testing.T) {
	s := webhookScene(t, "diagnosis-admin").withAdminAPI()
	s.spec(`{"database":null}`)
	down := s.dead(acme, 60, "HTTP 503:", 7)
	s.dead(wayne, 2, "HTTP 409:", 2)
	s.dead(wayne, 1, "HTTP 401:", 1)
	// Somebody requeues one while the list is read.
	s.Server.SetListFault(logi.ListFault{AfterPage: 1, Leave: 1})
	name := s.open("inc", "{category: WebhookDelivery}")
	d, message := s.diagnosed(name)
	groups := groupsOf(d)
	if len(groups) != 3 || !strings.HasPrefix(groups[0], "42 ServerError RelyingPartyFails 503 59 "+down[0]+",") ||
		!strings.HasPrefix(groups[1], "43 IdempotencyConflict AlreadyReceived 409 2 ") ||
		!strings.HasPrefix(groups[2], "43 SignatureRejected KidServed 401 1 ") ||
		d.Source != v1alpha1.DiagnosedByAdminAPI || d.Counted != v1alpha1.CountAtLeast || *d.Entries != 62 {
		t.Errorf("%d, %s by %s: %q", *d.Entries, d.Counted, d.Source, groups)
	}
	s.says(message, "at least 62 webhooks are dead", "By the admin API", "has no spec.database",
		"nothing is settled or replayed by itself", "via: AdminAPI")

	one := s.open("one", `{category: WebhookDelivery, affected: {applicationIDs: ["43"]}}`)
	if d, _ := s.diagnosed(one); !slices.Equal(groupsOf(d), groups[1:]) || d.Counted != v1alpha1.CountExact ||
		*d.Entries != 3 {
		t.Errorf("one application: %+v", d)
	}
}

// It is asked as often as it wants, and people are paged meanwhile.
func TestAnAdminAPIThatWantsFewerRequestsIsLeftAlone(t *testing.T) {
	s := webhookScene(t, "diagnosis-429").withAdminAPI()
	s.spec(`{"database":null}`)
	s.dead(acme, 1, "HTTP 503:", 7)
	s.Server.SetListFault(logi.ListFault{Limited: 1, RetryAfterSeconds: 120})
	name := s.open("inc", "{category: WebhookDelivery, severity: sev1}")
	if after := s.pass(name); after > 2*time.Minute {
		t.Errorf("it comes back after %v", after)
	}
	s.expect(name, "Diagnosed Unknown Retrying", "Triaged True Succeeded")
	s.expectPages("oncall 1 triggered")
	s.says(s.message(name, "Diagnosed"), "the admin API wants fewer requests")
	if got := s.Server.ListReads()[1]; got != 1 {
		t.Errorf("it was asked %d times", got)
	}
	s.after(2*time.Minute, name)
	s.until(name, "Diagnosed True Succeeded")
}

func TestWithoutDatabaseAndAdminAPINobodyCanTell(t *testing.T) {
	s := webhookScene(t, "diagnosis-none")
	s.spec(`{"database":null}`)
	name := s.open("inc", "{category: WebhookDelivery}")
	s.pass(name)
	s.expect(name, "Diagnosed False NotNeeded", "Resolved Unknown AwaitingResolution")
	s.says(s.message(name, "Diagnosed"), "neither spec.database nor spec.adminAPI")
	if got := s.get(name).Status.Diagnosis; got != nil {
		t.Errorf("status.diagnosis is %+v", got)
	}
}

// A database that can't be read says which command to run or what is down, and is asked again.
func TestADatabaseThatCanNotBeReadIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		spoil, mend  func(*scene)
		reason, says string
	}{
		"down": {
			func(s *scene) { s.setSecret("database", "url", nowhere) },
			func(s *scene) { s.setSecret("database", "url", s.URLAs("playbook_monitor")) },
			v1alpha1.ReasonDatabaseUnreachable, "connection refused",
		},
		"ledger-of-an-older-release": {
			func(s *scene) { s.execute(`ALTER FUNCTION playbook.dead_letters RENAME TO later`) },
			func(s *scene) { s.execute(`ALTER FUNCTION playbook.later RENAME TO dead_letters`) },
			v1alpha1.ReasonLedgerNotReady, "`manager migrate`",
		},
		"no-grant": {
			func(s *scene) { s.execute(`REVOKE USAGE ON SCHEMA playbook FROM playbook_monitor`) },
			func(s *scene) { s.execute(`GRANT USAGE ON SCHEMA playbook TO playbook_monitor`) },
			v1alpha1.ReasonLedgerNotReady, "`manager migrate`",
		},
		"no-secret": {
			func(s *scene) { s.renameDatabaseSecret("missing") },
			func(s *scene) { s.renameDatabaseSecret(s.Name + "-database") },
			v1alpha1.ReasonSecretUnusable, `there is no Secret "missing"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := webhookScene(t, "diagnosis-"+name)
			s.dead(acme, 1, "HTTP 503:", 7)
			c.spoil(s)
			name := s.open("inc", "{category: WebhookDelivery, severity: sev1}")
			s.pass(name)
			s.after(10*time.Minute, name)
			s.expect(name, "Diagnosed Unknown "+c.reason, "Resolved Unknown AwaitingResolution")
			s.says(s.message(name, "Diagnosed"), c.says)
			if text := s.said(name); strings.Contains(text, "pa55word") {
				t.Errorf("the password is told: %s", text)
			}
			s.expectPages("oncall 1 triggered")
			c.mend(s)
			if d, _ := s.diagnosed(name); *d.Entries != 1 || d.Source != v1alpha1.DiagnosedByDatabase {
				t.Errorf("%+v", d)
			}
		})
	}
}

// Where the database stays away, the admin API is asked instead, and it is said why.
func TestTheAdminAPIIsAskedInsteadOfADatabaseThatStaysAway(t *testing.T) {
	s := webhookScene(t, "diagnosis-instead").withAdminAPI()
	s.dead(acme, 2, "HTTP 503:", 7)
	s.setSecret("database", "url", nowhere)
	name := s.open("inc", "{category: WebhookDelivery}")
	s.pass(name)
	s.expect(name, "Diagnosed Unknown DatabaseUnreachable")
	if got := s.Server.ListReads(); len(got) != 0 {
		t.Errorf("the list was read within the minute: %v", got)
	}
	s.after(time.Minute, name)
	d, message := s.diagnosed(name)
	if *d.Entries != 2 || d.Source != v1alpha1.DiagnosedByAdminAPI || d.Counted != v1alpha1.CountExact {
		t.Errorf("%+v", d)
	}
	s.says(message, "By the admin API, since the database could not be read", "connection refused")
}

// A lock holds up the diagnosis, and nothing else.
func TestADiagnosisThatTakesLongHoldsUpNoPage(t *testing.T) {
	s := webhookScene(t, "diagnosis-locked")
	s.dead(acme, 1, "HTTP 503:", 7)
	unlock := s.lock()
	name := s.open("inc", "{category: WebhookDelivery, severity: sev1}")
	manager := s.manager()
	s.look(manager, name, "a diagnosis that takes its time, and a page", func() bool {
		return s.condition(name, "Diagnosed") == "Unknown Looking" && len(s.pages()) > 0
	})
	s.expectPages("oncall 1 triggered")
	unlock()
	s.look(manager, name, "the diagnosis", func() bool { return s.condition(name, "Diagnosed") == "True Succeeded" })
}

// Where the database is slow, it is looked whether webhooks arrive before a diagnosis has said of whom. A signal that
// is good says nothing of a relying party whose webhooks are dead.
func TestNothingHasRecoveredBeforeItIsKnownWhatIsDead(t *testing.T) {
	s := webhookScene(t, "recovery-locked")
	s.dead(acme, 1, "HTTP 503:", 7)
	unlock := s.lock()
	s.sees(s.signal(v1alpha1.ConditionWebhooksDelivered, metav1.ConditionFalse, v1alpha1.Sev2))
	name := s.open("inc", "{category: WebhookDelivery}")
	manager := s.manager()
	s.look(manager, name, "a confirmed incident whose diagnosis takes its time", func() bool {
		return s.condition(name, "Diagnosed") == "Unknown Looking" && s.get(name).Status.ConfirmedAt != nil
	})
	s.sees(s.signal(v1alpha1.ConditionWebhooksDelivered, metav1.ConditionTrue, v1alpha1.Sev2))
	unlock()
	s.look(manager, name, "an answer", func() bool { return s.condition(name, "Recovered") != "Unknown Looking" })
	s.expect(name, "Recovered Unknown SignalsUnknown")
}

// lock keeps everybody from the outbox until unlock is called.
func (s *scene) lock() (unlock func()) {
	s.Helper()
	conn, err := pgx.Connect(s.ctx, s.URLAs(""))
	if err != nil {
		s.Fatal(err)
	}
	if _, err := conn.Exec(s.ctx, `BEGIN; LOCK webhook_outbox_entries IN ACCESS EXCLUSIVE MODE`); err != nil {
		s.Fatal(err)
	}
	return func() {
		s.Helper()
		if err := conn.Close(s.ctx); err != nil {
			s.Fatal(err)
		}
	}
}

// A person who resolves it needs no diagnosis; and no deploy is rolled back for webhooks, however suspicious.
func TestWebhookDeliveryNeverRollsBack(t *testing.T) {
	s := webhookScene(t, "diagnosis-deploy")
	s.dead(acme, 1, "HTTP 503:", 7)
	name := s.regression("inc", "{category: WebhookDelivery, severity: sev1}")
	s.diagnosed(name)
	s.after(time.Hour, name)
	s.expect(name, "RolledBack none", "Triaged True Succeeded", "Resolved Unknown AwaitingResolution")
	if got := s.get(name).Status.Triage.Deploys; len(got) == 0 || got[0].Commit != "bad" {
		t.Errorf("triage has the deploys %+v", got)
	}
	s.says(s.message(name, "Triaged"), "(bad) is suspicious, since it went live at", "It is not rolled back")
	s.untouched("bad")
	s.setSecret("database", "url", nowhere)
	closed := s.open("closed", "{category: WebhookDelivery, resolution: {by: kim, summary: mended}}")
	s.pass(closed)
	s.expect(closed, "Diagnosed False NotNeeded", "Ready True Succeeded")
}
