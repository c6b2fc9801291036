package world_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// startPair starts two managers that don't elect a leader, on one replay in small batches, and returns once both have
// run one.
func startPair(t *testing.T, name string, entries int) (site *world.Site, conn *pgx.Conn, replay *v1alpha1.DLQReplay,
	ids []int64, managers [2]*servers.Process) {
	t.Helper()
	site = newSite(t, name, logi.Config{})
	ids, err := site.SeedDead(t.Context(), application, entries, "HTTP 503: Service Unavailable", 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn = connect(t, site, "")
	for i := range managers {
		managers[i] = startManager(t, fmt.Sprintf("%s-%d", name, i))
	}
	replay = createReplay(t, site, v1alpha1.DLQReplaySpec{RatePerSecond: new(int32(400)), MaxInFlight: int32(entries)})
	for i, manager := range managers {
		eventually(t, time.Minute, fmt.Sprintf("a batch of manager %d", i), func() (bool, string) {
			return runs(t, conn, manager, "%", "WITH judged AS%"), fmt.Sprintf("%+v", readLedger(t, conn, replay))
		})
	}
	return site, conn, replay, ids, managers
}

func TestTwoManagersOnOneReplayRequeueEachEntryOnce(t *testing.T) {
	site, conn, replay, ids, managers := startPair(t, "pair", 5_000)
	awaitReady(t, replay)
	expectRunning(t, managers)
	expectEachOnce(t, site, conn, ids)
}

// The frozen manager has requeued entries in a transaction that it can't commit, and it holds the operation's row.
// Postgres ends that transaction after 10 s. When the manager wakes up, it must notice.
func TestAManagerFrozenInABatchLetsTheOtherGoOnAndRepeatsNothing(t *testing.T) {
	site, conn, replay, ids, managers := startPair(t, "frozen", 10_000)
	frozen := managers[0]
	t.Cleanup(func() { _ = frozen.Signal(syscall.SIGCONT) }) // a frozen process can't stop

	// The requeue is slow, so the test can stop the manager while it waits for the reply.
	const slowly = `CREATE TABLE logi_test.slow AS SELECT 1;
		CREATE FUNCTION logi_test.linger() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
			IF EXISTS (SELECT FROM logi_test.slow) THEN PERFORM pg_sleep(0.5); END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER linger BEFORE INSERT ON playbook.replay_entries
			FOR EACH STATEMENT EXECUTE FUNCTION logi_test.linger()`
	if _, err := conn.Exec(t.Context(), slowly); err != nil {
		t.Fatal(err)
	}
	// The last statements of a batch travel with its COMMIT, so it is frozen before them.
	const requeues = "WITH judged AS%"
	eventually(t, time.Minute, "the manager to be frozen in a batch", func() (bool, string) {
		if !runs(t, conn, frozen, "active", requeues) {
			return false, "it is not requeuing"
		}
		if err := frozen.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if runs(t, conn, frozen, "idle in transaction", requeues) {
				return true, ""
			}
		}
		if err := frozen.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		return false, "it was frozen elsewhere"
	})
	if _, err := conn.Exec(t.Context(), `DELETE FROM logi_test.slow`); err != nil {
		t.Fatal(err)
	}
	then := readLedger(t, conn, replay)
	t.Logf("frozen in a batch with %d entries remaining", then.Remaining)

	var now progress
	eventually(t, time.Minute, "the other manager's progress", func() (bool, string) {
		now = readLedger(t, conn, replay)
		return now.Remaining < then.Remaining, fmt.Sprintf("%+v", now)
	})
	if state := processState(t, frozen); state != "T" {
		t.Fatalf("the frozen manager is in state %s", state)
	}
	if !now.Open || now.Remaining == 0 {
		t.Fatal("the replay was over before the frozen manager woke up")
	}
	t.Logf("waking it with %d entries remaining", now.Remaining)
	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, replay)
	expectRunning(t, managers)
	expectEachOnce(t, site, conn, ids)
}

func expectRunning(t *testing.T, managers [2]*servers.Process) {
	t.Helper()
	for i, manager := range managers {
		select {
		case <-manager.Done():
			t.Errorf("manager %d ended:\n%s", i, manager.Log())
		default:
		}
	}
}

// runs says whether a connection of the process is in a state, with a statement that it runs or ran last. Both are
// patterns for LIKE.
func runs(t *testing.T, conn *pgx.Conn, process *servers.Process, state, statement string) bool {
	t.Helper()
	var found bool
	if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE datname = current_database() AND client_port = ANY ($1) AND state LIKE $2 AND query LIKE $3)`,
		localPorts(t, process), state, statement).Scan(&found); err != nil {
		t.Fatal(err)
	}
	return found
}

// localPorts of the process's TCP connections, as Linux tells: the sockets among its files, looked up by inode.
func localPorts(t *testing.T, process *servers.Process) []int32 {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", process.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var sockets []string
	for _, file := range files {
		target, _ := os.Readlink(file) // it may be closed by now
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			sockets = append(sockets, strings.TrimSuffix(inode, "]"))
		}
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	var ports []int32
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 10 || !slices.Contains(sockets, fields[9]) {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		port, err := strconv.ParseInt(hex, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, int32(port))
	}
	return ports
}

// processState is the letter of a process's state in Linux. T means stopped.
func processState(t *testing.T, process *servers.Process) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}
