package platform

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// unknownFor is how long a signal is unknown before people are told.
const unknownFor = 10 * time.Minute

// unknowns emits events about signals that stay unknown, once per episode. It keeps in memory what it has told. After a
// restart, it tells again if a signal is still unknown for that long.
type unknowns struct {
	mu   sync.Mutex
	told map[types.NamespacedName]map[string]bool
}

// tell emits a Warning for each signal that has been unknown for too long. It returns when the next Warning may be due,
// and 0 if no other signal is unknown.
func (u *unknowns) tell(recorder events.EventRecorder, p *v1alpha1.Platform, s signals.Signals,
	now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := client.ObjectKeyFromObject(p)
	told, next := map[string]bool{}, time.Duration(0)
	for _, signal := range s.Each {
		// A signal that nobody has looked at yet has no beginning.
		if signal.State != metav1.ConditionUnknown || signal.Since.IsZero() {
			continue
		}
		left := unknownFor - now.Sub(signal.Since)
		switch {
		case u.told[key][signal.Condition]:
			told[signal.Condition] = true
		case left <= 0:
			told[signal.Condition] = true
			recorder.Eventf(p, nil, "Warning", v1alpha1.ReasonSignalUnknown, "Probe", "%s has been unknown for %d min: %.900s",
				signal.Condition, int(now.Sub(signal.Since).Minutes()), signal.Message)
		case next == 0 || left < next:
			next = left
		}
	}
	delete(u.told, key)
	if len(told) > 0 {
		if u.told == nil {
			u.told = map[types.NamespacedName]map[string]bool{}
		}
		u.told[key] = told
	}
	return next
}

// forget drops a Platform that is gone. A new Platform of the same name begins anew.
func (u *unknowns) forget(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.told, key)
}
