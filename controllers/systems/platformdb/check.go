package platformdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Ping asks whether the database answers, and accepts the credentials.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout+answerTime)
	defer cancel()
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("asking the database for a sign of life: %w", describe(err))
	}
	return nil
}

// ErrNotReady says that the database answers, and lacks something that the operator needs.
var ErrNotReady = errors.New("the database is not ready")

// ErrRowsHidden says that row-level security keeps the role from seeing all rows.
var ErrRowsHidden = fmt.Errorf("%w: row-level security hides rows", ErrNotReady)

// ErrSchema says that the role may not use a schema, or does not look for tables there.
var ErrSchema = fmt.Errorf("%w: a schema can't be used", ErrNotReady)

const insufficientPrivilege = "42501"

func notReady(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrNotReady}, args...)...)
}

// columns that the operator reads or writes, with their types as format_type names them.
var columns = []struct{ table, column, types string }{
	{"oauth_applications", "id", "bigint"},
	{"webhook_outbox_entries", "id", "bigint"},
	{"webhook_outbox_entries", "oauth_application_id", "bigint"},
	{"webhook_outbox_entries", "event_type", "character varying|text"},
	{"webhook_outbox_entries", "payload", "jsonb|json"},
	{"webhook_outbox_entries", "idempotency_key", "character varying|text"},
	{"webhook_outbox_entries", "signature", "text|character varying"},
	{"webhook_outbox_entries", "kid", "character varying|text"},
	{"webhook_outbox_entries", "attempts", "integer"},
	{"webhook_outbox_entries", "enqueued_at", "timestamp without time zone"},
	{"webhook_outbox_entries", "next_retry_at", "timestamp without time zone"},
	{"webhook_outbox_entries", "delivered_at", "timestamp without time zone"},
	{"webhook_outbox_entries", "dlq_at", "timestamp without time zone"},
	{"webhook_outbox_entries", "last_error", "text|character varying"},
	{"webhook_outbox_entries", "created_at", "timestamp without time zone"},
	{"webhook_outbox_entries", "updated_at", "timestamp without time zone"},
	{"webhook_signing_keys", "id", "bigint"},
	{"webhook_signing_keys", "oauth_application_id", "bigint"},
	{"webhook_signing_keys", "kid", "character varying|text"},
	{"webhook_signing_keys", "algorithm", "character varying|text"},
	{"webhook_signing_keys", "public_key", "text|character varying"},
	{"webhook_signing_keys", "private_key", "text|character varying"},
	{"webhook_signing_keys", "activated_at", "timestamp without time zone"},
	{"webhook_signing_keys", "revoked_at", "timestamp without time zone"},
	{"webhook_signing_keys", "status", "character varying|text"},
	{"webhook_signing_keys", "grace_until", "timestamp without time zone"},
}

const indexName = "index_webhook_outbox_entries_dead"

// IndexStatement creates the index that planning needs. It is the platform's table, so the operator asks for it and
// does not create it.
const IndexStatement = "CREATE INDEX CONCURRENTLY " + indexName + " ON webhook_outbox_entries " +
	"(oauth_application_id, enqueued_at, id) WHERE dlq_at IS NOT NULL AND delivered_at IS NULL"

// Check verifies that the ledger's schema, the platform's columns and the index that a replay needs are there. It
// returns the schema's version. A database that lacks one returns ErrNotReady, saying what to do, and one that takes no
// writes ErrReadOnly.
func (db *DB) Check(ctx context.Context) (version int, err error) {
	if err := db.checkWritable(ctx); err != nil {
		return 0, err
	}
	if err := db.checkSchemas(ctx); err != nil {
		return 0, err
	}
	if version, err = db.schemaVersion(ctx); err != nil {
		return version, err
	}
	if err := db.checkColumns(ctx); err != nil {
		return version, err
	}
	if err := db.CheckRows(ctx); err != nil {
		return version, err
	}
	return version, db.checkIndex(ctx)
}

// CheckRows verifies that the role sees all rows of the tables that it may read, or returns ErrRowsHidden. A policy
// that shows each row is not enough: Postgres does not say whether one does.
func (db *DB) CheckRows(ctx context.Context) error {
	var role string
	var tables []string
	err := db.alone.QueryRow(ctx, `SELECT current_user::text,
			coalesce(array_agg(oid::regclass::text ORDER BY oid), '{}')
		FROM pg_class
		WHERE (oid IN (to_regclass('oauth_applications'), to_regclass('webhook_outbox_entries'),
				to_regclass('webhook_signing_keys'), to_regclass('schema_migrations'))
				OR relnamespace = to_regnamespace('playbook') AND relkind = 'r')
			AND row_security_active(oid) AND has_any_column_privilege(oid, 'SELECT')`).Scan(&role, &tables)
	if err != nil {
		return fmt.Errorf("asking for row-level security: %w", describe(err))
	}
	if len(tables) > 0 {
		return fmt.Errorf("%w of %s from the role: as a superuser run ALTER ROLE %s BYPASSRLS. Policies for it don't help, "+
			"since nobody can see whether they show all rows", ErrRowsHidden, strings.Join(tables, ", "),
			pgx.Identifier{role}.Sanitize())
	}
	return nil
}

// checkSchemas tells a table that is out of the role's sight from one that is not there.
func (db *DB) checkSchemas(ctx context.Context) error {
	var schema, table, role *string
	var usable bool
	err := db.alone.QueryRow(ctx, `SELECT quote_ident(nspname), relname::text, quote_ident(current_user),
			has_schema_privilege(n.oid, 'USAGE')
		FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
			AND nspname <> 'playbook'
			AND relname IN ('oauth_applications', 'webhook_outbox_entries', 'webhook_signing_keys')
		WHERE nspname = 'playbook' AND NOT has_schema_privilege(n.oid, 'USAGE')
			OR nspname !~ '^pg_' AND to_regclass(quote_ident(relname)) IS NULL AND relname IS NOT NULL
		ORDER BY relname NULLS FIRST, nspname LIMIT 1`).Scan(&schema, &table, &role, &usable)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("looking for the schemas of the tables: %w", describe(err))
	case table == nil:
		return fmt.Errorf("%w: the ledger is missing, or this role may not read it: run `manager migrate` with the "+
			"owner's URL, "+
			"and use the role playbook_operator (no USAGE on the schema %s)", ErrSchema, *schema)
	case !usable:
		return fmt.Errorf("%w: %s is in the schema %s: run `manager migrate` again, or GRANT USAGE ON SCHEMA %s TO %s",
			ErrSchema, *table, *schema, *schema, *role)
	}
	return fmt.Errorf("%w: %s is in the schema %s, where this role does not look: ALTER ROLE %s SET search_path = %s, "+
		"or write "+
		"search_path=%s into the URL, which a pooler may not take", ErrSchema, *table, *schema, *role, *schema, *schema)
}

func (db *DB) schemaVersion(ctx context.Context) (int, error) {
	want := LatestVersion()
	version, works, err := versions(ctx, db.alone)
	var said *pgconn.PgError
	if errors.As(err, &said) {
		switch said.Code {
		case "42P01", "3F000", insufficientPrivilege: // undefined_table, invalid_schema_name
			return 0, notReady("the ledger is missing, or this role may not read it: run `manager migrate` with the owner's "+
				"URL, and use the role playbook_operator (%s)", said.Message)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("reading the ledger's version: %w", describe(err))
	}
	if version < want {
		return version, notReady("the ledger's schema is version %d and this manager needs %d: run `manager migrate`",
			version, want)
	}
	return version, knows(want, version, works)
}

func (db *DB) checkColumns(ctx context.Context) error {
	rows, err := db.alone.Query(ctx, `SELECT c.relname || '.' || a.attname, format_type(a.atttypid, NULL)
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE c.oid IN (to_regclass('oauth_applications'), to_regclass('webhook_outbox_entries'),
				to_regclass('webhook_signing_keys'))
			AND a.attnum > 0 AND NOT a.attisdropped`)
	if err != nil {
		return fmt.Errorf("reading the platform's columns: %w", describe(err))
	}
	have := map[string]string{}
	var name, kind string
	if _, err := pgx.ForEachRow(rows, []any{&name, &kind}, func() error { have[name] = kind; return nil }); err != nil {
		return fmt.Errorf("reading the platform's columns: %w", describe(err))
	}
	for _, c := range columns {
		name := c.table + "." + c.column
		got, ok := have[name]
		if !ok {
			return notReady("the column %s is missing: is this the platform's database?", name)
		}
		if wanted := strings.Split(c.types, "|"); !slices.Contains(wanted, got) {
			return notReady("the column %s is %s and must be %s", name, got, strings.Join(wanted, " or "))
		}
	}
	return nil
}

// checkIndex accepts any valid index that begins with the application and the order of a replay, and covers dead
// entries.
func (db *DB) checkIndex(ctx context.Context) error {
	var found, broken bool
	err := db.alone.QueryRow(ctx, `SELECT EXISTS (
		SELECT FROM pg_index i
		WHERE i.indrelid = to_regclass('webhook_outbox_entries') AND i.indisvalid AND i.indisready
			AND pg_get_indexdef(i.indexrelid, 1, true) = 'oauth_application_id'
			AND pg_get_indexdef(i.indexrelid, 2, true) = 'enqueued_at'
			AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (
				'((dlq_at IS NOT NULL) AND (delivered_at IS NULL))',
				'((delivered_at IS NULL) AND (dlq_at IS NOT NULL))',
				'(dlq_at IS NOT NULL)'))),
		to_regclass($1) IS NOT NULL`, indexName).Scan(&found, &broken)
	switch {
	case err != nil:
		return fmt.Errorf("looking for the index of dead entries: %w", describe(err))
	case found:
		return nil
	case broken:
		// A CREATE INDEX CONCURRENTLY that failed leaves an invalid index behind, which keeps its name.
		return notReady("the index %s is invalid or has other columns; make it anew with: DROP INDEX CONCURRENTLY %s; %s",
			indexName, indexName, IndexStatement)
	}
	return notReady("the index of dead entries is missing; create it with: %s", IndexStatement)
}
