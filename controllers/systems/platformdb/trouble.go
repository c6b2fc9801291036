package platformdb

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrReadOnly says that the database takes no writes, as a replica does.
var ErrReadOnly = errors.New("the database is read-only")

const readOnlyTransaction = "25006"

func readOnlyAt(reached string, replica bool) error {
	if replica {
		return fmt.Errorf("%w: %s is a replica: give the primary's URL, or name all hosts in it and add "+
			"target_session_attrs=read-write", ErrReadOnly, reached)
	}
	return fmt.Errorf("%w: %s takes no writes, as after a failover or with default_transaction_read_only: give the "+
		"primary's URL, or let the role write there", ErrReadOnly, reached)
}

// address is where a connection leads to.
func address(conn *pgx.Conn) string {
	reached, config := conn.PgConn().Conn().RemoteAddr().String(), conn.Config()
	if len(config.Fallbacks) > 0 || strings.HasPrefix(reached, config.Host+":") {
		return reached
	}
	return fmt.Sprintf("%s (%s)", config.Host, reached)
}

// checkWritable returns ErrReadOnly where nothing can be written.
func (db *DB) checkWritable(ctx context.Context) error {
	var refusal error
	err := db.transact(ctx, "asking whether the database takes writes", pgx.TxOptions{}, func(tx pgx.Tx) error {
		var replica, locked bool
		err := tx.QueryRow(ctx, `SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'`).Scan(&replica,
			&locked)
		if replica || locked {
			refusal = readOnlyAt(address(tx.Conn()), replica)
		}
		return err
	})
	if refusal != nil {
		db.pool.Reset()
	}
	return errors.Join(err, refusal)
}

// What the database says of itself. Each of them passes, or a person ends it.
var (
	// ErrUnreachable says that the database did not answer, or not as a database that is up.
	ErrUnreachable = errors.New("the database is unreachable")
	// ErrRestarting says that the server stops or starts, or that somebody ended the session.
	ErrRestarting = errors.New("the server stops or starts, or an administrator ended the session")
	// ErrDiskFull says that the server has no room to write.
	ErrDiskFull = errors.New("the database's disk is full")
	// ErrNoConnection says that the server, the role or a pooler has as many connections as it may.
	ErrNoConnection = errors.New("the database takes no more connections")
	// ErrCanceled says that somebody canceled the statement.
	ErrCanceled = errors.New("an administrator canceled the statement")
	// ErrTooSlow says that a statement took longer than it may.
	ErrTooSlow = errors.New("a statement took longer than it may: it waits for a lock, or the server is overloaded, or " +
		"an " +
		"index is missing")
)

// full are words for 53300 (too_many_connections): PgBouncer's, which it does not translate, and then Postgres', of
// which it hands on the words without their code.
var full = []string{"no more connections allowed", "query_wait_timeout",
	"too many connections for", "too many clients already", "remaining connection slots are reserved"}

// tooSlow tells a statement that took longer than it may from one that somebody canceled: Postgres' code for both is
// one, and its words may be in any language. It needs the time since the statement was sent.
func tooSlow(err error, took, timeout time.Duration) error {
	if said := (*pgconn.PgError)(nil); errors.As(err, &said) && said.Code == queryCanceled && took >= timeout {
		return fmt.Errorf("%w: it was ended after %v: %w", ErrTooSlow, timeout, said)
	}
	return err
}

// timed notes when the last statement of a transaction was sent, and of its savepoints.
type timed struct {
	pgx.Tx
	sent *time.Time
}

func (t *timed) Begin(ctx context.Context) (pgx.Tx, error) {
	*t.sent = time.Now()
	savepoint, err := t.Tx.Begin(ctx)
	return &timed{savepoint, t.sent}, err
}

func (t *timed) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	*t.sent = time.Now()
	return t.Tx.Exec(ctx, sql, args...)
}

func (t *timed) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	*t.sent = time.Now()
	return t.Tx.Query(ctx, sql, args...)
}

func (t *timed) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	*t.sent = time.Now()
	return t.Tx.QueryRow(ctx, sql, args...)
}

func (t *timed) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	*t.sent = time.Now()
	return t.Tx.SendBatch(ctx, batch)
}

// describe makes an error fit for a status: it keeps what Postgres said and drops what varies or is secret. A
// connection error of pgx names the user and database and every address it tried, each with its own text.
func describe(err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return describeSaid(err, said)
	}
	// Before what else went wrong: of a name's addresses, one may refuse a connection and the other show a certificate.
	for _, distrust := range []any{new(x509.UnknownAuthorityError), new(x509.HostnameError),
		new(x509.CertificateInvalidError)} {
		if errors.As(err, distrust) {
			return fmt.Errorf("%w: its certificate is not trusted: %w", ErrUnreachable, distrust.(error))
		}
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("%w: %s", ErrUnreachable, dns.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer in time", ErrUnreachable)
	case errors.As(err, &network):
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, network.Op, network.Err)
	case errors.As(err, &connect):
		return fmt.Errorf("%w: %w", ErrUnreachable, errors.Unwrap(connect))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the connection broke", ErrUnreachable)
	}
	return err
}

// describeSaid is describe of what Postgres, or a pooler, said.
func describeSaid(err error, said *pgconn.PgError) error {
	switch parameter, refused := strings.CutPrefix(said.Message, "unsupported startup parameter: "); {
	case said.Code == protocolViolation && refused:
		return fmt.Errorf("%w: the pooler takes no %q in the URL: take it out, and set it by ALTER ROLE … SET, or give a "+
			"URL that leads to the database itself", ErrUnfitSession, parameter)
	case errors.Is(err, ErrTooSlow):
		return err
	case said.Code == queryCanceled:
		return fmt.Errorf("%w: %w", ErrCanceled, said)
	// admin_shutdown, crash_shutdown, cannot_connect_now
	case slices.Contains([]string{"57P01", "57P02", "57P03"}, said.Code):
		return fmt.Errorf("%w: %w", ErrRestarting, said)
	case said.Code == "53100": // disk_full
		return fmt.Errorf("%w: %w: make room on the server", ErrDiskFull, said)
	case said.Code == "53300" || said.Code == protocolViolation && slices.ContainsFunc(full, func(words string) bool {
		return strings.Contains(said.Message, words)
	}):
		return fmt.Errorf("%w: %w: raise max_connections, the role's CONNECTION LIMIT or the pooler's limits, or end "+
			"sessions "+
			"that nobody needs", ErrNoConnection, said)
	// Connection exceptions, refused credentials, unknown database, and the rest of operator intervention.
	case slices.Contains([]string{"08", "28", "3D", "57"}, said.Code[:2]):
		return fmt.Errorf("%w: %w", ErrUnreachable, said)
	case said.Code == readOnlyTransaction:
		return fmt.Errorf("%w: %w", ErrReadOnly, said)
	// Postgres' words may be in any language; its functions' names are not.
	case said.Code == insufficientPrivilege && said.Routine == "check_enable_rls":
		return fmt.Errorf("%w: %s: an administrator lets the role see all of them by ALTER ROLE … BYPASSRLS", ErrRowsHidden,
			said.Message)
	// insufficient_privilege, undefined_table, undefined_column, undefined_function, invalid_schema_name
	case slices.Contains([]string{insufficientPrivilege, "42P01", "42703", "42883", "3F000"}, said.Code):
		return fmt.Errorf("%w: %w; `manager migrate` makes what belongs to the operator, and grants what its roles need",
			ErrNotReady, said)
	}
	return err
}

// Answered says that an error is of a database that answers, and lacks something.
func Answered(err error) bool {
	return slices.ContainsFunc([]error{ErrNotReady, ErrReadOnly, ErrDiskFull, ErrCanceled, ErrTooSlow},
		func(kind error) bool { return errors.Is(err, kind) })
}
