package platformdb_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

func TestADatabaseThatTakesNoWritesIsNamed(t *testing.T) {
	k := newKeyring(t)
	u, err := url.Parse(k.url)
	if err != nil {
		t.Fatal(err)
	}
	readOnly := func(doing string, err error) {
		t.Helper()
		if !errors.Is(err, platformdb.ErrReadOnly) || !platformdb.Answered(err) || !strings.Contains(err.Error(), u.Host) ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want that %s is read-only", doing, err, u.Host)
		}
	}
	replay := k.open("replay")
	k.exec(`ALTER ROLE playbook_operator SET default_transaction_read_only = on`)
	other := openAs(t, k.postgres, "playbook_operator") // a session that begins now
	_, err = other.Check(t.Context())
	readOnly("checking", err)
	readOnly("closing", other.CloseOperation(t.Context(), replay, platformdb.OutcomeDeleted))
	k.exec(`ALTER ROLE playbook_operator RESET default_transaction_read_only`)
	// At once: a session that began before is not used any more.
	if _, err := other.Check(t.Context()); err != nil {
		t.Errorf("once it takes writes: %v", err)
	}

	if err := k.postgres.RestartAsReplica(t.Context()); err != nil {
		t.Fatal(err)
	}
	for err = platformdb.ErrRestarting; errors.Is(err, platformdb.ErrRestarting); { // sessions that the restart ended
		_, err = k.operator.Check(t.Context())
	}
	readOnly("checking a replica", err)
	_, err = k.operator.OpenOperation(t.Context(), identity(uuid.NewString()))
	readOnly("opening on a replica", err)
}

// Each of these is told apart, and none is a database that can't be reached.
func TestEachTroubleIsNamed(t *testing.T) {
	k := newKeyring(t)
	is := func(doing string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || errors.Is(err, platformdb.ErrUnreachable) {
			t.Errorf("%s: %v; want %v", doing, err, want)
		}
		for _, other := range []error{platformdb.ErrRestarting, platformdb.ErrDiskFull, platformdb.ErrNoConnection,
			platformdb.ErrCanceled, platformdb.ErrTooSlow, platformdb.ErrReadOnly} {
			if !errors.Is(want, other) && errors.Is(err, other) {
				t.Errorf("%s: %v is also %v", doing, err, other)
			}
		}
	}
	// A disk that is full shows when something is written.
	k.exec(`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$`)
	k.exec(`CREATE TRIGGER full_disk BEFORE INSERT ON playbook.operations EXECUTE FUNCTION full_disk()`)
	_, err := k.operator.OpenOperation(t.Context(), identity(uuid.NewString()))
	is("opening on a full disk", err, platformdb.ErrDiskFull)
	k.exec(`DROP TRIGGER full_disk ON playbook.operations`)

	k.exec(`ALTER ROLE playbook_operator CONNECTION LIMIT 0`)
	is("connecting", openAs(t, k.postgres, "playbook_operator").Ping(t.Context()), platformdb.ErrNoConnection)
	k.exec(`ALTER ROLE playbook_operator CONNECTION LIMIT -1`)

	// Whoever waits for this lock is ended by the time that a statement may take, or by an administrator before.
	locker, err := k.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := locker.Exec(t.Context(), `LOCK TABLE webhook_outbox_entries`); err != nil {
		t.Fatal(err)
	}
	_, err = k.operator.Deliveries(t.Context(), time.Hour)
	is("waiting too long", err, platformdb.ErrTooSlow)
	for function, want := range map[string]error{
		"pg_cancel_backend": platformdb.ErrCanceled, "pg_terminate_backend": platformdb.ErrRestarting,
	} {
		for doing, look := range map[string]func() error{
			"in a transaction": func() error { _, err := k.operator.Deliveries(t.Context(), time.Hour); return err },
			"alone":            func() error { _, _, err := k.operator.DeadLetters(t.Context(), 10); return err },
		} {
			ended := make(chan error)
			go func() { ended <- look() }()
			for gone := 0; gone == 0; {
				if err := k.owner.QueryRow(t.Context(), `SELECT count(`+function+`(pid)) FROM pg_stat_activity
					WHERE usename = 'playbook_operator' AND wait_event_type = 'Lock'`).Scan(&gone); err != nil {
					t.Fatal(err)
				}
			}
			is(function+" "+doing, <-ended, want)
		}
	}
	if err := locker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.operator.Check(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// The platform's tables may be in a schema of their own.
func TestTablesInAnotherSchema(t *testing.T) {
	postgres := startPostgres(t, nil)
	owner := connect(t, postgres)
	execute := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	check := func(query, want string) {
		t.Helper()
		openAs(t, postgres, "playbook_operator")
		_, err := openAltered(t, postgres, query).Check(t.Context())
		if want == "" && err != nil || want != "" && (!errors.Is(err, platformdb.ErrSchema) ||
			!strings.Contains(err.Error(), want)) {
			t.Errorf("with %q: %v; want %s", query, err, want)
		}
	}
	execute(`CREATE SCHEMA "Identity"`)
	for _, table := range []string{"oauth_applications", "webhook_outbox_entries", "webhook_signing_keys"} {
		execute(`ALTER TABLE ` + table + ` SET SCHEMA "Identity"`)
	}
	check("", `is in the schema "Identity": run `+"`manager migrate` again")
	applied, err := platformdb.Migrate(t.Context(), postgres.URL("postgres")+"&search_path=%22Identity%22")
	if err != nil || len(applied) != 0 {
		t.Fatalf("migrating applied %v, %v", applied, err)
	}
	check("", `ALTER ROLE playbook_operator SET search_path = "Identity"`)
	check("search_path=%22Identity%22", "")
	execute(`ALTER ROLE playbook_operator SET search_path = "Identity"`)
	check("", "")
	execute(`REVOKE USAGE ON SCHEMA playbook FROM playbook_operator`)
	check("", "no USAGE on the schema playbook")
}

// A server that hangs neither answers nor refuses; what waits for it must not.
func TestAServerThatHangsIsGivenUp(t *testing.T) {
	k := newKeyring(t)
	if _, err := k.operator.Deliveries(t.Context(), time.Hour); err != nil { // so that there is a connection
		t.Fatal(err)
	}
	thaw, err := k.postgres.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := platformdb.Open(k.postgres.URLFor("playbook_operator", "secret", "postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fresh.Close)
	calls := map[string]func() error{
		"a look of 5 s":    func() error { _, err := k.operator.Deliveries(t.Context(), time.Hour); return err },
		"a sign of life":   func() error { return k.signing.Ping(t.Context()) },
		"a new connection": func() error { _, err := fresh.Check(t.Context()); return err },
	}
	ended, begun := make(chan string), time.Now()
	for doing, call := range calls {
		go func() {
			if err := call(); !errors.Is(err, platformdb.ErrUnreachable) {
				ended <- fmt.Sprintf("%s: %v", doing, err)
				return
			}
			ended <- ""
		}()
	}
	for range calls {
		select {
		case wrong := <-ended:
			if wrong != "" {
				t.Error(wrong)
			}
		case <-time.After(time.Until(begun.Add(20 * time.Second))):
			t.Error("not given up in 20 s")
		}
	}
	if err := thaw(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.operator.Check(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
