package platformdb_test

import (
	"strings"
	"testing"
	"time"
)

func TestMigrationsSince(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	postgres := startPostgres(t, nil)
	owner := connect(t, postgres)
	execute := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	monitor := openAs(t, postgres, "playbook_monitor")
	// A database whose collation does not order as bytes, and versions that are no times.
	execute(`ALTER TABLE schema_migrations ALTER COLUMN version TYPE varchar COLLATE "en-x-icu"`)
	execute(`INSERT INTO schema_migrations VALUES ('20261120093000'), ('20261120093001'), ('20261121000000'),
		('1'), ('0042'), ('next'), ('202611210000000'), ('2026112100000')`)
	for _, c := range []struct {
		since  time.Time
		count  int32
		newest string
	}{
		{time.Date(2026, 11, 20, 9, 29, 59, 0, time.UTC), 3, "20261121000000"},
		{time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC), 2, "20261121000000"},
		// The same instant elsewhere, and a part of its second.
		{time.Date(2026, 11, 20, 18, 30, 0, 999_999_999, time.FixedZone("KST", 9*60*60)), 2, "20261121000000"},
		{time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), 0, ""},
		{time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), 0, ""},
	} {
		if count, newest, err := monitor.MigrationsSince(ctx, c.since); err != nil || count != c.count || newest != c.newest {
			t.Errorf("since %v: %d, %q, %v; want %d, %q", c.since, count, newest, err, c.count, c.newest)
		}
	}
	execute(`DROP TABLE schema_migrations`)
	if _, _, err := monitor.MigrationsSince(ctx, time.Now()); err == nil || !strings.Contains(err.Error(),
		"no table schema_migrations") {
		t.Errorf("without the table: %v", err)
	}
}
