package dlqreplay

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

func digestOf(t *testing.T, change func(*v1alpha1.DLQReplaySpec)) string {
	t.Helper()
	spec := v1alpha1.DLQReplaySpec{
		PlatformRef: v1alpha1.PlatformReference{Name: "production"}, ApplicationID: "42", Mode: v1alpha1.ReplayModeReplay,
		Via:        v1alpha1.ReplayViaDatabase,
		MaxEntries: 50000, MaxReplaysPerEntry: 3, IdempotencyConflicts: v1alpha1.ConflictSettle, MaxInFlight: 500,
		DeliveryTimeoutSeconds: 172800,
	}
	change(&spec)
	digest, err := specDigest(&spec)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// The digest outlives releases: the ledger keeps it, and an object that Git applies again is recognised by it.
func TestSpecDigestIsFrozen(t *testing.T) {
	const want = "sha256:1eaf8ce675b5a0374d4aef6884a1ebb23a0655f1e53a4fcaeda9ba0aeeb61850"
	if got := digestOf(t, func(*v1alpha1.DLQReplaySpec) {}); got != want {
		t.Errorf("the digest of the plainest replay is %s and was %s in v1alpha1: ledgers would no longer recognise "+
			"finished replays", got, want)
	}
}

func TestSpecDigestCoversWhatIsFixedAndNothingElse(t *testing.T) {
	plain := digestOf(t, func(*v1alpha1.DLQReplaySpec) {})
	for name, change := range map[string]func(*v1alpha1.DLQReplaySpec){
		"platformRef":   func(s *v1alpha1.DLQReplaySpec) { s.PlatformRef.Name = "staging" },
		"applicationID": func(s *v1alpha1.DLQReplaySpec) { s.ApplicationID = "43" },
		"selector":      func(s *v1alpha1.DLQReplaySpec) { s.Selector = &v1alpha1.ReplaySelector{EventTypes: []string{"a"}} },
		"selector.deadAfter": func(s *v1alpha1.DLQReplaySpec) {
			s.Selector = &v1alpha1.ReplaySelector{DeadAfter: &metav1.Time{Time: time.Unix(1, 0)}}
		},
		"selector.excludeEntryIDs": func(s *v1alpha1.DLQReplaySpec) {
			s.Selector = &v1alpha1.ReplaySelector{ExcludeEntryIDs: []string{"1"}}
		},
		"mode":                 func(s *v1alpha1.DLQReplaySpec) { s.Mode = v1alpha1.ReplayModePlan },
		"via":                  func(s *v1alpha1.DLQReplaySpec) { s.Via = v1alpha1.ReplayViaAdminAPI },
		"adminAPI":             func(s *v1alpha1.DLQReplaySpec) { s.AdminAPI = &v1alpha1.ReplayAdminAPI{} },
		"maxEntries":           func(s *v1alpha1.DLQReplaySpec) { s.MaxEntries = 1 },
		"idempotencyConflicts": func(s *v1alpha1.DLQReplaySpec) { s.IdempotencyConflicts = v1alpha1.ConflictLeave },
		"maxReplaysPerEntry":   func(s *v1alpha1.DLQReplaySpec) { s.MaxReplaysPerEntry = 1 },
	} {
		if digestOf(t, change) == plain {
			t.Errorf("%s is fixed and does not change the digest", name)
		}
	}
	for name, change := range map[string]func(*v1alpha1.DLQReplaySpec){
		"ratePerSecond":          func(s *v1alpha1.DLQReplaySpec) { s.RatePerSecond = new(int32(1)) },
		"maxInFlight":            func(s *v1alpha1.DLQReplaySpec) { s.MaxInFlight = 1 },
		"canary":                 func(s *v1alpha1.DLQReplaySpec) { s.Canary.Entries = new(int32(1)) },
		"breaker":                func(s *v1alpha1.DLQReplaySpec) { s.Breaker.MaxFailurePercent = new(int32(1)) },
		"deliveryTimeoutSeconds": func(s *v1alpha1.DLQReplaySpec) { s.DeliveryTimeoutSeconds = 1 },
		"suspend":                func(s *v1alpha1.DLQReplaySpec) { s.Suspend = new(true) },
		"approvals":              func(s *v1alpha1.DLQReplaySpec) { s.Approvals = []v1alpha1.Approval{{Step: "Requeued"}} },
		"a default left out":     func(s *v1alpha1.DLQReplaySpec) { s.MaxEntries, s.Mode, s.Via = 0, "", "" },
	} {
		if digestOf(t, change) != plain {
			t.Errorf("%s can be changed and changes the digest", name)
		}
	}
	order := func(ids ...string) func(*v1alpha1.DLQReplaySpec) {
		return func(s *v1alpha1.DLQReplaySpec) { s.Selector = &v1alpha1.ReplaySelector{EntryIDs: ids} }
	}
	if digestOf(t, order("1", "2")) != digestOf(t, order("2", "1")) {
		t.Error("the order of a set changes the digest")
	}
}
