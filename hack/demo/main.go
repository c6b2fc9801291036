// The demo tells the story of a replay, a leaked key and an outage in kubectl's own output. It runs a real API server,
// a real Postgres and the stand-in platform. With -dev it keeps the same servers running until Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func main() {
	dev := flag.Bool("dev", false, "keep the servers running until Ctrl-C, and write bin/dev.env")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx = withMake(ctx)
	err := run(ctx, *dev)
	if ctx.Err() != nil {
		fmt.Println("\nstopped")
		if *dev {
			return
		}
		os.Exit(130)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// applications of the stand-in platform. One is broken, and two work.
var applications = []struct {
	id   int64
	name string
}{{41, "globex"}, {42, "acme"}, {43, "initech"}}

func run(ctx context.Context, dev bool) (err error) {
	dir, err := os.MkdirTemp("", "playbook-demo-")
	if err != nil {
		return fmt.Errorf("making a folder for the servers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Println("Starting etcd, kube-apiserver, Postgres, the stand-in platform and the manager. The first time this " +
		"builds them, which takes minutes.")
	w, err := world.Start(ctx, dir, servers.PostgresOptions{Fast: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Stop(context.WithoutCancel(ctx))) }()
	// What takes hours in production takes seconds here.
	backoff := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}
	site, err := w.NewSite(ctx, "production", logi.Config{Backoff: backoff, JWKSMaxAge: 10 * time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close(context.WithoutCancel(ctx))) }()
	manager, err := w.StartManager(ctx, "manager", "--leader-elect")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.Stop(context.WithoutCancel(ctx))) }()
	for _, a := range applications {
		if err := site.CreateApplication(ctx, a.id, a.name); err != nil {
			return err
		}
	}
	// A bad deploy is rolled back to this commit.
	site.Render().AddDeploy(logi.WebService, "a1b2c3d", "live", "new_commit", time.Now().Add(-20*time.Hour))
	if dev {
		return keep(ctx, w, site, manager)
	}
	if err := tell(ctx, w, site); err != nil {
		return fmt.Errorf("%w\n\nThe manager's log:\n%s", err, manager.Log())
	}
	return nil
}

// keep applies the Platform and waits for Ctrl-C, or for the manager to end.
func keep(ctx context.Context, w *world.World, site *world.Site, manager *servers.Process) error {
	if _, err := w.KubectlInput(ctx, site.IncidentManifest(), "apply", "-f", "-"); err != nil {
		return err
	}
	path := filepath.Join(world.Root(), "bin", "dev.env")
	env := fmt.Sprintf("export KUBECONFIG='%s'\nexport DATABASE_URL='%s'\nexport LOGI_URL='%s'\n",
		w.ControlPlane.Kubeconfig(), site.URLAs(""), site.URL())
	forget, err := removeInTheEnd(path)
	if err != nil {
		return err
	}
	defer forget()
	// The URL has the superuser's password.
	if err := os.WriteFile(path, []byte(env), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	kubectl, err := w.ControlPlane.Kubectl(ctx)
	if err != nil {
		return err
	}
	fmt.Printf(`
Running. In another terminal:

  source %s
  %s get platforms,incidents,dlqreplays,keycompromises -A
  curl $LOGI_URL/_control/seed -d '{"applicationID":"42","dead":1000,`+
		`"lastError":"HTTP 503: Service Unavailable","attempts":7}'
  sed 's/name: sample$/name: production/' config/samples/dlqreplay-plan.yaml | %s apply -f -
  curl $LOGI_URL/_control/counts
  curl $LOGI_URL/_control/render/break -d '{"commit":"9fceb02","tokens":true}'; `+
		`curl $LOGI_URL/_control/render/push -d '{"commit":"9fceb02"}'

The manager's log is %s. Ctrl-C stops everything.
`, path, kubectl, kubectl, manager.LogPath())
	select {
	case <-ctx.Done():
		return nil
	case <-manager.Done():
		return fmt.Errorf("the manager ended:\n%s", manager.Log())
	}
}

// removeInTheEnd removes a file when the returned function is called, or when this process ends in any way. A shell
// waits until a pipe closes, and only this process holds the pipe open.
func removeInTheEnd(path string) (forget func(), err error) {
	shell := exec.Command("sh", "-c", `read _; rm -f "$0"`, path)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must not end the shell
	pipe, err := shell.StdinPipe()
	if err == nil {
		err = shell.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("seeing to it that %s is removed: %w", path, err)
	}
	return func() {
		_ = pipe.Close() // the shell waits for this
		_ = shell.Wait() // read returns an error at the end of the pipe
	}, nil
}
