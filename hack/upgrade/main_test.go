// Package upgrade_test lets this release finish what the previous one has stored. README.md says how that was captured.
package upgrade_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// shared by all tests.
var (
	shared *world.World
	admin  client.Client    // as the cluster's administrator
	kube   client.WithWatch // as the manager's ServiceAccount
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for servers more than they work.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	ctrl.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "playbook-upgrade-")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the servers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if shared, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true,
		Settings: map[string]string{"max_connections": "400"}}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, shared.Stop(ctx)) }()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return 0, err
	}
	if admin, err = client.New(shared.ControlPlane.Config(), client.Options{Scheme: scheme}); err != nil {
		return 0, fmt.Errorf("making the administrator's client: %w", err)
	}
	kubeconfig, err := shared.ControlPlane.KubeconfigForServiceAccount(ctx, world.Namespace, world.ServiceAccount)
	if err != nil {
		return 0, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return 0, fmt.Errorf("reading the manager's kubeconfig: %w", err)
	}
	config.QPS = -1
	if kube, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return 0, fmt.Errorf("making the manager's client: %w", err)
	}
	return m.Run(), nil
}
