package platformdb_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

// whoWantsAnother are those who may want other settings than the operator, and how.
var whoWantsAnother = []struct {
	name, sql, query string
	environment      map[string]string
}{
	{name: "nobody"},
	{name: "the URL", query: "timezone=Asia/Seoul&statement_timeout=300&enable_seqscan=on&row_security=on&jit=on" +
		"&idle_in_transaction_session_timeout=300&synchronous_commit=off&standard_conforming_strings=off&DateStyle=German"},
	{name: "the URL, in capitals", query: "TIMEZONE=Asia/Seoul&STATEMENT_TIMEOUT=300&Row_Security=on"},
	{name: "the URL's options", query: "options=" + strings.ReplaceAll(url.QueryEscape(
		"-c timezone=Asia/Seoul -c statement_timeout=300"), "+", "%20")},
	{name: "the URL, of how statements are sent",
		query: "timezone=Asia/Seoul&default_query_exec_mode=simple_protocol&statement_cache_capacity=0" +
			"&client_encoding=LATIN1"},
	{name: "the environment", environment: map[string]string{"PGTZ": "Asia/Seoul",
		"PGOPTIONS": "-c statement_timeout=300"}},
	{name: "the role", sql: `ALTER ROLE playbook_operator SET timezone = 'Asia/Seoul';
		ALTER ROLE playbook_operator SET statement_timeout = 300;
		ALTER ROLE playbook_operator SET default_transaction_isolation = 'repeatable read';
		ALTER ROLE playbook_operator SET synchronous_commit = off`},
	{name: "the database", sql: `ALTER DATABASE postgres SET timezone = 'Asia/Seoul'`},
	{name: "the role in the database",
		sql: `ALTER ROLE playbook_operator IN DATABASE postgres SET timezone = 'Asia/Seoul'`},
}

// What dies is compared with the database's clock, and Rails' columns carry no zone: an hour that isn't UTC's selects
// others.
func TestCutoffsAreUTCWhoeverWantsAnotherZone(t *testing.T) {
	postgres := startPostgres(t, nil)
	owner := connect(t, postgres)
	if _, err := owner.Exec(t.Context(),
		`INSERT INTO oauth_applications (id, name, uid, secret) VALUES (42, 'acme', 'u', 's')`); err != nil {
		t.Fatal(err)
	}
	openAs(t, postgres, "playbook_operator")
	for i, who := range whoWantsAnother {
		t.Run(who.name, func(t *testing.T) {
			if who.sql != "" {
				if _, err := owner.Exec(t.Context(), who.sql); err != nil {
					t.Fatal(err)
				}
			}
			for name, value := range who.environment {
				t.Setenv(name, value)
			}
			// Some depend on the order of a map.
			for try := range 10 {
				db := openAltered(t, postgres, who.query)
				id := identity(fmt.Sprintf("00000000-0000-0000-0000-%06d%06d", i, try))
				op, err := db.OpenOperation(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				if off := time.Since(op.Cutoff); off.Abs() > time.Minute {
					t.Errorf("try %d: the cutoff is %v off", try, off)
				}
			}
		})
	}
}

// All that must hold does, in a transaction and in a statement that is one of its own.
func TestSettingsHoldWhoeverWantsOthers(t *testing.T) {
	postgres := startPostgres(t, nil)
	owner := connect(t, postgres)
	openAs(t, postgres, "playbook_operator")
	for _, who := range whoWantsAnother {
		t.Run(who.name, func(t *testing.T) {
			if who.sql != "" {
				if _, err := owner.Exec(t.Context(), who.sql); err != nil {
					t.Fatal(err)
				}
			}
			for name, value := range who.environment {
				t.Setenv(name, value)
			}
			db := openAltered(t, postgres, who.query)
			for _, s := range platformdb.Settings {
				transaction, single, err := db.Showing(t.Context(), s.Name)
				if err != nil {
					t.Fatal(err)
				}
				if transaction != s.Value || single != s.Value {
					t.Errorf("%s is %q in a transaction, %q alone; want %q", s.Name, transaction, single, s.Value)
				}
			}
			if isolation, _, err := db.Showing(t.Context(), "transaction_isolation"); err != nil ||
				isolation != "read committed" {
				t.Errorf("a transaction is %q, %v", isolation, err)
			}
		})
	}
}

func identity(uid string) platformdb.Identity {
	return platformdb.Identity{UID: uid, Kind: "DLQReplay", Namespace: "ns", Name: uid, SpecDigest: "d",
		ApplicationID: 42}
}

// openAltered connects as playbook_operator, with more in the URL.
func openAltered(t *testing.T, postgres *servers.Postgres, query string) *platformdb.DB {
	t.Helper()
	db, err := platformdb.Open(postgres.URLFor("playbook_operator", "secret", "postgres")+"&"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}
