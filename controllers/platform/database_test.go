package platform_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func TestWhatTheDatabaseLacksIsNamedUntilItIsThere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ spoil, mend, says, reason string }{
		"hidden-rows": {
			`ALTER TABLE webhook_outbox_entries ENABLE ROW LEVEL SECURITY`,
			`ALTER TABLE webhook_outbox_entries DISABLE ROW LEVEL SECURITY`,
			`of webhook_outbox_entries from the role: as a superuser run ALTER ROLE "playbook_operator" BYPASSRLS`,
			v1alpha1.ReasonDatabaseRowsHidden,
		},
		"read-only": {
			`ALTER ROLE playbook_operator IN DATABASE "DATABASE" SET default_transaction_read_only = on`,
			`ALTER ROLE playbook_operator IN DATABASE "DATABASE" RESET default_transaction_read_only`,
			"the database is read-only: 127.0.0.1:", v1alpha1.ReasonDatabaseReadOnly,
		},
		"another-schema": {
			`CREATE SCHEMA identity; ALTER TABLE oauth_applications SET SCHEMA identity`,
			`ALTER TABLE identity.oauth_applications SET SCHEMA public`,
			"GRANT USAGE ON SCHEMA identity TO playbook_operator", v1alpha1.ReasonSchemaUnusable,
		},
		"another-type": {
			`ALTER TABLE webhook_outbox_entries ALTER next_retry_at TYPE timestamptz`,
			`ALTER TABLE webhook_outbox_entries ALTER next_retry_at TYPE timestamp(6)`,
			"the column webhook_outbox_entries.next_retry_at is timestamp with time zone and must be timestamp without time " +
				"zone", v1alpha1.ReasonLedgerNotReady,
		},
		"no-column": {
			`ALTER TABLE webhook_signing_keys RENAME grace_until TO grace`,
			`ALTER TABLE webhook_signing_keys RENAME grace TO grace_until`,
			"the column webhook_signing_keys.grace_until is missing", v1alpha1.ReasonLedgerNotReady,
		},
		"no-grant": {
			`REVOKE SELECT ON playbook.schema_migrations FROM playbook_operator`,
			`GRANT SELECT ON playbook.schema_migrations TO playbook_operator`,
			"run `manager migrate` with the owner's URL", v1alpha1.ReasonLedgerNotReady,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := newDatabase(t)
			spell := strings.NewReplacer(`"DATABASE"`, pgx.Identifier{databaseOf(t, site)}.Sanitize())
			execute(t, site.URLAs(""), spell.Replace(c.spoil))
			p := platformOf(world.Namespace, name)
			create(t, secret(world.Namespace, name, site.URLAs("playbook_operator")), p)
			got := await(t, p, "Ready", metav1.ConditionFalse, c.reason)
			expect(t, got, "DatabaseReachable=True/Succeeded", "LedgerReady=False/"+c.reason,
				"Reconciling=True/"+c.reason, "Ready=False/"+c.reason)
			if text := describe(got); !strings.Contains(text, c.says) {
				t.Errorf("it says\n%swant %q", text, c.says)
			}
			execute(t, site.URLAs(""), spell.Replace(c.mend))
			expect(t, await(t, p, "Ready", metav1.ConditionTrue, "Succeeded"), whenReady...)
		})
	}
}

// A newer ledger is what an upgrade makes first: the manager that runs meanwhile goes on.
func TestANewerLedgerKeepsAPlatformReady(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	execute(t, site.URLAs(""), `INSERT INTO playbook.schema_migrations (version, name) VALUES (9999, 'from the future')`)
	p := platformOf(world.Namespace, "newer-ledger")
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), p)
	got := await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")
	expect(t, got, whenReady...)
	if text := describe(got); !strings.Contains(text, "the ledger's schema is version 9999, which is newer than this "+
		"manager") {
		t.Errorf("it says\n%s", text)
	}
}

func databaseOf(t *testing.T, site *world.Site) string {
	t.Helper()
	u, err := url.Parse(site.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

func TestTheStatementForAMissingIndexIsThere(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	execute(t, site.URLAs(""), `DROP INDEX index_webhook_outbox_entries_dead`)
	p := platformOf(world.Namespace, "no-index")
	create(t, secret(world.Namespace, p.Name, site.URLAs("playbook_operator")), p)
	text := describe(await(t, p, "LedgerReady", metav1.ConditionFalse, "LedgerNotReady"))
	_, statement, found := strings.Cut(text, "create it with: ")
	if !found {
		t.Fatalf("no statement:\n%s", text)
	}
	statement, _, _ = strings.Cut(statement, "\n")
	execute(t, site.URLAs(""), statement)
	await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")

	// As a CREATE INDEX CONCURRENTLY that failed leaves it.
	execute(t, site.URLAs(""),
		`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'index_webhook_outbox_entries_dead'::regclass`)
	_, statements, found := strings.Cut(describe(await(t, p, "LedgerReady", metav1.ConditionFalse, "LedgerNotReady")),
		"make it anew with: ")
	if !found {
		t.Fatal("no statements to make the index anew")
	}
	statements, _, _ = strings.Cut(statements, "\n")
	for _, statement := range strings.Split(statements, "; ") {
		execute(t, site.URLAs(""), statement)
	}
	await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")
}
