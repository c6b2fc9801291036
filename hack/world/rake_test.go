package world_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// byRake makes the site's platform end keys by its own rake, over a real sshd.
func byRake(t *testing.T, site *world.Site) {
	t.Helper()
	sshd, err := servers.StartSSHD(t.Context(), filepath.Join(t.TempDir(), "sshd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sshd.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	bundle, err := site.InstallBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: site.Name + "-ssh",
			Labels: map[string]string{v1alpha1.LabelPlatform: site.Name}},
		Data: map[string][]byte{"privateKey": sshd.PrivateKey(), "knownHosts": sshd.KnownHosts()},
	}
	if err := kube.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	platform := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: site.Name}}
	patch := fmt.Sprintf(`{"spec":{"commands":{"type":"SSH","directory":%q,"bundle":%q,
		"ssh":{"host":%q,"port":%d,"user":%q,"secretRef":{"name":%q}}}}}`, dir, bundle, sshd.Host(), sshd.Port(), sshd.User(),
		secret.Name)
	if err := kube.Patch(t.Context(), platform, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

// The rake of a manager that ends is not run again by the next one. A manager that is told to stop waits for the rake's
// end, and enters it. One that is killed leaves a run that the next one only observes.
func TestTheNextManagerDoesNotRunTheRakeAgain(t *testing.T) {
	for name, test := range map[string]struct {
		signal syscall.Signal
		// hang is how long the rake takes: less than a manager that stops waits, or more than one takes to start.
		hang time.Duration
		// ledger is what it says once the first manager is gone.
		ledger string
		// observed is what the next one says.
		observed string
	}{
		"rake-stop": {syscall.SIGTERM, 5 * time.Second, "succeeded", ""},
		"rake-kill": {syscall.SIGKILL, 20 * time.Second, "open", "the platform's rake was begun on ssh "},
	} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t, name, logi.Config{JWKSMaxAge: time.Second})
			byRake(t, site)
			conn := connect(t, site, "")
			query := func(sql string) (value string) {
				t.Helper()
				if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
					t.Fatal(err)
				}
				return value
			}
			site.SetRakeFault(logi.RakeFault{Hang: test.hang})
			manager := startManager(t, name+"-0")
			compromise := &v1alpha1.KeyCompromise{
				ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name},
				Spec: v1alpha1.KeyCompromiseSpec{
					PlatformRef: v1alpha1.PlatformReference{Name: name}, ApplicationID: strconv.Itoa(application),
					Kid: query(`SELECT kid FROM webhook_signing_keys`), Reason: "found in a log", Via: v1alpha1.CompromiseViaCommand,
				},
			}
			if err := kube.Create(t.Context(), compromise); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := kube.Delete(context.Background(), compromise); err != nil {
					t.Error(err)
				}
			})
			says := func(text string) func() (bool, string) {
				return func() (bool, string) {
					if err := kube.Get(t.Context(), client.ObjectKeyFromObject(compromise), compromise); err != nil {
						t.Fatal(err)
					}
					c := meta.FindStatusCondition(compromise.Status.Conditions, v1alpha1.StepRevoked)
					return c != nil && strings.Contains(c.Message, text), fmt.Sprintf("%+v", c)
				}
			}
			eventually(t, time.Minute, "the rake to be under way", says("the platform's rake is under way on ssh "))
			if err := manager.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			<-manager.Done()
			if got := query(`SELECT coalesce(outcome, 'open') FROM playbook.command_runs`); got != test.ledger {
				t.Errorf("the ledger says %s rather than %s", got, test.ledger)
			}
			startManager(t, name+"-1")
			eventually(t, time.Minute, "the next manager to observe", says(test.observed))
			eventually(t, 2*time.Minute, "the next manager to finish", func() (bool, string) {
				_, state := says("")()
				return meta.IsStatusConditionTrue(compromise.Status.Conditions, v1alpha1.ConditionReady), state
			})
			if runs := site.RakeRuns(); len(runs) != 1 {
				t.Errorf("the rake was started %d times", len(runs))
			}
		})
	}
}
