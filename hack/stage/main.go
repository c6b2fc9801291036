package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/controlplane"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// Start starts what a package's tests share, in a folder that is removed after them. stop ends it. After an error
// nothing of it is left running.
type Start func(ctx context.Context, dir string) (stop func(context.Context) error, err error)

// Tests runs a package's tests on what start starts, and ends the process.
func Tests(m *testing.M, start Start) {
	code, err := tests(m, start)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func tests(m *testing.M, start Start) (code int, err error) {
	ctx := context.Background()
	ctrl.SetLogger(logr.Discard()) // a manager's log is in a file
	dir, err := os.MkdirTemp("", "playbook-stage-")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the servers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	stop, err := start(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop(ctx)) }()
	return m.Run(), nil
}

// Scheme has the cluster's kinds and ours.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// StartPlane starts a control plane that has our CRDs and nothing else, and makes its administrator's client.
func StartPlane(ctx context.Context, dir string) (plane *controlplane.ControlPlane, kube client.WithWatch, err error) {
	if plane, err = controlplane.Start(ctx, filepath.Join(dir, "controlplane")); err != nil {
		return nil, nil, err
	}
	if err = installCRDs(ctx, plane); err == nil {
		kube, err = unlimited(plane.Config())
	}
	if err != nil {
		return nil, nil, errors.Join(err, plane.Stop(ctx))
	}
	return plane, kube, nil
}

func installCRDs(ctx context.Context, plane *controlplane.ControlPlane) error {
	kubectl, err := plane.Kubectl(ctx)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"apply", "-k", filepath.Join(world.Root(), "config/crd")},
		{"wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"},
	} {
		cmd := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", plane.Kubeconfig()}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl %q: %w\n%s", args, err, out)
		}
	}
	return nil
}

// StartWorld starts a World without a manager, for tests that are one. admin is the cluster's administrator, and kube
// has the manager's rights.
func StartWorld(ctx context.Context, dir string) (w *world.World, admin, kube client.WithWatch, err error) {
	if w, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true,
		Settings: map[string]string{"max_connections": "400"}}); err != nil {
		return nil, nil, nil, err
	}
	if admin, err = unlimited(w.ControlPlane.Config()); err == nil {
		kube, err = asManager(ctx, w)
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, w.Stop(ctx))
	}
	return w, admin, kube, nil
}

func asManager(ctx context.Context, w *world.World) (client.WithWatch, error) {
	kubeconfig, err := w.ControlPlane.KubeconfigForServiceAccount(ctx, world.Namespace, world.ServiceAccount)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the manager's kubeconfig: %w", err)
	}
	return unlimited(config)
}

// unlimited makes a client that waits for no rate limit of its own.
func unlimited(config *rest.Config) (client.WithWatch, error) {
	config.QPS = -1
	kube, err := client.NewWithWatch(config, client.Options{Scheme: Scheme()})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return kube, nil
}
