package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/1pass-dev/playbook-operator/hack/servers"
)

// packages are the main packages in the module binaries/, by the program that each builds.
var packages = map[string]struct{ module, main string }{
	"etcd":           {"go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"},
	"kube-apiserver": {"k8s.io/kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"},
	"kubectl":        {"k8s.io/kubernetes", "k8s.io/kubernetes/cmd/kubectl"},
}

// binary returns the path of a program. It is from KUBEBUILDER_ASSETS if that is set, else from what setup-envtest has
// or can download. Else it is built from the source that binaries/go.mod pins.
func binary(ctx context.Context, program string) (string, error) {
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		path := filepath.Join(assets, program)
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("KUBEBUILDER_ASSETS is set and has no %s: %w", program, err)
		}
		return path, nil
	}
	version, err := pinned(program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(root(), "bin", "controlplane", program+"-"+version)
	// Packages of tests run in parallel. Only one of them builds.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("making the folder of built programs: %w", err)
	}
	unlock, err := servers.Lock(filepath.Join(filepath.Dir(path), "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if downloaded := envtest(ctx, program); downloaded != "" {
		return downloaded, nil
	}
	return path, build(ctx, program, version, path)
}

// envtest asks setup-envtest, which downloads what it does not have. Many machines can't reach its server.
func envtest(ctx context.Context, program string) string {
	version, err := pinned("kube-apiserver")
	if err != nil {
		return ""
	}
	tool, err := exec.LookPath("setup-envtest")
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	minor := strings.Join(strings.Split(strings.TrimPrefix(version, "v"), ".")[:2], ".")
	assets, err := exec.CommandContext(ctx, tool, "use", minor+".x", "-p", "path").Output()
	if err != nil {
		return ""
	}
	path := filepath.Join(string(bytes.TrimSpace(assets)), program)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func build(ctx context.Context, program, version, path string) error {
	fmt.Fprintf(os.Stderr, "building %s %s from source; the first time this takes some minutes\n", program, version)
	flags := "-s -w"
	if parts := strings.Split(strings.TrimPrefix(version, "v"), "."); packages[program].module == "k8s.io/kubernetes" {
		for name, value := range map[string]string{"gitVersion": version, "gitMajor": parts[0], "gitMinor": parts[1]} {
			flags += fmt.Sprintf(" -X k8s.io/component-base/version.%s=%s", name, value)
		}
	}
	// The build writes to another file first, so an interrupted build leaves no incomplete program.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", path+
		".new", packages[program].main)
	cmd.Dir = binariesModule()
	// GOFLAGS is emptied: the caller may be a test that runs with flags of its own.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", program, err, out)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("building %s: %w", program, err)
	}
	return nil
}

// kubectl is the one in PATH if it is at most one minor version away from the server, as Kubernetes supports. Else it
// is the pinned one.
func kubectl(ctx context.Context) (string, error) {
	version, err := pinned("kubectl")
	if err != nil {
		return "", err
	}
	want, err := strconv.Atoi(strings.Split(version, ".")[1])
	if err != nil {
		return "", fmt.Errorf("reading kubectl's pinned version: %w", err)
	}
	if path, err := exec.LookPath("kubectl"); err == nil {
		var client struct{ ClientVersion struct{ Minor string } }
		out, err := exec.CommandContext(ctx, path, "version", "--client", "-o", "json").Output()
		if err == nil && json.Unmarshal(out, &client) == nil {
			if minor, err := strconv.Atoi(strings.TrimRight(client.ClientVersion.Minor, "+")); err == nil && minor >= want-1 &&
				minor <= want+1 {
				return path, nil
			}
		}
	}
	return binary(ctx, "kubectl")
}

// pinned is the version of a program that binaries/go.mod requires.
func pinned(program string) (string, error) {
	path := filepath.Join(binariesModule(), "go.mod")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the pinned versions: %w", err)
	}
	file, err := modfile.ParseLax(path, text, nil)
	if err != nil {
		return "", fmt.Errorf("reading the pinned versions: %w", err)
	}
	for _, require := range file.Require {
		if require.Mod.Path == packages[program].module {
			return require.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("%s requires no %s", path, packages[program].module)
}

func binariesModule() string { return filepath.Join(root(), "hack", "controlplane", "binaries") }

func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
