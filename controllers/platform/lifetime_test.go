package platform_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// A probe that hangs delays no other, a changed spec is followed, and nothing is left behind. It runs alone, since it
// looks at all goroutines.
func TestTheProberLeavesNothingBehind(t *testing.T) {
	site := newPlatform(t)
	hang := make(chan struct{})
	url, requests := proxy(t, site.URL(), func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/slow" {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		return false
	})
	defer close(hang)
	p := probedOf(unwatched, "left", url)
	p.Spec.Database = nil
	well := p.Spec.Probes.Paths
	p.Spec.Probes.Paths, p.Spec.Probes.TimeoutSeconds = append(slices.Clone(well), "/slow"), 60
	create(t, secret(unwatched, p.Name, site.URLAs("playbook_operator")), p)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	known, err := cache.New(w.ControlPlane.Config(), cache.Options{Scheme: scheme,
		DefaultNamespaces: map[string]cache.Config{unwatched: {}}})
	if err != nil {
		t.Fatal(err)
	}
	cached := make(chan error, 1)
	go func() { cached <- known.Start(ctx) }()
	connections := &access.Connections{Secrets: kube}
	defer connections.Close()
	prober := &signals.Prober{Cache: known, Connections: connections}
	if !prober.NeedLeaderElection() {
		t.Error("each replica would probe")
	}
	changes := prober.Changes()
	probing, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- prober.Start(probing) }()
	key := client.ObjectKeyFromObject(p)
	state := func() string { return prober.Signals(key).Summary() }
	eventually(t, "all but the one that hangs is known", func() bool { return state() == "unknown: EndpointsAnswer" },
		state)
	if change := <-changes; client.ObjectKeyFromObject(change.Object) != key {
		t.Errorf("a change of %v", change.Object)
	}
	got := read(t, p)
	got.Spec.Probes.Paths = well
	if err := kube.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the changed spec is probed", func() bool { return state() == "ok" }, state)
	since := prober.Signals(key).ClearSince()
	// A change that is not about probes makes it forget nothing.
	got.Spec.Automation = v1alpha1.AutomationObserveOnly
	if err := kube.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	n := requests.Load()
	eventually(t, "it is probed on", func() bool { return requests.Load() > n+2*looked },
		func() string { return fmt.Sprint(requests.Load()) })
	if s := prober.Signals(key); !s.ClearSince().Equal(since) {
		t.Errorf("clear since %v, and before since %v", s.ClearSince(), since)
	}
	if err := kube.Delete(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not probed any more", func() bool {
		return len(prober.Signals(key).Each) == 0 &&
			watching() == 0
	}, stacks)
	create(t, probedOf(unwatched, "left-again", url))
	eventually(t, "another one is probed", func() bool {
		return len(prober.Signals(types.NamespacedName{Namespace: unwatched, Name: "left-again"}).Each) > 0
	}, stacks)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if watching() != 0 || strings.Contains(stacks(), "signals.(*feed).run") {
		t.Errorf("it ended, and left\n%s", stacks())
	}
	cancel()
	if err := <-cached; err != nil {
		t.Error(err)
	}
}

func stacks() string {
	buffer := make([]byte, 4<<20)
	return string(buffer[:runtime.Stack(buffer, true)])
}

func watching() int { return strings.Count(stacks(), "signals.(*watch)") }
