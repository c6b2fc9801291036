package platformdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// settings must hold for each statement, whatever the URL, the environment, the role, the database or a pooler says. So
// they are set in each transaction, in the round trip that begins it: what a session was given when it began, the next
// one behind a pooler does not have. Values are spelled as Postgres shows them.
var settings = []struct{ Name, Value string }{
	// Rails' timestamps carry no zone and mean UTC.
	{"TimeZone", "UTC"},
	{"DateStyle", "ISO, YMD"},
	{"client_encoding", "UTF8"},
	{"standard_conforming_strings", "on"},
	// A session keeps the plans of its statements. One that it made while the ledger was small must still be good when it
	// has millions of rows: the ledger is read by its indexes, whatever its statistics say. Compiling a plan costs more
	// than it saves.
	{"enable_seqscan", "off"},
	{"jit", "off"},
	// What was reported as committed survives a crash of the server.
	{"synchronous_commit", "on"},
	// A policy hides rows in silence; with this, a statement that it would affect is an error.
	{"row_security", "off"},
	{"idle_in_transaction_session_timeout", "10s"},
	{statementTimeoutSetting, "1min"},
}

const statementTimeoutSetting = "statement_timeout"

// setLocal sets them for a transaction, setSession for a session; setAlone does the first as a query, which can travel
// with other statements in one round trip, with a BEGIN before it or without.
var setLocal, setSession, setAlone = settingsSQL()

func settingsSQL() (string, string, string) {
	var local, session, alone []string
	for _, s := range settings {
		local = append(local, fmt.Sprintf("set local %s = '%s'", s.Name, s.Value))
		session = append(session, fmt.Sprintf("set %s = '%s'", s.Name, s.Value))
		alone = append(alone, fmt.Sprintf("set_config('%s', '%s', true)", s.Name, s.Value))
	}
	return strings.Join(local, "; "), strings.Join(session, "; "), "select " + strings.Join(alone, ", ")
}

// begin is what begins a transaction: by the simple protocol, in one round trip.
func begin(timeout time.Duration) string {
	text := beginSQL(pgx.TxOptions{}) + "; " + setLocal
	if timeout != statementTimeout {
		text += fmt.Sprintf("; set local %s = %d", statementTimeoutSetting, timeout.Milliseconds())
	}
	return text
}

// beginSQL always gives the isolation, since what a lock waited for must be seen after it, whatever the role's default
// is.
func beginSQL(options pgx.TxOptions) string {
	text := "begin isolation level " + cmp.Or(string(options.IsoLevel), string(pgx.ReadCommitted))
	if options.AccessMode != "" {
		text += " " + string(options.AccessMode)
	}
	return text
}

// beginning is what begins a transaction, for more statements to travel with it in one round trip. Each of them sees
// what was committed until the one before it ended.
func beginning(options pgx.TxOptions, timeout time.Duration) *pgx.Batch {
	options.BeginQuery = beginSQL(options)
	b := &pgx.Batch{}
	b.BeginTx(options)
	set := setAlone
	if timeout != statementTimeout {
		set += fmt.Sprintf(", set_config('%s', '%d', true)", statementTimeoutSetting, timeout.Milliseconds())
	}
	b.Queue(set)
	return b
}

// withoutOurs takes what the URL or the environment says of our settings out of a configuration, in whichever case it
// is written. The names of a session's first settings are sent in the order of a map, so that either could win.
func withoutOurs(config *pgx.ConnConfig) {
	for name := range config.RuntimeParams {
		for _, ours := range settings {
			if strings.EqualFold(ours.Name, name) {
				delete(config.RuntimeParams, name)
			}
		}
	}
}

// readOnly is of a look that changes nothing.
var readOnly = pgx.TxOptions{AccessMode: pgx.ReadOnly}

// ErrUnfitSession says that a session does not keep what it is told, so that nothing can be relied on.
var ErrUnfitSession = errors.New("the database's sessions can't be used")

// behindPooler is where a connection keeps that a pooler was found behind it after it had begun to name statements.
const behindPooler = "playbook: behind a pooler"

// beforeConnect has a connection name no statement where a pooler is known: the next transaction may be on a backend
// that has none of that name. The descriptions are kept then, so that this costs no round trip, but each statement is
// planned anew.
func (db *DB) beforeConnect(_ context.Context, config *pgx.ConnConfig) error {
	if db.pooled.Load() {
		config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return nil
}

// afterConnect looks whether the settings hold in a transaction of a new session, and who answers: a pooler greets with
// the number of a process that it made up, since it has yet to choose the backend. A session that is this program's own
// is given them too, for what is outside of transactions: the first look at a statement may wait for a lock.
func (db *DB) afterConnect(ctx context.Context, conn *pgx.Conn) error {
	look := begin(statementTimeout) + "; select pg_backend_pid()"
	for _, s := range settings {
		look += ", current_setting('" + s.Name + "')"
	}
	results, err := conn.PgConn().Exec(ctx, look).ReadAll()
	if err != nil {
		return unfit(err)
	}
	row := results[len(results)-1].Rows[0]
	for i, s := range settings {
		if got := string(row[1+i]); got != s.Value {
			return fmt.Errorf("%w: after SET LOCAL %s = '%s' it is %q: %s", ErrUnfitSession, s.Name, s.Value, got, rightURL)
		}
	}
	end := "rollback"
	if string(row[0]) == fmt.Sprint(conn.PgConn().PID()) {
		end += "; " + setSession
	} else {
		db.pooled.Store(true)
		if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
			conn.PgConn().CustomData()[behindPooler] = true
		}
	}
	// In a round trip of its own: whoever keeps no transaction shows it here.
	_, err = conn.Exec(ctx, end)
	return unfit(err)
}

// unfit makes ErrUnfitSession of what PgBouncer says with pool_mode=statement.
func unfit(err error) error {
	if said := (*pgconn.PgError)(nil); errors.As(err, &said) && said.Code == protocolViolation &&
		strings.Contains(said.Message, "statement pooling mode") {
		return fmt.Errorf("%w: %s: %s", ErrUnfitSession, said.Message, rightURL)
	}
	return err
}

// protocolViolation is the code of nearly everything that PgBouncer itself says.
const protocolViolation = "08P01"

const rightURL = "give a URL that leads to the database itself, or to PgBouncer with pool_mode=transaction or session"

// prepareConn keeps a connection out of use that names statements behind a pooler; the pool makes another.
func (db *DB) prepareConn(_ context.Context, conn *pgx.Conn) (bool, error) {
	return conn.PgConn().CustomData()[behindPooler] == nil, nil
}

// alone runs statements that are a transaction of their own, in one round trip with the settings.
type alone struct{ pool *pgxpool.Pool }

// send returns the results of a statement, and when it was sent.
func (a alone) send(ctx context.Context, sql string, args []any) (pgx.BatchResults, time.Time, error) {
	sent, batch := time.Now(), &pgx.Batch{}
	batch.Queue(setAlone)
	batch.Queue(sql, args...)
	results := a.pool.SendBatch(ctx, batch)
	if _, err := results.Exec(); err != nil {
		return nil, sent, closed(results, tooSlow(err, time.Since(sent), statementTimeout))
	}
	return results, sent, nil
}

// closed closes results, and returns the first error: that of closing says the same again.
func closed(results pgx.BatchResults, err error) error {
	if closing := results.Close(); err == nil {
		return closing
	}
	return err
}

// Query is as a pool's.
func (a alone) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout+answerTime)
	results, sent, err := a.send(ctx, sql, args)
	if err != nil {
		cancel()
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		defer cancel()
		return nil, closed(results, tooSlow(err, time.Since(sent), statementTimeout))
	}
	return &aloneRows{Rows: rows, results: results, sent: sent, cancel: cancel}, nil
}

// QueryRow is as a pool's.
func (a alone) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := a.Query(ctx, sql, args...)
	return aloneRow{rows, err}
}

// Exec is as a pool's.
func (a alone) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout+answerTime)
	defer cancel()
	results, sent, err := a.send(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	err = closed(results, err) // which commits
	return tag, tooSlow(err, time.Since(sent), statementTimeout)
}

// aloneRows give their connection back when they are closed.
type aloneRows struct {
	pgx.Rows
	results pgx.BatchResults
	sent    time.Time
	cancel  context.CancelFunc
}

func (r *aloneRows) Err() error { return tooSlow(r.Rows.Err(), time.Since(r.sent), statementTimeout) }

func (r *aloneRows) Close() {
	r.Rows.Close()
	_ = r.results.Close() // of a statement that read; what went wrong is the rows' error
	r.cancel()
}

type aloneRow struct {
	rows pgx.Rows
	err  error
}

func (r aloneRow) Scan(targets ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(targets...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
