package world_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// The program ends by Ctrl-C, or is killed and can't clean up.
func TestDemoAndDevLeaveNothingBehind(t *testing.T) {
	dir, err := os.MkdirTemp("", "playbook-dev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres has another owner
		t.Fatal(err)
	}
	demo := filepath.Join(dir, "demo")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", demo, "./hack/demo")
	build.Dir = world.Root()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the demo: %v\n%s", err, out)
	}
	// Somebody may be working with the file of a `make dev` of their own.
	env := filepath.Join(world.Root(), "bin", "dev.env")
	if text, err := os.ReadFile(env); err == nil {
		t.Cleanup(func() {
			if err := os.WriteFile(env, text, 0o600); err != nil {
				t.Error(err)
			}
		})
		if err := os.Remove(env); err != nil {
			t.Fatal(err)
		}
	}
	dev := []string{"-dev"}
	for i, c := range []struct {
		name   string
		args   []string
		signal syscall.Signal
		early  bool // the signal comes before the program is ready
	}{
		{"dev, Ctrl-C while it starts", dev, syscall.SIGINT, true},
		{"dev, SIGKILL while it starts", dev, syscall.SIGKILL, true},
		{"dev, Ctrl-C", dev, syscall.SIGINT, false},
		{"dev, SIGKILL", dev, syscall.SIGKILL, false},
		{"make dev, SIGINT to make alone", nil, syscall.SIGINT, false},
		{"make dev, SIGKILL to make alone", nil, syscall.SIGKILL, false},
		{"demo, Ctrl-C", nil, syscall.SIGINT, false},
		{"demo, SIGKILL", nil, syscall.SIGKILL, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			temp := filepath.Join(dir, fmt.Sprint(i))
			if err := os.Mkdir(temp, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd, group := exec.Command(demo, c.args...), -1
			byMake := strings.HasPrefix(c.name, "make ")
			if byMake {
				cmd, group = exec.Command("make", "-C", world.Root(), "dev"), 1
			}
			cmd.Env = append(os.Environ(), "TMPDIR="+temp)
			program, err := servers.StartProcess("demo", cmd, filepath.Join(dir, c.name+".log"))
			if err != nil {
				t.Fatal(err)
			}
			// It still runs only if the test failed.
			t.Cleanup(func() { _ = syscall.Kill(-program.Pid(), syscall.SIGKILL) })
			switch {
			case c.early:
				eventually(t, 5*time.Minute, "etcd and Postgres to run", func() (bool, string) {
					running := strings.Join(using(t, dir), "\n")
					return strings.Contains(running, "postgres -D") && strings.Contains(running, "etcd-"), running + program.Log()
				})
			case c.args == nil && !byMake:
				eventually(t, 5*time.Minute, "the middle of the story", func() (bool, string) {
					return strings.Contains(program.Log(), "dlqreplay.playbook.1pass.dev/acme-after-outage created"), program.Log()
				})
			default:
				eventually(t, 5*time.Minute, "bin/dev.env", func() (bool, string) {
					text, err := os.ReadFile(env)
					return err == nil && len(text) > 0, program.Log()
				})
				expectUsable(t, env)
			}

			// A terminal sends the signal to the process group.
			if err := syscall.Kill(group*program.Pid(), c.signal); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, "the processes to end", func() (bool, string) {
				left := using(t, dir)
				return len(left) == 0, strings.Join(left, "\n")
			})
			eventually(t, time.Minute, "bin/dev.env to go", func() (bool, string) {
				_, err := os.Stat(env)
				return os.IsNotExist(err), fmt.Sprint(err)
			})
			if left, _ := filepath.Glob(filepath.Join(temp, "playbook-demo-*")); c.signal == syscall.SIGINT && len(left) > 0 {
				t.Errorf("it left %q: %s", left, program.Log())
			}
		})
	}
}

// expectUsable sources the file as a person does, and tries what it exports.
func expectUsable(t *testing.T, env string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c",
		`. "$0" && printf '%s\n' "$KUBECONFIG" "$DATABASE_URL" "$LOGI_URL" && env`, env).Output()
	if err != nil {
		t.Fatalf("sourcing %s: %v", env, err)
	}
	lines := strings.Split(string(out), "\n")
	kubeconfig, database, logi := lines[0], lines[1], lines[2]
	for _, exported := range []string{"KUBECONFIG=" + kubeconfig, "DATABASE_URL=" + database, "LOGI_URL=" + logi} {
		if !strings.Contains(string(out), "\n"+exported+"\n") {
			t.Errorf("%s does not export %s", env, exported)
		}
	}
	kubectl, err := theWorld.ControlPlane.Kubectl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	get := exec.CommandContext(t.Context(), kubectl, "--kubeconfig="+
		kubeconfig, "-n", world.Namespace, "get", "platform", "production")
	if out, err := get.CombinedOutput(); err != nil {
		t.Errorf("with KUBECONFIG: %v\n%s", err, out)
	}
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatalf("with DATABASE_URL: %v", err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `SELECT payload FROM webhook_outbox_entries`); err != nil {
		t.Errorf("with DATABASE_URL: %v", err)
	}
	response, err := http.Get(logi + "/up")
	if err != nil {
		t.Fatalf("with LOGI_URL: %v", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("with LOGI_URL: %s", response.Status)
	}
}

// using lists the processes whose command line, environment or working folder names dir.
func using(t *testing.T, dir string) []string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, folder := range folders {
		line, _ := os.ReadFile(filepath.Join(folder, "cmdline")) // it may have ended by now
		environment, _ := os.ReadFile(filepath.Join(folder, "environ"))
		cwd, _ := os.Readlink(filepath.Join(folder, "cwd"))
		text := strings.ReplaceAll(string(line), "\x00", " ") + cwd
		if strings.Contains(text+string(environment), dir) {
			found = append(found, filepath.Base(folder)+" "+text)
		}
	}
	return found
}
