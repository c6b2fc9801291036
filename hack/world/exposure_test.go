package world_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// From kubectl apply of the sample to what the relying party saw, with no hand on it.
func TestTheSampleOfAKeyExposureIsEndedAndCloses(t *testing.T) {
	site := newSite(t, "sample", logi.Config{JWKSMaxAge: time.Second})
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, site, "")
	if _, err := conn.Exec(t.Context(), `UPDATE webhook_signing_keys SET kid = 'whk_2026_08'`); err != nil {
		t.Fatal(err)
	}
	startManager(t, "exposure")
	out, err := theWorld.Kubectl(t.Context(), "apply", "-f", "../../config/samples/playbooks/incident-keyexposure.yaml")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	leak, child := &v1alpha1.Incident{}, &v1alpha1.KeyCompromise{}
	t.Cleanup(func() {
		for _, obj := range []client.Object{leak, child} {
			if err := kube.Delete(context.Background(), obj); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
	})
	key := client.ObjectKey{Namespace: world.Namespace, Name: "acme-key-exposed"}
	eventually(t, 2*time.Minute, "the Incident to close", func() (bool, string) {
		if err := kube.Get(t.Context(), key, leak); err != nil {
			t.Fatal(err)
		}
		said := "no status yet"
		if ready := meta.FindStatusCondition(leak.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			said = ready.Reason + ": " + ready.Message
		}
		return meta.IsStatusConditionTrue(leak.Status.Conditions, v1alpha1.ConditionReady), said
	})
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: world.Namespace,
		Name: leak.Status.KeyCompromise.Name}, child); err != nil {
		t.Fatal(err)
	}
	// The KeyCompromise wakes the Incident, which would look by itself after half a minute only.
	for step, by := range map[string]string{v1alpha1.StepKeyCompromised: v1alpha1.StepRevoked,
		v1alpha1.StepResolved: v1alpha1.ConditionReady} {
		did := meta.FindStatusCondition(child.Status.Conditions, by)
		saw := meta.FindStatusCondition(leak.Status.Conditions, step)
		if late := saw.LastTransitionTime.Sub(did.LastTransitionTime.Time); late > 15*time.Second {
			t.Errorf("%s came %s after the KeyCompromise's %s", step, late, by)
		}
	}
	var left string
	if err := conn.QueryRow(t.Context(), `SELECT concat_ws(' ',
		(SELECT string_agg(status, ',' ORDER BY id) FROM webhook_signing_keys),
		(SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'
			AND delivered_at IS NOT NULL))`).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != "revoked,active 1" {
		t.Errorf("keys, and events that the relying party accepted, are %s", left)
	}
	rows, err := theWorld.Kubectl(t.Context(), "--namespace="+world.Namespace, "get", "incident", "acme-key-exposed")
	if err != nil || !strings.Contains(rows, "sev2") || !strings.Contains(rows, "resolved, KeyCompromise "+child.Name) {
		t.Errorf("the row is %s: %v", rows, err)
	}
}
