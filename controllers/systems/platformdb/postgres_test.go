package platformdb_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

// startPostgres starts a server of the test's own, whose database postgres has the platform's tables and the ledger.
func startPostgres(t *testing.T, settings map[string]string) *servers.Postgres {
	t.Helper()
	postgres, err := servers.StartPostgres(t.Context(), t.TempDir(), servers.PostgresOptions{Fast: true,
		Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := logi.Migrate(t.Context(), postgres.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	if _, err := platformdb.Migrate(t.Context(), postgres.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	return postgres
}

// connect connects to it as the database's owner.
func connect(t *testing.T, postgres *servers.Postgres) *pgx.Conn {
	t.Helper()
	owner, err := pgx.Connect(t.Context(), postgres.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = owner.Close(context.Background()) }) // a broken one fails the test elsewhere
	return owner
}

// openAs gives one of the operator's roles a password, and connects by it.
func openAs(t *testing.T, postgres *servers.Postgres, role string) *platformdb.DB {
	t.Helper()
	if _, err := connect(t, postgres).Exec(t.Context(), "ALTER ROLE "+role+" PASSWORD 'secret'"); err != nil {
		t.Fatal(err)
	}
	db, err := platformdb.Open(postgres.URLFor(role, "secret", "postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}
