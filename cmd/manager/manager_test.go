package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

// manager is the program under test, built once.
var manager string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "manager-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	manager = filepath.Join(dir, "manager")
	if out, err := exec.Command("go", "build", "-o", manager, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the manager: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// call runs the manager and returns what it printed and its exit code. A databaseURL goes into the environment.
func call(t *testing.T, databaseURL string, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), manager, args...)
	// There is no kubeconfig, so a manager that looks for a cluster finds none.
	cmd.Env = []string{"HOME=" + t.TempDir()}
	if databaseURL != "" {
		cmd.Env = append(cmd.Env, "DATABASE_URL="+databaseURL)
	}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}

func TestEachCallSaysWhatItWants(t *testing.T) {
	t.Parallel()
	const elsewhere = "postgres://owner:pa55word@127.0.0.1:1/identity"
	for _, c := range []struct {
		args string
		code int
		says []string
	}{
		{"-h", 0,
			[]string{"manager migrate", "manager undo-settlement", "manager purge", "manager cleanup", "-namespaces names",
				"-leader-elect",
				"-metrics-bind-address", "-health-probe-bind-address", "-kubeconfig"}},
		{"--help", 0, []string{"Usage:"}},
		{"migrate -h", 0, []string{"-database-url", "DATABASE_URL"}},
		{"undo-settlement -h", 0, []string{"-uid", "-entries", "-database-url"}},
		{"purge -h", 0, []string{"-older-than", "2160h"}},
		{"cleanup -h", 0, []string{"-namespaces names", "-force", "-leader-election-namespace", "-kubeconfig"}},
		{"", 1, []string{"--namespaces is required", "such as --namespaces=playbook-system"}},
		{"--leader-elect", 1, []string{"--namespaces is required"}},
		{"--namespaces=", 1, []string{"a name is empty"}},
		{"--namespaces=playbook-system,", 1, []string{"a name is empty"}},
		{"--namespaces playbook-system identity", 1, []string{"takes flags only, and no other arguments"}},
		{"--no-such-flag", 1, []string{"flag provided but not defined: -no-such-flag"}},
		{"--namespaces=playbook-system", 1, []string{"finding the API server"}},
		{"reconcile", 1, []string{`there is no subcommand "reconcile": it is migrate, undo-settlement, purge or cleanup`}},
		{"migrate", 1, []string{"no database: set DATABASE_URL, or --database-url"}},
		{"purge", 1, []string{"no database: set DATABASE_URL, or --database-url"}},
		{"undo-settlement --uid=x", 1, []string{"no database: set DATABASE_URL, or --database-url"}},
		{"migrate " + elsewhere, 1, []string{"takes flags only, and no other arguments"}},
		{"migrate --database-url=" + elsewhere, 1, []string{"unreachable", "connection refused"}},
		{"purge --database-url=" + elsewhere, 1, []string{"unreachable", "connection refused"}},
		{"migrate --database-url=postgres://owner:pa55word%zz@127.0.0.1/identity", 1,
			[]string{"can't be parsed: write postgres://"}},
		{"purge --database-url=postgres://owner:pa55word%zz@127.0.0.1/identity", 1,
			[]string{"can't be parsed: write postgres://"}},
		{"migrate --database-url=postgres://owner:pa55word@127.0.0.1:1/identity?sslmode=verify-full&sslrootcert=/nonexistent",
			1, []string{"names a file that is not there, such as sslrootcert's"}},
		{"undo-settlement", 1, []string{"--uid is required", "kubectl get dlqreplay NAME -o jsonpath='{.metadata.uid}'"}},
		{"undo-settlement --uid=x --entries=1,two", 1, []string{`--entries: "two" is no id`}},
		{"undo-settlement --uid=x --entries=1,", 1, []string{`--entries: "" is no id`}},
		{"undo-settlement x", 1, []string{"takes flags only, and no other arguments"}},
		{"purge --older-than=-1h", 1, []string{"--older-than must not be negative"}},
		{"purge --older-than=90", 1, []string{"invalid value", "-older-than"}},
		{"cleanup", 1, []string{"--namespaces is required", "such as --namespaces=playbook-system"}},
		{"cleanup --namespaces=playbook-system,", 1, []string{"a name is empty"}},
		{"cleanup playbook-system", 1, []string{"takes flags only, and no other arguments"}},
		{"cleanup --namespaces=playbook-system", 1, []string{"finding the API server"}},
		{"cleanup --namespaces=playbook-system --kubeconfig=/nonexistent", 1,
			[]string{"finding the API server", "/nonexistent: no such file"}},
	} {
		out, code := call(t, "", strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("manager %s: exit code %d, want %d", c.args, code, c.code)
		}
		for _, text := range c.says {
			if !strings.Contains(out, text) {
				t.Errorf("manager %s does not say %q:\n%s", c.args, text, out)
			}
		}
		if strings.Contains(out, "pa55word") {
			t.Errorf("manager %s repeats the password:\n%s", c.args, out)
		}
		if strings.Contains(out, "panic") || strings.Contains(out, "goroutine") {
			t.Errorf("manager %s:\n%s", c.args, out)
		}
	}
}

// server is a Postgres that no migration has touched: roles belong to the whole server.
func server(t *testing.T) *servers.Postgres {
	t.Helper()
	postgres, err := servers.StartPostgres(t.Context(), filepath.Join(t.TempDir(), "postgres"),
		servers.PostgresOptions{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return postgres
}

// createPlatform creates a database with the platform's tables.
func createPlatform(t *testing.T, postgres *servers.Postgres, database string) (url string) {
	t.Helper()
	if err := postgres.CreateDatabase(t.Context(), database, ""); err != nil {
		t.Fatal(err)
	}
	url = postgres.URL(database)
	if err := logi.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	return url
}

func execute(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// check fails unless the operator's role can work with the database.
func check(t *testing.T, postgres *servers.Postgres, database string) {
	t.Helper()
	db, err := platformdb.Open(postgres.URLFor("playbook_operator", "operator", database), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if version, err := db.Check(t.Context()); err != nil || version != platformdb.LatestVersion() {
		t.Errorf("%s has version %d, %v", database, version, err)
	}
}

// Several migrations run at once: of one database, and of two databases that share the roles of a server.
func TestMigratingAtOnceAndAgainIsMigratingOnce(t *testing.T) {
	t.Parallel()
	postgres := server(t)
	databases := []string{"first", "second"}
	urls := map[string]string{}
	for _, database := range databases {
		urls[database] = createPlatform(t, postgres, database)
	}
	var mu sync.Mutex
	outputs := map[string][]string{}
	var group sync.WaitGroup
	for _, database := range databases {
		for range 4 {
			group.Go(func() {
				out, code := call(t, urls[database], "migrate")
				mu.Lock()
				defer mu.Unlock()
				outputs[database] = append(outputs[database], out)
				if code != 0 {
					t.Errorf("%s: exit code %d:\n%s", database, code, out)
				}
			})
		}
	}
	group.Wait()
	execute(t, urls["first"], `ALTER ROLE playbook_operator PASSWORD 'operator'`)
	for _, database := range databases {
		out, code := call(t, "", "migrate", "--database-url="+urls[database])
		if code != 0 || !strings.Contains(out, "the ledger is up to date at version") {
			t.Errorf("once more: exit code %d:\n%s", code, out)
		}
		if n := strings.Count(strings.Join(outputs[database], ""), "applied 0001_ledger"); n != 1 {
			t.Errorf("%s was migrated by %d of 4:\n%s", database, n, outputs[database])
		}
		check(t, postgres, database)
	}
}

func TestAWrongPasswordIsSaidAndNotRepeated(t *testing.T) {
	t.Parallel()
	postgres := server(t)
	for _, args := range [][]string{{"migrate"}, {"purge"},
		{"undo-settlement", "--uid=00000000-0000-0000-0000-000000000000"}} {
		out, code := call(t, postgres.URLFor("postgres", "pa55word", "postgres"), args...)
		if code != 1 || !strings.Contains(out, "password authentication failed") || strings.Contains(out, "pa55word") {
			t.Errorf("manager %s: exit code %d:\n%s", args, code, out)
		}
	}
}

// On a managed database, the owner is no superuser.
func TestMigratingNeedsNoSuperuser(t *testing.T) {
	t.Parallel()
	ownerOf := func(t *testing.T, postgres *servers.Postgres, attributes string) (url string) {
		execute(t, postgres.URL("postgres"), `CREATE ROLE owner LOGIN PASSWORD 'owner' `+
			attributes, `CREATE DATABASE identity OWNER owner`)
		url = postgres.URLFor("owner", "owner", "identity")
		if err := logi.Migrate(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		return url
	}
	migrate := func(t *testing.T, url string) {
		t.Helper()
		for range 2 {
			if out, code := call(t, url, "migrate"); code != 0 {
				t.Fatalf("exit code %d:\n%s", code, out)
			}
		}
	}
	t.Run("an owner who may create roles", func(t *testing.T) {
		t.Parallel()
		postgres := server(t)
		url := ownerOf(t, postgres, "CREATEROLE")
		migrate(t, url)
		execute(t, url, `ALTER ROLE playbook_operator PASSWORD 'operator'`)
		check(t, postgres, "identity")
	})
	t.Run("an owner who may not, after an administrator", func(t *testing.T) {
		t.Parallel()
		postgres := server(t)
		url := ownerOf(t, postgres, "")
		if out, code := call(t, url, "migrate"); code != 1 || !strings.Contains(out, "permission denied to create role") {
			t.Errorf("without the roles: exit code %d:\n%s", code, out)
		}
		execute(t, postgres.URL("postgres"), statementsOf(t, "What migrating needs")...)
		migrate(t, url)
		execute(t, postgres.URL("postgres"), `ALTER ROLE playbook_operator PASSWORD 'operator'`)
		check(t, postgres, "identity")
	})
}

// statementsOf the database's README, in the section of a heading, a block after the other.
func statementsOf(t *testing.T, heading string) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../config/database/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for {
		_, rest, found := strings.Cut(section, "```sql\n")
		block, after, closed := strings.Cut(rest, "```")
		if !found || !closed {
			break
		}
		all = append(all, strings.Split(strings.TrimSpace(block), "\n")...)
		section = after
	}
	if len(all) == 0 {
		t.Fatalf("config/database/README.md has no SQL under %q", heading)
	}
	return all
}

func TestTheLedgerIsRemovedAsTheREADMESays(t *testing.T) {
	t.Parallel()
	postgres := server(t)
	owner := createPlatform(t, postgres, "identity")
	if out, code := call(t, owner, "migrate"); code != 0 {
		t.Fatal(out)
	}
	execute(t, postgres.URL("identity"), statementsOf(t, "Removing the ledger")...)
	conn, err := pgx.Connect(t.Context(), postgres.URL("identity"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var left int
	if err := conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'playbook')
		+ (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'playbook%')`).Scan(&left); err != nil || left > 0 {
		t.Errorf("%d schemas and roles are left, %v", left, err)
	}
	if out, code := call(t, owner, "migrate"); code != 0 {
		t.Errorf("migrating once more: %s", out)
	}
}

// Not every platform keeps its migrations as Rails does.
func TestATableOfMigrationsIsGrantedWhereThereIsOne(t *testing.T) {
	t.Parallel()
	postgres := server(t)
	owner := createPlatform(t, postgres, "identity")
	execute(t, owner, `DROP TABLE schema_migrations`)
	migrate := func() {
		t.Helper()
		if out, code := call(t, owner, "migrate"); code != 0 {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
	}
	migrate()
	execute(t, owner, `ALTER ROLE playbook_monitor PASSWORD 'monitor'`)
	monitor, err := platformdb.Open(postgres.URLFor("playbook_monitor", "monitor", "identity"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	look := func(says string) {
		t.Helper()
		if _, _, err := monitor.MigrationsSince(t.Context(), time.Now()); says == "" && err != nil || says != "" &&
			(err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%v, and it should say %q", err, says)
		}
	}
	look("has no table schema_migrations")
	execute(t, owner, `CREATE TABLE schema_migrations (version varchar PRIMARY KEY)`)
	look("`manager migrate`")
	migrate()
	look("")
}

func TestUndoingAndPurgingWhereNothingWasDone(t *testing.T) {
	t.Parallel()
	postgres := server(t)
	owner := createPlatform(t, postgres, "identity")
	if out, code := call(t, owner, "migrate"); code != 0 {
		t.Fatal(out)
	}
	execute(t, owner, `ALTER ROLE playbook_operator PASSWORD 'operator'`)
	operator := postgres.URLFor("playbook_operator", "operator", "identity")
	if out, code := call(t, operator, "purge"); code != 0 || !strings.Contains(out, "cleared 0 error texts") {
		t.Errorf("purge: exit code %d:\n%s", code, out)
	}
	for uid, says := range map[string]string{
		"00000000-0000-0000-0000-000000000000": "the ledger has no such operation",
		"acme-after-outage":                    "invalid input syntax for type uuid",
	} {
		if out, code := call(t, operator, "undo-settlement", "--uid="+uid); code != 1 || !strings.Contains(out, says) {
			t.Errorf("undo-settlement --uid=%s: exit code %d:\n%s", uid, code, out)
		}
	}
}
