package platformdb_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

// passwords of the roles in a test with a pooler.
var passwords = map[string]string{"playbook_operator": "secret", "playbook_signer": "secret",
	"playbook_monitor": "secret"}

// startPooler starts PgBouncer before a server, with so few backends that clients share them.
func startPooler(t *testing.T, postgres *servers.Postgres, mode string,
	settings map[string]string) *servers.PgBouncer {
	t.Helper()
	owner, users := connect(t, postgres), maps.Clone(passwords)
	u, err := url.Parse(postgres.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	users["postgres"], _ = u.User.Password()
	for role, password := range passwords {
		if _, err := owner.Exec(t.Context(), "ALTER ROLE "+role+" PASSWORD '"+password+"'"); err != nil {
			t.Fatal(err)
		}
	}
	pooler, err := servers.StartPgBouncer(t.Context(), postgres, servers.PgBouncerOptions{Mode: mode,
		Backends: 3, Users: users, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooler.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(pooler.Log())
		}
	})
	return pooler
}

// through is a URL by way of the pooler.
func through(t *testing.T, pooler *servers.PgBouncer, direct string) string {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = pooler.Address()
	return u.String()
}

// openThrough connects as a role by way of the pooler, with more in the URL.
func openThrough(t *testing.T, pooler *servers.PgBouncer, role, query string) *platformdb.DB {
	t.Helper()
	db, err := platformdb.Open(pooler.URLFor(role, passwords[role], "postgres")+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// poolers as people run them.
var poolers = map[string]struct {
	mode     string
	settings map[string]string
}{
	"transaction": {"transaction", nil},
	"session":     {"session", nil},
	"transaction, with the usual ignore_startup_parameters": {"transaction", map[string]string{
		"ignore_startup_parameters": "extra_float_digits,statement_timeout,idle_in_transaction_session_timeout,TimeZone," +
			"timezone,enable_seqscan,jit,search_path,options"}},
}

// A whole replay and the end of a key, at once, with backends that change from one transaction to the next.
func TestAReplayAndARevocationThroughAPooler(t *testing.T) {
	k := newKeyring(t)
	pooler := startPooler(t, k.postgres, "transaction", nil)
	if applied, err := platformdb.Migrate(t.Context(), through(t, pooler, k.url)); err != nil || len(applied) != 0 {
		t.Fatalf("migrating again applied %v, %v", applied, err)
	}
	operator, signing := openThrough(t, pooler, "playbook_operator", ""), openThrough(t, pooler, "playbook_signer", "")
	const entries = 5000
	k.dead(entries)
	kid, replay, compromise := k.kid(), k.open("replay"), k.open("compromise")
	selection := platformdb.Selection{ApplicationID: application, Conflicts: "Settle", MaxReplays: 3}
	if _, err := operator.Plan(t.Context(), replay.UID, selection, entries); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.ChooseCanary(t.Context(), replay.UID, selection, 10); err != nil {
		t.Fatal(err)
	}
	if batch, err := operator.RequeueCanary(t.Context(), replay.UID, selection); err != nil || batch.Requeued != 10 {
		t.Fatalf("the canary is %+v, %v", batch, err)
	}
	var both sync.WaitGroup
	for range 4 {
		both.Go(func() {
			for {
				batch, err := operator.Requeue(t.Context(), replay.UID, selection, platformdb.Pace{MaxInFlight: 1_000_000})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := operator.RecentAttempts(t.Context(), batch.Operation, 100); err != nil {
					t.Error(err)
				}
				if batch.Remaining == 0 {
					return
				}
			}
		})
	}
	both.Go(func() {
		if _, err := signing.Revoke(t.Context(), compromise.UID, kid, "leaked", 100_000); err != nil {
			t.Error(err)
		}
	})
	both.Wait()
	for done := false; !done && !t.Failed(); {
		progress, err := signing.ReSign(t.Context(), compromise.UID)
		if err != nil {
			t.Fatal(err)
		}
		done = progress.ReSignedAt != nil
	}
	op, err := operator.Observe(t.Context(), replay.UID)
	if err != nil || op.Requeued != entries {
		t.Errorf("the replay is %+v, %v", op, err)
	}
	if again := k.text(`SELECT count(*)::text FROM playbook.replay_entries
		WHERE action = 'requeued'`); again != fmt.Sprint(entries) {
		t.Errorf("the ledger has %s requeues", again)
	}
	if byKid := k.verify(); byKid[kid] != 0 {
		t.Errorf("the undelivered entries are %v, and %s was ended", byKid, kid)
	}
	if waits := k.text(`SELECT count(*)::text FROM pg_stat_activity
		WHERE usename LIKE 'playbook%' AND state <> 'idle'`); waits != "0" {
		t.Errorf("%s transactions were left open", waits)
	}
}

func TestSettingsHoldThroughAPooler(t *testing.T) {
	postgres := startPostgres(t, map[string]string{"timezone": "Asia/Seoul"})
	if _, err := connect(t, postgres).Exec(t.Context(),
		`INSERT INTO oauth_applications (id, name, uid, secret) VALUES (42, 'acme', 'u', 's')`); err != nil {
		t.Fatal(err)
	}
	for name, p := range poolers {
		t.Run(name, func(t *testing.T) {
			pooler := startPooler(t, postgres, p.mode, p.settings)
			db := openThrough(t, pooler, "playbook_operator", "&timezone=Asia/Seoul&statement_timeout=300")
			op, err := db.OpenOperation(t.Context(), identity(uuid.NewString()))
			if err != nil {
				t.Fatal(err)
			}
			if off := time.Since(op.Cutoff); off.Abs() > time.Minute {
				t.Errorf("the cutoff is %v off", off)
			}
			for _, s := range platformdb.Settings {
				transaction, single, err := db.Showing(t.Context(), s.Name)
				if err != nil {
					t.Fatal(err)
				}
				if transaction != s.Value || single != s.Value {
					t.Errorf("%s is %q in a transaction, %q alone; want %q", s.Name, transaction, single, s.Value)
				}
			}
		})
	}
}

// What a pooler can't give is refused, and says which URL to give.
func TestAPoolerThatKeepsNoTransactionIsRefused(t *testing.T) {
	postgres := startPostgres(t, nil)
	for name, c := range map[string]struct{ mode, query, want string }{
		"statement pooling": {"statement", "", "give a URL that leads to the database itself, or to PgBouncer with " +
			"pool_mode=transaction"},
		"a startup parameter": {"transaction", "&search_path=identity", `the pooler takes no "search_path" in the URL`},
	} {
		t.Run(name, func(t *testing.T) {
			db := openThrough(t, startPooler(t, postgres, c.mode, nil), "playbook_operator", c.query)
			_, err := db.Check(t.Context())
			if !errors.Is(err, platformdb.ErrUnfitSession) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %s", err, c.want)
			}
		})
	}
}
