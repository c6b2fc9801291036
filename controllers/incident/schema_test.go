package incident_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// withDatabase lets the Platform name the read-only role; the commit that is gone back to is ten hours old.
func (s *scene) withDatabase() *scene {
	s.Helper()
	p := s.platform()
	p.Spec.Database.ReadOnlySecretRef = &v1alpha1.SecretReference{Name: s.Name + "-database"}
	if err := admin.Update(s.ctx, p); err != nil {
		s.Fatal(err)
	}
	return s
}

func (s *scene) migrated(ago time.Duration) {
	s.Helper()
	if err := s.AddMigration(s.ctx, time.Now().Add(-ago)); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) approve(name string) {
	s.Helper()
	digest := s.get(name).Status.Rollback.Digest
	s.patch(name, `{"spec":{"approvals":[{"step":"RolledBack","digest":"`+digest+`","by":"dana"}]}}`)
}

func TestAMigrationSinceTheTargetMakesARollbackWaitForApproval(t *testing.T) {
	s := newScene(t, "migrated").withDatabase()
	s.migrated(11 * time.Hour)
	s.migrated(3 * time.Hour)
	s.migrated(time.Hour)
	newest := time.Now().Add(-time.Hour).UTC().Format("2006010215")
	name := s.regression("inc", "{category: Outage}")
	s.pass(name)
	s.expect(name, "RolledBack Unknown WaitingForApproval", "Ready False WaitingForApproval")
	s.expectPages("oncall 1 triggered")
	rollback := s.get(name).Status.Rollback
	if rollback.Schema != v1alpha1.SchemaMigrated || rollback.Migrations == nil || *rollback.Migrations != 2 ||
		!strings.HasPrefix(rollback.NewestMigration, newest) {
		t.Errorf("status.rollback is %+v", rollback)
	}
	for _, says := range []string{"from " + rollback.From + " (bad)", "to " + rollback.To + " (good)", rollback.Digest,
		"migrations newer than good have run: 2, the newest " + rollback.NewestMigration, "kubectl"} {
		if got := s.message(name, "RolledBack"); !strings.Contains(got, says) {
			t.Errorf("it does not say %q: %s", says, got)
		}
	}
	if got := s.Server.Render().Counts(); got.Rollbacks+got.AutoDeployPatches != 0 {
		t.Errorf("Render was told %+v", got)
	}
	// A database that goes down takes back nothing.
	s.setSecret("database", "url", "postgres://playbook_monitor:pa55word@127.0.0.1:1/identity")
	s.after(time.Minute, name)
	s.expect(name, "RolledBack Unknown WaitingForApproval")
	s.rollbacks(0)
	s.approve(name)
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.message(name, "RolledBack"); !strings.Contains(got, "migrations newer than good have run: 2") {
		t.Errorf("it says %q", got)
	}
	if got := s.get(name).Status.Rollback; got.Schema != v1alpha1.SchemaMigrated || *got.Migrations != 2 {
		t.Errorf("status.rollback is %+v", got)
	}
}

func TestAMigrationThatTheTargetKnowsHoldsUpNothing(t *testing.T) {
	s := newScene(t, "migrated-before").withDatabase()
	s.migrated(11 * time.Hour)
	// What is not numbered by a time says none.
	s.execute(`INSERT INTO schema_migrations VALUES ('999'), ('99999999999999999999'), ('later')`)
	name := s.regression("inc", "{category: Outage}")
	s.until(name, "RolledBack True Succeeded")
	s.rollbacks(1)
	if got := s.get(name).Status.Rollback.Schema; got != v1alpha1.SchemaUnchanged ||
		strings.Contains(s.message(name, "RolledBack"), "migrations") {
		t.Errorf("the schema is %s, and it says %q", got, s.message(name, "RolledBack"))
	}
}

func TestAMigrationDoesNotMakeANeverAnApproval(t *testing.T) {
	s := newScene(t, "migrated-never").withDatabase()
	s.migrated(time.Hour)
	name := s.regression("inc", "{category: Outage, rollback: Never}")
	s.pass(name)
	s.expect(name, "RolledBack Unknown RollbackWithheld")
	if got := s.get(name).Status.Rollback; got == nil || got.Claim != nil || got.Schema != v1alpha1.SchemaMigrated {
		t.Errorf("status.rollback is %+v", got)
	}
	s.patch(name, `{"spec":{"approvals":[{"step":"RolledBack","digest":"`+s.get(name).Status.Rollback.Digest+
		`","by":"dana"}]}}`)
	s.after(time.Minute, name)
	s.expect(name, "RolledBack Unknown RollbackWithheld")
	s.rollbacks(0)
}

// A person who is asked anyway reads of the migration too, also of one that was seen only later.
func TestAnApprovalThatIsNeededAnywaySaysWhatWasMigrated(t *testing.T) {
	s := newScene(t, "migrated-approval").withDatabase()
	name := s.regression("inc", "{category: Outage, rollback: Approval}")
	s.pass(name)
	if got := s.message(name, "RolledBack"); strings.Contains(got, "migrations") {
		t.Errorf("it says %q", got)
	}
	digest := s.get(name).Status.Rollback.Digest
	s.migrated(time.Hour)
	s.pass(name)
	if got := s.message(name, "RolledBack"); !strings.Contains(got, "migrations newer than good have run: 1") {
		t.Errorf("it says %q", got)
	}
	if got := s.get(name).Status.Rollback.Digest; got != digest {
		t.Errorf("the digest of the same pair was %s and is %s", digest, got)
	}
	s.approve(name)
	s.until(name, "RolledBack True Succeeded")
}

func TestASchemaThatCannotBeLookedAtHoldsUpNothingAndItIsSaid(t *testing.T) {
	hang, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hang.Close() })
	for name, c := range map[string]struct {
		spoil func(*scene)
		says  string
	}{
		"no-table": {func(s *scene) { s.execute(`DROP TABLE schema_migrations`) }, "has no table schema_migrations"},
		"no-grant": {func(s *scene) { s.execute(`REVOKE SELECT (version) ON schema_migrations FROM playbook_monitor`) },
			"permission denied"},
		"no-secret": {func(s *scene) { s.renameDatabaseSecret("missing") }, `there is no Secret "missing"`},
		"down": {func(s *scene) {
			s.setSecret("database", "url", "postgres://playbook_monitor:pa55word@127.0.0.1:1/identity")
		}, "unreachable"},
		"hanging": {func(s *scene) {
			s.setSecret("database", "url", "postgres://playbook_monitor:pa55word@"+hang.Addr().String()+"/identity")
		}, "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "schema-"+name).withDatabase()
			s.migrated(time.Hour)
			c.spoil(s)
			name := s.regression("inc", "{category: Outage}")
			s.until(name, "RolledBack True Succeeded")
			s.expectPages("oncall 1 triggered")
			s.rollbacks(1)
			if got := s.get(name).Status.Rollback.Schema; got != v1alpha1.SchemaUnknown {
				t.Errorf("the schema is %s", got)
			}
			if got := s.message(name, "RolledBack"); !strings.Contains(got, "whether migrations newer than good have run "+
				"could not be looked at") {
				t.Errorf("it says %q", got)
			}
			if !s.told(name, c.says) {
				t.Errorf("the timeline does not say why: %+v", s.get(name).Status.Timeline)
			}
			if text := s.said(name); strings.Contains(text, "pa55word") {
				t.Errorf("the password is told: %s", text)
			}
		})
	}
}

func (s *scene) renameDatabaseSecret(name string) {
	s.Helper()
	p := s.platform()
	p.Spec.Database.ReadOnlySecretRef.Name = name
	if err := admin.Update(s.ctx, p); err != nil {
		s.Fatal(err)
	}
}

// execute runs SQL as the platform.
func (s *scene) execute(sql string) {
	s.Helper()
	conn, err := pgx.Connect(s.ctx, s.URLAs(""))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close(s.ctx)
	if _, err := conn.Exec(s.ctx, sql); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
}
