package dlqreplay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// refusals are the ways in which a platform's database refuses to have an entry requeued whose event_type is "old".
var refusals = map[string]struct{ state, sql string }{
	"check": {"23514", `ALTER TABLE webhook_outbox_entries ADD CONSTRAINT no_old CHECK (event_type <> 'old') NOT VALID`},
	"unique": {"23505", `CREATE UNIQUE INDEX one_in_flight ON webhook_outbox_entries (event_type)
		WHERE event_type = 'old' AND dlq_at IS NULL;
		INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, idempotency_key, kid, signature, enqueued_at, delivered_at)
		SELECT 42, 'old', 'first', kid, '', now(), now() FROM webhook_signing_keys LIMIT 1`},
	"trigger":           {"P0001", trigger("BEFORE UPDATE", "RAISE 'the secret words'")},
	"assertion":         {"P0004", trigger("BEFORE UPDATE", "ASSERT false")},
	"own-code":          {"OB042", trigger("BEFORE UPDATE", "RAISE SQLSTATE 'OB042'")},
	"data":              {"22012", trigger("AFTER UPDATE", "PERFORM 1 / 0")},
	"at-commit":         {"23514", deferred("RAISE check_violation")},
	"at-commit-by-hand": {"P0001", deferred("RAISE 'the secret words'")},
	"foreign-key-at-commit": {"23503", `CREATE TABLE kinds (name varchar PRIMARY KEY);
		INSERT INTO kinds SELECT DISTINCT event_type FROM webhook_outbox_entries WHERE event_type <> 'old';
		ALTER TABLE webhook_outbox_entries ADD COLUMN revived varchar REFERENCES kinds DEFERRABLE INITIALLY DEFERRED;
		CREATE FUNCTION revive() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN NEW.revived = NEW.event_type; RETURN NEW; END $$;
		CREATE TRIGGER revive BEFORE UPDATE OF enqueued_at ON webhook_outbox_entries FOR EACH ROW EXECUTE FUNCTION revive()`},
}

func trigger(when, statement string) string {
	return refuse(statement) + `CREATE TRIGGER refuse ` + when +
		` ON webhook_outbox_entries FOR EACH ROW EXECUTE FUNCTION refuse()`
}

func deferred(statement string) string {
	return refuse(statement) + `CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON webhook_outbox_entries
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`
}

func refuse(statement string) string {
	return `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.event_type = 'old' THEN ` + statement + `; END IF; RETURN NEW; END $$;`
}

// refuseOf makes some dead entries such that the database refuses to have them requeued.
func (s *scene) refuseOf(sql string, ids ...int64) {
	s.Helper()
	s.Exec(`UPDATE webhook_outbox_entries SET event_type = 'old' WHERE id = ANY ($1)`, ids)
	for _, statement := range strings.Split(sql, ";\n") {
		s.Exec(statement)
	}
}

// asTheyWere says that these entries are dead letters in which nothing was changed.
func (s *scene) asTheyWere(ids ...int64) {
	s.Helper()
	if got := s.count(`SELECT count(*) FROM webhook_outbox_entries WHERE id = ANY ($1) AND dlq_at IS NOT NULL
		AND delivered_at IS NULL AND attempts = 7 AND last_error = 'HTTP 503: down'`, ids); got != int64(len(ids)) {
		s.Errorf("%d of %d refused entries are as they were", got, len(ids))
	}
}

func TestAnEntryThatTheDatabaseRefusesIsCountedAndTheRestGoesOn(t *testing.T) {
	for kind, c := range refusals {
		t.Run(kind, func(t *testing.T) {
			s := newScene(t, "refused-"+kind, quick)
			const n = 120
			ids := s.seed(n, "HTTP 503: down", 7)
			bad := []int64{ids[0], ids[60], ids[n-1]}
			s.refuseOf(c.sql, bad...)
			name := s.apply("r", "{canary: {entries: 0}}")
			r := s.AwaitReady(name)
			s.progress(r, map[string]int64{"requeued": n - 3, "delivered": n - 3, "refused": 3})
			for _, part := range []string{
				fmt.Sprintf("3 refused by the database (%s ×3, such as entry %d)", c.state, bad[0]),
				"apply the replay under a new name",
			} {
				if m := stage.Condition(r, v1alpha1.StepDelivered).Message; !strings.Contains(m, part) {
					t.Errorf("the message lacks %q: %s", part, m)
				}
			}
			if strings.Contains(stage.JSON(r), "secret words") {
				t.Error("the status has the words of a trigger")
			}
			s.eachOnce(n - 3)
			s.asTheyWere(bad...)
			if got := stage.Query[[]int64](s.Scene, `SELECT array_agg(entry_id ORDER BY entry_id) FROM playbook.replay_entries
				WHERE action::text = 'refused' AND outcome IS NULL AND sqlstate = $1`, c.state); !slices.Equal(got, bad) {
				t.Errorf("the ledger has %v as refused, and it should be %v", got, bad)
			}
		})
	}
}

func TestWhereEveryEntryIsRefusedTheReplayEndsAndSaysSo(t *testing.T) {
	s := newScene(t, "refused-all", quick)
	ids := s.seed(1100, "HTTP 503: down", 7) // two pages of the plan
	s.refuseOf(refusals["at-commit"].sql, ids...)
	r := s.AwaitReady(s.apply("r", "{canary: {entries: 0}}"))
	s.progress(r, map[string]int64{"refused": 1100})
	if m := message(r); !strings.Contains(m, "1100 refused by the database (23514 ×1100") {
		t.Errorf("the message is %q", m)
	}
	s.eachOnce(0)
	s.asTheyWere(ids...)
}

func TestARefusedCanaryEntryIsAFailure(t *testing.T) {
	s := newScene(t, "refused-canary", quick)
	ids := s.seed(60, "HTTP 503: down", 7)
	s.refuseOf(refusals["check"].sql, ids...)
	name := s.apply("r", "{canary: {entries: 4}}")
	r := s.AwaitStalled(name, v1alpha1.ReasonCanaryFailed)
	for _, part := range []string{"4 of 4 canary entries failed (SQLSTATE 23514 ×4)",
		"the other 56 entries were not touched", "Mend what the database refuses"} {
		if !strings.Contains(message(r), part) {
			t.Errorf("the message lacks %q: %s", part, message(r))
		}
	}
	s.asTheyWere(ids...)
	s.progress(r, map[string]int64{"refused": 4, "remaining": 56})
	s.Exec(`ALTER TABLE webhook_outbox_entries DROP CONSTRAINT no_old`)
	s.request(name, "mended")
	s.Await(name, "going on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt == "mended" })
	s.progress(s.AwaitReady(name), map[string]int64{"refused": 4, "requeued": 56, "delivered": 56})
	s.eachOnce(56)
}

// A settlement is an update like another.
func TestARefusedSettlementIsCounted(t *testing.T) {
	s := newScene(t, "refused-settle", quick)
	ids := s.seed(30, "HTTP 409: duplicate", 3)
	s.refuseOf(refusals["trigger"].sql, ids[7])
	r := s.AwaitReady(s.apply("r", "{canary: {entries: 0}}"))
	s.progress(r, map[string]int64{"settled": 29, "refused": 1})
}
