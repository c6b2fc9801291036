package platformdb_test

import (
	"regexp"
	"testing"

	"github.com/1pass-dev/playbook-operator/config/database"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// An upgrade migrates first. The manager that runs meanwhile knows nothing of what came, and works on.
func TestAManagerWorksWithANewerLedger(t *testing.T) {
	k := newKeyring(t)
	k.dead(20)
	selection := platformdb.Selection{ApplicationID: application, Conflicts: "Settle", MaxReplays: 3}
	begun := k.open("begun")
	if _, err := k.operator.Plan(t.Context(), begun.UID, selection, 100); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`ALTER TABLE playbook.operations ADD COLUMN later bigint NOT NULL DEFAULT 0, ADD COLUMN latest text`,
		`ALTER TABLE playbook.replay_entries ADD COLUMN later text`,
		`ALTER TYPE playbook.entry_action ADD VALUE 'later'`,
		`CREATE TABLE playbook.later (id bigint PRIMARY KEY)`,
		`INSERT INTO playbook.schema_migrations (version, name)
			SELECT max(version) + 1, 'later' FROM playbook.schema_migrations`,
	} {
		k.exec(sql)
	}
	if version, err := k.operator.Check(t.Context()); err != nil || version != platformdb.LatestVersion()+1 {
		t.Errorf("the check says version %d, %v", version, err)
	}
	batch, err := k.operator.Requeue(t.Context(), begun.UID, selection, platformdb.Pace{})
	if err != nil || batch.Requeued != 20 || batch.Remaining != 0 {
		t.Errorf("the batch is %+v, %v", batch.Operation, err)
	}
	if _, err := k.signing.Revoke(t.Context(), k.open("leak").UID, k.kid(), "leaked", 100); err != nil {
		t.Errorf("revoking: %v", err)
	}
	// An older `manager migrate` takes nothing back.
	if applied, err := platformdb.Migrate(t.Context(), k.url); err != nil || len(applied) != 0 {
		t.Errorf("migrating applied %v, %v", applied, err)
	}
}

// takesAway is what no migration after the first may do, since an older manager may still run.
var takesAway = regexp.MustCompile(`(?is)\bDROP\s+(TABLE|COLUMN|TYPE|SCHEMA|INDEX|VIEW|DEFAULT)\b|` +
	`\bRENAME\b|\bSET\s+NOT\s+NULL\b|` +
	`\bALTER\s+(COLUMN\s+)?\w+\s+(SET\s+DATA\s+)?TYPE\b|\bREVOKE\b|\bTRUNCATE\b`)

func TestAMigrationOnlyAdds(t *testing.T) {
	for sql, want := range map[string]bool{
		"ALTER TABLE t DROP COLUMN c": true, "drop table t": true, "ALTER TABLE t RENAME c TO d": true,
		"ALTER TABLE t ALTER c TYPE text": true, "ALTER TABLE t ALTER COLUMN c SET NOT NULL": true,
		"ALTER TABLE t DROP CONSTRAINT c, ADD CHECK (a = b + c)": false, "ALTER TYPE t ADD VALUE 'v'": false,
		"ALTER TABLE t ADD COLUMN c bigint NOT NULL DEFAULT 0": false,
	} {
		if takesAway.MatchString(sql) != want {
			t.Errorf("%q takes something away: %v, want %v", sql, !want, want)
		}
	}
	files, err := database.Migrations.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files[1:] {
		sql, err := database.Migrations.ReadFile("migrations/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if found := takesAway.FindString(string(sql)); found != "" {
			t.Errorf("%s has %q: an older manager may still run", file.Name(), found)
		}
	}
}
