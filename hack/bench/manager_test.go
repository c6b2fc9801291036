package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// BenchmarkManagerMemory lets the real manager replay a million entries, and compares its peak memory with its memory
// before the replay.
func BenchmarkManagerMemory(b *testing.B) {
	ctx := b.Context()
	w, err := world.Start(ctx, filepath.Join(dir, "world"), servers.PostgresOptions{})
	check(b, err)
	defer func() { check(b, w.Stop(ctx)) }()
	site, err := w.NewSite(ctx, "memory", logi.Config{ManualDispatch: true})
	check(b, err)
	defer func() { check(b, site.Close(ctx)) }()
	conn, err := pgx.Connect(ctx, site.URLAs(""))
	check(b, err)
	defer conn.Close(ctx)
	check(b, logi.SeedFiller(ctx, conn, application, 0, outbox))
	manager, err := w.StartManager(ctx, "manager")
	check(b, err)
	defer func() { check(b, manager.Stop(ctx)) }()
	check(b, site.Apply(ctx))
	kubectl := func(input string, args ...string) {
		b.Helper()
		_, err := w.KubectlInput(ctx, input, append([]string{"-n", world.Namespace}, args...)...)
		check(b, err)
	}
	kubectl("", "wait", "--for=condition=Ready", "--timeout=5m", "platform/memory")
	before := memory(b, manager, "VmRSS")
	kubectl(fmt.Sprintf(`
apiVersion: playbook.1pass.dev/v1alpha1
kind: DLQReplay
metadata: {name: million}
spec:
  platformRef: {name: memory}
  applicationID: "%d"
  maxEntries: %d
  maxInFlight: %[2]d
  canary: {entries: 0}
`, application, outbox), "apply", "-f", "-")
	kubectl("", "wait", "--for=condition=Requeued", "--timeout=30m", "dlqreplay/million")
	_, err = conn.Exec(ctx,
		`UPDATE webhook_outbox_entries SET attempts = 1, delivered_at = clock_timestamp() WHERE delivered_at IS NULL`)
	check(b, err)
	kubectl("", "wait", "--for=condition=Ready", "--timeout=30m", "dlqreplay/million")
	b.ReportMetric(float64(memory(b, manager, "VmHWM")-before)/1024, "rss-growth-mib")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRevokeMemory lets the real manager revoke a key with a million undelivered entries, and sign them all anew
// in the same transaction. By default it would sign fewer.
func BenchmarkRevokeMemory(b *testing.B) {
	ctx := b.Context()
	w, err := world.Start(ctx, filepath.Join(dir, "revocation"), servers.PostgresOptions{})
	check(b, err)
	defer func() { check(b, w.Stop(ctx)) }()
	site, err := w.NewSite(ctx, "revocation", logi.Config{ManualDispatch: true})
	check(b, err)
	defer func() { check(b, site.Close(ctx)) }()
	conn, err := pgx.Connect(ctx, site.URLAs(""))
	check(b, err)
	defer conn.Close(ctx)
	check(b, site.CreateApplication(ctx, application, "acme"))
	check(b, logi.SeedFiller(ctx, conn, application, 0, outbox))
	// The filler's key has no private half.
	var kid string
	_, err = conn.Exec(ctx, `DELETE FROM webhook_signing_keys WHERE kid = $1`, filler)
	check(b, err)
	check(b,
		conn.QueryRow(ctx, `SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1`, application).Scan(&kid))
	manager, err := w.StartManager(ctx, "manager")
	check(b, err)
	defer func() { check(b, manager.Stop(ctx)) }()
	check(b, site.Apply(ctx))
	kubectl := func(input string, args ...string) string {
		b.Helper()
		out, err := w.KubectlInput(ctx, input, append([]string{"-n", world.Namespace}, args...)...)
		check(b, err)
		return out
	}
	kubectl("", "patch", "platform", "revocation", "--type=merge", "-p",
		fmt.Sprintf(`{"spec": {"signingKeys": {"resignLimit": %d}}}`, outbox))
	kubectl("", "wait", "--for=condition=Ready", "--timeout=5m", "platform/revocation")
	before := memory(b, manager, "VmRSS")
	kubectl(fmt.Sprintf(`
apiVersion: playbook.1pass.dev/v1alpha1
kind: KeyCompromise
metadata: {name: million}
spec:
  platformRef: {name: revocation}
  applicationID: "%d"
  kid: %s
  reason: benchmark
`, application, kid), "apply", "-f", "-")
	kubectl("", "wait", "--for=condition=Revoked", "--timeout=30m", "keycompromise/million")
	if resigned := kubectl("", "get", "keycompromise/million", "-o",
		"jsonpath={.status.resignedEntries}"); resigned != fmt.Sprint(outbox) {
		b.Fatalf("%s entries were signed anew", resigned)
	}
	b.ReportMetric(float64(memory(b, manager, "VmHWM")-before)/1024, "rss-growth-mib")
	b.ReportMetric(0, "ns/op")
}

// memory reads a line of a process's status in /proc, in KiB.
func memory(b *testing.B, p *servers.Process, name string) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	check(b, err)
	for line := range strings.Lines(string(status)) {
		var kib int
		if n, _ := fmt.Sscanf(line, name+": %d kB", &kib); n == 1 {
			return kib
		}
	}
	b.Fatalf("the kernel doesn't tell %s of the manager", name)
	return 0
}
