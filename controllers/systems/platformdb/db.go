// Package platformdb is the identity platform's Postgres: its webhook outbox, and the ledger that the operator keeps
// beside it. They share transactions, so that what the ledger says and what happened can't differ.
package platformdb

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// poolSize bounds the connections to one platform: a batch, an observation, a plan and a status query at a time.
	poolSize = 4
	// connectTimeout bounds one try to connect, name resolution and TLS included.
	connectTimeout = 5 * time.Second
	// statementTimeout ends a statement that hangs behind a lock or a missing index. It stands in settings, too.
	statementTimeout = time.Minute
	// answerTime is for the answer that a statement was ended. A server that hangs gives none: then the connection is
	// given up.
	answerTime = 5 * time.Second
	// planTimeout is longer: a plan reads each dead entry of an application once.
	planTimeout = 10 * time.Minute
	// queryCanceled is the code of a statement that took longer than its timeout.
	queryCanceled = "57014"
	// cachedStatements exceeds the statements that there are.
	cachedStatements = 256
)

// DB is a bounded pool of connections to one platform's database.
type DB struct {
	pool  *pgxpool.Pool
	alone alone
	// pooled says that a pooler was seen before the database.
	pooled atomic.Bool
}

// Open prepares a pool; it connects when it is first used. The URL is a secret: no error of this package repeats it. A
// dial of nil uses the network.
func Open(url string, dial pgconn.DialFunc) (*DB, error) { return OpenTrusting(url, "", dial) }

// OpenTrusting is Open of a server whose certificate must be signed by one of authorities, in PEM; where that is empty,
// by one that the URL or the machine names.
func OpenTrusting(url, authorities string, dial pgconn.DialFunc) (*DB, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, notParsed(err, "user")
	}
	if authorities != "" {
		if err := trust(config.ConnConfig, authorities); err != nil {
			return nil, err
		}
	}
	config.MaxConns = poolSize
	config.MinConns = 0
	config.MaxConnIdleTime = 5 * time.Minute
	config.ConnConfig.ConnectTimeout = connectTimeout
	if dial != nil {
		config.ConnConfig.DialFunc = dial
	}
	config.ConnConfig.RuntimeParams["application_name"] = "playbook-operator"
	withoutOurs(config.ConnConfig)
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	config.ConnConfig.StatementCacheCapacity = cachedStatements
	config.ConnConfig.DescriptionCacheCapacity = cachedStatements
	db := &DB{}
	config.BeforeConnect, config.AfterConnect, config.PrepareConn = db.beforeConnect, db.afterConnect, db.prepareConn
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection pool: %w", describe(err))
	}
	db.pool, db.alone = pool, alone{pool}
	return db, nil
}

// notParsed says what a role's URL should be. The parser's own error repeats parts of it.
func notParsed(err error, role string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the connection URL names a file that is not there, such as sslrootcert's: in a Secret, the " +
			"authority's certificate goes beside the URL, as ca.crt")
	}
	return fmt.Errorf("the connection URL can't be parsed: write "+
		"postgres://%s:password@host:5432/database?sslmode=verify-full", role)
}

// trust has the server's certificate verified against authorities and no other.
func trust(config *pgx.ConnConfig, authorities string) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(authorities)) {
		return errors.New("ca.crt has no certificate in PEM")
	}
	hosts := []*tls.Config{config.TLSConfig}
	for _, other := range config.Fallbacks {
		hosts = append(hosts, other.TLSConfig)
	}
	for _, host := range hosts {
		// What pgx makes of verify-ca skips Go's verification, and has one of its own.
		if host == nil || host.InsecureSkipVerify && host.VerifyPeerCertificate == nil {
			return errors.New("by its sslmode the server's certificate is not verified, so that ca.crt means nothing: write " +
				"sslmode=verify-full")
		}
		host.RootCAs = roots
	}
	return nil
}

// Close ends the connections; statements under way end first.
func (db *DB) Close() { db.pool.Close() }

// transact runs fn in a transaction and commits it. After an error nothing of it happened, unless the error came from
// the commit itself: its reply can be lost, and the caller finds the truth in the ledger on its next pass.
func (db *DB) transact(ctx context.Context, doing string, options pgx.TxOptions, fn func(pgx.Tx) error) error {
	return db.transactFor(ctx, doing, statementTimeout, options, fn)
}

// transactFor is transact that may take up to timeout, instead of a minute.
func (db *DB) transactFor(ctx context.Context, doing string, timeout time.Duration, options pgx.TxOptions,
	fn func(pgx.Tx) error) error {
	return db.transactFrom(ctx, doing, timeout, beginning(options, timeout), fn)
}

// transactLocked is transact for an operation. Its locks are taken, and what first asks is answered, in the round trip
// that begins the transaction: where the database is far away, round trips are what a batch takes. A nil first asks
// nothing.
func (db *DB) transactLocked(ctx context.Context, doing, uid string, first func(*pgx.Batch),
	fn func(pgx.Tx, *Operation) error) error {
	b, op := beginning(pgx.TxOptions{}, statementTimeout), &Operation{}
	queueLock(b, uid, lockShared, op)
	if first != nil {
		first(b)
	}
	return db.transactFrom(ctx, doing, statementTimeout, b, func(tx pgx.Tx) error { return fn(tx, op) })
}

// transactFrom is transact whose transaction begins with the statements of a batch.
func (db *DB) transactFrom(ctx context.Context, doing string, timeout time.Duration, first *pgx.Batch,
	fn func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout+answerTime)
	defer cancel()
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, describe(err))
	}
	defer conn.Release()
	sent := time.Now()
	results := conn.SendBatch(ctx, first)
	tx := results.Tx()
	if err = results.Close(); err == nil {
		err = fn(&timed{tx, &sent})
	}
	open := conn.Conn().PgConn().TxStatus() != 'I' // sendLast has committed
	switch {
	case err != nil && open:
		_ = tx.Rollback(ctx) // which closes a connection that is broken
	case open:
		sent = time.Now()
		err = tx.Commit(ctx)
	}
	if said := (*pgconn.PgError)(nil); errors.As(err, &said) && said.Code == readOnlyTransaction {
		reached := address(conn.Conn())
		// After a failover the name of the primary may have another address, which only a new connection asks for.
		db.pool.Reset()
		return fmt.Errorf("%s: %w", doing, readOnlyAt(reached, false))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, describe(tooSlow(err, time.Since(sent), timeout)))
	}
	return nil
}

// sendLast sends the last statements of a transaction with its commit, in one round trip. Where one of them fails, the
// server skips those after it, and so the commit.
func sendLast(ctx context.Context, tx pgx.Tx, last *pgx.Batch) error {
	last.Queue("commit")
	return tx.SendBatch(ctx, last).Close()
}
