package servers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresOptions of a server.
type PostgresOptions struct {
	// Fast leaves fsync out: for tests, which survive no crash of the machine. Commits stay synchronous.
	Fast bool
	// Settings are added to postgresql.conf.
	Settings map[string]string
}

// Postgres is a server on loopback, in a folder of its own, that asks each role for its password.
type Postgres struct {
	dir, bin, password string
	port               int
	owner              *syscall.Credential // nil: whoever we are
	process            *Process
}

// StartPostgres initialises and starts a server in dir.
func StartPostgres(ctx context.Context, dir string, options PostgresOptions) (*Postgres, error) {
	postgres, err := find(ctx, "postgres", "postgresql", "/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return nil, err
	}
	// Debian's PATH may have a link to it; initdb stands beside the real one.
	if postgres, err = filepath.EvalSymlinks(postgres); err != nil {
		return nil, fmt.Errorf("finding Postgres: %w", err)
	}
	s := &Postgres{dir: dir, bin: filepath.Dir(postgres), password: rand.Text()}
	if s.port, err = FreePort(); err != nil {
		return nil, err
	}
	if err := s.initialise(ctx, options); err != nil {
		return nil, fmt.Errorf("initialising Postgres in %s: %w", dir, err)
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// initialise makes the folder, which must belong to somebody other than root: Postgres refuses to run as root.
func (s *Postgres) initialise(ctx context.Context, options PostgresOptions) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	passwordFile := filepath.Join(s.dir, "password")
	if err := os.WriteFile(passwordFile, []byte(s.password), 0o600); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := s.becomeOwner(passwordFile); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "postgres", "-A",
		"scram-sha-256",
		"--pwfile", passwordFile, "--encoding=UTF8", "--locale=C", "--no-sync")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	settings := map[string]string{
		"listen_addresses": "127.0.0.1", "port": strconv.Itoa(s.port), "unix_socket_directories": "",
		"max_connections":           "200",
		"max_prepared_transactions": "10", "shared_buffers": "256MB", "max_wal_size": "4GB", "timezone": "UTC",
		"log_line_prefix": "%m [%p] %u@%d ",
	}
	if options.Fast {
		settings["fsync"], settings["full_page_writes"] = "off", "off"
	}
	maps.Copy(settings, options.Settings)
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if _, err := fmt.Fprintf(conf, "%s = '%s'\n", name, settings[name]); err != nil {
			return errors.Join(err, conf.Close())
		}
	}
	return conf.Close()
}

func (s *Postgres) becomeOwner(passwordFile string) error {
	owner, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return err
	}
	// Folders above may be readable by root alone, as those of testing.T.TempDir are.
	for parent := filepath.Dir(s.dir); len(parent) > len(os.TempDir()); parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			return err
		}
	}
	s.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return errors.Join(os.Chown(s.dir, uid, gid), os.Chown(passwordFile, uid, gid))
}

func (s *Postgres) data() string { return filepath.Join(s.dir, "data") }

// Start starts a stopped server, on the port that it had.
func (s *Postgres) Start(ctx context.Context) error {
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	cmd.Dir = s.dir
	process, err := start("postgres", cmd, filepath.Join(s.dir, "log"), syscall.SIGINT)
	if err != nil {
		return err
	}
	s.process = process
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := process.AwaitReady(ctx, func(ctx context.Context) error { return s.exec(ctx, "SELECT 1") }); err != nil {
		return errors.Join(err, process.Stop(context.WithoutCancel(ctx)))
	}
	return nil
}

// Stop ends the server; connections break.
func (s *Postgres) Stop(ctx context.Context) error { return s.process.Stop(ctx) }

// Restart ends the server and starts it on the same port.
func (s *Postgres) Restart(ctx context.Context) error {
	if err := s.Stop(ctx); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Freeze stops every process of the server where it is, as a machine that hangs does: connections stay, and nobody
// answers. The returned function lets them go on.
func (s *Postgres) Freeze() (thaw func() error, err error) {
	pids := []int{s.process.Pid()}
	signal := func(signal syscall.Signal) error {
		var errs []error
		for _, pid := range pids {
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
	// The parent first, so that it makes no more.
	if err := signal(syscall.SIGSTOP); err != nil {
		return nil, fmt.Errorf("freezing Postgres: %w", err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pids[0]))
	if err != nil {
		return nil, fmt.Errorf("finding Postgres' processes: %w", err)
	}
	for _, child := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			return nil, fmt.Errorf("finding Postgres' processes: %w", err)
		}
		pids = append(pids, pid)
	}
	return func() error { return signal(syscall.SIGCONT) }, signal(syscall.SIGSTOP)
}

// RestartAsReplica restarts the server as one that is in recovery, and so takes no writes. It follows nobody.
func (s *Postgres) RestartAsReplica(ctx context.Context) error {
	if err := s.Stop(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.data(), "standby.signal"), nil, 0o644); err != nil {
		return fmt.Errorf("making a replica: %w", err)
	}
	return s.Start(ctx)
}

// ServeTLS restarts the server with a certificate and its key, in PEM. Nobody but the superuser may connect without TLS
// then.
func (s *Postgres) ServeTLS(ctx context.Context, certificate, key []byte) error {
	for name, content := range map[string][]byte{
		"server.crt": certificate, "server.key": key, // where Postgres looks for them
		"pg_hba.conf": []byte("host all postgres 127.0.0.1/32 scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n"),
	} {
		path := filepath.Join(s.data(), name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("preparing TLS: %w", err)
		}
		if s.owner != nil {
			if err := os.Chown(path, int(s.owner.Uid), int(s.owner.Gid)); err != nil {
				return fmt.Errorf("preparing TLS: %w", err)
			}
		}
	}
	if err := s.exec(ctx, "ALTER SYSTEM SET ssl = on"); err != nil {
		return err
	}
	return s.Restart(ctx)
}

// Log is what the server has logged.
func (s *Postgres) Log() string { return s.process.Log() }

// URL connects to a database as the superuser.
func (s *Postgres) URL(database string) string { return s.URLFor("postgres", s.password, database) }

// URLFor connects to a database as a user, without TLS.
func (s *Postgres) URLFor(user, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: "127.0.0.1:" +
		strconv.Itoa(s.port), Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

// CreateDatabase creates a database, as a copy of template where that is not empty: nobody may be connected to it.
func (s *Postgres) CreateDatabase(ctx context.Context, name, template string) error {
	if template == "" {
		template = "template1"
	}
	return s.exec(ctx,
		fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", pgx.Identifier{name}.Sanitize(), pgx.Identifier{template}.Sanitize()))
}

// DropDatabase drops a database, and ends whoever is connected to it.
func (s *Postgres) DropDatabase(ctx context.Context, name string) error {
	return s.exec(ctx, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", pgx.Identifier{name}.Sanitize()))
}

func (s *Postgres) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connecting to Postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}
