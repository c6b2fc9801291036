package platformdb_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

func TestActiveKids(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	postgres := startPostgres(t, nil)
	owner := connect(t, postgres)
	execute := func(sql string, args ...any) {
		t.Helper()
		if _, err := owner.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	execute(`INSERT INTO oauth_applications (id, name, uid, secret) SELECT n, 'rp', n, '' FROM generate_series(1, 2) n`)
	monitor := openAs(t, postgres, "playbook_monitor")
	if kids, err := monitor.ActiveKids(ctx); err != nil || len(kids) != 0 {
		t.Errorf("without keys: %v, %v", kids, err)
	}
	for _, key := range []struct {
		application int
		kid, status string
		minutes     any
	}{
		{1, "old", "revoked", 600}, {1, "graced", "grace", 600}, {1, "one", "active", 60},
		{2, "two", "active", 1}, {2, "next", "pending", nil}, {2, "of no time", "active", nil},
	} {
		execute(`INSERT INTO webhook_signing_keys
				(oauth_application_id, kid, algorithm, public_key, private_key, status, activated_at)
			VALUES ($1, $2, 'EdDSA', '', 's3cret', $3, (clock_timestamp() AT TIME ZONE 'UTC') - $4::int * interval '1 minute')`,
			key.application, key.kid, key.status, key.minutes)
	}
	kids, err := monitor.ActiveKids(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []platformdb.ActiveKid{{ApplicationID: 1, Kid: "one", Age: time.Hour}, {ApplicationID: 2, Kid: "two",
		Age: time.Minute}}
	if len(kids) != len(want) {
		t.Fatalf("%+v", kids)
	}
	for i, key := range kids {
		late := key.Age - want[i].Age
		if key.Age = want[i].Age; key != want[i] || late < 0 || late > time.Minute {
			t.Errorf("%+v and %v, want %+v", key, late, want[i])
		}
	}

	// A manager that runs before `manager migrate` has granted it.
	execute(`REVOKE SELECT (kid) ON webhook_signing_keys FROM playbook_monitor`)
	if _, err := monitor.ActiveKids(ctx); !errors.Is(err, platformdb.ErrNotReady) || !strings.Contains(err.Error(),
		"manager migrate") {
		t.Errorf("without the grant: %v", err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	for _, key := range []struct {
		kid, status    string
		grace, revoked any
	}{
		{"active", "active", nil, nil}, {"graced", "grace", 1, nil}, {"over", "grace", -1, nil}, {"endless", "grace", nil,
			nil},
		{"revoked", "revoked", 1, -2}, {"not asked for", "active", nil, nil},
	} {
		o.exec(`INSERT INTO webhook_signing_keys
				(oauth_application_id, kid, algorithm, public_key, private_key, status, grace_until, revoked_at)
			VALUES (1, $1, 'EdDSA', '', 's3cret', $2, localtimestamp + $3::int * interval '1 hour',
				localtimestamp + $4::int * interval '1 hour')`, key.kid, key.status, key.grace, key.revoked)
	}
	keys, err := o.monitor.Keys(t.Context(), []string{"revoked", "over", "graced", "endless", "active", "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{"active": true, "graced": true, "over": false, "endless": true, "revoked": false}
	if len(keys) != len(served) {
		t.Errorf("%+v", keys)
	}
	for _, key := range keys {
		if want, known := served[key.Kid]; !known || key.Served != want || key.ApplicationID != 1 ||
			(key.RevokedAt != nil) != (key.Kid == "revoked") ||
			(key.GraceUntil != nil) != (key.Kid == "graced" || key.Kid == "over" || key.Kid == "revoked") {
			t.Errorf("%+v", key)
		}
	}
}
