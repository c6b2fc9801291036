package playbook

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// fastestRetry is the wait before the first retry. Each further wait is twice as long.
	fastestRetry = 200 * time.Millisecond
	// slowestRetry is the longest wait, unless a kind sets its own.
	slowestRetry = time.Minute
	// conflictRetry is the wait before an object is read again that somebody else changed.
	conflictRetry = time.Millisecond
)

// Memory is what a manager remembers of a kind's objects that are under way. Nothing is lost with it: a manager that
// starts anew tries at once what failed, and writes at once what changed. The zero value is ready for use.
type Memory struct {
	// SlowestRetry is how long a lane that fails again and again is put off at most. Zero is a minute.
	SlowestRetry time.Duration

	mu      sync.Mutex
	clock   func() time.Time // nil is time.Now
	objects map[client.ObjectKey]*remembered
	// passes that are under way, by what interrupts them.
	passes map[client.ObjectKey]context.CancelFunc
}

type remembered struct {
	lanes map[int]failures
	// comesBack is when the last pass asked for the next.
	comesBack time.Time
	writtenAt time.Time
}

// failures are those of a lane since a step of it last ran without an error.
type failures struct {
	count   int
	retryAt time.Time
}

// use a kind's clock.
func (m *Memory) use(clock func() time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock = clock
}

// now is the time. The caller holds the lock.
func (m *Memory) now() time.Time {
	if m.clock == nil {
		return time.Now()
	}
	return m.clock()
}

// of returns what is remembered of an object. The caller holds the lock.
func (m *Memory) of(key client.ObjectKey) *remembered {
	if m.objects == nil {
		m.objects = map[client.ObjectKey]*remembered{}
	}
	if m.objects[key] == nil {
		m.objects[key] = &remembered{lanes: map[int]failures{}}
	}
	return m.objects[key]
}

// Forget drops an object that ended.
func (m *Memory) Forget(key client.ObjectKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
}

// passing is the context of a pass that begins. The pass calls end.
func (m *Memory) passing(ctx context.Context, key client.ObjectKey) (passing context.Context, end func()) {
	passing, cancel := context.WithCancel(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.passes == nil {
		m.passes = map[client.ObjectKey]context.CancelFunc{}
	}
	m.passes[key] = cancel
	return passing, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.passes, key)
		cancel()
	}
}

// InterruptDeleted watches a kind for objects that are deleted, and interrupts their pass: what it waits for may hang,
// and nobody wants it any more. To what it was doing this is a crash, which each effect survives. An object is passed
// over by one worker at a time.
func (m *Memory) InterruptDeleted() handler.EventHandler {
	return handler.Funcs{UpdateFunc: func(_ context.Context, e event.UpdateEvent,
		_ workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		if e.ObjectNew.GetDeletionTimestamp().IsZero() {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if interrupt := m.passes[client.ObjectKeyFromObject(e.ObjectNew)]; interrupt != nil {
			interrupt()
		}
	}}
}

// woken says whether a pass began before the last one asked for it: then somebody changed the object or its Platform,
// and may have mended what failed.
func (m *Memory) woken(key client.ObjectKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.of(key).comesBack
	return at.IsZero() || m.now().Before(at)
}

func (m *Memory) comesBack(key client.ObjectKey, after time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.of(key)
	known.comesBack = time.Time{}
	if after > 0 {
		known.comesBack = m.now().Add(after)
	}
}

func (m *Memory) wrote(key client.ObjectKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(key).writtenAt = m.now()
}

// mayWriteIn is how soon the object's status may be written again where that may be late; zero is now. After a clock
// that went back it is now.
func (m *Memory) mayWriteIn(key client.ObjectKey) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since := m.now().Sub(m.of(key).writtenAt); since >= 0 && since < writeInterval {
		return writeInterval - since
	}
	return 0
}

// attempts are those of a lane of an object.
type attempts struct {
	memory *Memory
	key    client.ObjectKey
	lane   int
	woken  bool
}

// rest is how long the lane is still put off.
func (a attempts) rest() time.Duration {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	if a.woken {
		return 0
	}
	return max(0, a.memory.of(a.key).lanes[a.lane].retryAt.Sub(a.memory.now()))
}

// failed remembers a failure, and returns when to retry.
func (a attempts) failed() time.Duration {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	slowest := a.memory.SlowestRetry
	if slowest == 0 {
		slowest = slowestRetry
	}
	lanes := a.memory.of(a.key).lanes
	after := min(fastestRetry<<min(lanes[a.lane].count, 16), slowest)
	lanes[a.lane] = failures{lanes[a.lane].count + 1, a.memory.now().Add(after)}
	return after
}

// succeeded forgets the lane's failures.
func (a attempts) succeeded() {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	delete(a.memory.of(a.key).lanes, a.lane)
}
