package crashmatrix_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// byCommand makes the slot's platform run its own rake by SSH, with no role that reads private keys.
func (s *slot) byCommand(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	// An outcome that can't be told is waited for.
	s.via, s.deadline = v1alpha1.CompromiseViaCommand, 2*time.Minute
	sshd, err := servers.StartSSHD(ctx, filepath.Join(t.TempDir(), "sshd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sshd.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	bundle, err := s.site.InstallBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Long enough for a manager that takes over to find the key as it was.
	s.site.SetRakeFault(logi.RakeFault{Hang: 300 * time.Millisecond})
	if err := s.admin.Create(ctx, s.secret("ssh", map[string]string{"privateKey": string(sshd.PrivateKey()), "knownHosts": string(sshd.KnownHosts())})); err != nil {
		t.Fatal(err)
	}
	platform := &v1alpha1.Platform{}
	if err := s.admin.Get(ctx, client.ObjectKey{Namespace: world.Namespace, Name: s.name}, platform); err != nil {
		t.Fatal(err)
	}
	platform.Spec.Database.SigningSecretRef = nil
	platform.Spec.Commands = &v1alpha1.PlatformCommands{
		Type: v1alpha1.CommandTypeSSH, Directory: dir, Bundle: bundle, TimeoutSeconds: 2,
		SSH: &v1alpha1.PlatformSSH{Host: sshd.Host(), Port: int32(sshd.Port()), User: sshd.User(), SecretRef: v1alpha1.SecretReference{Name: s.name + "-ssh"}},
	}
	if err := s.admin.Update(ctx, platform); err != nil {
		t.Fatal(err)
	}
}

// patience is for how long a rake that was not started may still be, on a busy machine.
const patience = 10 * time.Second

// age lets time pass for an intent whose command left no trace: in the object and in the ledger, which know it by its time.
func (s *slot) age(ctx context.Context, obj *v1alpha1.KeyCompromise) error {
	run := obj.Status.Command
	if run == nil || len(s.site.RakeRuns()) > s.rakes || time.Since(run.StartedAt.Time) < patience || time.Since(run.StartedAt.Time) > time.Hour {
		return nil
	}
	if _, err := s.db.Exec(ctx, `UPDATE playbook.command_runs SET started_at = started_at - interval '2 hours'`); err != nil {
		return err
	}
	aged := obj.DeepCopy()
	aged.Status.Command.StartedAt.Time = run.StartedAt.Add(-2 * time.Hour)
	return s.admin.Status().Patch(ctx, aged, client.MergeFrom(obj))
}

// unlocked takes the optimistic lock out of each patch.
func unlocked(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(request *http.Request) (*http.Response, error) {
		if request.Method != http.MethodPatch {
			return next.RoundTrip(request)
		}
		text, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		}
		var patch map[string]any
		if err := json.Unmarshal(text, &patch); err != nil {
			return nil, err
		}
		if metadata, ok := patch["metadata"].(map[string]any); ok {
			delete(metadata, "resourceVersion")
		}
		if text, err = json.Marshal(patch); err != nil {
			return nil, err
		}
		request = request.Clone(request.Context())
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
		return next.RoundTrip(request)
	})
}

// eachRunBegins is a ledger that lets each run begin.
var eachRunBegins = rewrite(`(?s)(FROM playbook\.command_runs c)\s+WHERE`, "$1 WHERE false AND")

var commandVariants = []keyVariant{
	{variant: variant{name: "an intent that is taken for one that was not sent", rewrite: func(sql string) string {
		return eachRunBegins(rewrite(`coalesce\(outcome, ''\)`, "'not sent'")(sql))
	}}, fault: crashmatrix.KilledAfter},
	{variant: variant{name: "no lock on the intent, and a ledger that lets each run begin", rewrite: eachRunBegins, kube: unlocked}, fault: crashmatrix.Overtaken},
}

func TestCrashMatrixKeyCompromiseViaCommand(t *testing.T) {
	slots := newStage(t).newKeySlots(t)
	for _, s := range slots {
		s.byCommand(t)
	}
	var unknown atomic.Int64
	playKeyMatrix(t, "KeyCompromise via Command", slots, commandVariants, nil, func(clean, got *leak) error {
		// At most once: it was not run, and nobody can tell that.
		if got.Reason == v1alpha1.ReasonOutcomeUnknown && got.Rakes == 0 && reflect.DeepEqual(got.Keys, map[string]int{"active": 1}) {
			unknown.Add(1)
			return nil
		}
		if !reflect.DeepEqual(clean, got) {
			return fmt.Errorf("differs from the clean run:\n%+v\n%+v", clean, got)
		}
		return nil
	})
	if n := unknown.Load(); n == 0 || n > 20 {
		t.Errorf("%d outcomes could not be told", n)
	}
}
