package platformdb_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// A policy must not decide in silence what a replay is about: with half of the rows out of sight it ended well, and the
// other half was dead.
func TestHiddenRowsAreAnError(t *testing.T) {
	k := newKeyring(t)
	k.dead(10)
	selection := platformdb.Selection{ApplicationID: application, Conflicts: "Settle", MaxReplays: 3}
	planned := k.open("planned")
	if op, err := k.operator.Plan(t.Context(), planned.UID, selection, 100); err != nil || op.Total != 10 {
		t.Fatalf("the plan is %+v, %v", op, err)
	}
	k.exec(`ALTER TABLE webhook_outbox_entries ENABLE ROW LEVEL SECURITY`)
	k.exec(`CREATE POLICY even ON webhook_outbox_entries FOR ALL TO PUBLIC USING (id % 2 = 0)`)
	monitor := openAs(t, k.postgres, "playbook_monitor")

	hidden := func(doing string, err error) {
		t.Helper()
		if !errors.Is(err, platformdb.ErrRowsHidden) || !strings.Contains(err.Error(), "webhook_outbox_entries") ||
			!strings.Contains(err.Error(), "BYPASSRLS") {
			t.Errorf("%s: %v", doing, err)
		}
	}
	_, err := k.operator.Check(t.Context())
	hidden("checking", err)
	hidden("checking by the monitor", monitor.CheckRows(t.Context()))
	hidden("checking by the signer", k.signing.CheckRows(t.Context()))
	_, err = k.operator.Plan(t.Context(), k.open("later").UID, selection, 100)
	hidden("planning", err)
	_, err = k.operator.Requeue(t.Context(), planned.UID, selection, platformdb.Pace{})
	hidden("requeueing", err)
	_, _, err = monitor.DeadLetters(t.Context(), 10)
	hidden("counting", err)
	_, err = k.signing.Revoke(t.Context(), k.open("leak").UID, k.kid(), "leaked", 100)
	hidden("revoking", err)

	for _, role := range []string{"playbook_operator", "playbook_signer", "playbook_monitor"} {
		k.exec(`ALTER ROLE ` + role + ` BYPASSRLS`)
	}
	if _, err := k.operator.Check(t.Context()); err != nil {
		t.Errorf("with BYPASSRLS: %v", err)
	}
	if batch, err := k.operator.Requeue(t.Context(), planned.UID, selection, platformdb.Pace{}); err != nil ||
		batch.Requeued != 10 {
		t.Errorf("with BYPASSRLS: %+v, %v", batch, err)
	}
}
