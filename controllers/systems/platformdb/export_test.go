package platformdb

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// DeliveriesSQL is explained by a test.
const DeliveriesSQL = deliveriesSQL

// Settings are those that must hold: their names and values.
var Settings = settings

// Showing reads a setting in a transaction, and in a statement that is one of its own.
func (db *DB) Showing(ctx context.Context, name string) (transaction, single string, err error) {
	const show = `SELECT current_setting($1)`
	err = db.transact(ctx, "reading a setting", pgx.TxOptions{}, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, show, name).Scan(&transaction)
	})
	if err == nil {
		err = db.alone.QueryRow(ctx, show, name).Scan(&single)
	}
	return transaction, single, err
}

// ApplyNext applies the migration that comes after the last one, as a newer release would.
func ApplyNext(ctx context.Context, conn *pgx.Conn, sql string) error {
	next := migration{version: LatestVersion() + 1, name: "next", sql: sql, worksSince: worksSince(sql, migrations)}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := apply(ctx, tx, append(slices.Clone(migrations), next))
		return err
	})
}
