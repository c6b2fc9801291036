package playbook

import (
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
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
	objects map[client.ObjectKey]*remembered
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

// woken says whether a pass began before the last one asked for it: then somebody changed the object or its Platform,
// and may have mended what failed.
func (m *Memory) woken(key client.ObjectKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.of(key).comesBack
	return at.IsZero() || time.Now().Before(at)
}

func (m *Memory) comesBack(key client.ObjectKey, after time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.of(key)
	known.comesBack = time.Time{}
	if after > 0 {
		known.comesBack = time.Now().Add(after)
	}
}

func (m *Memory) wrote(key client.ObjectKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(key).writtenAt = time.Now()
}

// sinceWrite is how long ago the object's status was written by this manager.
func (m *Memory) sinceWrite(key client.ObjectKey) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.of(key).writtenAt)
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
	return max(0, time.Until(a.memory.of(a.key).lanes[a.lane].retryAt))
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
	lanes[a.lane] = failures{lanes[a.lane].count + 1, time.Now().Add(after)}
	return after
}

// succeeded forgets the lane's failures.
func (a attempts) succeeded() {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	delete(a.memory.of(a.key).lanes, a.lane)
}
