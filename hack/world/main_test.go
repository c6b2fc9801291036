package world_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// application is the relying party of each Site that has only one.
const application = 42

var (
	theWorld *world.World
	kube     client.Client // of the cluster's administrator
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "playbook-world-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	if theWorld, err = world.Start(ctx, dir, servers.PostgresOptions{Fast: true}); err != nil {
		return 1, err
	}
	defer func() {
		if stopErr := theWorld.Stop(ctx); err == nil {
			err = stopErr
		}
	}()
	log.SetLogger(klog.Background())
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	if kube, err = client.New(theWorld.ControlPlane.Config(), client.Options{Scheme: scheme}); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// newSite starts a platform with one application, and closes it after the test.
func newSite(t *testing.T, name string, config logi.Config) *world.Site {
	t.Helper()
	site, err := theWorld.NewSite(t.Context(), name, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := site.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := site.CreateApplication(t.Context(), application, "acme"); err != nil {
		t.Fatal(err)
	}
	return site
}

// connect opens a connection to the Site's database for a role. "" is the superuser.
func connect(t *testing.T, site *world.Site, role string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), site.URLAs(role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the Site may be gone already
	return conn
}

func startManager(t *testing.T, name string) *servers.Process {
	t.Helper()
	manager, err := theWorld.StartManager(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := manager.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return manager
}

// createReplay applies a replay of the Site's application, and deletes it after the test without waiting for a manager.
func createReplay(t *testing.T, site *world.Site, spec v1alpha1.DLQReplaySpec) *v1alpha1.DLQReplay {
	t.Helper()
	spec.PlatformRef.Name, spec.ApplicationID = site.Name, strconv.Itoa(application)
	replay := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: site.Name}, Spec: spec}
	if err := kube.Create(t.Context(), replay); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
		if err := kube.Patch(context.Background(), replay, patch); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
		if err := kube.Delete(context.Background(), replay); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	return replay
}

// awaitReady waits until the replay is complete.
func awaitReady(t *testing.T, replay *v1alpha1.DLQReplay) {
	t.Helper()
	eventually(t, 5*time.Minute, "the replay to be Ready", func() (bool, string) {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(replay), replay); err != nil {
			t.Fatal(err)
		}
		if stalled := meta.FindStatusCondition(replay.Status.Conditions, v1alpha1.ConditionStalled); stalled != nil {
			t.Fatalf("the replay stalled: %s: %s", stalled.Reason, stalled.Message)
		}
		ready := meta.FindStatusCondition(replay.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil {
			return false, "no status yet"
		}
		return ready.Status == metav1.ConditionTrue, ready.Message
	})
}

// eventually waits until a condition holds. The condition also returns the present state, for the failure.
func eventually(t *testing.T, deadline time.Duration, what string, holds func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		ok, instead := holds()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s: %s", deadline, what, instead)
		}
	}
}

// progress is the state of the replay by the ledger.
type progress struct {
	Open      bool  `db:"open"`
	Remaining int64 `db:"remaining"`
	Batches   int32 `db:"batches"`
}

func readLedger(t *testing.T, conn *pgx.Conn, replay *v1alpha1.DLQReplay) progress {
	t.Helper()
	rows, err := conn.Query(t.Context(),
		`SELECT closed_at IS NULL AS open, remaining, batches FROM playbook.operations WHERE uid = $1`, string(replay.UID))
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[progress])
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		return progress{Open: true}
	}
	return found[0]
}

// expectEachOnce asks the audit trigger how often each entry was requeued, and the relying party what it accepted.
func expectEachOnce(t *testing.T, site *world.Site, conn *pgx.Conn, entries []int64) {
	t.Helper()
	expectRequeuedOnce(t, conn, entries)
	if c := site.Counts()[application]; c.Received != len(entries) || c.Duplicates != 0 {
		t.Errorf("the relying party received %d of %d webhooks, and accepted %d again", c.Received, len(entries),
			c.Duplicates)
	}
}

func expectRequeuedOnce(t *testing.T, conn *pgx.Conn, entries []int64) {
	t.Helper()
	var missing, repeated, foreign int
	if err := conn.QueryRow(t.Context(), `
		SELECT count(*) FILTER (WHERE n IS NULL), count(*) FILTER (WHERE n > 1), count(*) FILTER (WHERE entry IS NULL)
		FROM unnest($1::bigint[]) entry
			FULL JOIN (SELECT entry_id, count(*) AS n FROM logi_test.requeues GROUP BY 1) r ON r.entry_id = entry`,
		entries).Scan(&missing, &repeated, &foreign); err != nil {
		t.Fatal(err)
	}
	if missing+repeated+foreign > 0 {
		t.Errorf("of %d entries %d were never requeued and %d more than once, and so were %d others", len(entries), missing,
			repeated, foreign)
	}
}
