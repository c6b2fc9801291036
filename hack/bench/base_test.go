package bench

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/hack/world"
)

// BenchmarkRequeueBase compares the batches of this tree with those of an earlier commit, each in a process of its own,
// with a ledger of its own.
func BenchmarkRequeueBase(b *testing.B) {
	ours, theirs := buildReplay(b, world.Root()), buildReplay(b, checkout(b, cmp.Or(os.Getenv("BASE"), base)))
	for _, distance := range []struct {
		prefix    string
		roundTrip time.Duration
	}{{"", 0}, {"far-", time.Millisecond}} {
		var ratios, ofServer []float64
		for round := range rounds {
			programs, took := []string{ours, theirs}, map[string]replayed{}
			for i := range programs {
				program := programs[(round+i)%len(programs)]
				took[program] = replayBy(b, program, distance.roundTrip)
			}
			ratios = append(ratios, took[ours].all.Seconds()/took[theirs].all.Seconds())
			ofServer = append(ofServer, took[ours].server.Seconds()/took[theirs].server.Seconds())
			b.Logf("round %d, %v: %v, base %v", round, distance.roundTrip, took[ours], took[theirs])
		}
		b.ReportMetric(median(ratios), distance.prefix+"x-base")
		b.ReportMetric(median(ofServer), distance.prefix+"server-cpu-x-base")
	}
	b.ReportMetric(0, "ns/op")
}

// replayed is how long all batches took, and for how much of it the server's process had a core.
type replayed struct{ all, server time.Duration }

// buildReplay builds the command replay in a tree of the project, and returns where it is.
func buildReplay(b *testing.B, tree string) string {
	b.Helper()
	if folder := filepath.Join(tree, "hack/bench/replay"); tree != world.Root() {
		// An earlier commit has none, or another one.
		check(b, os.MkdirAll(folder, 0o755))
		source, err := os.ReadFile(filepath.Join(world.Root(), "hack/bench/replay/main.go"))
		check(b, err)
		check(b, os.WriteFile(filepath.Join(folder, "main.go"), source, 0o644))
	}
	program := filepath.Join(b.TempDir(), "replay")
	build := exec.CommandContext(b.Context(), "go", "build", "-o", program, "./hack/bench/replay")
	build.Dir = tree
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("building the replay of %s: %v\n%s", tree, err, out)
	}
	return program
}

// replayBy lets a program replay a copy of the outbox.
func replayBy(b *testing.B, program string, roundTrip time.Duration) (took replayed) {
	b.Helper()
	d := copyOutbox(b)
	defer d.drop(b)
	d.exec(b, "DROP SCHEMA playbook CASCADE")
	d.leave(b, roundTrip)
	cmd := exec.CommandContext(b.Context(), program)
	cmd.Env = append(os.Environ(), "OWNER_URL="+d.url(b, ""), "OPERATOR_URL="+d.url(b, "playbook_operator"),
		fmt.Sprint("APPLICATION=", application))
	cmd.Stderr = os.Stderr
	say, err := cmd.StdinPipe()
	check(b, err)
	out, err := cmd.StdoutPipe()
	check(b, err)
	check(b, cmd.Start())
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); err != nil || line != "planned\n" {
		b.Fatalf("the replay said %q, %v", line, err)
	}
	d.checkpoint(b)
	before := d.serverTime(b)
	_, err = fmt.Fprintln(say)
	check(b, err)
	line, err := said.ReadString('\n')
	check(b, err)
	took.all, err = time.ParseDuration(strings.TrimSpace(line) + "ns")
	check(b, err)
	took.server = d.serverTime(b) - before
	_, err = fmt.Fprintln(say)
	check(b, err)
	check(b, cmd.Wait())
	return took
}

// serverTime is for how long the server's process of the operator's one session has had a core.
func (d *database) serverTime(b *testing.B) time.Duration {
	b.Helper()
	var pid int
	check(b, d.owner.QueryRow(b.Context(),
		`SELECT pid FROM pg_stat_activity WHERE usename = 'playbook_operator' AND datname = $1`, d.name).Scan(&pid))
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	check(b, err)
	var nanoseconds int64
	_, err = fmt.Sscan(string(text), &nanoseconds)
	check(b, err)
	return time.Duration(nanoseconds)
}
