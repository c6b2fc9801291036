package world_test

import (
	"context"
	"strconv"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// Two managers that don't elect a leader revoke one key. One of them is killed in the transaction, before its COMMIT.
func TestTwoManagersOneOfThemKilledEndAKeyOnce(t *testing.T) {
	site := newSite(t, "key-pair", logi.Config{JWKSMaxAge: time.Second})
	if _, err := site.SeedDead(t.Context(), application, 50, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, site, "")
	// The insert of the ledger's row is slow, so the test can kill the manager during it.
	if _, err := conn.Exec(t.Context(), `CREATE TABLE logi_test.slow AS SELECT 1;
		CREATE FUNCTION logi_test.linger() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
			IF EXISTS (SELECT FROM logi_test.slow) THEN PERFORM pg_sleep(2); END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER linger AFTER INSERT ON playbook.key_revocations
			FOR EACH ROW EXECUTE FUNCTION logi_test.linger()`); err != nil {
		t.Fatal(err)
	}
	var managers [2]*servers.Process
	for i := range managers {
		managers[i] = startManager(t, "key-pair-"+strconv.Itoa(i))
	}
	var kid string
	if err := conn.QueryRow(t.Context(), `SELECT kid FROM webhook_signing_keys`).Scan(&kid); err != nil {
		t.Fatal(err)
	}
	compromise := &v1alpha1.KeyCompromise{
		ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: site.Name},
		Spec: v1alpha1.KeyCompromiseSpec{
			PlatformRef: v1alpha1.PlatformReference{Name: site.Name}, ApplicationID: strconv.Itoa(application), Kid: kid,
			Reason: "found in a log",
		},
	}
	if err := kube.Create(t.Context(), compromise); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
		if err := kube.Patch(context.Background(), compromise, patch); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
		if err := kube.Delete(context.Background(), compromise); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	var killed *servers.Process
	eventually(t, time.Minute, "a manager to be within its transaction", func() (bool, string) {
		for _, manager := range managers {
			if runs(t, conn, manager, "active", "INSERT INTO playbook.key_revocations%") {
				killed = manager
			}
		}
		return killed != nil, "none is"
	})
	if err := killed.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-killed.Done()
	if _, err := conn.Exec(t.Context(), `DELETE FROM logi_test.slow`); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, "the other manager to end the key", func() (bool, string) {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(compromise), compromise); err != nil {
			t.Fatal(err)
		}
		if stalled := meta.FindStatusCondition(compromise.Status.Conditions, v1alpha1.ConditionStalled); stalled != nil {
			t.Fatalf("it stalled: %s: %s", stalled.Reason, stalled.Message)
		}
		ready := meta.FindStatusCondition(compromise.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil {
			return false, "no status yet"
		}
		return ready.Status == metav1.ConditionTrue, ready.Message
	})

	// The dead webhooks are delivered, too. All of them are signed by the successor.
	if _, err := conn.Exec(t.Context(),
		`UPDATE webhook_outbox_entries SET dlq_at = NULL WHERE dlq_at IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "all webhooks to be accepted", func() (bool, string) {
		n := len(site.ReceivedKeys(application))
		return n == 51, strconv.Itoa(n)
	})
	for key, n := range site.ReceivedKeys(application) {
		if n != 1 {
			t.Errorf("%s was accepted %d times", key, n)
		}
	}
	var left string
	if err := conn.QueryRow(t.Context(), `SELECT concat_ws(' ',
		(SELECT string_agg(status, ',' ORDER BY id) FROM webhook_signing_keys),
		(SELECT count(*) FROM playbook.key_revocations),
		(SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'))`).
		Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != "revoked,active 1 1" {
		t.Errorf("keys, revocations and events are %s", left)
	}
}
