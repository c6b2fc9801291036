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
		metric    string
		roundTrip time.Duration
	}{{"x-base", 0}, {"far-x-base", time.Millisecond}} {
		var ratios []float64
		for round := range rounds {
			programs, took := []string{ours, theirs}, map[string]time.Duration{}
			for i := range programs {
				program := programs[(round+i)%len(programs)]
				took[program] = replayBy(b, program, distance.roundTrip)
			}
			ratios = append(ratios, took[ours].Seconds()/took[theirs].Seconds())
			b.Logf("round %d, %v: %v, base %v", round, distance.roundTrip, took[ours], took[theirs])
		}
		b.ReportMetric(median(ratios), distance.metric)
	}
	b.ReportMetric(0, "ns/op")
}

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

// replayBy lets a program replay a copy of the outbox, and returns how long it took.
func replayBy(b *testing.B, program string, roundTrip time.Duration) (took time.Duration) {
	b.Helper()
	d := copyOutbox(b)
	defer d.drop(b)
	d.exec(b, "DROP SCHEMA playbook CASCADE")
	d.leave(b, roundTrip)
	cmd := exec.CommandContext(b.Context(), program)
	cmd.Env = append(os.Environ(), "OWNER_URL="+d.url(b, ""), "OPERATOR_URL="+d.url(b, "playbook_operator"),
		fmt.Sprint("APPLICATION=", application))
	cmd.Stderr = os.Stderr
	begin, err := cmd.StdinPipe()
	check(b, err)
	out, err := cmd.StdoutPipe()
	check(b, err)
	check(b, cmd.Start())
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); err != nil || line != "planned\n" {
		b.Fatalf("the replay said %q, %v", line, err)
	}
	d.checkpoint(b)
	_, err = fmt.Fprintln(begin)
	check(b, err)
	line, err := said.ReadString('\n')
	check(b, err)
	took, err = time.ParseDuration(strings.TrimSpace(line) + "ns")
	check(b, err)
	check(b, cmd.Wait())
	return took
}
