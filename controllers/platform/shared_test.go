package platform_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// A copy in another namespace is found where the manager watches that namespace. The same ID at another API is another
// service.
func TestACopyInAnotherNamespaceIsNamed(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t, "copy")
	older, secrets := reachingAll(t, unwatched, "copied")
	copied, _ := reachingAll(t, namespace, "copied")
	elsewhere, _ := reachingAll(t, namespace, "elsewhere")
	elsewhere.Spec.Render.Services[0].ServiceID, elsewhere.Spec.StatusPage.PageID = "srv-copied", "another"
	elsewhere.Spec.Render.URL = "https://render.example.com/v1"
	// Written in another way, it is the same API.
	copied.Spec.Render.URL = "https://API.render.com/v1/"
	create(t, older)
	// The API server keeps seconds, so the copy is younger once another one has begun.
	eventually(t, "another second has begun", func() bool {
		return time.Now().Truncate(time.Second).After(read(t, older).CreationTimestamp.Time)
	}, func() string { return time.Now().String() })
	create(t, copied, elsewhere)
	for name, data := range secrets {
		create(t, secretOf(older, name, data), secretOf(copied, name, data))
	}
	r := reconciler(t)
	got, _ := configure(t, r, copied)
	if got.Status.Configuration != "ok" {
		t.Errorf("what the manager does not watch counts: %q", got.Status.Configuration)
	}
	r.Namespaces = []string{unwatched, namespace}
	got, after := configure(t, r, copied)
	is := condition(got, v1alpha1.ConditionRenderServicesShared)
	if is.Status != metav1.ConditionTrue || is.Reason != v1alpha1.ReasonHeldByOther || after != time.Minute ||
		!strings.Contains(is.Message, "is also named by unwatched/copied. The oldest is unwatched/copied") ||
		got.Status.Configuration != "shared: RenderServices, StatusPage" {
		t.Errorf("%q, again after %v\n%s", got.Status.Configuration, after, describe(got))
	}
	got, _ = configure(t, r, older)
	if is := condition(got, v1alpha1.ConditionStatusPageShared); is.Reason != v1alpha1.ReasonHolder ||
		!strings.Contains(is.Message, namespace+"/copied") {
		t.Errorf("%s", describe(got))
	}
	awaitEvent(t, older, "Warning", v1alpha1.ReasonHolder)
	if got, _ = configure(t, r, elsewhere); strings.Contains(got.Status.Configuration, "shared") {
		t.Errorf("%q\n%s", got.Status.Configuration, describe(got))
	}
}
