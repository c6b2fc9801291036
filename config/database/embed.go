// Package database embeds the SQL that `manager migrate` applies to the platform's database.
package database

import "embed"

// Migrations are the versions of the ledger's schema, named NNNN_what.sql. A version that was released is never edited.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Roles creates the roles and grants; it is applied after each migration and can be applied again.
//
//go:embed roles.sql
var Roles string
