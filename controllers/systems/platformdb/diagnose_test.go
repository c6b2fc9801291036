package platformdb_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// outbox is a database of its own, with two applications, that the monitor's role looks at.
type outbox struct {
	*testing.T
	owner   *pgx.Conn
	monitor *platformdb.DB
	// URLs of the owner, and of the monitor's role.
	url, monitorURL string
}

func newOutbox(t *testing.T) *outbox {
	t.Helper()
	postgres := startPostgres(t, nil)
	o := &outbox{T: t, owner: connect(t, postgres), monitor: openAs(t, postgres, "playbook_monitor"),
		url: postgres.URL("postgres"), monitorURL: postgres.URLFor("playbook_monitor", "secret", "postgres")}
	o.exec(`SET TimeZone = 'UTC'`)
	o.exec(`INSERT INTO oauth_applications (id, name, uid, secret) SELECT n, 'rp', n, '' FROM generate_series(1, 3) n`)
	return o
}

func (o *outbox) exec(sql string, args ...any) {
	o.Helper()
	if _, err := o.owner.Exec(o.Context(), sql, args...); err != nil {
		o.Fatalf("%s: %v", sql, err)
	}
}

var death = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// die adds n entries that died a minute after the other, and returns the first one's id.
func (o *outbox) die(application int64, kid string, n, attempts int, lastError *string) (first int64) {
	o.Helper()
	if err := o.owner.QueryRow(o.Context(), `WITH added AS (INSERT INTO webhook_outbox_entries (oauth_application_id,
			event_type, payload, idempotency_key, kid, signature, attempts, enqueued_at, dlq_at, last_error)
		SELECT $1, 'e', '{"secret": "p4yload"}', gen_random_uuid(), $2, '', $4::int, $6::timestamp - interval '1 hour',
			$6::timestamp + n * interval '1 minute', $5
		FROM generate_series(0, $3::int - 1) n RETURNING id)
		SELECT min(id) FROM added`, application, kid, n, attempts, lastError, death).Scan(&first); err != nil {
		o.Fatal(err)
	}
	return first
}

func TestDiagnose(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	d, err := o.monitor.Diagnose(t.Context(), nil, 10)
	if err != nil || !reflect.DeepEqual(d, &platformdb.Diagnosis{Dead: []platformdb.Dead{}}) {
		t.Errorf("an empty outbox: %+v, %v", d, err)
	}
	down := o.die(1, "whk_1", 3, 7, new("HTTP 503: order 17 is not in stock"))
	o.die(1, "whk_1", 2, 7, new("HTTP 503: order 18 is not in stock either"))
	slow := o.die(1, "whk_1", 1, 7, new("Net::ReadTimeout: Net::ReadTimeout with #<TCPSocket:(closed)>"))
	o.die(1, "whk_1", 1, 7, new("Failed to open TCP connection to acme.example:443 (execution expired)"))
	stale := o.die(2, "whk_2", 4, 1, new("HTTP 401: unknown kid"))
	stale3 := o.die(2, "whk_3", 1, 1, new("HTTP 401: unknown kid"))
	again := o.die(2, "whk_2", 1, 2, new("HTTP 409: seen"))
	atOnce := o.die(2, "whk_2", 1, 1, new("HTTP 409: in conflict"))
	replayed := o.die(2, "whk_2", 1, 1, new("HTTP 409: seen"))
	o.exec(`INSERT INTO playbook.replay_entries (entry_id, operation_id, acted_at, batch, action, outcome)
		VALUES ($1, 1, now(), 1, 'requeued', 'died')`, replayed)
	invalid := o.die(2, "whk_2", 1, 1, new("HTTP 422: no such order"))
	moved := o.die(2, "whk_2", 1, 1, new("HTTP 301: over there"))
	silent := o.die(3, "whk_4", 1, 1, nil)
	o.die(3, "whk_4", 1, 0, new("HTTP 503: of another life"))
	o.exec(`UPDATE webhook_outbox_entries SET delivered_at = now() WHERE id = $1`, o.die(3, "whk_4", 1, 1, nil))
	o.exec(`UPDATE webhook_outbox_entries SET dlq_at = NULL WHERE id = $1`, o.die(3, "whk_4", 1, 1, new("HTTP 503: x")))

	minutes := func(n int) time.Time { return death.Add(time.Duration(n) * time.Minute) }
	want := []platformdb.Dead{
		{1, "whk_1", "ServerError", 503, 5, death, minutes(2), []int64{down, down + 4}},
		{2, "whk_2", "SignatureRejected", 401, 4, death, minutes(3), []int64{stale, stale + 3}},
		{1, "whk_1", "Timeout", 0, 2, death, death, []int64{slow, slow + 1}},
		{2, "whk_2", "IdempotencyConflict", 409, 2, death, death, []int64{again, replayed}},
		{3, "whk_4", "Unknown", 0, 2, death, death, []int64{silent, silent + 1}},
		{2, "whk_2", "ClientError", 409, 1, death, death, []int64{atOnce}},
		{2, "whk_2", "ClientError", 422, 1, death, death, []int64{invalid}},
		{2, "whk_3", "SignatureRejected", 401, 1, death, death, []int64{stale3}},
		{2, "whk_2", "Unknown", 301, 1, death, death, []int64{moved}},
	}
	if d, err := o.monitor.Diagnose(t.Context(), nil, 100); err != nil || d.Entries != 19 || d.Groups != len(want) ||
		!reflect.DeepEqual(d.Dead, want) {
		t.Errorf("%+v, %v; want %+v", d, err, want)
	}
	if d, err := o.monitor.Diagnose(t.Context(), nil, 2); err != nil || d.Entries != 19 || d.Groups != len(want) ||
		!reflect.DeepEqual(d.Dead, want[:2]) {
		t.Errorf("the two largest: %+v, %v", d, err)
	}
	if d, err := o.monitor.Diagnose(t.Context(), []int64{3, 99}, 100); err != nil || d.Entries != 2 ||
		!reflect.DeepEqual(d.Dead, want[4:5]) {
		t.Errorf("one application: %+v, %v", d, err)
	}
}

// The role that diagnoses gets the cause, and neither the text nor what was sent.
func TestTheMonitorCanNotReadTexts(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.die(1, "whk_1", 1, 1, new("HTTP 422: s3cret of the relying party"))
	conn, err := pgx.Connect(t.Context(), o.monitorURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range []string{
		`SELECT last_error FROM webhook_outbox_entries`, `SELECT payload FROM webhook_outbox_entries`,
		`SELECT signature FROM webhook_outbox_entries`, `SELECT * FROM webhook_outbox_entries`,
		`SELECT private_key FROM webhook_signing_keys`, `SELECT last_error FROM playbook.replay_entries`,
		`SELECT output FROM playbook.command_runs`, `SELECT pattern FROM playbook.causes`,
		`UPDATE playbook.causes SET cause = 'x'`, `SELECT cause FROM playbook.causes`,
		`CREATE FUNCTION playbook.f() RETURNS int LANGUAGE sql RETURN 1`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		if said := (*pgconn.PgError)(nil); !errors.As(err, &said) || said.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	// What the caller has on its path is not what the function reads.
	rows, err := conn.Query(t.Context(), `WITH path AS (SELECT set_config('search_path', 'pg_temp', false))
		SELECT d::text FROM path, playbook.dead_letters(NULL) d`)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(texts) != 1 || !strings.Contains(texts[0], "ClientError") ||
		strings.Contains(texts[0], "s3cret") {
		t.Errorf("the diagnosis is %q, %v", texts, err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE TEMP TABLE webhook_outbox_entries (LIKE pg_class)`); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), `SELECT cause FROM playbook.dead_letters(NULL)`).Scan(&texts[0]); err != nil ||
		texts[0] != "ClientError" {
		t.Errorf("beside a table of the same name: %q, %v", texts[0], err)
	}
}

// A manager that runs before `manager migrate` says which command is missing.
func TestDiagnoseNeedsTheLedgersThirdVersion(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	for _, sql := range []string{`DROP FUNCTION playbook.dead_letters`,
		`REVOKE USAGE ON SCHEMA playbook FROM playbook_monitor`} {
		o.exec(sql)
		if _, err := o.monitor.Diagnose(t.Context(), nil, 10); !errors.Is(err, platformdb.ErrNotReady) ||
			!strings.Contains(err.Error(), "manager migrate") {
			t.Errorf("after %s: %v", sql, err)
		}
	}
}

// One list of causes decides in a plan, in a diagnosis, and about texts that did not come from the database.
func TestAllWhoClassifyAgree(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	db, err := platformdb.Open(o.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tails := []string{"", ":", ": ", ": x", ":x", " - y", " - y: z", "\n", " with #<a: b>", "::Other", ": :", ":: ", ")"}
	begin := slices.Concat(beginnings, []string{"Failed to open TCP connection to a:443 (execution expired)",
		"Failed to open TCP connection to a: (execution expired)", "Failed to open TCP connection to a (getaddrinfo",
		"Failed to open TCP connection to a:443 (getaddrinfo: Name", "Failed to open TCP connection to b (Broken pipe",
		"Failed to open TCP connection to a:443 (Connection refused - connect(2))", "418 I'm a teapot", "HTTP 301",
		"Net::ReadTimeout with #<", "Net::ReadTimeout with #<T: ", "getaddrinfo", "Connection timed out"})
	uid := 0
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.SampledFrom(begin).Draw(r, "begin") + rapid.SampledFrom(tails).Draw(r, "tail") +
			rapid.OneOf(rapid.Just(""), rapid.StringN(0, 5, -1), rapid.SampledFrom(begin)).Draw(r, "more")
		text = strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
		attempts := rapid.IntRange(0, 3).Draw(r, "attempts")
		o.exec(`DELETE FROM webhook_outbox_entries`)
		o.die(1, "whk_1", 1, attempts, &text)
		d, err := o.monitor.Diagnose(t.Context(), nil, 10)
		if err != nil || len(d.Dead) != 1 {
			r.Fatalf("%+v, %v", d, err)
		}
		uid++
		identity := platformdb.Identity{UID: fmt.Sprintf("00000000-0000-0000-0000-%012d", uid), Kind: "DLQReplay",
			ApplicationID: 1}
		if _, err := db.OpenOperation(t.Context(), identity); err != nil {
			r.Fatal(err)
		}
		op, err := db.Plan(t.Context(), identity.UID, platformdb.Selection{ApplicationID: 1, Conflicts: "Settle",
			MaxReplays: 3}, 10)
		if err != nil || len(op.Plan.Causes) != 1 {
			r.Fatalf("%+v, %v", op, err)
		}
		cause, code := platformdb.Cause(text, attempts)
		if d.Dead[0].Cause != cause || d.Dead[0].Status != code || op.Plan.Causes[0].Cause != cause {
			r.Fatalf("%q after %d attempts: a plan says %s, a diagnosis %s %d, and without the database it is %s %d",
				text, attempts, op.Plan.Causes[0].Cause, d.Dead[0].Cause, d.Dead[0].Status, cause, code)
		}
	})
}
