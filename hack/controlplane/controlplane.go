// Package controlplane starts a real etcd and kube-apiserver on loopback, found on the machine or built from source.
package controlplane

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/1pass-dev/playbook-operator/hack/servers"
)

// ControlPlane is an etcd and a kube-apiserver with RBAC. No controller manager runs: nothing collects garbage, and no
// Deployment gets pods.
type ControlPlane struct {
	dir         string
	config      *rest.Config
	etcd        *servers.Process
	apiserver   *servers.Process
	etcdURL     string
	port        int
	kubectlOnce sync.Once
	kubectl     string
	kubectlErr  error
}

const startTimeout = 2 * time.Minute

// Start brings up a control plane whose files are in dir.
func Start(ctx context.Context, dir string) (c *ControlPlane, err error) {
	etcd, err := binary(ctx, "etcd")
	if err != nil {
		return nil, err
	}
	c = &ControlPlane{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
			c = nil
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return c, fmt.Errorf("making the control plane's folder: %w", err)
	}
	token := rand.Text()
	if err := c.writeCredentials(token); err != nil {
		return c, fmt.Errorf("writing the control plane's credentials: %w", err)
	}
	if err := c.startEtcd(ctx, etcd); err != nil {
		return c, err
	}
	if c.port, err = servers.FreePort(); err != nil {
		return c, err
	}
	c.config = &rest.Config{
		Host: fmt.Sprintf("https://127.0.0.1:%d", c.port), BearerToken: token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.path("certs/apiserver.crt")},
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return c, err
	}
	if err := writeKubeconfig(c.Kubeconfig(), c.config, token); err != nil {
		return c, err
	}
	return c, c.awaitDefaultNamespace(ctx)
}

func (c *ControlPlane) path(name string) string { return filepath.Join(c.dir, name) }

func (c *ControlPlane) startEtcd(ctx context.Context, etcd string) error {
	port, err := servers.FreePort()
	if err != nil {
		return err
	}
	peerPort, err := servers.FreePort()
	if err != nil {
		return err
	}
	c.etcdURL = "http://127.0.0.1:" + strconv.Itoa(port)
	peerURL := "http://127.0.0.1:" + strconv.Itoa(peerPort)
	cmd := exec.Command(etcd, "--data-dir", c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls", c.etcdURL, "--advertise-client-urls", c.etcdURL,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL)
	if c.etcd, err = servers.StartProcess("etcd", cmd, c.path("etcd.log")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return c.etcd.AwaitReady(ctx,
		func(ctx context.Context) error { return healthy(ctx, http.DefaultClient, c.etcdURL+"/health") })
}

// StartAPIServer starts a stopped API server, on the port that it had.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	apiserver, err := binary(ctx, "kube-apiserver")
	if err != nil {
		return err
	}
	cmd := exec.Command(apiserver,
		"--etcd-servers="+c.etcdURL, "--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", "--secure-port="+
			strconv.Itoa(c.port),
		"--cert-dir="+c.path("certs"), "--token-auth-file="+c.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+
			c.path("service-account.pem"),
		"--service-account-signing-key-file="+c.path("service-account.pem"), "--service-cluster-ip-range=10.0.0.0/24",
		// Without a controller manager, nothing creates a default ServiceAccount. Here pods are only validated.
		"--disable-admission-plugins=ServiceAccount", "--allow-privileged=true", "--profiling=false", "--v=1")
	if c.apiserver, err = servers.StartProcess("kube-apiserver", cmd, c.path("kube-apiserver.log")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return c.apiserver.AwaitReady(ctx, func(ctx context.Context) error {
		// The server writes its certificate when it starts for the first time.
		client, err := rest.HTTPClientFor(c.config)
		if err != nil {
			return err
		}
		return healthy(ctx, client, c.config.Host+"/readyz")
	})
}

// StopAPIServer takes the API server down, for tests of an outage. etcd keeps its objects.
func (c *ControlPlane) StopAPIServer(ctx context.Context) error { return c.apiserver.Stop(ctx) }

// Stop ends both processes.
func (c *ControlPlane) Stop(ctx context.Context) error {
	var errs []error
	for _, process := range []*servers.Process{c.apiserver, c.etcd} {
		if process != nil {
			errs = append(errs, process.Stop(ctx))
		}
	}
	return errors.Join(errs...)
}

// Config is for the cluster's administrator.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Kubeconfig is the path of the cluster administrator's kubeconfig.
func (c *ControlPlane) Kubeconfig() string { return c.path("kubeconfig") }

// Kubectl is the path of a kubectl that fits the server.
func (c *ControlPlane) Kubectl(ctx context.Context) (string, error) {
	c.kubectlOnce.Do(func() { c.kubectl, c.kubectlErr = kubectl(ctx) })
	return c.kubectl, c.kubectlErr
}

// KubeconfigForServiceAccount writes a kubeconfig with a token of the ServiceAccount as the only credential. It returns
// the path.
func (c *ControlPlane) KubeconfigForServiceAccount(ctx context.Context, namespace, name string) (string, error) {
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return "", fmt.Errorf("making a client: %w", err)
	}
	hours := int64((24 * time.Hour).Seconds())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("asking for a token of ServiceAccount %s/%s: %w", namespace, name, err)
	}
	path := c.path(fmt.Sprintf("kubeconfig-%s-%s", namespace, name))
	return path, writeKubeconfig(path, c.config, token.Status.Token)
}

// awaitDefaultNamespace waits until the server has created its own namespaces and roles.
func (c *ControlPlane) awaitDefaultNamespace(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return c.apiserver.AwaitReady(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
		return err
	})
}

func healthy(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	// A 401 or 403 still means that it serves. Only a 5xx means that it is not ready.
	if response.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return nil
}

func writeKubeconfig(path string, config *rest.Config, token string) error {
	const name = "playbook"
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters[name] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthority: config.CAFile}
	kubeconfig.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	kubeconfig.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	kubeconfig.CurrentContext = name
	// The file is replaced in one step: a manager that was just started may be reading it.
	next := path + ".next"
	if err := clientcmd.WriteToFile(*kubeconfig, next); err != nil {
		return fmt.Errorf("writing %s: %w", next, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	return nil
}
