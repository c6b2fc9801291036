//go:build soak

package world_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

var soakFor = flag.Duration("for", 4*time.Hour, "how long replays are disturbed")

// In each round, two managers run a replay while one fault after another is injected. -seed repeats the faults of a
// round. Their timing may differ.
func TestSoakDisturbedReplaysRequeueEachEntryOnce(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	for end := time.Now().Add(*soakFor); time.Now().Before(end) && !t.Failed(); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { disturbReplay(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func disturbReplay(t *testing.T, random *rand.Rand) {
	// So many retries that no entry dies again.
	backoff := make([]time.Duration, 25)
	for i := range backoff {
		backoff[i] = 50 * time.Millisecond
	}
	site := newSite(t, "soak", logi.Config{Backoff: backoff})
	ids, err := site.SeedDead(t.Context(), application, 2_000+random.IntN(10_000), "HTTP 503: Service Unavailable", 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	var managers [2]*servers.Process
	start := func(i int) {
		manager, err := theWorld.StartManager(t.Context(), fmt.Sprintf("soak-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		managers[i] = manager
	}
	start(0)
	start(1)
	t.Cleanup(func() {
		for _, manager := range managers {
			_ = manager.Signal(syscall.SIGCONT)
			if err := manager.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	replay := createReplay(t, site, v1alpha1.DLQReplaySpec{
		RatePerSecond: new(int32(400)), MaxInFlight: int32(1 + random.IntN(1_000)),
		Canary:  v1alpha1.ReplayCanary{Entries: new(int32(10)), MaxFailures: new(int32(10)), TimeoutSeconds: 3600},
		Breaker: v1alpha1.ReplayBreaker{MaxFailurePercent: new(int32(100))},
	})
	change := func(spec string) {
		if err := kube.Patch(t.Context(), replay,
			client.RawPatch("application/merge-patch+json", []byte(`{"spec":`+spec+`}`))); err != nil {
			t.Fatal(err)
		}
	}
	troubles := []struct {
		name string
		make func()
	}{
		{"a manager is killed", func() {
			i := random.IntN(2)
			if err := managers[i].Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-managers[i].Done()
			start(i)
		}},
		{"a manager is frozen or wakes up", func() {
			signal := syscall.SIGSTOP
			if random.IntN(2) == 0 {
				signal = syscall.SIGCONT
			}
			if err := managers[random.IntN(2)].Signal(signal); err != nil {
				t.Fatal(err)
			}
		}},
		{"the database restarts", func() {
			if err := theWorld.Postgres.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"the relying party fails", func() { site.SetFault(application, logi.Fault{Status: 503, EveryKth: 3}) }},
		{"the relying party is well", func() { site.SetFault(application, logi.Fault{}) }},
		{"it is suspended", func() { change(`{"suspend":true}`) }},
		{"it goes on", func() { change(`{"suspend":false}`) }},
		{"its pace changes", func() {
			change(fmt.Sprintf(`{"ratePerSecond":%d,"maxInFlight":%d}`, 100+random.IntN(1_000), 1+random.IntN(1_000)))
		}},
	}
	ready := func() bool {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(replay), replay); err != nil {
			t.Fatal(err)
		}
		return meta.IsStatusConditionTrue(replay.Status.Conditions, v1alpha1.ConditionReady)
	}
	counts := map[string]int{}
	for range 10 + random.IntN(90) {
		if ready() {
			break
		}
		trouble := troubles[random.IntN(len(troubles))]
		trouble.make()
		counts[trouble.name]++
		time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
	}
	for _, manager := range managers {
		if err := manager.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	site.SetFault(application, logi.Fault{})
	change(`{"suspend":false,"ratePerSecond":null,"maxInFlight":10000}`)
	awaitReady(t, replay)
	expectRequeuedOnce(t, connect(t, site, ""), ids)
	// A webhook that was received while the database restarted may be sent again. That depends on the dispatcher, not on
	// the replay.
	if got := site.Counts()[application].Received; got != len(ids) {
		t.Errorf("the relying party received %d of %d webhooks", got, len(ids))
	}
	fmt.Printf("%s: %d entries; %v\n", t.Name(), len(ids), counts)
}
