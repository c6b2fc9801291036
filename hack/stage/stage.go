// Package stage is for the tests of a kind. They share a World with one manager. Each test has a scene, which is a
// platform of its own.
package stage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

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
	Tests(m, func(ctx context.Context, dir string) (stop func(context.Context) error, err error) {
		return s.stop, s.start(ctx, dir, settings)
	})
}

func (s *Stage) start(ctx context.Context, dir string, settings map[string]string) (err error) {
	if s.World, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true, Settings: settings}); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.World.Stop(ctx))
		}
	}()
	if s.Kube, err = unlimited(s.ControlPlane.Config()); err != nil {
		return err
	}
	port, err := servers.FreePort()
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s.MetricsURL = "http://" + address + "/metrics"
	s.Manager, err = s.StartManager(ctx, "manager", "--metrics-bind-address="+address)
	return err
}

func (s *Stage) stop(ctx context.Context) error {
	return errors.Join(s.Manager.Stop(ctx), s.World.Stop(ctx))
}
