// Package world puts the real parts together: a control plane with config/default installed, Postgres, the stand-in
// platform, and the manager as a process of its own. The manager has no credentials but its ServiceAccount's token and
// what is in Secrets.
package world

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/1pass-dev/playbook-operator/hack/controlplane"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

const (
	// Namespace and ServiceAccount are those of config/default.
	Namespace      = "playbook-system"
	ServiceAccount = "playbook-manager"
	// template is the database that is copied for each Site.
	template = "template_logi"
)

// World is a control plane and a Postgres. NewSite adds platforms to it, and StartManager the manager.
type World struct {
	Dir string
	// tree is the checkout whose config/default and manager the World runs.
	tree         string
	ControlPlane *controlplane.ControlPlane
	Postgres     *servers.Postgres
	// Passwords of the database roles playbook_operator, playbook_monitor and playbook_signer.
	OperatorPassword, MonitorPassword, SignerPassword string

	build    sync.Once
	manager  string
	buildErr error
}

// Start starts a World in dir. If it fails, it leaves nothing running.
func Start(ctx context.Context, dir string, options servers.PostgresOptions) (w *World, err error) {
	return StartFrom(ctx, Root(), dir, options)
}

// StartFrom is Start for another checkout of the project, such as an earlier release.
func StartFrom(ctx context.Context, tree, dir string, options servers.PostgresOptions) (w *World, err error) {
	w = &World{tree: tree, Dir: dir, OperatorPassword: rand.Text(), MonitorPassword: rand.Text(),
		SignerPassword: rand.Text()}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Stop(context.WithoutCancel(ctx)))
			w = nil
		}
	}()
	var group errgroup.Group
	group.Go(func() (err error) {
		if w.ControlPlane, err = controlplane.Start(ctx, filepath.Join(dir, "controlplane")); err != nil {
			return err
		}
		if _, err := w.Kubectl(ctx, "apply", "-k", filepath.Join(w.tree, "config/default")); err != nil {
			return err
		}
		_, err = w.Kubectl(ctx, "wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
		return err
	})
	group.Go(func() (err error) {
		if w.Postgres, err = servers.StartPostgres(ctx, filepath.Join(dir, "postgres"), options); err != nil {
			return err
		}
		return w.prepareDatabase(ctx)
	})
	group.Go(func() error { _, err := w.Manager(ctx); return err })
	return w, group.Wait()
}

// WithPostgres is the World with another Postgres, which a test may stop. The caller stops it in the end. name begins
// the name of its folder.
func (w *World) WithPostgres(ctx context.Context, name string, options servers.PostgresOptions) (*World, error) {
	manager, err := w.Manager(ctx)
	if err != nil {
		return nil, err
	}
	other := &World{
		tree: w.tree, Dir: w.Dir, ControlPlane: w.ControlPlane, manager: manager,
		OperatorPassword: w.OperatorPassword, MonitorPassword: w.MonitorPassword, SignerPassword: w.SignerPassword,
	}
	other.build.Do(func() {}) // the manager is built already
	dir, err := os.MkdirTemp(w.Dir, name+"-")
	if err != nil {
		return nil, err
	}
	if other.Postgres, err = servers.StartPostgres(ctx, dir, options); err != nil {
		return nil, err
	}
	if err := other.prepareDatabase(ctx); err != nil {
		return nil, errors.Join(err, other.Postgres.Stop(ctx))
	}
	return other, nil
}

// Stop ends every process of the World. Close the Sites first.
func (w *World) Stop(ctx context.Context) error {
	var errs []error
	if w.Postgres != nil {
		errs = append(errs, w.Postgres.Stop(ctx))
	}
	if w.ControlPlane != nil {
		errs = append(errs, w.ControlPlane.Stop(ctx))
	}
	return errors.Join(errs...)
}

// prepareDatabase does what a platform's owner does: it creates the tables, runs `manager migrate`, and gives the roles
// their passwords.
func (w *World) prepareDatabase(ctx context.Context) error {
	if err := w.Postgres.CreateDatabase(ctx, template, ""); err != nil {
		return err
	}
	url := w.Postgres.URL(template)
	if err := logi.Migrate(ctx, url); err != nil {
		return err
	}
	if err := logi.InstallAudit(ctx, url); err != nil {
		return err
	}
	manager, err := w.Manager(ctx)
	if err != nil {
		return err
	}
	migrate := exec.CommandContext(ctx, manager, "migrate")
	migrate.Env = append(os.Environ(), "DATABASE_URL="+url)
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("manager migrate: %w\n%s", err, out)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connecting as the database's owner: %w", err)
	}
	defer conn.Close(ctx)
	for role, password := range map[string]string{
		"playbook_operator": w.OperatorPassword, "playbook_monitor": w.MonitorPassword, "playbook_signer": w.SignerPassword,
	} {
		if _, err := conn.Exec(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", role, password)); err != nil {
			return fmt.Errorf("giving %s a password: %w", role, err)
		}
	}
	return nil
}

// Kubectl runs kubectl as the cluster's administrator and returns what it printed.
func (w *World) Kubectl(ctx context.Context, args ...string) (string, error) {
	return w.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with standard input, for `apply -f -`.
func (w *World) KubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	path, err := w.ControlPlane.Kubectl(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.ControlPlane.Kubeconfig())
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// StartManager runs the manager with more arguments. Its kubeconfig has only the token of its ServiceAccount.
func (w *World) StartManager(ctx context.Context, name string, args ...string) (*servers.Process, error) {
	manager, err := w.Manager(ctx)
	if err != nil {
		return nil, err
	}
	kubeconfig, err := w.ControlPlane.KubeconfigForServiceAccount(ctx, Namespace, ServiceAccount)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(manager, append([]string{
		"--kubeconfig=" + kubeconfig, "--namespaces=" + Namespace, "--leader-election-namespace=" + Namespace,
		"--health-probe-bind-address=0", "--metrics-bind-address=0",
	}, args...)...)
	// The manager gets no environment but what a container would have.
	cmd.Env = []string{"HOME=" + w.Dir, "PATH=/nonexistent"}
	return servers.StartProcess(name, cmd, filepath.Join(w.Dir, name+".log"))
}

// Manager builds the manager once into the World's folder and returns the path of the binary.
func (w *World) Manager(ctx context.Context) (string, error) {
	w.build.Do(func() {
		w.manager = filepath.Join(w.Dir, "manager")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", w.manager, "./cmd/manager")
		cmd.Dir = w.tree
		if out, err := cmd.CombinedOutput(); err != nil {
			w.buildErr = fmt.Errorf("building the manager: %w\n%s", err, out)
		}
	})
	return w.manager, w.buildErr
}

// Root is the repository's top folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
