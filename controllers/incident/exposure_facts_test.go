package incident_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func keyExposure(name string, affected *v1alpha1.IncidentAffected) *v1alpha1.Incident {
	obj := &v1alpha1.Incident{}
	obj.Namespace, obj.Name = world.Namespace, name
	obj.Spec = v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: name},
		Category: v1alpha1.CategoryKeyExposure, Affected: affected}
	return obj
}

func TestAKeyExposureWithoutExactlyOneKeyIsRefusedAtApply(t *testing.T) {
	t.Parallel()
	for name, affected := range map[string]*v1alpha1.IncidentAffected{
		"nothing": nil, "no kid": {ApplicationIDs: []string{"42"}}, "no application": {Kid: whk1},
		"only users":       {UserIDs: []string{"12"}, Kid: whk1},
		"two applications": {ApplicationIDs: []string{"41", "42"}, Kid: whk1},
	} {
		err := admin.Create(t.Context(), keyExposure("exposed-refused", affected))
		if !apierrors.IsInvalid(err) ||
			!strings.Contains(err.Error(), "write exactly one of affected.applicationIDs, and affected.kid") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := admin.Create(t.Context(), keyExposure("exposed-taken", &v1alpha1.IncidentAffected{
		ApplicationIDs: []string{"42"}, Kid: whk1}), client.DryRunAll); err != nil {
		t.Error(err)
	}
}

// withoutRule takes the rule that asks for the key out of the CRD while do runs, as the release before this one had it.
func withoutRule(t *testing.T, kube client.Client, do func()) {
	t.Helper()
	crd := &unstructured.Unstructured{}
	crd.SetAPIVersion("apiextensions.k8s.io/v1")
	crd.SetKind("CustomResourceDefinition")
	if err := kube.Get(t.Context(), client.ObjectKey{Name: "incidents.playbook.1pass.dev"}, crd); err != nil {
		t.Fatal(err)
	}
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		t.Fatal(err)
	}
	path := []string{"schema", "openAPIV3Schema", "properties", "spec", "x-kubernetes-validations"}
	all, _, err := unstructured.NestedSlice(versions[0].(map[string]any), path...)
	if err != nil {
		t.Fatal(err)
	}
	fewer := slices.DeleteFunc(slices.Clone(all), func(rule any) bool {
		return strings.Contains(rule.(map[string]any)["message"].(string), "a KeyExposure is about one key")
	})
	if len(fewer) != len(all)-1 {
		t.Fatalf("%d rules rather than one ask for the key", len(all)-len(fewer))
	}
	write := func(rules []any) {
		before := crd.DeepCopy()
		err := unstructured.SetNestedSlice(versions[0].(map[string]any), rules, path...)
		if err == nil {
			err = unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions")
		}
		if err == nil {
			// Without a lock: the API server writes the CRD's status meanwhile.
			err = kube.Patch(t.Context(), crd, client.MergeFrom(before))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(fewer)
	do()
	write(all)
}

// eventually waits until the API server takes a CRD that was changed.
func eventually(t *testing.T, what string, holds func() error) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// The release before this one stored such objects. The rule is for new ones only, so that a person can close them.
func TestAKeyExposureThatWasStoredWithoutItsKeyWaitsForAPersonWhoCanCloseIt(t *testing.T) {
	t.Parallel()
	plane, own, err := stage.StartPlane(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	const name = "stored"
	for _, obj := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: world.Namespace}},
		&v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name},
			Spec: v1alpha1.PlatformSpec{URL: "http://127.0.0.1:1", Database: &v1alpha1.PlatformDatabase{
				SecretRef: v1alpha1.SecretReference{Name: "s"}, SigningSecretRef: &v1alpha1.SecretReference{Name: "s"}}}},
	} {
		if err := own.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	withoutRule(t, own, func() {
		eventually(t, "storing one without its key", func() error {
			return own.Create(t.Context(), keyExposure(name, nil))
		})
	})
	eventually(t, "the rule to be back", func() error {
		if err := own.Create(t.Context(), keyExposure("new", nil), client.DryRunAll); !apierrors.IsInvalid(err) {
			return fmt.Errorf("a new one is taken: %v", err)
		}
		return nil
	})
	manager := &incident.Reconciler{
		Client: own, APIReader: own, Recorder: &events.FakeRecorder{}, Now: time.Now,
		Connections: &access.Connections{Secrets: own}, Signals: func(client.ObjectKey) signals.Signals {
			return signals.Signals{}
		},
	}
	obj, key := &v1alpha1.Incident{}, client.ObjectKey{Namespace: world.Namespace, Name: name}
	await := func(condition, reason string) *metav1.Condition {
		var c *metav1.Condition
		eventually(t, condition, func() error {
			if _, err := manager.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
				return err
			}
			if err := own.Get(t.Context(), key, obj); err != nil {
				return err
			}
			if c = meta.FindStatusCondition(obj.Status.Conditions, condition); c == nil || c.Reason != reason {
				return fmt.Errorf("it is %+v", c)
			}
			return nil
		})
		return c
	}
	if c := await(v1alpha1.StepKeyCompromised, v1alpha1.ReasonSpecInvalid); c.Status != metav1.ConditionFalse ||
		!strings.Contains(c.Message, "does not name exactly one application and a kid") ||
		!strings.Contains(c.Message, "patch incident "+name) {
		t.Errorf("it says %+v", c)
	}
	await(v1alpha1.ConditionStalled, v1alpha1.ReasonSpecInvalid)
	if err := own.Patch(t.Context(), obj, client.RawPatch(types.MergePatchType,
		[]byte(`{"spec":{"resolution":{"by":"dana"}}}`))); err != nil {
		t.Fatalf("a person can't close it: %v", err)
	}
	await(v1alpha1.StepKeyCompromised, v1alpha1.ReasonNotNeeded)
	if c := await(v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded); c.Status != metav1.ConditionTrue {
		t.Errorf("it is not closed: %+v", c)
	}
}
