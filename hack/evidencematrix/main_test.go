package evidencematrix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/controlplane"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

var (
	kube client.WithWatch
	// farSides has the other systems of all cells, at one address. The paths of a cell begin with its name.
	farSides sync.Map
	address  string
)

func TestMain(m *testing.M) {
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
	dir, err := os.MkdirTemp("", "playbook-evidence-")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the servers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plane, err := controlplane.Start(ctx, filepath.Join(dir, "controlplane"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, plane.Stop(ctx)) }()
	kubectl, err := plane.Kubectl(ctx)
	if err != nil {
		return 0, err
	}
	for _, args := range [][]string{
		{"apply", "-f", filepath.Join(world.Root(), "config/crd/bases")},
		{"wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"},
	} {
		cmd := exec.CommandContext(ctx, kubectl, args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+plane.Kubeconfig())
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return 0, err
	}
	config := plane.Config()
	config.QPS = -1
	if kube, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return 0, fmt.Errorf("making a client: %w", err)
	}
	server := httptest.NewServer(http.HandlerFunc(serve))
	defer server.Close()
	address = server.URL
	return m.Run(), nil
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
