package opening_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/opening"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// between lets something happen once, after Incidents were listed and before that is used.
func between(happens func()) func(http.RoundTripper) http.RoundTripper {
	var once sync.Once
	return func(next http.RoundTripper) http.RoundTripper {
		return wire(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/incidents") {
				once.Do(happens)
			}
			return response, err
		})
	}
}

// Another opener comes between the look at the Incidents and the write of the slot: it has opened one, or it died with
// no more than the name written. Whoever looked before that creates nothing. Its next pass looks again.
func TestAnOpenerThatWasOvertakenSinceItLookedLooksAgain(t *testing.T) {
	t.Parallel()
	up := func(after time.Duration) signals.Signal {
		return bad(v1alpha1.ConditionUpAnswers, v1alpha1.Sev1, start.Add(after))
	}
	for name, test := range map[string]struct {
		other func(*scene) *opening.Opener
		made  int
	}{
		"it opened one": {func(s *scene) *opening.Opener { return s.opener(nil) }, 1},
		"it died with the name written": {func(s *scene) *opening.Opener {
			return s.opener(dying(2, false, &atomic.Int64{}))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			first := s.opener(between(func() { _ = s.open(test.other(s), up(time.Second)) }))
			err := s.open(first, up(0))
			s.count(test.made)
			slots := s.read().Status.Incidents
			if len(slots) != 1 || !apierrors.IsConflict(err) {
				t.Fatalf("the slots are %+v: %v", slots, err)
			}
			// The next pass finds the name, and makes no other Incident than that.
			s.mustOpen(up(0))
			if got := s.one(); got.Name != slots[0].Incident {
				t.Errorf("%s was opened, and the slot was %+v", got.Name, slots[0])
			}
		})
	}
}
