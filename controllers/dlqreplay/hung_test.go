package dlqreplay_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// A database that hangs neither refuses nor breaks a connection. A deleted replay waits for it a minute, whatever its
// pass was doing.
func TestADeletedReplayGoesAlsoWhenItsDatabaseHangs(t *testing.T) {
	t.Parallel()
	own := ownPostgres(t, "hung")
	s := newSceneIn(t, own, "hung", manual)
	s.applyPlatform()
	s.seed(100, "HTTP 503: down", 7)
	name := s.apply("r", "{ratePerSecond: 1, canary: {entries: 0}}")
	s.Await(name, "one was requeued", func(*v1alpha1.DLQReplay) bool { return s.requeues() > 0 })
	locker, err := s.DB.Begin(s.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := locker.Exec(s.Ctx, `LOCK TABLE webhook_outbox_entries`); err != nil {
		t.Fatal(err)
	}
	s.Await(name, "a pass that waits for the lock", func(*v1alpha1.DLQReplay) bool {
		return s.count(`SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'playbook_operator' AND wait_event_type = 'Lock'`) > 0
	})
	thaw, err := own.Postgres.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(thaw(), locker.Rollback(context.Background())); err != nil {
			t.Error(err)
		}
	}()
	deleted := time.Now()
	s.Delete(name)
	if took := time.Since(deleted); took > 65*time.Second {
		t.Errorf("the deleted replay stayed for %v", took)
	}
}
