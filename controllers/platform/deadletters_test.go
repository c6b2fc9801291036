package platform_test

import (
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

func TestDeadLettersAreCountedWithTheMostFirst(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	// Application n has n dead entries, and one each that is delivered, waiting, or delivered after it died.
	execute(t, site.URLAs(""), `WITH apps AS (
			INSERT INTO oauth_applications (id, name, uid, secret)
			SELECT n, 'app', 'app-' || n, '' FROM generate_series(1, 60) n
		)
		INSERT INTO webhook_outbox_entries (oauth_application_id, event_type, idempotency_key, kid, signature,
			enqueued_at, dlq_at, delivered_at)
		SELECT n, 'user.updated', n || '-' || m, 'kid', '', now(),
			CASE WHEN m <= n OR m = n + 3 THEN now() END, CASE WHEN m = n + 1 OR m = n + 3 THEN now() END
		FROM generate_series(1, 60) n, generate_series(1, n + 3) m`)
	p := platformOf(unwatched, "dead-letters")
	p.Spec.RelyingParties = []v1alpha1.RelyingParty{{ApplicationID: "59", Name: "acme"}}
	p.Spec.Database.ReadOnlySecretRef = &v1alpha1.SecretReference{Name: "dead-letters-read-only"}
	readOnly := secret(unwatched, "dead-letters-read-only", site.URLAs("playbook_monitor"))
	readOnly.Labels[v1alpha1.LabelPlatform] = p.Name
	create(t, secret(unwatched, p.Name, site.URLAs("playbook_operator")), readOnly, p)
	r := reconciler(t)
	letters := look(t, r, p).Status.DeadLetters
	if letters == nil || letters.Total == nil || *letters.Total != 60*61/2 || len(letters.Applications) != 50 {
		t.Fatalf("%+v", letters)
	}
	for i, a := range letters.Applications {
		id, name := 60-i, ""
		if id == 59 {
			name = "acme"
		}
		if a.ApplicationID != strconv.Itoa(id) || *a.Dead != int64(id) || a.Name != name {
			t.Errorf("number %d is %s %q with %d, want %d with %d", i, a.ApplicationID, a.Name, *a.Dead, id, id)
		}
	}
	if n, sum := gauges(t, "playbook_platform_dead_letters", p.Name); n != 50 || sum != 60*61/2-10*11/2 {
		t.Errorf("%d series that sum up to %v", n, sum)
	}
	if n, sum := gauges(t, "playbook_platform_dead_letters_all", p.Name); n != 1 || sum != 60*61/2 {
		t.Errorf("%d series that sum up to %v", n, sum)
	}

	execute(t, site.URLAs(""), `UPDATE webhook_outbox_entries SET delivered_at = now()`)
	letters = look(t, r, p).Status.DeadLetters
	if letters == nil || letters.Total == nil || *letters.Total != 0 || len(letters.Applications) != 0 {
		t.Errorf("nothing is dead any more: %+v", letters)
	}
	if n, _ := gauges(t, "playbook_platform_dead_letters", p.Name); n != 0 {
		t.Errorf("%d series", n)
	}
	if n, sum := gauges(t, "playbook_platform_ready", p.Name); n != 1 || sum != 1 {
		t.Errorf("%d series of readiness that sum up to %v", n, sum)
	}
}

// gauges counts and sums the series of a metric about a Platform.
func gauges(t *testing.T, metric, platform string) (n int, sum float64) {
	t.Helper()
	families, err := metrics.Registry.(prometheus.Gatherer).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != metric {
			continue
		}
		for _, series := range family.GetMetric() {
			for _, label := range series.GetLabel() {
				if label.GetName() == "platform" && label.GetValue() == platform {
					n++
					sum += series.GetGauge().GetValue()
				}
			}
		}
	}
	return n, sum
}
