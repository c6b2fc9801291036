// Package uninstall_test takes the whole install out of a real cluster, in each order, with objects in each state.
package uninstall_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"testing"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// A cluster has the operator installed. A test takes it from the pool, uninstalls, and installs again for the next one.
type cluster struct {
	*world.World
	admin   client.Client
	core    kubernetes.Interface
	objects dynamic.Interface
}

// An uninstall waits for a minute where a far side is gone, so some go on side by side.
const clusters = 3

var pool = make(chan *cluster, clusters)

func TestMain(m *testing.M) {
	flag.Parse()
	// Each waits far more than it works.
	if err := flag.Set("test.parallel", fmt.Sprint(clusters)); err != nil {
		panic(err)
	}
	stage.Tests(m, func(ctx context.Context, dir string) (func(context.Context) error, error) {
		var started []*cluster
		stop := func(ctx context.Context) error {
			var errs []error
			for _, c := range started {
				errs = append(errs, c.Stop(ctx))
			}
			return errors.Join(errs...)
		}
		for i := range clusters {
			c, err := start(ctx, filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				return nil, errors.Join(err, stop(ctx))
			}
			started = append(started, c)
			pool <- c
		}
		return stop, nil
	})
}

func start(ctx context.Context, dir string) (*cluster, error) {
	w, err := world.Start(ctx, dir, servers.PostgresOptions{Fast: true})
	if err != nil {
		return nil, err
	}
	c := &cluster{World: w}
	config := w.ControlPlane.Config()
	config.WarningHandlerWithContext = rest.NoWarnings{} // emptying a namespace reads deprecated kinds, too
	if c.admin, err = client.New(config, client.Options{Scheme: stage.Scheme()}); err == nil {
		c.core, err = kubernetes.NewForConfig(config)
	}
	if err == nil {
		c.objects, err = dynamic.NewForConfig(config)
	}
	if err != nil {
		return nil, errors.Join(err, w.Stop(ctx))
	}
	return c, nil
}
