package platform

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

const (
	// listInterval is how soon a Platform that is new, changed or gone is noticed.
	listInterval = time.Second
	// webhooksInterval is how often the outbox is asked how webhooks fare.
	webhooksInterval = 30 * time.Second
	// changesBuffer is how many changes wait for a controller. One that finds no place is seen at the controller's next look.
	changesBuffer = 256
	// bulkRelyingParties and bulkEntries are what webhooks failing in bulk means: so many relying parties, each with so many entries
	// that failed within the window. One entry that failed is what retries are for.
	bulkRelyingParties = 2
	bulkEntries        = 5
)

// Prober looks at Platforms from outside, once for all Incidents. It keeps what it saw in memory.
type Prober struct {
	// Client lists Platforms from the cache.
	Client      client.Reader
	Connections *Connections
	// Platforms and Incidents are told of each Platform whose signals changed.
	Platforms, Incidents chan event.GenericEvent

	mu     sync.Mutex
	probed map[types.NamespacedName]*probed
}

// NewProber makes a Prober. It looks once it is started.
func NewProber(c client.Reader, connections *Connections) *Prober {
	return &Prober{
		Client: c, Connections: connections, probed: map[types.NamespacedName]*probed{},
		Platforms: make(chan event.GenericEvent, changesBuffer), Incidents: make(chan event.GenericEvent, changesBuffer),
	}
}

// NeedLeaderElection says that one manager of several looks.
func (p *Prober) NeedLeaderElection() bool { return true }

// Signals of a Platform as they are now.
func (p *Prober) Signals(name types.NamespacedName) Signals {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of := p.probed[name]; of != nil {
		return of.signals
	}
	return Signals{}
}

// Start looks at each Platform that has spec.probes, until ctx ends.
func (p *Prober) Start(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for ctx.Err() == nil {
		var list v1alpha1.PlatformList
		if err := p.Client.List(ctx, &list); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "listing the Platforms to probe")
		} else {
			p.follow(ctx, list.Items, &running)
		}
		select {
		case <-ctx.Done():
		case <-time.After(listInterval):
		}
	}
	return nil
}

// follow begins to probe what is new, begins anew where a spec changed, and stops where a Platform is gone.
func (p *Prober) follow(ctx context.Context, platforms []v1alpha1.Platform, running *sync.WaitGroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[types.NamespacedName]bool{}
	for i := range platforms {
		platform := &platforms[i]
		name := client.ObjectKeyFromObject(platform)
		if platform.Spec.Probes == nil || !platform.DeletionTimestamp.IsZero() {
			continue
		}
		seen[name] = true
		of := p.probed[name]
		if of != nil && of.platform.UID == platform.UID && reflect.DeepEqual(of.asked(), asked(platform)) {
			continue
		}
		if of != nil {
			of.stop()
		}
		looking, stop := context.WithCancel(ctx)
		next := &probed{Prober: p, platform: platform.DeepCopy(), stop: stop, runs: map[string]*run{}}
		p.probed[name] = next
		running.Go(func() { next.look(looking) })
	}
	for name, of := range p.probed {
		if !seen[name] {
			of.stop()
			delete(p.probed, name)
		}
	}
}

// asked is what decides how a Platform is probed.
func asked(p *v1alpha1.Platform) any {
	return []any{p.Spec.URL, p.Spec.Probes, p.Spec.Database}
}

// probed is one Platform that is looked at.
type probed struct {
	*Prober
	platform  *v1alpha1.Platform
	stop      context.CancelFunc
	runs      map[string]*run // under the Prober's lock, as all that follows
	latencies latencies
	signals   Signals
}

func (p *probed) asked() any { return asked(p.platform) }

func (p *probed) look(ctx context.Context) {
	var webhooks sync.WaitGroup
	defer webhooks.Wait()
	webhooks.Go(func() { p.lookAtWebhooks(ctx) })
	spec := p.platform.Spec.Probes
	ticker := time.NewTicker(time.Duration(spec.IntervalSeconds) * time.Second)
	defer ticker.Stop()
	for ctx.Err() == nil {
		p.lookOnce(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// lookOnce asks everything at once: what hangs does not hold up the rest.
func (p *probed) lookOnce(ctx context.Context) {
	spec := p.platform.Spec.Probes
	probe := platformapi.Probe{URL: p.platform.Spec.URL, Timeout: time.Duration(spec.TimeoutSeconds) * time.Second, Transport: p.Connections.Transport}
	var asking sync.WaitGroup
	ask := func(condition string, do func() platformapi.Sample) {
		asking.Go(func() {
			sample := do()
			if ctx.Err() == nil {
				p.add(condition, sample)
			}
		})
	}
	ask(v1alpha1.ConditionUpAnswers, func() platformapi.Sample { return probe.Up(ctx) })
	ask(v1alpha1.ConditionJWKSServed, func() platformapi.Sample { return probe.JWKS(ctx) })
	ask(v1alpha1.ConditionTokensIssued, func() platformapi.Sample {
		oauth, err := p.client(ctx)
		if err != nil {
			return platformapi.Sample{At: time.Now(), What: "/oauth/token: " + err.Error()}
		}
		return probe.Token(ctx, oauth)
	})
	if len(spec.Paths) > 0 {
		ask(v1alpha1.ConditionEndpointsAnswer, func() platformapi.Sample { return p.paths(ctx, probe) })
	}
	asking.Wait()
}

// client is the OAuth client for probing, where the Platform has one.
func (p *probed) client(ctx context.Context) (platformapi.Client, error) {
	ref := p.platform.Spec.Probes.TokenSecretRef
	if ref == nil {
		return platformapi.Client{}, nil
	}
	id, err := p.Connections.value(ctx, p.platform, ref.Name, "clientID")
	if err != nil {
		return platformapi.Client{}, err
	}
	secret, err := p.Connections.value(ctx, p.platform, ref.Name, "clientSecret")
	return platformapi.Client{ID: id, Secret: secret}, err
}

// paths asks each of the other endpoints; one that fails makes the signal bad.
func (p *probed) paths(ctx context.Context, probe platformapi.Probe) platformapi.Sample {
	all := p.platform.Spec.Probes.Paths
	samples := make([]platformapi.Sample, len(all))
	var asking sync.WaitGroup
	for i, path := range all {
		asking.Go(func() { samples[i] = probe.Path(ctx, path) })
	}
	asking.Wait()
	worst := platformapi.Sample{Verdict: platformapi.Good, At: samples[0].At, What: fmt.Sprintf("%d paths answer", len(all))}
	var bad []string
	for _, s := range samples {
		worst.Took = max(worst.Took, s.Took)
		if s.Verdict == platformapi.Bad {
			bad = append(bad, s.What)
		}
	}
	if len(bad) > 0 {
		worst.Verdict, worst.What = platformapi.Bad, strings.Join(bad, ", ")
	}
	return worst
}

var states = map[platformapi.Verdict]metav1.ConditionStatus{
	platformapi.Good: metav1.ConditionTrue, platformapi.Bad: metav1.ConditionFalse, platformapi.Unknown: metav1.ConditionUnknown,
}

// add takes a sample, and tells where it changes what the signals say.
func (p *probed) add(condition string, sample platformapi.Sample) {
	spec := p.platform.Spec.Probes
	window, limit := time.Duration(spec.WindowSeconds)*time.Second, time.Duration(spec.LatencyMilliseconds)*time.Millisecond
	p.mu.Lock()
	defer p.mu.Unlock()
	p.run(condition).add(states[sample.Verdict], sample.What, sample.At, int(spec.Failures))
	if sample.Took > 0 {
		p.latencies.add(sample.At, sample.Took, window)
	}
	state, what := p.latencies.judge(sample.At, window, limit)
	p.run(v1alpha1.ConditionLatencyGood).add(state, what, sample.At, 1)
	p.tell()
}

func (p *probed) run(condition string) *run {
	if p.runs[condition] == nil {
		p.runs[condition] = &run{}
	}
	return p.runs[condition]
}

// tell sums the signals up, and wakes the controllers where they say something else than before.
func (p *probed) tell() {
	was := p.signals
	p.signals = sum(p.runs)
	if reflect.DeepEqual(was, p.signals) {
		return
	}
	for _, changes := range []chan event.GenericEvent{p.Platforms, p.Incidents} {
		select {
		case changes <- event.GenericEvent{Object: p.platform}:
		default:
		}
	}
}

// lookAtWebhooks asks the outbox. Without a database it is unknown how they fare, and nothing else is disturbed.
func (p *probed) lookAtWebhooks(ctx context.Context) {
	window := time.Duration(p.platform.Spec.Probes.WindowSeconds) * time.Second
	for ctx.Err() == nil {
		at := time.Now()
		state, what := p.webhooks(ctx, window)
		if ctx.Err() == nil {
			p.mu.Lock()
			p.run(v1alpha1.ConditionWebhooksDelivered).add(state, what, at, 1)
			p.tell()
			p.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(webhooksInterval):
		}
	}
}

func (p *probed) webhooks(ctx context.Context, window time.Duration) (metav1.ConditionStatus, string) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	db, err := p.Connections.Monitor(ctx, p.platform)
	if err != nil {
		return metav1.ConditionUnknown, "webhooks: the database can't be asked"
	}
	failing, err := db.FailingApplications(ctx, window, bulkEntries)
	switch {
	case err != nil:
		return metav1.ConditionUnknown, "webhooks: the database can't be asked"
	case len(failing) >= bulkRelyingParties:
		return metav1.ConditionFalse, fmt.Sprintf("webhooks fail in bulk: at several relying parties within %s", window)
	}
	return metav1.ConditionTrue, fmt.Sprintf("webhooks fail in bulk at fewer than %d relying parties within %s", bulkRelyingParties, window)
}
