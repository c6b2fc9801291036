package controlplane_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/1pass-dev/playbook-operator/hack/controlplane"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

const orphanDir = "PLAYBOOK_TEST_ORPHAN_DIR"

// TestMain is also the parent process that TestNoProcessOutlivesItsParent kills.
func TestMain(m *testing.M) {
	dir := os.Getenv(orphanDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	ctx := context.Background()
	if _, err := controlplane.Start(ctx, dir+"/controlplane"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := servers.StartPostgres(ctx, dir+"/postgres", servers.PostgresOptions{Fast: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

func TestServiceAccountMayDoWhatRBACGrantsAndNothingElse(t *testing.T) {
	ctx := t.Context()
	plane, err := controlplane.Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	admin := kubernetes.NewForConfigOrDie(plane.Config())
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	path, err := plane.KubeconfigForServiceAccount(ctx, "default", "reader")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	reader := kubernetes.NewForConfigOrDie(config)
	if _, err := reader.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("listing Secrets without a grant: %v", err)
	}
	if _, err := reader.Discovery().ServerVersion(); err != nil {
		t.Errorf("reading the version, as every ServiceAccount may: %v", err)
	}

	if err := plane.StopAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{}); err == nil {
		t.Error("a stopped API server answers")
	}
	if err := plane.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().ServiceAccounts("default").Get(ctx, "reader", metav1.GetOptions{}); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestNoProcessOutlivesItsParent(t *testing.T) {
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), orphanDir+"="+dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the parent said %q, %v", line, err)
	}
	if n := len(using(t, dir)); n < 3 {
		t.Fatalf("%d processes run in %s: etcd, kube-apiserver and Postgres should", n, dir)
	}
	if err := parent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	for deadline := time.Now().Add(30 * time.Second); ; {
		left := using(t, dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running: %v", left)
		}
	}
}

// using lists the processes whose command line names dir.
func using(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		line, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if text := strings.ReplaceAll(string(line), "\x00", " "); err == nil && strings.Contains(text, dir) {
			found = append(found, entry.Name()+" "+text)
		}
	}
	return found
}
