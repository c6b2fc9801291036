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
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// byCommand makes the slot's platform run its own rake by SSH. No role reads private keys then.
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
	if err := s.admin.Create(ctx, s.secret("ssh", map[string]string{"privateKey": string(sshd.PrivateKey()),
		"knownHosts": string(sshd.KnownHosts())})); err != nil {
		t.Fatal(err)
	}
	platform := &v1alpha1.Platform{}
	if err := s.admin.Get(ctx, client.ObjectKey{Namespace: world.Namespace, Name: s.name}, platform); err != nil {
		t.Fatal(err)
	}
	platform.Spec.Database.SigningSecretRef = nil
	platform.Spec.Commands = &v1alpha1.PlatformCommands{
		Type: v1alpha1.CommandTypeSSH, Directory: dir, Bundle: bundle, TimeoutSeconds: 5,
		SSH: &v1alpha1.PlatformSSH{Host: sshd.Host(), Port: int32(sshd.Port()), User: sshd.User(),
			SecretRef: v1alpha1.SecretReference{Name: s.name + "-ssh"}},
	}
	if err := s.admin.Update(ctx, platform); err != nil {
		t.Fatal(err)
	}
}

// patience is how late a rake may still start, on a busy machine.
const patience = 10 * time.Second

// age lets time pass for an intent whose command left no trace: in the object and in the ledger, which know it by its
// time.
func (s *slot) age(ctx context.Context, obj *v1alpha1.KeyCompromise) error {
	run := obj.Status.Command
	if run == nil || len(s.site.RakeRuns()) > s.rakes || time.Since(run.StartedAt.Time) < patience ||
		time.Since(run.StartedAt.Time) > time.Hour {
		return nil
	}
	if _, err := s.db.Exec(ctx,
		`UPDATE playbook.command_runs SET started_at = started_at - interval '2 hours'`); err != nil {
		return err
	}
	aged := obj.DeepCopy()
	aged.Status.Command.StartedAt.Time = run.StartedAt.Add(-2 * time.Hour)
	if s.bare {
		aged.Status.StepsBegun = []v1alpha1.StepBegun{{Step: v1alpha1.StepRevoked,
			At: new(metav1.NewTime(aged.Status.Command.StartedAt.Time))}}
	}
	return s.admin.Status().Patch(ctx, aged, client.MergeFrom(obj))
}

// withoutDatabase leaves the slot's Platform nothing to ask but JWKS.
func (s *slot) withoutDatabase(t *testing.T) {
	t.Helper()
	s.bare = true
	platform := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.name}}
	if err := s.admin.Patch(t.Context(), platform, client.RawPatch(types.MergePatchType,
		[]byte(`{"spec":{"database":null}}`))); err != nil {
		t.Fatal(err)
	}
}

// forget deletes the slot's KeyCompromises.
func (s *slot) forget(ctx context.Context) error {
	var list v1alpha1.KeyCompromiseList
	if err := s.admin.List(ctx, &list, client.InNamespace(world.Namespace)); err != nil {
		return err
	}
	for i := range list.Items {
		k := &list.Items[i]
		if k.Spec.PlatformRef.Name != s.name {
			continue
		}
		if err := s.admin.Delete(ctx, k); err != nil {
			return err
		}
		if err := s.admin.Patch(ctx, k, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"finalizers":null}}`))); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
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
	}}, fault: crashmatrix.KilledAfter, at: "SSH packet"},
	{variant: variant{name: "no lock on the intent, and a ledger that lets each run begin", rewrite: eachRunBegins,
		kube: unlocked}, fault: crashmatrix.Overtaken},
}

// forgetful takes the intent out of an object that is read.
func forgetful(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		if err != nil || request.Method != http.MethodGet || !strings.Contains(request.URL.Path, "/keycompromises/") {
			return response, err
		}
		defer response.Body.Close()
		var object map[string]any
		if err := json.NewDecoder(response.Body).Decode(&object); err != nil {
			return nil, err
		}
		if status, ok := object["status"].(map[string]any); ok {
			delete(status, "command")
		}
		text, err := json.Marshal(object)
		response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
		return response, err
	})
}

// bareVariants keep an intent in the status only.
var bareVariants = []keyVariant{
	{variant: variant{name: "an intent that is taken for one that was not sent", kube: forgetful},
		fault: crashmatrix.KilledAfter, at: "SSH packet"},
	{variant: variant{name: "no lock on the intent", kube: unlocked}, fault: crashmatrix.Overtaken},
}

func TestCrashMatrixKeyCompromiseViaCommand(t *testing.T) {
	slots := newStage(t).newKeySlots(t)
	for _, s := range slots {
		s.byCommand(t)
	}
	playCommandMatrix(t, "KeyCompromise via Command", slots, commandVariants)
}

func TestCrashMatrixKeyCompromiseViaCommandWithoutADatabase(t *testing.T) {
	slots := newStage(t).newKeySlots(t)
	for _, s := range slots {
		s.byCommand(t)
		s.withoutDatabase(t)
	}
	playCommandMatrix(t, "KeyCompromise via Command without a database", slots, bareVariants)
}

func playCommandMatrix(t *testing.T, name string, slots []*slot, variants []keyVariant) {
	t.Helper()
	var unknown atomic.Int64
	playKeyMatrix(t, name, slots, variants, nil, func(clean, got *leak) error {
		// At most once: it was not run, and nobody can tell that.
		if got.Reason == v1alpha1.ReasonOutcomeUnknown && got.Rakes == 0 && reflect.DeepEqual(got.Keys,
			map[string]int{"active": 1}) {
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
