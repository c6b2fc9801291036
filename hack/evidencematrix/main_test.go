package evidencematrix

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/hack/stage"
)

var (
	kube client.WithWatch
	// farSides has the other systems of all cells, at one address. The paths of a cell begin with its name.
	farSides sync.Map
	address  string
)

func TestMain(m *testing.M) {
	stage.Tests(m, func(ctx context.Context, dir string) (stop func(context.Context) error, err error) {
		w, admin, _, err := stage.StartWorld(ctx, dir)
		if err != nil {
			return nil, err
		}
		kube = admin
		if outbox, err = newOutbox(ctx, w); err != nil {
			return nil, errors.Join(err, w.Stop(ctx))
		}
		server := httptest.NewServer(http.HandlerFunc(serve))
		address = server.URL
		return func(ctx context.Context) error {
			server.Close()
			return errors.Join(outbox.Close(ctx), w.Stop(ctx))
		}, nil
	})
}

// serve passes a request to the system of its cell.
func serve(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	far, ok := farSides.Load(name)
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.StripPrefix("/"+name, far.(http.Handler)).ServeHTTP(w, r)
}
