// Package stage is for the tests of a kind. They share a World with one manager. Each test has a scene, which is a
// platform of its own.
package stage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// Deadline is how long a test waits for something that must happen. It is long enough for a busy machine.
const Deadline = 5 * time.Minute

// Stage is what the tests of a package share.
type Stage struct {
	*world.World
	// Kube is the client of the cluster's administrator.
	Kube    client.WithWatch
	Manager *servers.Process
	// MetricsURL is where the manager serves its metrics.
	MetricsURL string
}

// Main fills in the stage, runs a package's tests on it, and ends the process. settings are for Postgres.
func Main(m *testing.M, s *Stage, settings map[string]string) {
	flag.Parse()
	// The tests wait far more than they work.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	code, err := s.run(m, settings)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func (s *Stage) run(m *testing.M, settings map[string]string) (code int, err error) {
	ctx := context.Background()
	ctrl.SetLogger(logr.Discard()) // the manager's log is in a file
	dir, err := os.MkdirTemp("", "playbook-stage-")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the servers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if s.World, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true, Settings: settings}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.World.Stop(ctx)) }()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return 0, err
	}
	if s.Kube, err = client.NewWithWatch(s.ControlPlane.Config(), client.Options{Scheme: scheme}); err != nil {
		return 0, fmt.Errorf("making a client: %w", err)
	}
	port, err := servers.FreePort()
	if err != nil {
		return 0, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s.MetricsURL = "http://" + address + "/metrics"
	if s.Manager, err = s.StartManager(ctx, "manager", "--metrics-bind-address="+address); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Manager.Stop(ctx)) }()
	return m.Run(), nil
}
