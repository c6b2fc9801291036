package command_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// start runs a manager as cmd/manager does, with one worker. stop tells it to stop, and stopped is closed once it has.
func (m *manager) start(t *testing.T) (stop context.CancelFunc, stopped <-chan struct{}) {
	t.Helper()
	mgr, err := ctrl.NewManager(plane.Config(), ctrl.Options{Scheme: scheme,
		Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := mgr.Add(&m.runner); err != nil {
		t.Fatal(err)
	}
	if err := ctrl.NewControllerManagedBy(mgr).For(&v1alpha1.KeyCompromise{}).Named(strings.ToLower(t.Name())).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, SkipNameValidation: new(true)}).Complete(m); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return stop, done
}

func TestACommandThatTakesLongHoldsUpNoPass(t *testing.T) {
	slow, quick := newHost(t, "slow"), newHost(t, "quick")
	quick.end("0")
	m := newManager(slow, quick)
	m.start(t)
	first := slow.apply("slow")
	slow.await("its command is under way", func() bool { return slow.underWay(slow.get(first)) },
		func() any { return slow.get(first).Status })
	// The one worker is free for another object, over and over.
	for i := range 3 {
		second := quick.apply("quick-" + strconv.Itoa(i))
		quick.await("another object ends", func() bool { return finished(quick.get(second)) },
			func() any { return quick.get(second).Status })
	}
	obj := slow.get(first)
	if !strings.Contains(message(obj), ", since "+obj.Status.Command.StartedAt.UTC().Format(time.RFC3339)) ||
		obj.Status.Command.Outcome != "" || slow.begun() != 1 || quick.begun() != 1 {
		t.Errorf("begun %d and %d times: %s", slow.begun(), quick.begun(), message(obj))
	}
	slow.end("0")
	slow.await("it ends", func() bool { return finished(slow.get(first)) }, func() any { return slow.get(first).Status })
	if run := slow.get(first).Status.Command; run.Outcome != v1alpha1.CommandSucceeded || *run.ExitStatus != 0 ||
		slow.begun() != 1 {
		t.Errorf("begun %d times: %+v", slow.begun(), run)
	}
	if output := slow.ledger.runs[0].output; output != "begun\nended with 0\n" {
		t.Errorf("the evidence is %q", output)
	}
}

func TestALoginThatTakesLongHoldsUpNoPass(t *testing.T) {
	slow, quick := newHost(t, "far"), newHost(t, "near")
	slow.unreachable = make(chan struct{})
	slow.end("0")
	quick.end("0")
	m := newManager(slow, quick)
	m.start(t)
	first := slow.apply("far")
	waits := says("takes its time; nothing was sent yet")
	slow.await("its login is under way", func() bool { return waits(slow.get(first)) },
		func() any { return slow.get(first).Status })
	second := quick.apply("near")
	quick.await("another object ends", func() bool { return finished(quick.get(second)) },
		func() any { return quick.get(second).Status })
	if run := slow.get(first).Status.Command; run != nil || slow.begun() != 0 {
		t.Errorf("begun %d times: %+v", slow.begun(), run)
	}
	close(slow.unreachable)
	slow.await("it ends", func() bool { return finished(slow.get(first)) }, func() any { return slow.get(first).Status })
	if len(slow.conns) != 1 || slow.begun() != 1 {
		t.Errorf("begun %d times, over %d connections", slow.begun(), len(slow.conns))
	}
}

func TestAQuickCommandEndsInThePassThatSendsIt(t *testing.T) {
	h := newHost(t, "prompt")
	h.end("0")
	key := h.apply("prompt")
	m, began := newManager(h), time.Now()
	if _, err := m.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	// On a busy machine no command is quick: then the pass has waited for as long as it may.
	if obj := h.get(key); time.Since(began) < time.Second && (!finished(obj) ||
		obj.Status.Command.Outcome != v1alpha1.CommandSucceeded) {
		t.Errorf("%+v", obj.Status)
	}
}

func TestAManagerThatStopsWaitsForItsCommand(t *testing.T) {
	h := newHost(t, "stop")
	stop, stopped := newManager(h).start(t)
	key := h.apply("stop")
	h.await("its command is under way", func() bool { return h.underWay(h.get(key)) },
		func() any { return h.get(key).Status })
	stop()
	select {
	case <-stopped:
		t.Error("the manager has stopped, and its command is under way")
	case <-time.After(time.Second): // long enough for one that does not wait
	}
	h.end("0")
	<-stopped
	if outcomes := h.ledger.outcomes(); !slices.Equal(outcomes, []string{platformdb.CommandSucceeded}) {
		t.Errorf("the ledger says %q", outcomes)
	}
	h.passes(newManager(h), key, "the next manager reads that", finished)
	if run := h.get(key).Status.Command; run.Outcome != v1alpha1.CommandSucceeded || h.begun() != 1 {
		t.Errorf("begun %d times: %+v", h.begun(), run)
	}
}

func TestAManagerThatStopsGivesUpACommandThatGoesOn(t *testing.T) {
	h := newHost(t, "give-up")
	stop, stopped := newManager(h).start(t)
	key := h.apply("give-up")
	h.await("its command is under way", func() bool { return h.underWay(h.get(key)) },
		func() any { return h.get(key).Status })
	stop()
	select {
	case <-stopped:
	case <-time.After(30 * time.Second): // what Kubernetes gives it
		t.Fatal("the manager does not stop")
	}
	if outcomes := h.ledger.outcomes(); !slices.Equal(outcomes, []string{platformdb.CommandLost}) {
		t.Errorf("the ledger says %q", outcomes)
	}
	next := newManager(h)
	h.passes(next, key, "the next manager observes", says("was running when the connection ended"))
	h.end("0")
	h.passes(next, key, "the command did its work all the same", finished)
	if h.begun() != 1 {
		t.Errorf("begun %d times", h.begun())
	}
}

// As crashmatrix puts its managers together: nothing is started that would stop.
func TestTheNextOfAKilledManagerOnlyObserves(t *testing.T) {
	h := newHost(t, "killed")
	key := h.apply("killed")
	killed := newManager(h)
	h.passes(killed, key, "its command is under way", h.underWay)
	killed.dead.Store(true)
	h.cut()
	next := newManager(h)
	for range 5 {
		h.passes(next, key, "the next manager observes", says("the rake was begun on ssh "))
	}
	if outcomes := h.ledger.outcomes(); !slices.Equal(outcomes, []string{""}) || h.get(key).Status.Command.Outcome != "" {
		t.Errorf("the ledger says %q", outcomes)
	}
	h.end("0")
	h.passes(next, key, "the command did its work", finished)
	if h.begun() != 1 {
		t.Errorf("begun %d times", h.begun())
	}
}

func TestALostConnectionDoesNotRunTheCommandAgain(t *testing.T) {
	h := newHost(t, "lost")
	key, m := h.apply("lost"), newManager(h)
	h.passes(m, key, "its command is under way", h.underWay)
	h.end("drop")
	h.passes(m, key, "its connection is lost", says("was running when the connection ended"))
	if run := h.get(key).Status.Command; run.Outcome != v1alpha1.CommandLost || run.ExitStatus != nil {
		t.Errorf("%+v", run)
	}
	for range 5 {
		h.passes(m, key, "it waits", says("its work is looked for, and nothing is done"))
	}
	// A person does the work by hand.
	if err := os.WriteFile(h.path("done"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.passes(m, key, "the work is seen", finished)
	if h.begun() != 1 {
		t.Errorf("begun %d times", h.begun())
	}
}

func TestAnIntentThatNobodyEndsCantBeTold(t *testing.T) {
	h := newHost(t, "untold")
	key, m := h.apply("untold"), newManager(h)
	m.observeOnly.Store(true)
	h.passes(m, key, "it is held back", says("nothing is changed"))
	obj := h.get(key)
	// A manager began it two hours ago, and was killed.
	startedAt := time.Now().Add(-2 * time.Hour).Truncate(time.Microsecond)
	obj.Status.Command = &v1alpha1.CommandRun{StartedAt: new(metav1.NewMicroTime(startedAt)), Target: "ssh"}
	if err := kube.Status().Update(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	h.ledger.runs = []entry{{}}
	h.ledger.runs[0].StartedAt = startedAt
	m.observeOnly.Store(false)
	h.passes(m, key, "a person is needed", func(obj *v1alpha1.KeyCompromise) bool { return playbook.Stalled(obj) })
	if text := message(h.get(key)); h.begun() != 0 || !strings.Contains(text,
		"not run again, since it might do it twice") {
		t.Errorf("begun %d times: %s", h.begun(), text)
	}
}

func TestACommandThatFailedIsRunAgainOnRequestOnly(t *testing.T) {
	h := newHost(t, "failed")
	key, m := h.apply("failed"), newManager(h)
	h.end("3")
	h.passes(m, key, "it failed", func(obj *v1alpha1.KeyCompromise) bool { return playbook.Stalled(obj) })
	if text := message(h.get(key)); !strings.Contains(text, "the rake ended with exit status 3 on ssh ") {
		t.Error(text)
	}
	h.end("0")
	for range 3 {
		h.passes(m, key, "it stays so", func(obj *v1alpha1.KeyCompromise) bool { return playbook.Stalled(obj) })
	}
	if h.begun() != 1 {
		t.Errorf("begun %d times", h.begun())
	}
	obj := h.get(key)
	obj.Annotations = map[string]string{v1alpha1.AnnotationRequestedAt: "now"}
	if err := kube.Update(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	h.passes(m, key, "it is run again", finished)
	if h.begun() != 2 {
		t.Errorf("begun %d times", h.begun())
	}
}

func TestNeitherDeletionNorTheRedButtonRunsACommandTwice(t *testing.T) {
	h := newHost(t, "deleted")
	key, m := h.apply("deleted"), newManager(h)
	h.passes(m, key, "its command is under way", h.underWay)
	m.observeOnly.Store(true)
	for range 3 {
		h.passes(m, key, "it is under way still", h.underWay)
	}
	m.observeOnly.Store(false)
	if err := kube.Delete(t.Context(), h.get(key)); err != nil {
		t.Fatal(err)
	}
	// Neither this manager nor one that knows nothing lets the object go, or runs its command.
	other := newManager(h)
	for _, manager := range []*manager{m, other, m, other} {
		if _, err := manager.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
			t.Fatal(err)
		}
		h.get(key)
	}
	h.end("1")
	h.await("the object is gone", func() bool {
		_, _ = other.Reconcile(t.Context(), ctrl.Request{NamespacedName: key})
		return apierrors.IsNotFound(kube.Get(t.Context(), key, &v1alpha1.KeyCompromise{}))
	}, func() any { return h.ledger.outcomes() })
	if outcomes := h.ledger.outcomes(); !slices.Equal(outcomes, []string{platformdb.CommandFailed}) || h.begun() != 1 {
		t.Errorf("begun %d times; the ledger says %q", h.begun(), outcomes)
	}
}

func TestWhatCertainlyWasNotSentLeavesNoIntent(t *testing.T) {
	h := newHost(t, "unsent")
	h.end("0")
	key, m := h.apply("unsent"), newManager(h)
	noIntent := func() {
		t.Helper()
		if run := h.get(key).Status.Command; run != nil || h.begun() != 0 {
			t.Errorf("begun %d times: %+v", h.begun(), run)
		}
	}
	if err := h.SSHD.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.passes(m, key, "the host is down", says("connection refused"))
	noIntent()
	if runs := h.ledger.outcomes(); len(runs) != 0 {
		t.Errorf("the ledger has %q", runs)
	}
	// A host that lets one in, and then refuses the command.
	config := filepath.Join(h.dir, "sshd", "sshd_config")
	was, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(was) + "MaxSessions 0\n", string(was)} {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.SSHD.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if text == string(was) {
			break
		}
		h.passes(m, key, "the command is refused", says("running the rake: the command was not sent"))
		noIntent()
		if err := h.SSHD.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h.passes(m, key, "the command is run", finished)
	outcomes := h.ledger.outcomes()
	if last := len(outcomes) - 1; h.begun() != 1 || last < 1 || outcomes[last] != platformdb.CommandSucceeded ||
		slices.ContainsFunc(outcomes[:last], func(o string) bool { return o != platformdb.CommandNotSent }) {
		t.Errorf("begun %d times; the ledger says %q", h.begun(), outcomes)
	}
}

func TestAManagerThatHasStoppedBeginsNoCommand(t *testing.T) {
	h := newHost(t, "stopped")
	h.end("0")
	key, m := h.apply("stopped"), newManager(h)
	ended, end := context.WithCancel(t.Context())
	end()
	if err := m.runner.Start(ended); err != nil {
		t.Fatal(err)
	}
	h.passes(m, key, "it is refused", says("the manager is being stopped"))
	if run := h.get(key).Status.Command; run != nil || h.begun() != 0 {
		t.Errorf("begun %d times: %+v", h.begun(), run)
	}
	h.passes(newManager(h), key, "the next one runs it", finished)
	if h.begun() != 1 {
		t.Errorf("begun %d times", h.begun())
	}
}

// The ledger is away when the command ends. What the process remembers is entered later.
func TestAnEndThatCouldNotBeEnteredIsEnteredLater(t *testing.T) {
	h := newHost(t, "unentered")
	key, m := h.apply("unentered"), newManager(h)
	h.passes(m, key, "its command is under way", h.underWay)
	h.ledger.refuses.Store(true)
	h.end("0")
	h.passes(m, key, "it says why it waits", says("can't be reached"))
	h.ledger.refuses.Store(false)
	h.passes(m, key, "it ends", finished)
	if outcomes := h.ledger.outcomes(); !slices.Equal(outcomes, []string{platformdb.CommandSucceeded}) || h.begun() != 1 {
		t.Errorf("begun %d times; the ledger says %q", h.begun(), outcomes)
	}
}
