package platformdb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// All that PgBouncer says has one code, so that its words are what tells that it is full.
func TestAPoolerThatIsFullIsNamed(t *testing.T) {
	postgres := startPostgres(t, nil)
	for name, settings := range map[string]map[string]string{
		"clients":                {"max_client_conn": "1"},
		"backends":               {"default_pool_size": "1", "query_wait_timeout": "1"},
		"backends of a database": {"max_db_connections": "1", "query_wait_timeout": "1"},
	} {
		t.Run(name, func(t *testing.T) {
			pooler := startPooler(t, postgres, "transaction", settings)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			// Somebody has what there is, once the pooler has noticed that whoever found it ready is gone.
			var other *pgx.Conn
			err := errors.New("not yet")
			for err != nil && ctx.Err() == nil {
				other, err = pgx.Connect(ctx, pooler.URLFor("playbook_operator", passwords["playbook_operator"], "postgres"))
			}
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close(context.Background())
			if _, err := other.Exec(ctx, "BEGIN"); err != nil {
				t.Fatal(err)
			}
			db := openThrough(t, pooler, "playbook_operator", "")
			for doing, do := range map[string]func() error{
				"a transaction": func() error { _, err := db.OpenOperation(ctx, identity(uuid.NewString())); return err },
				"alone":         func() error { _, err := db.Operation(ctx, uuid.NewString()); return err },
			} {
				if err := do(); !errors.Is(err, platformdb.ErrNoConnection) || errors.Is(err, platformdb.ErrUnreachable) {
					t.Errorf("%s: %v; want %v", doing, err, platformdb.ErrNoConnection)
				}
			}
		})
	}
}

// PgBouncer hands on what the server says to the first client of a database and role, without the server's code. Those
// that come later hear that a login failed, which may have any reason.
func TestAServerThatIsFullBehindAPoolerIsNamed(t *testing.T) {
	postgres := startPostgres(t, nil)
	pooler := startPooler(t, postgres, "transaction", nil)
	if _, err := connect(t, postgres).Exec(t.Context(), "ALTER ROLE playbook_operator CONNECTION LIMIT 0"); err != nil {
		t.Fatal(err)
	}
	db, err := platformdb.Open(pooler.URLFor("playbook_operator", passwords["playbook_operator"], "template1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if err := db.Ping(t.Context()); !errors.Is(err, platformdb.ErrNoConnection) ||
		errors.Is(err, platformdb.ErrUnreachable) {
		t.Errorf("%v; want %v", err, platformdb.ErrNoConnection)
	}
}

// A disk that is full: the ledger's table is on one of a megabyte.
func TestADiskThatIsFullIsNamed(t *testing.T) {
	postgres := startPostgres(t, nil)
	owner := connect(t, postgres)
	var data string
	if err := owner.QueryRow(t.Context(), "SHOW data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	server := info.Sys().(*syscall.Stat_t)
	disk := filepath.Join(filepath.Dir(data), "small")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	err = syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=1m,mode=0700,uid=%d,gid=%d", server.Uid, server.Gid))
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting a small disk needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, sql := range []string{
		`CREATE TABLESPACE small LOCATION '` + disk + `'`,
		`ALTER TABLE playbook.operations SET TABLESPACE small`,
	} {
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	db := openAs(t, postgres, "playbook_operator")
	if _, err := owner.Exec(t.Context(), `
		INSERT INTO oauth_applications (id, name, uid, secret) VALUES (42, 'acme', 'u', 's');
		CREATE TABLE filler (x text) TABLESPACE small`); err != nil {
		t.Fatal(err)
	}
	// Until nothing more fits; what was written remains on the disk until a vacuum.
	if _, err := owner.Exec(t.Context(),
		`INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 2000)`); err == nil {
		t.Fatal("the disk is not full")
	}
	_, err = db.OpenOperation(t.Context(), identity(uuid.NewString()))
	if !errors.Is(err, platformdb.ErrDiskFull) || !platformdb.Answered(err) || errors.Is(err, platformdb.ErrUnreachable) {
		t.Errorf("%v; want %v", err, platformdb.ErrDiskFull)
	}
	if _, err := owner.Exec(t.Context(), `DROP TABLE filler`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.OpenOperation(t.Context(), identity(uuid.NewString())); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}
