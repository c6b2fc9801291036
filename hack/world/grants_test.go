package world_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// grantsSQL lists what the roles were granted: on schemas, tables and sequences, columns, functions, and the database
// itself.
const grantsSQL = `WITH grants (acl, object) AS (
		SELECT nspacl, ' ON SCHEMA ' || quote_ident(nspname) FROM pg_namespace
		UNION ALL SELECT relacl, ' ON ' || oid::regclass FROM pg_class
		UNION ALL SELECT attacl, ' (' || quote_ident(attname) || ') ON ' || attrelid::regclass
			FROM pg_attribute WHERE NOT attisdropped
		UNION ALL SELECT proacl, ' ON FUNCTION ' || oid::regprocedure FROM pg_proc
		UNION ALL SELECT datacl, ' ON DATABASE ' || quote_ident(datname) FROM pg_database WHERE datname = current_database()
	)
	SELECT g.privilege_type || object, g.grantee::regrole::text FROM grants, aclexplode(acl) g
	WHERE g.grantee IN ('playbook_operator'::regrole, 'playbook_monitor'::regrole, 'playbook_signer'::regrole)
	ORDER BY 2, 1`

// Each grant is revoked in turn. If every call still succeeds, the grant is not needed.
func TestTheDatabaseRolesNeedEachGrantThatTheyHave(t *testing.T) {
	site := newSite(t, "grants", logi.Config{ManualDispatch: true})
	owner := connect(t, site, "")
	rows, err := owner.Query(t.Context(), grantsSQL)
	if err != nil {
		t.Fatal(err)
	}
	type grant struct{ What, Role string }
	grants, err := pgx.CollectRows(rows, pgx.RowToStructByPos[grant])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(grants, grant{"UPDATE (dlq_at) ON webhook_outbox_entries", "playbook_operator"}) {
		t.Fatalf("the list of grants is not complete: %v", grants)
	}
	if call, err := useDatabase(t, site, owner, 100); err != nil {
		t.Fatalf("with all grants: %s: %v", call, err)
	}
	for i, g := range grants {
		t.Run(g.Role+" without "+g.What, func(t *testing.T) {
			if _, err := owner.Exec(t.Context(), fmt.Sprintf("REVOKE %s FROM %s", g.What, g.Role)); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if _, err := owner.Exec(t.Context(), fmt.Sprintf("GRANT %s TO %s", g.What, g.Role)); err != nil {
					t.Fatal(err)
				}
			}()
			call, err := useDatabase(t, site, owner, int64(101+i))
			switch {
			case err == nil:
				t.Errorf("nothing failed: %s does not need it", g.Role)
			case !strings.Contains(err.Error(), "permission denied") && !strings.Contains(err.Error(), "no USAGE on the schema"):
				t.Errorf("%s: %v: that failed, and not because Postgres refused", call, err)
			default:
				t.Logf("fails: %s", call)
			}
		})
	}
}

// useDatabase makes each call that the controllers and the subcommands make, for an application of its own. It returns
// the first error.
func useDatabase(t *testing.T, site *world.Site, owner *pgx.Conn, application int64) (call string, err error) {
	t.Helper()
	ctx := t.Context()
	if err := site.CreateApplication(ctx, application, "rp"); err != nil {
		t.Fatal(err)
	}
	dead := func(n int, lastError string) []int64 {
		ids, err := site.SeedDead(ctx, application, n, lastError, 7)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	dead(4, "HTTP 503: Service Unavailable")
	dead(2, "HTTP 409: Conflict")
	open := func(role string) *platformdb.DB {
		db, err := platformdb.Open(site.URLAs(role), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		return db
	}
	operator, monitor, signer := open("playbook_operator"), open("playbook_monitor"), open("playbook_signer")
	byOwner := func(sql string, args ...any) error {
		_, err := owner.Exec(ctx, sql, args...)
		return err
	}
	selection := platformdb.Selection{ApplicationID: application, Conflicts: "Settle", MaxReplays: 3}
	identity := func() platformdb.Identity {
		uid := string(uuid.NewUUID())
		return platformdb.Identity{UID: uid, Kind: "DLQReplay", Namespace: "n", Name: uid, SpecDigest: "d",
			ApplicationID: application}
	}
	bySQL, byAdminAPI := identity(), identity()
	leak, heir := identity(), identity()
	byRake, rakeHeir := identity(), identity()
	run := platformdb.Command{StartedAt: time.Now().Truncate(time.Microsecond), Target: "ssh", Text: "rake"}
	var kid string
	var revoked *platformdb.Revocation
	var op *platformdb.Operation
	var batch *platformdb.Batch
	var named []int64
	var before, after *platformdb.Entry

	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"Ping", func() error { return operator.Ping(ctx) }},
		{"Check", func() error { _, err := operator.Check(ctx); return err }},
		{"DeadLetters", func() error { _, _, err := monitor.DeadLetters(ctx, 50); return err }},
		{"Deliveries", func() error { _, err := monitor.Deliveries(ctx, time.Minute); return err }},
		{"ActiveKids", func() error { _, err := monitor.ActiveKids(ctx); return err }},
		{"Diagnose", func() error { _, err := monitor.Diagnose(ctx, nil, 10); return err }},
		{"Diagnose by the everyday role", func() error { _, err := operator.Diagnose(ctx, nil, 10); return err }},
		{"FreshDeliveries", func() error { _, err := monitor.FreshDeliveries(ctx, application, time.Now(), ""); return err }},
		{"FreshDeliveries by the everyday role",
			func() error { _, err := operator.FreshDeliveries(ctx, application, time.Now(), ""); return err }},
		{"Keys", func() error { _, err := monitor.Keys(ctx, []string{"whk"}); return err }},
		{"Keys by the everyday role", func() error { _, err := operator.Keys(ctx, []string{"whk"}); return err }},
		{"MigrationsSince", func() error { _, _, err := monitor.MigrationsSince(ctx, time.Now()); return err }},
		{"MigrationsSince by the everyday role",
			func() error { _, _, err := operator.MigrationsSince(ctx, time.Now()); return err }},
		{"Deliveries by the everyday role", func() error { _, err := operator.Deliveries(ctx, time.Minute); return err }},

		{"FinishedTwin", func() error { _, err := operator.FinishedTwin(ctx, bySQL); return err }},
		{"OpenOperation", func() (err error) { op, err = operator.OpenOperation(ctx, bySQL); return }},
		{"Operation", func() (err error) { op, err = operator.Operation(ctx, bySQL.UID); return }},
		{"Plan", func() (err error) { op, err = operator.Plan(ctx, bySQL.UID, selection, 100); return }},
		{"ChooseCanary", func() (err error) { op, err = operator.ChooseCanary(ctx, bySQL.UID, selection, 1); return }},
		{"Requeue the canary", func() (err error) {
			batch, err = operator.Requeue(ctx, bySQL.UID, selection, platformdb.Pace{})
			return
		}},
		{"CanaryAttempts", func() error { _, err := operator.CanaryAttempts(ctx, op); return err }},
		{"ForgetCanary", func() error { return operator.ForgetCanary(ctx, bySQL.UID) }},
		{"ResumeOperation", func() error { return operator.ResumeOperation(ctx, bySQL.UID, "now") }},
		{"Requeue a part of a page", func() (err error) {
			batch, err = operator.Requeue(ctx, bySQL.UID, selection, platformdb.Pace{MaxInFlight: 2})
			return
		}},
		{"RemainingEntries", func() (err error) { named, err = operator.RemainingEntries(ctx, batch.Operation); return }},
		{"Requeue after an entry vanished", func() (err error) {
			if err := byOwner(`DELETE FROM webhook_outbox_entries WHERE id = $1`, named[0]); err != nil {
				return err
			}
			batch, err = operator.Requeue(ctx, bySQL.UID, selection, platformdb.Pace{})
			return
		}},
		{"Observe", func() error {
			if err := byOwner(`UPDATE webhook_outbox_entries SET attempts = 1, delivered_at = clock_timestamp()
				WHERE oauth_application_id = $1 AND dlq_at IS NULL AND delivered_at IS NULL`, application); err != nil {
				return err
			}
			_, err := operator.Observe(ctx, bySQL.UID)
			return err
		}},
		{"RecentAttempts", func() error { _, err := operator.RecentAttempts(ctx, op, 100); return err }},
		{"CloseOperation", func() error { return operator.CloseOperation(ctx, bySQL, platformdb.OutcomeComplete) }},
		{"UndoSettlement", func() error { _, err := operator.UndoSettlement(ctx, bySQL.UID, nil); return err }},
		{"Revoke an unknown kid", func() error {
			if _, err := operator.OpenOperation(ctx, leak); err != nil {
				return err
			}
			_, err := signer.Revoke(ctx, leak.UID, "nobody", "leaked", 100)
			unknown := (*platformdb.UnknownKid)(nil)
			if !errors.As(err, &unknown) {
				return err
			}
			kid = unknown.Kids[0]
			return nil
		}},
		{"Revoke", func() (err error) {
			dead(2, "HTTP 503: Service Unavailable")
			revoked, err = signer.Revoke(ctx, leak.UID, kid, "leaked", 100)
			return
		}},
		{"Revocation", func() error { _, err := operator.Revocation(ctx, leak.UID); return err }},
		{"ReSign", func() error {
			if err := byOwner(`UPDATE webhook_outbox_entries SET kid = $1
				WHERE id = (SELECT max(id) FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL)`, kid); err != nil {
				return err
			}
			progress, err := signer.ReSign(ctx, leak.UID)
			if err == nil && progress.Resigned != revoked.Resigned+1 {
				t.Errorf("%d were signed anew", progress.Resigned)
			}
			return err
		}},
		{"Revoke what an operation that was deleted revoked", func() error {
			if err := operator.CloseOperation(ctx, leak, platformdb.OutcomeDeleted); err != nil {
				return err
			}
			if _, err := operator.OpenOperation(ctx, heir); err != nil {
				return err
			}
			_, err := signer.Revoke(ctx, heir.UID, kid, "leaked", 100)
			return err
		}},
		{"CompromiseEvent", func() error { _, err := operator.CompromiseEvent(ctx, revoked); return err }},
		{"RequeueEvent", func() error {
			if err := byOwner(`UPDATE webhook_outbox_entries
				SET dlq_at = clock_timestamp(), attempts = 1, last_error = 'HTTP 401: unknown kid'
				WHERE id = $1`, revoked.EventEntryID); err != nil {
				return err
			}
			return operator.RequeueEvent(ctx, heir.UID, 0)
		}},
		{"DiedUnderSuccessor", func() error { _, err := operator.DiedUnderSuccessor(ctx, revoked); return err }},
		{"DeliveredUnderSuccessor", func() error {
			if _, _, err := operator.DeliveredUnderSuccessor(ctx, revoked); !errors.Is(err, platformdb.ErrNoEntry) {
				return err
			}
			return nil
		}},
		{"AdoptRevocation of a key that may still sign", func() error {
			if err := owner.QueryRow(ctx,
				`SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1 AND status = 'active'`,
				application).Scan(&run.Kid); err != nil {
				return err
			}
			if _, err := operator.OpenOperation(ctx, byRake); err != nil {
				return err
			}
			if _,
				err := operator.AdoptRevocation(ctx, byRake.UID, run.Kid, "leaked"); !errors.Is(err, platformdb.ErrNotRevoked) {
				return err
			}
			return nil
		}},
		{"AbandonCommand", func() error {
			other := run
			other.StartedAt = run.StartedAt.Add(-time.Second)
			_, err := operator.AbandonCommand(ctx, byRake.UID, other)
			return err
		}},
		{"BeginCommand", func() error { return operator.BeginCommand(ctx, byRake.UID, run) }},
		{"EndCommand", func() error {
			return operator.EndCommand(ctx, byRake.UID, run.StartedAt,
				platformdb.CommandEnd{Outcome: platformdb.CommandSucceeded, ExitStatus: new(int32)}, "revoked")
		}},
		{"AdoptRevocation", func() (err error) {
			if _,
				ok := site.Rake(ctx, "/",
				[]string{"exec", "rails", fmt.Sprintf("webhooks:compromise[%d,%s]", application, run.Kid), "RAILS_ENV=production"},
				0); !ok {
				return errors.New("the rake failed")
			}
			revoked, err = operator.AdoptRevocation(ctx, byRake.UID, run.Kid, "leaked")
			return err
		}},
		{"AwaitReSigned", func() error {
			progress, err := operator.AwaitReSigned(ctx, byRake.UID)
			if err == nil && progress.ReSignedAt == nil {
				t.Errorf("%d entries left, %q open", progress.Left, progress.Open)
			}
			return err
		}},
		{"AdoptRevocation of what an operation that was deleted adopted", func() error {
			if err := operator.CloseOperation(ctx, byRake, platformdb.OutcomeDeleted); err != nil {
				return err
			}
			if _, err := operator.OpenOperation(ctx, rakeHeir); err != nil {
				return err
			}
			_, err := operator.AdoptRevocation(ctx, rakeHeir.UID, run.Kid, "leaked")
			return err
		}},
		{"AdoptRevocation of an unknown kid", func() error {
			if _,
				err := operator.AdoptRevocation(ctx, rakeHeir.UID, "nobody", "leaked"); !errors.As(err,
				new(*platformdb.UnknownKid)) {
				return err
			}
			return nil
		}},
		{"CloseOperation of a key compromise",
			func() error { return operator.CloseOperation(ctx, heir, platformdb.OutcomeComplete) }},
		{"Purge", func() error { _, err := operator.Purge(ctx, time.Now().Add(time.Hour)); return err }},

		{"Plan of named entries", func() (err error) {
			selection.EntryIDs = dead(1, "HTTP 503: Service Unavailable")
			if _, err := operator.OpenOperation(ctx, byAdminAPI); err != nil {
				return err
			}
			op, err = operator.Plan(ctx, byAdminAPI.UID, selection, 100)
			return err
		}},
		{"SetAside", func() error { _, err := operator.SetAside(ctx, byAdminAPI.UID, selection); return err }},
		{"Entry", func() (err error) { before, err = operator.Entry(ctx, selection.EntryIDs[0]); return }},
		{"RecordRetry", func() (err error) {
			if err := byOwner(`UPDATE webhook_outbox_entries SET dlq_at = NULL, enqueued_at = clock_timestamp() WHERE id = $1`,
				selection.EntryIDs[0]); err != nil {
				return err
			}
			if after, err = operator.Entry(ctx, selection.EntryIDs[0]); err != nil {
				return err
			}
			_, err = operator.RecordRetry(ctx, byAdminAPI.UID, selection.EntryIDs[0], before, after)
			return err
		}},
		{"Requeue of what is signed anew", func() error {
			ids := dead(3, "HTTP 503: Service Unavailable")
			if err := byOwner(`UPDATE webhook_outbox_entries SET kid = 'whk_nobody_knows' WHERE id = ANY ($1)`,
				ids); err != nil {
				return err
			}
			dead(2, "HTTP 409: Conflict")
			unpublished, all := identity(),
				platformdb.Selection{ApplicationID: application, Conflicts: "Settle", MaxReplays: 3,
					Unpublished: platformdb.HandUnpublishedOver}
			if _, err := operator.OpenOperation(ctx, unpublished); err != nil {
				return err
			}
			if op, err = operator.Plan(ctx, unpublished.UID, all, 100); err != nil {
				return err
			}
			if _,
				err := operator.Requeue(ctx, unpublished.UID, all, platformdb.Pace{}); !errors.Is(err, platformdb.ErrUnpublished) {
				return fmt.Errorf("requeueing by the everyday role: %w", err)
			}
			all.Unpublished = platformdb.ReSignUnpublished
			if _, err := signer.Requeue(ctx, unpublished.UID, all, platformdb.Pace{MaxInFlight: 1}); err != nil {
				return err
			}
			holder, err := owner.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := holder.Exec(ctx, `SELECT FROM webhook_outbox_entries WHERE id = $1 FOR UPDATE`, ids[2]); err != nil {
				return err
			}
			_, err = signer.Requeue(ctx, unpublished.UID, all, platformdb.Pace{})
			if err := errors.Join(err, holder.Rollback(ctx)); err != nil {
				return err
			}
			batch, err := signer.Requeue(ctx, unpublished.UID, all, platformdb.Pace{})
			if err == nil && batch.Resigned != 3 {
				t.Errorf("%d of 3 were signed anew", batch.Resigned)
			}
			return err
		}},
		{"CloseOperation of one that was never opened",
			func() error { return operator.CloseOperation(ctx, identity(), platformdb.OutcomeDeleted) }},
	} {
		if err := c.do(); err != nil {
			return c.name, err
		}
	}
	return "", nil
}

func TestTheDatabaseRolesAreNobody(t *testing.T) {
	site := newSite(t, "roles", logi.Config{ManualDispatch: true})
	owner := connect(t, site, "")
	var powers string
	if err := owner.QueryRow(t.Context(), `SELECT coalesce(string_agg(what, ', '), '') FROM (
			SELECT rolname || ' has an attribute' AS what FROM pg_roles
			WHERE rolname LIKE 'playbook\_%' AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
			UNION ALL SELECT member::regrole || ' is a member of ' || roleid::regrole
				FROM pg_auth_members WHERE member::regrole::text LIKE 'playbook\_%'
			UNION ALL SELECT refobjid::regrole || ' owns something'
				FROM pg_shdepend WHERE deptype = 'o' AND refobjid::regrole::text LIKE 'playbook\_%'
		) powers`).Scan(&powers); err != nil {
		t.Fatal(err)
	}
	if powers != "" {
		t.Error(powers)
	}
	// Only the role that revokes a leaked key reads payloads and private keys.
	ofTheSigner := []string{
		`SELECT payload FROM webhook_outbox_entries`,
		`SELECT idempotency_key FROM webhook_outbox_entries`,
		`SELECT private_key FROM webhook_signing_keys`,
		`UPDATE webhook_outbox_entries SET dlq_at = NULL RETURNING payload`,
		`UPDATE webhook_signing_keys SET status = 'active'`,
		`INSERT INTO webhook_outbox_entries DEFAULT VALUES`,
	}
	for _, role := range []string{"playbook_operator", "playbook_monitor", "playbook_signer"} {
		conn := connect(t, site, role)
		for _, sql := range []string{
			`SELECT payload FROM webhook_outbox_entries`,
			`SELECT signature FROM webhook_outbox_entries`,
			`SELECT idempotency_key FROM webhook_outbox_entries`,
			`SELECT e::text FROM webhook_outbox_entries e`,
			`SELECT private_key FROM webhook_signing_keys`,
			`UPDATE webhook_signing_keys SET private_key = ''`,
			`SELECT secret FROM oauth_applications`,
			`INSERT INTO schema_migrations VALUES ('99990101000000')`,
			`DELETE FROM schema_migrations`,
			`UPDATE webhook_outbox_entries SET dlq_at = NULL RETURNING payload`,
			`UPDATE webhook_outbox_entries SET payload = '{}'`,
			`UPDATE webhook_signing_keys SET status = 'active'`,
			`INSERT INTO webhook_outbox_entries DEFAULT VALUES`,
			`DELETE FROM webhook_outbox_entries`,
			`TRUNCATE webhook_outbox_entries`,
			`DO $$ BEGIN LOCK TABLE webhook_outbox_entries; END $$`,
			`DELETE FROM playbook.operations`,
			`DELETE FROM playbook.replay_entries`,
			`TRUNCATE playbook.replay_pages`,
			`DELETE FROM playbook.key_revocations`,
			`DELETE FROM playbook.command_runs`,
			`INSERT INTO playbook.schema_migrations VALUES (99, 'mine')`,
			`CREATE TABLE mine (id bigint)`,
			`CREATE TABLE playbook.mine (id bigint)`,
			`CREATE SCHEMA mine`,
			`CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'`,
			`CREATE TRIGGER mine AFTER UPDATE ON webhook_outbox_entries EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
			`CREATE INDEX ON webhook_outbox_entries (id)`,
			`ALTER TABLE webhook_outbox_entries ADD mine bigint`,
			`ALTER TABLE playbook.operations ADD mine bigint`,
			`DROP TABLE playbook.operations`,
			`DROP SCHEMA playbook CASCADE`,
			`GRANT SELECT ON webhook_outbox_entries TO playbook_operator`,
			`CREATE ROLE mine`,
			`SET ROLE postgres`,
			`SELECT pg_read_file('PG_VERSION')`,
			`SELECT rolpassword FROM pg_authid`,
		} {
			if role == "playbook_signer" && slices.Contains(ofTheSigner, sql) {
				continue
			}
			_, err := conn.Exec(t.Context(), sql)
			if said := (*pgconn.PgError)(nil); !errors.As(err, &said) || said.Code != "42501" {
				t.Errorf("%s: %s: %v rather than insufficient_privilege", role, sql, err)
			}
		}
	}
}
