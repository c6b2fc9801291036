package command_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/command"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
	"github.com/1pass-dev/playbook-operator/hack/controlplane"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

const (
	namespace = "default"
	// deadline is how long a test waits for what must happen.
	deadline = time.Minute
)

var (
	plane  *controlplane.ControlPlane
	kube   client.Client // the cluster's administrator
	scheme = stage.Scheme()
)

func TestMain(m *testing.M) {
	stage.Tests(m, func(ctx context.Context, dir string) (stop func(context.Context) error, err error) {
		plane, kube, err = stage.StartPlane(ctx, dir)
		return plane.Stop, err
	})
}

// A host is one that commands run on. Its command begins, waits until the test says how it ends, and does its work.
type host struct {
	*testing.T
	*servers.SSHD
	dir      string
	platform *v1alpha1.Platform
	ledger   *ledger

	// unreachable keeps connections from being made until it is closed; nil keeps none.
	unreachable chan struct{}
	// mu guards conns, the connections that managers have.
	mu    sync.Mutex
	conns []net.Conn
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{T: t, dir: t.TempDir(), ledger: &ledger{}}
	var err error
	if h.SSHD, err = servers.StartSSHD(t.Context(), filepath.Join(h.dir, "sshd")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.end("0") // whatever still runs
		if err := h.SSHD.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name,
			Labels: map[string]string{v1alpha1.LabelPlatform: name}},
		Data: map[string][]byte{"privateKey": h.PrivateKey(), "knownHosts": h.KnownHosts()},
	}
	if err := kube.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kube.Delete(context.Background(), secret); err != nil {
			t.Error(err)
		}
	})
	h.platform = &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	h.platform.Spec.Commands = &v1alpha1.PlatformCommands{Type: v1alpha1.CommandTypeSSH, TimeoutSeconds: 600,
		SSH: &v1alpha1.PlatformSSH{Host: h.Host(), Port: int32(h.Port()), User: h.User(),
			SecretRef: v1alpha1.SecretReference{Name: name}}}
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// text is the command. It ends as the test says by end: with an exit status, after it did its work where that is 0; or
// by "drop", which kills the connection before the work is done.
func (h *host) text() string {
	return fmt.Sprintf(`cd %s; echo begun; echo run >> begun; while ! [ -e end ]; do sleep 0.02; done; how=$(cat end)
		if [ "$how" = drop ]; then kill -9 $PPID; exit 1; fi
		if [ "$how" = 0 ]; then touch done; fi
		echo "ended with $how"; exit "$how"`, h.dir)
}

// end tells the command how to end. It is a file that appears as a whole.
func (h *host) end(how string) {
	h.Helper()
	if err := os.WriteFile(h.path("how"), []byte(how), 0o600); err != nil {
		h.Fatal(err)
	}
	if err := os.Rename(h.path("how"), h.path("end")); err != nil {
		h.Fatal(err)
	}
}

// begun is how often the command was begun.
func (h *host) begun() int {
	text, err := os.ReadFile(h.path("begun"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.Fatal(err)
	}
	return strings.Count(string(text), "run\n")
}

func (h *host) isDone() bool {
	_, err := os.Stat(h.path("done"))
	return err == nil
}

func (h *host) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if h.unreachable != nil {
		select {
		case <-h.unreachable:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.conns = append(h.conns, conn)
	}
	return conn, err
}

// cut breaks the connections that managers have.
func (h *host) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conn := range h.conns {
		_ = conn.Close()
	}
	h.conns = nil
}

// ledger keeps runs as a user of the room does. All managers share it.
type ledger struct {
	mu      sync.Mutex
	runs    []entry
	refuses atomic.Bool // it can't be reached
}

type entry struct {
	command.Run
	end    platformdb.CommandEnd
	output string
}

var errUnreachable = errors.New("the ledger can't be reached")

func (l *ledger) of(startedAt time.Time) *entry {
	for i := range l.runs {
		if l.runs[i].StartedAt.Equal(startedAt) {
			return &l.runs[i]
		}
	}
	return nil
}

func (l *ledger) Begin(_ context.Context, run command.Run) (playbook.Outcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of(run.StartedAt) != nil {
		return playbook.Outcome{}, platformdb.ErrGivenUp
	}
	for _, e := range l.runs {
		if o := e.end.Outcome; o != platformdb.CommandNotSent && o != platformdb.CommandFailed {
			return playbook.Outcome{}, platformdb.ErrCommandRan
		}
	}
	l.runs = append(l.runs, entry{Run: run})
	return playbook.Outcome{}, nil
}

func (l *ledger) End(_ context.Context, startedAt time.Time, end platformdb.CommandEnd, output string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuses.Load() {
		return errUnreachable
	}
	if e := l.of(startedAt); e != nil {
		e.end, e.output = end, output
	}
	return nil
}

func (l *ledger) Read(_ context.Context, run command.Run) (platformdb.CommandEnd, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of(run.StartedAt) == nil {
		l.runs = append(l.runs, entry{Run: run, end: platformdb.CommandEnd{Outcome: platformdb.CommandNotSent}})
	}
	return l.of(run.StartedAt).end, nil
}

func (l *ledger) Evidence() string { return "What it printed is in the ledger" }

// outcomes of all runs, in their order.
func (l *ledger) outcomes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, e := range l.runs {
		all = append(all, e.end.Outcome)
	}
	return all
}

// A manager runs a playbook of one step, which is a command on the host that the object's Platform names. It is put
// together by hand: nobody starts its Runner unless the test does.
type manager struct {
	client.Client
	hosts  map[string]*host
	runner command.Runner
	memory playbook.Memory
	// observeOnly is the Platform's red button.
	observeOnly atomic.Bool
	// dead is a manager that was killed: nothing leaves it any more.
	dead atomic.Bool
}

func newManager(hosts ...*host) *manager {
	m := &manager{Client: kube, hosts: map[string]*host{}}
	for _, h := range hosts {
		m.hosts[h.platform.Name] = h
	}
	return m
}

type visit = playbook.Visit[*v1alpha1.KeyCompromise]

var lanes = playbook.Lanes[*command.Command]{{{Condition: v1alpha1.StepRevoked,
	Run: func(ctx context.Context, c *command.Command) (playbook.Outcome, error) {
		if outcome, err := c.Do(ctx); err != nil || outcome.Stops() {
			return outcome, err
		}
		return playbook.Done("its work is done"), nil
	}}}}

func (m *manager) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	return playbook.Kind[*v1alpha1.KeyCompromise, *command.Command]{
		Client: m.Client, APIReader: m.Client, Recorder: &events.FakeRecorder{}, Memory: &m.memory,
		New:    func() *v1alpha1.KeyCompromise { return &v1alpha1.KeyCompromise{} },
		Action: "Run",
		Lanes:  func(*v1alpha1.KeyCompromise) playbook.Lanes[*command.Command] { return lanes },
		Connect: func(ctx context.Context, v *visit) (*command.Command, error) {
			if err := playbook.PatchFinalizer(ctx, m.Client, v.Obj, controllerutil.AddFinalizer); err != nil {
				return nil, err
			}
			c := m.command(v.Obj)
			c.Save = v.Save
			return c, nil
		},
		Resume: func(_ context.Context, c *command.Command) error { *c.Run = nil; return nil },
		Close: func(ctx context.Context, v *visit) error {
			if running, err := m.command(v.Obj).MayRun(ctx); err != nil || running {
				return errors.Join(err, playbook.ErrStillClosing)
			}
			return nil
		},
	}.Reconcile(ctx, request)
}

func (m *manager) command(obj *v1alpha1.KeyCompromise) *command.Command {
	h := m.hosts[obj.Spec.PlatformRef.Name]
	return &command.Command{
		Connections: &access.Connections{Secrets: m.Client, DialSSH: h.dial}, Runner: &m.runner, Platform: h.platform,
		Object: obj, Resource: "keycompromise", Step: v1alpha1.StepRevoked, Reason: v1alpha1.ReasonRevoking, What: "the rake",
		Text: func(ssh.Rails) (string, error) { return h.text(), nil },
		Run:  &obj.Status.Command,
		May: func(context.Context) (playbook.Outcome, error) {
			if m.observeOnly.Load() {
				return playbook.Wait(100*time.Millisecond, v1alpha1.ReasonAutomationOff, "nothing is changed"), nil
			}
			return playbook.Outcome{}, nil
		},
		Ledger: mortal{h.ledger, &m.dead},
		Look: func(context.Context) (command.Finding, error) {
			return command.Finding{Done: h.isDone(), Untouched: !h.isDone(), Saw: "nothing is done"}, nil
		},
		Harm: "it might do it twice", Work: "it is done",
	}
}

// mortal is the way of a manager to the ledger. A dead one has none.
type mortal struct {
	*ledger
	dead *atomic.Bool
}

func (m mortal) End(ctx context.Context, startedAt time.Time, end platformdb.CommandEnd, output string) error {
	if m.dead.Load() {
		return errUnreachable
	}
	return m.ledger.End(ctx, startedAt, end, output)
}

// apply creates an object whose command runs on the host.
func (h *host) apply(name string) client.ObjectKey {
	h.Helper()
	obj := &v1alpha1.KeyCompromise{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.KeyCompromiseSpec{PlatformRef: v1alpha1.PlatformReference{Name: h.platform.Name}, ApplicationID: "42",
			Kid: "k", Reason: "r", Via: v1alpha1.CompromiseViaCommand},
	}
	if err := kube.Create(h.Context(), obj); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		err := errors.Join(client.IgnoreNotFound(kube.Delete(context.Background(), obj)),
			client.IgnoreNotFound(kube.Patch(context.Background(), obj, client.RawPatch(types.MergePatchType,
				[]byte(`{"metadata":{"finalizers":null}}`)))))
		if err != nil {
			h.Error(err)
		}
	})
	return client.ObjectKeyFromObject(obj)
}

func (h *host) get(key client.ObjectKey) *v1alpha1.KeyCompromise {
	h.Helper()
	obj := &v1alpha1.KeyCompromise{}
	if err := kube.Get(h.Context(), key, obj); err != nil {
		h.Fatal(err)
	}
	return obj
}

// passes runs passes of a manager over the object until it is as the test wants it.
func (h *host) passes(m *manager, key client.ObjectKey, what string, ok func(*v1alpha1.KeyCompromise) bool) {
	h.Helper()
	h.await(what, func() bool {
		_, _ = m.Reconcile(h.Context(), ctrl.Request{NamespacedName: key}) // an error is retried
		return ok(h.get(key))
	}, func() any { return h.get(key).Status })
}

// await waits for a condition; state is shown where it does not come.
func (h *host) await(what string, ok func() bool, state func() any) {
	h.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("not in time: %s: %+v", what, state())
		}
	}
}

func message(obj *v1alpha1.KeyCompromise) string {
	for _, c := range obj.Status.Conditions {
		if c.Type == v1alpha1.StepRevoked {
			return c.Message
		}
	}
	return ""
}

func says(text string) func(*v1alpha1.KeyCompromise) bool {
	return func(obj *v1alpha1.KeyCompromise) bool { return strings.Contains(message(obj), text) }
}

// underWay says that the command has begun, and that the object says so. The object may say it first.
func (h *host) underWay(obj *v1alpha1.KeyCompromise) bool {
	return h.begun() > 0 && says("the rake is under way on ssh ")(obj)
}

func finished(obj *v1alpha1.KeyCompromise) bool { return playbook.Finished(obj) }
