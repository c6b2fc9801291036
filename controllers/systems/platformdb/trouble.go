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
	return fmt.Errorf("%w: %s takes no writes, as after a failover or with default_transaction_read_only: give the primary's "+
		"URL, or let the role write there", ErrReadOnly, reached)
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

// ErrUnreachable says that the database did not answer, or not as a database that is up.
var ErrUnreachable = errors.New("the database is unreachable")

// describe makes an error fit for a status: it keeps what Postgres said and drops what varies or is secret. A
// connection error of pgx names the user and database and every address it tried, each with its own text.
func describe(err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		switch parameter, refused := strings.CutPrefix(said.Message, "unsupported startup parameter: "); {
		case said.Code == protocolViolation && refused:
			return fmt.Errorf("%w: the pooler takes no %q in the URL: take it out, and set it by ALTER ROLE … SET, or give a "+
				"URL that leads to the database itself", ErrUnfitSession, parameter)
		// Connection exceptions, refused credentials, unknown database, operator intervention (shutting down, starting up).
		case slices.Contains([]string{"08", "28", "3D", "53", "57"}, said.Code[:2]) && said.Code != queryCanceled:
			return fmt.Errorf("%w: %w", ErrUnreachable, said)
		case said.Code == readOnlyTransaction:
			return fmt.Errorf("%w: %w", ErrReadOnly, said)
		// Postgres' words may be in any language; its functions' names are not.
		case said.Code == insufficientPrivilege && said.Routine == "check_enable_rls":
			return fmt.Errorf("%w: %s: an administrator lets the role see all of them by ALTER ROLE … BYPASSRLS", ErrRowsHidden,
				said.Message)
		// insufficient_privilege, undefined_table, undefined_column, invalid_schema_name
		case slices.Contains([]string{insufficientPrivilege, "42P01", "42703", "3F000"}, said.Code):
			return fmt.Errorf("%w: %w; `manager migrate` makes what belongs to the operator, and grants what its roles need",
				ErrNotReady, said)
		}
		return err
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
	case errors.As(err, &network):
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, network.Op, network.Err)
	case errors.As(err, &connect) && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer in time", ErrUnreachable)
	case errors.As(err, &connect):
		return fmt.Errorf("%w: %w", ErrUnreachable, errors.Unwrap(connect))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the connection broke", ErrUnreachable)
	}
	return err
}

// Answered says that an error is of a database that answers, and lacks something.
func Answered(err error) bool { return errors.Is(err, ErrNotReady) || errors.Is(err, ErrReadOnly) }
