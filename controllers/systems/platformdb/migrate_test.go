package platformdb_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

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
	k.next(`
		ALTER TABLE playbook.operations ADD COLUMN later bigint NOT NULL DEFAULT 0, ADD COLUMN latest text;
		ALTER TABLE playbook.replay_entries ADD COLUMN later text;
		ALTER TYPE playbook.entry_action ADD VALUE 'later';
		CREATE TABLE playbook.later (id bigint PRIMARY KEY)`)
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

// next applies a migration that a newer release has.
func (k *keyring) next(sql string) {
	k.Helper()
	conn, err := pgx.Connect(k.Context(), k.url)
	if err != nil {
		k.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if err := platformdb.ApplyNext(k.Context(), conn, sql); err != nil {
		k.Fatal(err)
	}
}

// A migration that an older manager does not work with says so, in the ledger. That manager then says what to do.
func TestAManagerRefusesALedgerThatDoesNotWorkWithIt(t *testing.T) {
	own := platformdb.LatestVersion()
	for line, refused := range map[string]bool{
		fmt.Sprintf("-- works since: %d", own): false, fmt.Sprintf("-- works since: %d", own+1): true,
	} {
		k := newKeyring(t)
		k.next("-- What changes.\n" + line + "\nALTER TABLE playbook.operations ADD COLUMN later bigint")
		want := fmt.Sprintf("the ledger's schema is version %d, and works with managers of version %d and newer. This one "+
			"is of version %d: run the release that migrated the ledger, or a newer one", own+1, own+1, own)
		_, migrating := platformdb.Migrate(t.Context(), k.url)
		_, err := k.operator.Check(t.Context())
		for _, err := range []error{err, migrating} {
			if !refused && err != nil || refused && (!errors.Is(err, platformdb.ErrNotReady) ||
				!strings.Contains(err.Error(), want)) {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}

// The release before this one wrote no works_since. What it migrated is brought up to date, and works until then.
func TestALedgerThatSaysNothingOfOlderManagersWorks(t *testing.T) {
	k := newKeyring(t)
	k.exec(`ALTER TABLE playbook.schema_migrations DROP COLUMN works_since`)
	if version, err := k.operator.Check(t.Context()); err != nil || version != platformdb.LatestVersion() {
		t.Errorf("version %d, %v", version, err)
	}
	if _, err := platformdb.Migrate(t.Context(), k.url); err != nil {
		t.Fatal(err)
	}
	k.next(`CREATE TABLE playbook.later (id bigint PRIMARY KEY)`)
	if version, err := k.operator.Check(t.Context()); err != nil || version != platformdb.LatestVersion()+1 {
		t.Errorf("version %d, %v", version, err)
	}
}

// takesAway is what no migration after the first may do, since an older manager may still run, unless it says that such
// a manager does not work with it.
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
		version, _, _ := strings.Cut(strings.TrimLeft(file.Name(), "0"), "_")
		says := regexp.MustCompile(`(?m)^-- works since: ` + version + `$`).Match(sql)
		if found := takesAway.FindString(string(sql)); found != "" && !says {
			t.Errorf("%s has %q: an older manager may still run", file.Name(), found)
		}
		if at := regexp.MustCompile(`(?i)works.since`).Find(sql); at != nil && !says {
			t.Errorf("%s says %q, and not \"-- works since: %s\"", file.Name(), at, version)
		}
	}
}
