package platform_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// A single failed look changes nothing, and nothing is written.
func TestABlipIsNothing(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	namespace := newNamespace(t, "blip")
	var ups, blips atomic.Int64
	url, requests := proxy(t, site.URL(), func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/up" || ups.Add(1)%10 != 0 {
			return false
		}
		blips.Add(1)
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	p := probedOf(namespace, "blip", url)
	p.Spec.AutoOpen = []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage, v1alpha1.CategoryWebhookDelivery}
	create(t, secret(namespace, p.Name, site.URLAs("playbook_operator")), p)
	_, writes := managed(t, namespace)
	awaitSummary(t, p, quiet)
	await(t, p, "Ready", metav1.ConditionTrue, "Succeeded")
	settle(t, requests, writes)
	written, from, version := writes.Load(), blips.Load(), read(t, p).ResourceVersion
	eventually(t, "a few blips", func() bool { return blips.Load() >= from+3 },
		func() string { return fmt.Sprint(blips.Load()) })
	if got := read(t, p); got.ResourceVersion != version || writes.Load() != written {
		t.Errorf("%d writes; now it is %q\n%s", writes.Load()-written, got.Status.Signals.Summary, describe(got))
	}
	if all := incidents(t, namespace); len(all) != 0 {
		t.Errorf("%d Incidents", len(all))
	}
}

// A signal that fails often, but never twice in a row, is told once. It is not good in between.
func TestWhatFailsTooOftenIsSaidOnce(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	namespace := newNamespace(t, "flaky")
	var tokens atomic.Int64
	var mended atomic.Bool
	url, requests := proxy(t, site.URL(), func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/oauth/token" || tokens.Add(1)%3 != 0 || mended.Load() {
			return false
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	p := probedOf(namespace, "flaky", url)
	p.Spec.AutoOpen = []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage}
	create(t, secret(namespace, p.Name, site.URLAs("playbook_operator")), p)
	_, writes := managed(t, namespace)
	got := awaitSummary(t, p, "sev2: /oauth/token fails in more than 20 % of the looks, for 22 s")
	if is := condition(got, v1alpha1.ConditionTokensIssued); is.Status != metav1.ConditionFalse ||
		is.Reason != v1alpha1.ReasonSignalFlaky {
		t.Errorf("%+v", is)
	}
	eventually(t, "an Incident is open", func() bool { return len(incidents(t, namespace)) == 1 },
		func() string { return describe(read(t, p)) })
	settle(t, requests, writes)
	mended.Store(true)
	awaitSummary(t, p, quiet)
}

// settle waits until nothing is written for six looks. In that time each part of the controllers has run.
func settle(t *testing.T, requests, writes *atomic.Int64) {
	t.Helper()
	eventually(t, "nothing is written any more", func() bool {
		before, from := writes.Load(), requests.Load()
		eventually(t, "it is looked at", func() bool { return requests.Load() >= from+6*looked },
			func() string { return fmt.Sprint(requests.Load()) })
		return writes.Load() == before
	}, func() string { return fmt.Sprint(writes.Load()) })
}
