package keycompromise_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func TestALeakedKeyIsDeadAndThatIsProven(t *testing.T) {
	s := newScene(t, "leak", logi.Config{JWKSMaxAge: 2 * time.Second})
	kid := s.kid()
	if _, err := s.SeedDead(s.Ctx, acme, 50, "HTTP 503: Service Unavailable", 7); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	name := s.apply("key", kid, "{}")
	k := s.AwaitReady(name)
	for _, step := range stepNames {
		if c := stage.Condition(k, step); c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonSucceeded {
			t.Errorf("%s is %s, %s: %s", step, c.Status, c.Reason, c.Message)
		}
	}
	st := k.Status
	if st.SuccessorKid != s.kid() || *st.ResignedEntries != 50 || *st.TimeToRevokeSeconds > 60 || st.EventEntryID == "" {
		t.Errorf("%s", stage.JSON(st))
	}
	if st.ExposedUntil.Time.Before(st.RevokedAt.Add(2*time.Second)) || st.ExposedUntil.Time.Before(before) ||
		time.Now().Before(st.ExposedUntil.Time) {
		t.Errorf("exposed until %s, revoked at %s", st.ExposedUntil, st.RevokedAt)
	}
	if n := stage.Query[int64](s.Scene,
		`SELECT count(*) FROM webhook_outbox_entries WHERE kid = $1 AND delivered_at IS NULL`, kid); n != 0 {
		t.Errorf("%d undelivered entries are under the old kid", n)
	}
	out, err := shared.Kubectl(t.Context(), "-n", world.Namespace, "get", "keyc", name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if got := strings.Join(strings.Fields(lines[0]), " "); got != "NAME APP KID STATE SUCCESSOR RE-SIGNED REVOKED "+
		"EXPOSED UNTIL AGE" {
		t.Errorf("the columns are %s", got)
	}
	if f := strings.Fields(lines[1]); len(f) != 9 || f[2] != kid || f[3] != "Succeeded" || f[4] != st.SuccessorKid ||
		f[5] != "50" || f[7] != st.ExposedUntil.UTC().Format(time.RFC3339) {
		t.Errorf("the line is %s", lines[1])
	}
}
