package servers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncerOptions of a pooler.
type PgBouncerOptions struct {
	// Mode is its pool_mode: session, transaction or statement.
	Mode string
	// Backends is how many sessions of the server each role has for all of its clients.
	Backends int
	// Users are who may log in, with their passwords.
	Users map[string]string
	// Settings are added to its configuration.
	Settings map[string]string
}

// PgBouncer is a pooler on loopback before a Postgres, in a folder below the server's.
type PgBouncer struct {
	port    int
	process *Process
}

// StartPgBouncer starts one, as the user that the server runs as: it refuses to run as root.
func StartPgBouncer(ctx context.Context, postgres *Postgres, options PgBouncerOptions) (*PgBouncer, error) {
	program, err := find(ctx, "pgbouncer", "pgbouncer", "/usr/sbin/pgbouncer")
	if err != nil {
		return nil, err
	}
	s := &PgBouncer{}
	if s.port, err = FreePort(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(postgres.dir, "pgbouncer-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("making a folder for PgBouncer: %w", err)
	}
	var users strings.Builder
	for name, password := range options.Users {
		fmt.Fprintf(&users, "%q %q\n", name, password)
	}
	config := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = %s
default_pool_size = %d
`, postgres.port, s.port, filepath.Join(dir, "users"), options.Mode, options.Backends)
	for name, value := range options.Settings {
		config += name + " = " + value + "\n"
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	for path, content := range map[string]string{filepath.Join(dir, "users"): users.String(), ini: config} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("preparing PgBouncer: %w", err)
		}
	}
	cmd := exec.Command(program, ini)
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: postgres.owner}, postgres.dir
	if s.process, err = start("pgbouncer", cmd, filepath.Join(dir, "log"), syscall.SIGTERM); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.process.AwaitReady(ctx, func(ctx context.Context) error {
		for name, password := range options.Users {
			conn, err := pgx.Connect(ctx, s.URLFor(name, password, "postgres"))
			if err != nil {
				return err
			}
			return conn.Close(ctx)
		}
		return errors.New("it has no users")
	}); err != nil {
		return nil, errors.Join(err, s.process.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Address that it listens on.
func (s *PgBouncer) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URLFor connects to a database through the pooler.
func (s *PgBouncer) URLFor(user, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: s.Address(), Path: database,
		RawQuery: "sslmode=disable"}
	return u.String()
}

// Stop ends it; connections break.
func (s *PgBouncer) Stop(ctx context.Context) error { return s.process.Stop(ctx) }

// Log is what it has logged.
func (s *PgBouncer) Log() string { return s.process.Log() }
