package world_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the moments at which managers are killed; 0 takes a random one")

// The replay runs small batches without a pause, so most kills hit a batch. A kill counts if the replay was not over.
func TestManagersKilledAtRandomMomentsRequeueEachEntryOnce(t *testing.T) {
	const entries, kills = 20_000, 20
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	fmt.Printf("kills: seed %d\n", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	site := newSite(t, "killed", logi.Config{})
	ids, err := site.SeedDead(t.Context(), application, entries, "HTTP 503: Service Unavailable", 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, site, "")
	replay := createReplay(t, site, v1alpha1.DLQReplaySpec{RatePerSecond: new(int32(400)), MaxInFlight: entries})

	for killed := 0; killed < kills; {
		manager := startManager(t, "killed")
		before := readLedger(t, conn, replay)
		eventually(t, time.Minute, "a batch", func() (bool, string) {
			return readLedger(t, conn, replay).Batches > before.Batches, manager.Log()
		})
		time.Sleep(time.Duration(random.Int64N(int64(500 * time.Millisecond))))
		if err := manager.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-manager.Done()
		now := readLedger(t, conn, replay)
		if !now.Open || now.Remaining == 0 {
			t.Fatalf("seed %d: the replay was over after %d kills", seed, killed)
		}
		killed++
		fmt.Printf("kill %d: %d entries remaining after %d batches\n", killed, now.Remaining, now.Batches)
	}

	startManager(t, "killed")
	unlimited := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"ratePerSecond":null}}`))
	if err := kube.Patch(t.Context(), replay, unlimited); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, replay)
	expectEachOnce(t, site, conn, ids)
}
