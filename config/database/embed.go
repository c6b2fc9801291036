// Package database embeds the SQL that `manager migrate` applies to the platform's database.
package database

import "embed"

// Migrations are the versions of the ledger's schema, named NNNN_what.sql. A released version is never edited.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Roles creates the roles and grants. It is applied after the migrations, in every run.
//
//go:embed roles.sql
var Roles string
