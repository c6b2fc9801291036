package dlqreplay_test

import (
	"slices"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestEachDeadWebhookIsDeliveredOnceInTheOldOrder(t *testing.T) {
	s := newScene(t, "happy", quick)
	ids := s.seed(1500, "HTTP 503: Service Unavailable", 7)
	stop := s.statuses(s.Name + "-r")
	name := s.apply("r", "{maxInFlight: 200}")
	r := s.AwaitReady(name)
	s.progress(r, map[string]int64{"requeued": 1500, "delivered": 1500})

	if counts := s.Counts()[acme]; counts.Received != len(ids) || counts.Duplicates != 0 {
		t.Errorf("the relying party received %d webhooks, %d of them twice; it should have received %d, each once",
			counts.Received, counts.Duplicates, len(ids))
	}
	canary := stage.Query[[]int64](s.Scene, `SELECT canary_entries FROM playbook.operations WHERE uid = $1::uuid`, r.UID)
	rows, err := s.DB.Query(s.Ctx, `SELECT entry_id, enqueued_at FROM logi_test.requeues ORDER BY enqueued_at, id`)
	if err != nil {
		t.Fatal(err)
	}
	type requeue struct {
		ID         int64
		EnqueuedAt time.Time
	}
	requeues, err := pgx.CollectRows(rows, pgx.RowToStructByPos[requeue])
	if err != nil {
		t.Fatal(err)
	}
	for i := range requeues[1:] {
		if !requeues[i].EnqueuedAt.Before(requeues[i+1].EnqueuedAt) {
			t.Fatalf("entries %d and %d were enqueued at the same time", requeues[i].ID, requeues[i+1].ID)
		}
	}
	order := func(isCanary bool) (got, want []int64) {
		for _, r := range requeues {
			if slices.Contains(canary, r.ID) == isCanary {
				got = append(got, r.ID)
			}
		}
		for _, id := range ids {
			if slices.Contains(canary, id) == isCanary {
				want = append(want, id)
			}
		}
		return got, want
	}
	for _, isCanary := range []bool{true, false} {
		if got, want := order(isCanary); !slices.Equal(got, want) {
			t.Errorf("canary %t: the entries were not requeued once each in the old order:\n%v\n%v", isCanary, got, want)
		}
	}

	seen := stop()
	if len(seen) < 3 {
		t.Errorf("only %d statuses were seen", len(seen))
	}
	for i := range seen {
		if !stage.Ended(&seen[i]) {
			s.Healthy(&seen[i], status.InProgressStatus) // from the moment it is created
		}
		if !addsUp(&seen[i]) {
			t.Errorf("these counts do not add up: %s", stage.JSON(seen[i].Status))
		}
	}
}
