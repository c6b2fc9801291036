package platformdb

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/config/database"
)

type migration struct {
	version int
	name    string
	sql     string
	// worksSince is the oldest version of a manager that works with the ledger afterwards.
	worksSince int
}

var migrations = mustRead()

// mustRead reads the embedded migrations. Their names are checked at build time by the tests of this package.
func mustRead() []migration {
	files, err := fs.Glob(database.Migrations, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	slices.Sort(files)
	all := make([]migration, 0, len(files))
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != len(all)+1 {
			panic(fmt.Sprintf("migration %s: its number must be %04d", file, len(all)+1))
		}
		sql, err := database.Migrations.ReadFile(file)
		if err != nil {
			panic(err)
		}
		all = append(all, migration{version, name, string(sql), worksSince(string(sql), all)})
	}
	return all
}

// LatestVersion of the ledger's schema that this program knows.
func LatestVersion() int { return migrations[len(migrations)-1].version }

// Migrate brings the ledger's schema up to date and applies roles and grants, in one transaction. It needs the URL of
// the tables' owner, who may create a schema and, where the roles are missing, roles; the URL is used once and kept
// nowhere. It returns the names of the migrations that it applied.
func Migrate(ctx context.Context, url string) ([]string, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, notParsed(err, "owner")
	}
	config.ConnectTimeout = connectTimeout
	withoutOurs(config)
	// It names no statement, so that it works through a pooler too.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	ctx, cancel := context.WithTimeout(ctx, planTimeout+answerTime)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, describe(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		defer cancel()
		_ = conn.Close(closing) // what was committed stays
	}()
	var applied []string
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: begin(planTimeout)},
		func(tx pgx.Tx) error {
			// Two migrations at once: the second finds nothing left to do.
			for _, sql := range []string{
				`SELECT pg_advisory_xact_lock(hashtextextended('playbook.migrate', 0))`,
				`CREATE SCHEMA IF NOT EXISTS playbook`,
				`CREATE TABLE IF NOT EXISTS playbook.schema_migrations (
				version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())`,
				addWorksSince,
			} {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return fmt.Errorf("preparing the schema playbook: %w", err)
				}
			}
			var err error
			if applied, err = apply(ctx, tx, migrations); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, database.Roles); err != nil {
				return fmt.Errorf("creating roles and grants: %w", err)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	return applied, nil
}

// apply the migrations that the schema lacks, and return their names.
func apply(ctx context.Context, tx pgx.Tx, migrations []migration) (applied []string, err error) {
	current, works, err := versions(ctx, tx)
	if err != nil {
		return nil, fmt.Errorf("reading the schema's version: %w", err)
	}
	if err := knows(len(migrations), current, works); err != nil {
		return nil, err
	}
	for _, m := range migrations[min(current, len(migrations)):] {
		if _, err := tx.Exec(ctx, m.sql); err != nil {
			return nil, fmt.Errorf("applying migration %s: %w", m.name, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO playbook.schema_migrations (version, name, works_since) VALUES ($1, $2, $3)`,
			m.version, m.name, m.worksSince); err != nil {
			return nil, fmt.Errorf("recording migration %s: %w", m.name, err)
		}
		applied = append(applied, m.name)
	}
	if current > len(migrations) {
		return applied, nil // an older `manager migrate` takes nothing back
	}
	return applied, fillCauses(ctx, tx)
}
