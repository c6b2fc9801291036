package platform_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func incidents(t *testing.T, namespace string) []v1alpha1.Incident {
	t.Helper()
	var list v1alpha1.IncidentList
	if err := kube.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// ObserveOnly still looks and opens: opening only reads and pages. There is one Incident, even after a restart.
func TestOneIncidentOpensPerTrouble(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	namespace := newNamespace(t, "auto-open")
	url, requests := proxy(t, site.URL(), func(http.ResponseWriter, *http.Request) bool { return false })
	p := probedOf(namespace, strings.Repeat("p", 63), url)
	p.Spec.Automation = v1alpha1.AutomationObserveOnly
	p.Spec.AutoOpen = []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage}
	p.Spec.Database.SecretRef.Name = "database"
	database := secret(namespace, "database", site.URLAs("playbook_operator"))
	// The Secret's label names another Platform. Without a database, an Incident still opens.
	create(t, database, p)
	stop, _ := managed(t, namespace)
	awaitSummary(t, p, "unknown: WebhooksDelivered")
	site.Render().Push(logi.WebService, "bad")
	got := awaitSummary(t, p, "sev1: /up answers HTTP 502")
	var all []v1alpha1.Incident
	one := func() bool { all = incidents(t, namespace); return len(all) == 1 }
	eventually(t, "an Incident is open", one, func() string { return fmt.Sprint(len(all)) })
	first := all[0]
	since := got.Status.Signals.BadSince
	if want := strings.Repeat("p", 63) + "-" + since.UTC().Format("20060102t150405z"); first.Name != want {
		t.Errorf("it is called %s, want %s", first.Name, want)
	}
	if s := first.Spec; s.PlatformRef.Name != p.Name || s.Category != v1alpha1.CategoryOutage || s.Severity != "" ||
		!s.Onset.Equal(since) || s.Summary != "/up answers HTTP 502" {
		t.Errorf("%+v", s)
	}
	if seen := first.Annotations; seen[v1alpha1.AnnotationSeenSeverity] != "sev1" ||
		seen[v1alpha1.AnnotationSeenBy] != v1alpha1.ConditionUpAnswers {
		t.Errorf("the annotations are %v", seen)
	}
	eventually(t, "its slot has its UID", func() bool {
		slots := read(t, p).Status.Incidents
		return len(slots) == 1 && slots[0].Incident == first.Name && slots[0].IncidentUID == string(first.UID)
	}, func() string { return fmt.Sprintf("%+v", read(t, p).Status.Incidents) })
	stop()

	// Another manager starts, and knows nothing at first. After that, nothing is written while the signal stays bad.
	_, writes := managed(t, namespace)
	var seen []string
	eventually(t, "the next manager judges by itself", func() bool {
		got = read(t, p)
		seen = append(seen, got.Status.Signals.Summary)
		return strings.HasPrefix(seen[len(seen)-1], "sev1") && strings.HasPrefix(seen[max(0, len(seen)-2)], "unknown")
	}, func() string { return strings.Join(seen, "\n") })
	if !got.Status.Signals.BadSince.Equal(since) {
		t.Errorf("bad since %v, and before the restart since %v", got.Status.Signals.BadSince, since)
	}
	resolve(t, &first)
	// A person resolved it, and the signal stays bad. No Incident opens until it was good once.
	settle(t, requests, writes)
	if !one() {
		t.Errorf("%d Incidents", len(all))
	}
	if slots := read(t, p).Status.Incidents; len(slots) != 1 || slots[0].QuietSince == nil || len(slots[0].Known) != 1 ||
		slots[0].Known[0].Condition != v1alpha1.ConditionUpAnswers {
		t.Errorf("the slots are %+v", slots)
	}

	// The next outage has its own Incident.
	site.Render().Push(logi.WebService, "good")
	got = awaitSummary(t, p, "unknown: WebhooksDelivered")
	site.Render().Push(logi.WebService, "bad")
	awaitSummary(t, p, "sev1: /up answers HTTP 502")
	eventually(t, "a second Incident is open", func() bool { all = incidents(t, namespace); return len(all) == 2 },
		func() string { return fmt.Sprint(len(all)) })
}

// If a person opened an Incident, it is the one for this outage, even if the signals were not bad yet.
func TestNoIncidentOpensWhileOneIsOpen(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	namespace := newNamespace(t, "open-already")
	url, requests := proxy(t, site.URL(), func(http.ResponseWriter, *http.Request) bool { return false })
	p := probedOf(namespace, "open-already", url)
	p.Spec.AutoOpen = []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage}
	create(t, secret(namespace, p.Name, site.URLAs("playbook_operator")), p)
	byHand := &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "by-hand"},
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: p.Name},
			Category: v1alpha1.CategoryOutage, Summary: "customers call"},
	}
	create(t, byHand)
	_, writes := managed(t, namespace)
	awaitSummary(t, p, quiet)
	site.Render().Push(logi.WebService, "bad")
	awaitSummary(t, p, "sev1: /up answers HTTP 502")
	settle(t, requests, writes)
	if all := incidents(t, namespace); len(all) != 1 {
		t.Errorf("%d Incidents", len(all))
	}
	if err := kube.Delete(t.Context(), byHand); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one opens for what is still bad", func() bool {
		all := incidents(t, namespace)
		return len(all) == 1 && all[0].Name != byHand.Name
	}, func() string { return fmt.Sprint(len(incidents(t, namespace))) })
}

// A person's ticket of another category, or of a lower severity, does not keep a sev1 from opening.
func TestATicketKeepsNoOutageFromOpening(t *testing.T) {
	t.Parallel()
	site := newPlatform(t)
	namespace := newNamespace(t, "ticket")
	p := probedOf(namespace, "ticket", site.URL())
	p.Spec.AutoOpen = []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage}
	create(t, secret(namespace, p.Name, site.URLAs("playbook_operator")), p)
	tickets := map[string]v1alpha1.IncidentSpec{
		"user": {Category: v1alpha1.CategoryMergeInconsistency, Severity: v1alpha1.Sev3,
			Affected: &v1alpha1.IncidentAffected{UserIDs: []string{"12"}}},
		"webhooks": {Category: v1alpha1.CategoryWebhookDelivery, Severity: v1alpha1.Sev3},
		"some":     {Category: v1alpha1.CategoryOutage, Severity: v1alpha1.Sev3},
		"unknown":  {},
	}
	_, _ = managed(t, namespace)
	awaitSummary(t, p, quiet)
	for name, spec := range tickets {
		spec.PlatformRef.Name = p.Name
		create(t, &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec})
	}
	// The ticket is at least a second older than the bad signal, so rounded times keep their order.
	made := time.Now()
	eventually(t, "a second later", func() bool { return time.Since(made) > time.Second }, func() string { return "" })
	site.Render().Push(logi.WebService, "bad")
	awaitSummary(t, p, "sev1: /up answers HTTP 502")
	eventually(t, "the outage is open", func() bool { return len(incidents(t, namespace)) == len(tickets)+1 },
		func() string { return fmt.Sprint(len(incidents(t, namespace))) })
}

// resolve does what the Incident controller does after a person has set spec.resolution.
func resolve(t *testing.T, i *v1alpha1.Incident) {
	t.Helper()
	i.Spec.Resolution = &v1alpha1.IncidentResolution{By: "kim"}
	if err := kube.Update(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	base := i.DeepCopy()
	meta.SetStatusCondition(&i.Status.Conditions, metav1.Condition{Type: v1alpha1.StepResolved,
		Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSucceeded, Message: "by hand"})
	if err := kube.Status().Patch(t.Context(), i, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
}
