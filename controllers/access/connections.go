// Package access has the ways to a Platform's far sides, from its Secrets.
package access

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/controllers/systems/render"
	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
	"github.com/1pass-dev/playbook-operator/controllers/systems/statuspage"
)

// SecretInterval is how often a Secret is read at most, and so how soon a changed one takes effect.
const SecretInterval = 10 * time.Second

// Connections are the ways to each Platform, shared by all controllers: a bounded pool of database connections per
// Secret. A pool is replaced within 10 s after its Secret changed.
type Connections struct {
	// Secrets reads past the cache, so that the manager needs no right to list Secrets.
	Secrets client.Reader
	// Dial connects to databases; nil uses the network.
	Dial pgconn.DialFunc
	// Transport carries HTTP requests; nil is net/http's.
	Transport http.RoundTripper
	// DialSSH connects to hosts that commands run on; nil uses the network.
	DialSSH ssh.Dial

	mu      sync.Mutex
	pools   map[poolKey]*pool
	renders map[renderKey]*render.Client
}

// renderKey tells accounts at Render apart.
type renderKey struct{ url, apiKey string }

type poolKey struct {
	platform types.NamespacedName
	secret   string
}

type pool struct {
	url, authorities string
	readAt           time.Time
	db               *platformdb.DB
}

// Database is the Platform's database by its everyday role.
func (c *Connections) Database(ctx context.Context, p *v1alpha1.Platform) (*platformdb.DB, error) {
	if p.Spec.Database == nil {
		return nil, noDatabase(p)
	}
	return c.database(ctx, p, p.Spec.Database.SecretRef.Name)
}

// Monitor is the Platform's database by its read-only role, where it has one: it may lag behind.
func (c *Connections) Monitor(ctx context.Context, p *v1alpha1.Platform) (*platformdb.DB, error) {
	if p.Spec.Database != nil && p.Spec.Database.ReadOnlySecretRef != nil {
		return c.database(ctx, p, p.Spec.Database.ReadOnlySecretRef.Name)
	}
	return c.Database(ctx, p)
}

// Signing is the Platform's database by the role that can read and write signing keys.
func (c *Connections) Signing(ctx context.Context, p *v1alpha1.Platform) (*platformdb.DB, error) {
	if p.Spec.Database == nil {
		return nil, noDatabase(p)
	}
	ref := p.Spec.Database.SigningSecretRef
	if ref == nil {
		return nil, unusable("Platform %q has no spec.database.signingSecretRef: name a Secret there whose key \"url\" "+
			"connects as playbook_signer", p.Name)
	}
	return c.database(ctx, p, ref.Name)
}

func (c *Connections) database(ctx context.Context, p *v1alpha1.Platform, secret string) (*platformdb.DB, error) {
	key := poolKey{client.ObjectKeyFromObject(p), secret}
	c.mu.Lock()
	known := c.pools[key]
	fresh := known != nil && time.Since(known.readAt) < SecretInterval
	c.mu.Unlock()
	if fresh {
		return known.db, nil
	}
	url, authorities, err := c.databaseURL(ctx, p, secret)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known = c.pools[key]
	if known != nil && known.url == url && known.authorities == authorities {
		known.readAt = time.Now()
		return known.db, nil
	}
	db, err := platformdb.OpenTrusting(url, authorities, c.Dial)
	if err != nil {
		return nil, unusable("Secret %q: %w", secret, err)
	}
	if known != nil {
		// Closing waits for statements under way on the old credentials.
		go known.db.Close()
	}
	if c.pools == nil {
		c.pools = map[poolKey]*pool{}
	}
	c.pools[key] = &pool{url: url, authorities: authorities, readAt: time.Now(), db: db}
	return db, nil
}

func (c *Connections) databaseURL(ctx context.Context, p *v1alpha1.Platform, secret string) (url, authorities string,
	err error) {
	data, err := c.Secret(ctx, p, secret)
	if err != nil {
		return "", "", err
	}
	url, err = valueIn(data, secret, "url")
	return url, string(data["ca.crt"]), err
}

// CheckSigning reads the Secret that Signing connects by, and connects to nobody. The Platform names one.
func (c *Connections) CheckSigning(ctx context.Context, p *v1alpha1.Platform) error {
	name := p.Spec.Database.SigningSecretRef.Name
	url, authorities, err := c.databaseURL(ctx, p, name)
	if err != nil {
		return err
	}
	db, err := platformdb.OpenTrusting(url, authorities, c.Dial)
	if err != nil {
		return unusable("Secret %q: %w", name, err)
	}
	db.Close()
	return nil
}

// AdminAPI is the Platform's admin API.
func (c *Connections) AdminAPI(ctx context.Context, p *v1alpha1.Platform) (*platformapi.Admin, error) {
	if p.Spec.AdminAPI == nil {
		return nil, unusable("Platform %q has no spec.adminAPI: name a Secret there whose key \"token\" is an admin token",
			p.Name)
	}
	token, err := c.Value(ctx, p, p.Spec.AdminAPI.SecretRef.Name, "token")
	if err != nil {
		return nil, err
	}
	return platformapi.NewAdmin(p.Spec.URL, token, c.Transport), nil
}

// TokenClient is the client that the Platform's probes ask for a token by. The Platform names one.
func (c *Connections) TokenClient(ctx context.Context, p *v1alpha1.Platform) (*platformapi.TokenClient, error) {
	data, err := c.Secret(ctx, p, p.Spec.Probes.TokenSecretRef.Name)
	if err != nil {
		return nil, err
	}
	id, err := valueIn(data, p.Spec.Probes.TokenSecretRef.Name, "clientID")
	if err != nil {
		return nil, err
	}
	secret, err := valueIn(data, p.Spec.Probes.TokenSecretRef.Name, "clientSecret")
	if err != nil {
		return nil, err
	}
	return &platformapi.TokenClient{ID: id, Secret: secret}, nil
}

// Render is the Platform's account at Render. Those who share its key share the client, since they share Render's
// limits.
func (c *Connections) Render(ctx context.Context, p *v1alpha1.Platform) (*render.Client, error) {
	if p.Spec.Render == nil {
		return nil, unusable("Platform %q has no spec.render: name a Secret there whose key \"apiKey\" is an API key of "+
			"Render", p.Name)
	}
	apiKey, err := c.Value(ctx, p, p.Spec.Render.SecretRef.Name, "apiKey")
	if err != nil {
		return nil, err
	}
	key := renderKey{p.Spec.Render.URL, apiKey}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.renders == nil {
		c.renders = map[renderKey]*render.Client{}
	}
	if c.renders[key] == nil {
		c.renders[key] = render.New(key.url, apiKey, c.Transport)
	}
	return c.renders[key], nil
}

// SSHTarget is the host that the Platform's commands run on, for commands of type SSH.
func (c *Connections) SSHTarget(ctx context.Context, p *v1alpha1.Platform) (ssh.Target, error) {
	host := p.Spec.Commands.SSH
	target := ssh.Target{Host: host.Host, Port: int(host.Port), User: host.User}
	if target.User == "" {
		target.User = RenderServiceID(p, p.Spec.Commands.Service)
	}
	key, err := c.Value(ctx, p, host.SecretRef.Name, "privateKey")
	if err != nil {
		return target, err
	}
	known, err := c.Value(ctx, p, host.SecretRef.Name, "knownHosts")
	target.PrivateKey, target.KnownHosts = []byte(key), []byte(known)
	return target, err
}

// RenderServiceID is Render's id of a service in render.services; empty where it is no longer there.
func RenderServiceID(p *v1alpha1.Platform, name string) string {
	if p.Spec.Render == nil {
		return ""
	}
	for _, service := range p.Spec.Render.Services {
		if service.Name == name {
			return service.ServiceID
		}
	}
	return ""
}

// Channel is a way to reach people.
func (c *Connections) Channel(ctx context.Context, p *v1alpha1.Platform, channel v1alpha1.Channel) (paging.Channel,
	error) {
	data, err := c.Secret(ctx, p, channel.SecretRef.Name)
	if err != nil {
		return nil, err
	}
	opened, err := paging.Open(channel.Type, data)
	if err != nil {
		return nil, unusable("Secret %q: %w", channel.SecretRef.Name, err)
	}
	return opened, nil
}

// StatusPage is the Platform's page at Statuspage.io; nil where it has none there.
func (c *Connections) StatusPage(ctx context.Context, p *v1alpha1.Platform) (*statuspage.Page, error) {
	if p.Spec.StatusPage == nil || p.Spec.StatusPage.SecretRef == nil {
		return nil, nil
	}
	name := p.Spec.StatusPage.SecretRef.Name
	key, err := c.Value(ctx, p, name, "apiKey")
	if err != nil {
		return nil, err
	}
	data, err := c.Secret(ctx, p, name)
	if err != nil {
		return nil, err
	}
	url := strings.TrimSpace(string(data["url"]))
	if err := outbound.CheckURL(url); url != "" && err != nil {
		return nil, unusable("Secret %q: key \"url\" can't be used: %w", name, err)
	}
	return &statuspage.Page{URL: url, ID: p.Spec.StatusPage.PageID, Key: key,
		Transport: c.Transport}, nil
}

// Unread says that a Secret could not be read, so that nobody knows whether it can be used.
type Unread struct{ error }

func (u *Unread) Unwrap() error { return u.error }

// Secret reads a Secret of the Platform's namespace, if its label says that it is for this Platform: whoever may write
// a Platform could otherwise send any Secret of the namespace to a URL of their choice.
func (c *Connections) Secret(ctx context.Context, p *v1alpha1.Platform, name string) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := c.Secrets.Get(ctx, types.NamespacedName{Namespace: p.Namespace, Name: name}, secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, unusable("there is no Secret %q in namespace %q: create it with the label %s=%s", name, p.Namespace,
			v1alpha1.LabelPlatform, p.Name)
	case err != nil && !apierrors.IsForbidden(err):
		return nil, unusable("%w", &Unread{fmt.Errorf("reading Secret %q: %w", name, err)})
	case err != nil:
		return nil, unusable("reading Secret %q: %w", name, err)
	case secret.Labels[v1alpha1.LabelPlatform] != p.Name:
		return nil, unusable("Secret %q is not labelled for this Platform and was not used: kubectl -n %s label secret %s "+
			"%s=%s", name, p.Namespace, name, v1alpha1.LabelPlatform, p.Name)
	}
	return secret.Data, nil
}

func (c *Connections) Value(ctx context.Context, p *v1alpha1.Platform, name, key string) (string, error) {
	data, err := c.Secret(ctx, p, name)
	if err != nil {
		return "", err
	}
	return valueIn(data, name, key)
}

func valueIn(data map[string][]byte, name, key string) (string, error) {
	// A file that an editor wrote ends with a newline, and so does a Secret made from it.
	value := strings.TrimSpace(string(data[key]))
	if value == "" {
		return "", unusable("Secret %q has no key %q, or it is empty", name, key)
	}
	return value, nil
}

func unusable(format string, args ...any) error {
	return &playbook.Waiting{Reason: v1alpha1.ReasonSecretUnusable, Err: fmt.Errorf(format, args...)}
}

func noDatabase(p *v1alpha1.Platform) error {
	return &playbook.Waiting{Reason: v1alpha1.ReasonNoDatabase, Err: fmt.Errorf(
		"there is no spec.database in Platform %q: write its secretRef there, the name of a Secret whose key \"url\" "+
			"connects as playbook_operator, which `manager migrate` makes", p.Name)}
}

// Keep closes the pools of a Platform except those of the Secrets that it names. Whoever still worked with the Platform
// as it was before may open one of those again, so this is called each time that the Platform is looked at.
func (c *Connections) Keep(name types.NamespacedName, secrets ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, pool := range c.pools {
		if key.platform == name && !slices.Contains(secrets, key.secret) {
			// Closing waits for statements under way.
			go pool.db.Close()
			delete(c.pools, key)
		}
	}
}

// Close closes all pools.
func (c *Connections) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, pool := range c.pools {
		pool.db.Close()
		delete(c.pools, key)
	}
}
