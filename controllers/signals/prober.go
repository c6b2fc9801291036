package signals

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// deliveriesInterval is how often at most the database is asked.
	deliveriesInterval = 30 * time.Second
	// deliveriesTimeout bounds that, connecting included.
	deliveriesTimeout = 10 * time.Second
)

// Prober looks at Platforms from outside, each by goroutines of its own, for as long as this manager leads. What it saw
// is in memory only: after a restart nothing is known until it was seen again.
type Prober struct {
	// Cache has the Platforms.
	Cache       cache.Cache
	Connections *access.Connections

	feeds   []*feed
	running sync.WaitGroup
	mu      sync.Mutex
	watches map[types.NamespacedName]*watch
}

// NeedLeaderElection says that one of several managers probes.
func (p *Prober) NeedLeaderElection() bool { return true }

// Signals of a Platform as they are now.
func (p *Prober) Signals(key types.NamespacedName) Signals {
	p.mu.Lock()
	w := p.watches[key]
	p.mu.Unlock()
	if w == nil {
		return Signals{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// Not what the last look left: where looks stand still, what they said gets old.
	return w.judge.signals(time.Now())
}

// Changes has an event about a Platform each time that what a signal says changed, or that it begins to be probed. It
// is for one reader, such as a source.Channel, and is called before Start. A reader that is slow finds each Platform
// once.
func (p *Prober) Changes() <-chan event.GenericEvent {
	f := &feed{events: make(chan event.GenericEvent), wake: make(chan struct{}, 1),
		pending: map[types.NamespacedName]bool{}}
	p.feeds = append(p.feeds, f)
	return f.events
}

// Start probes until the context ends, and returns when nothing of it runs any more.
func (p *Prober) Start(ctx context.Context) error {
	informer, err := p.Cache.GetInformer(ctx, &v1alpha1.Platform{})
	if err != nil {
		return fmt.Errorf("watching Platforms: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	for _, f := range p.feeds {
		p.running.Go(func() { f.run(ctx) })
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { p.follow(ctx, obj.(*v1alpha1.Platform)) },
		UpdateFunc: func(_, obj any) { p.follow(ctx, obj.(*v1alpha1.Platform)) },
		DeleteFunc: func(obj any) {
			if lost, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = lost.Obj
			}
			p.leave(client.ObjectKeyFromObject(obj.(*v1alpha1.Platform)))
		},
	})
	if err == nil {
		<-ctx.Done()
		err = informer.RemoveEventHandler(registration)
	}
	cancel()
	p.mu.Lock()
	// A handler that runs still finds the context ended, under the same lock.
	p.watches = nil
	p.mu.Unlock()
	p.running.Wait()
	if err != nil {
		return fmt.Errorf("watching Platforms: %w", err)
	}
	return nil
}

// follow begins to probe a Platform, anew where its spec changed, or stops.
func (p *Prober) follow(ctx context.Context, platform *v1alpha1.Platform) {
	key := client.ObjectKeyFromObject(platform)
	if platform.Spec.Probes == nil || !platform.DeletionTimestamp.IsZero() {
		p.leave(key)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	known := p.watches[key]
	if known != nil && known.platform.UID == platform.UID && samePlace(&known.platform.Spec, &platform.Spec) {
		return
	}
	if known != nil {
		known.stop()
	}
	ctx, stop := context.WithCancel(ctx)
	platform = platform.DeepCopy()
	if known != nil && known.platform.UID == platform.UID {
		platform.Status.Endpoints = known.endpoints()
	}
	w := &watch{platform: platform, connections: p.Connections, stop: stop, judge: newJudge(platform)}
	w.last = w.judge.signals(time.Now())
	w.changed = func() { p.tell(key) }
	if p.watches == nil {
		p.watches = map[types.NamespacedName]*watch{}
	}
	p.watches[key] = w
	p.running.Go(func() { w.run(ctx) })
	p.tell(key)
}

// samePlace says whether two specs are probed in the same way: another approval rule must not make the Prober forget
// what it saw.
func samePlace(a, b *v1alpha1.PlatformSpec) bool {
	return a.URL == b.URL && equality.Semantic.DeepEqual(a.Database, b.Database) && equality.Semantic.DeepEqual(a.Probes,
		b.Probes)
}

func (p *Prober) leave(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.watches[key]; w != nil {
		w.stop()
		delete(p.watches, key)
	}
}

func (p *Prober) tell(key types.NamespacedName) {
	for _, f := range p.feeds {
		f.add(key)
	}
}

// feed carries changes to one reader, who may be slow.
type feed struct {
	events chan event.GenericEvent
	wake   chan struct{}

	mu      sync.Mutex
	pending map[types.NamespacedName]bool
}

func (f *feed) add(key types.NamespacedName) {
	f.mu.Lock()
	f.pending[key] = true
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		f.mu.Lock()
		pending := f.pending
		f.pending = map[types.NamespacedName]bool{}
		f.mu.Unlock()
		for key := range pending {
			about := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
			select {
			case <-ctx.Done():
				return
			case f.events <- event.GenericEvent{Object: about}:
			}
		}
	}
}

// watch probes one Platform.
type watch struct {
	platform    *v1alpha1.Platform
	connections *access.Connections
	stop        context.CancelFunc
	changed     func()

	client       *platformapi.TokenClient
	clientReadAt time.Time
	active       *activeKids

	mu    sync.Mutex
	judge *judge
	last  Signals
}

// run looks until the context ends. Each thing is looked at by a goroutine of its own, so that one that hangs delays no
// other.
func (w *watch) run(ctx context.Context) {
	spec := w.platform.Spec.Probes
	interval := time.Duration(spec.IntervalSeconds) * time.Second
	probe := &platformapi.Probe{URL: w.platform.Spec.URL, Timeout: time.Duration(spec.TimeoutSeconds) * time.Second,
		Transport: w.connections.Transport}
	var group sync.WaitGroup
	look := func(r *run, look func(context.Context) platformapi.Look) {
		group.Go(func() {
			every(ctx, interval, func() {
				seen := look(ctx)
				w.take(ctx, func() { w.judge.look(r, seen, time.Now()) })
			})
		})
	}
	look(w.judge.up, probe.Up)
	group.Go(func() {
		every(ctx, interval, func() {
			seen := probe.JWKS(ctx)
			active := w.activeKids(ctx, seen.Keys)
			w.take(ctx, func() { w.judge.lookAtJWKS(seen, active, time.Now()) })
		})
	})
	look(w.judge.tokens, func(ctx context.Context) platformapi.Look {
		client, err := w.tokenClient(ctx)
		if err != nil {
			return platformapi.Look{Verdict: platformapi.Unknown, Message: playbook.Normalise(err.Error())}
		}
		return probe.Tokens(ctx, client)
	})
	for i, path := range spec.Paths {
		look(w.judge.paths[i], func(ctx context.Context) platformapi.Look { return probe.Path(ctx, path) })
	}
	if w.judge.webhooks != nil {
		group.Go(func() {
			window := time.Duration(spec.WindowSeconds) * time.Second
			every(ctx, w.databaseInterval(), func() {
				seen, err := w.deliveries(ctx, window)
				w.take(ctx, func() { w.judge.deliveries(seen, window, err, time.Now()) })
			})
		})
	}
	group.Wait()
}

// databaseInterval is how often the database is asked.
func (w *watch) databaseInterval() time.Duration {
	return min(deliveriesInterval, 3*time.Duration(w.platform.Spec.Probes.IntervalSeconds)*time.Second)
}

// every calls do at once, and then at each interval until the context ends. What takes longer skips its turn.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// take in what was seen, unless the look was ended and not answered.
func (w *watch) take(ctx context.Context, record func()) {
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	record()
	before := w.last
	w.last = w.judge.signals(time.Now())
	changed := !reflect.DeepEqual(before, w.last)
	w.mu.Unlock()
	if changed {
		w.changed()
	}
}

func (w *watch) deliveries(ctx context.Context, window time.Duration) (*platformdb.Deliveries, error) {
	ctx, cancel := context.WithTimeout(ctx, deliveriesTimeout)
	defer cancel()
	db, err := w.connections.Monitor(ctx, w.platform)
	if err != nil {
		return nil, err
	}
	return db.Deliveries(ctx, window)
}

// activeKids are the keys that the platform signs with, for a comparison with JWKS; nil where there is none to make.
// They are read again where JWKS lacks one: it may have been revoked since. Only one goroutine asks.
func (w *watch) activeKids(ctx context.Context, jwks *platformapi.JWKS) *activeKids {
	if w.platform.Spec.Database == nil || jwks == nil {
		return nil
	}
	now := time.Now()
	if a := w.active; a != nil && now.Sub(a.readAt) < w.databaseInterval() && len(a.lacking(jwks, now)) == 0 {
		return a
	}
	ctx, cancel := context.WithTimeout(ctx, deliveriesTimeout)
	defer cancel()
	a := &activeKids{readAt: now}
	db, err := w.connections.Monitor(ctx, w.platform)
	if err == nil {
		a.kids, err = db.ActiveKids(ctx)
	}
	a.err = err
	w.active = a
	return a
}

// endpoints that were good once. They may not be in the Platform's status yet.
func (w *watch) endpoints() []v1alpha1.ProbedEndpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.goodEndpoints()
}

// tokenClient is the client by which a token is asked for; nil where the Platform names none. Its Secret is read as
// often as those of databases. Only one goroutine asks.
func (w *watch) tokenClient(ctx context.Context) (*platformapi.TokenClient, error) {
	ref := w.platform.Spec.Probes.TokenSecretRef
	if ref == nil || w.client != nil && time.Since(w.clientReadAt) < access.SecretInterval {
		return w.client, nil
	}
	client, err := w.connections.TokenClient(ctx, w.platform)
	if err != nil {
		return nil, err
	}
	w.client, w.clientReadAt = client, time.Now()
	return w.client, nil
}
