// Package upgrade_test lets this release finish what the previous one has stored. README.md says how that was captured.
package upgrade_test

import (
	"context"
	"flag"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/hack/stage"
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
	// The tests wait for servers for most of their time.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	stage.Tests(m, func(ctx context.Context, dir string) (stop func(context.Context) error, err error) {
		shared, admin, kube, err = stage.StartWorld(ctx, dir)
		return shared.Stop, err
	})
}
