// Package opening opens Incidents: one per cause.
package opening

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

const (
	// openInterval is how often a Platform in trouble is asked whether its Incident is still open.
	openInterval = 5 * time.Second
	// maxPlatformInName leaves room for the onset in an Incident's name, whose limit is 253.
	maxPlatformInName = 200
)

// Opener opens Incidents of Platforms.
type Opener struct {
	Client client.Client
	// APIReader reads past the cache.
	APIReader client.Reader
	Recorder  events.EventRecorder
}

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=create;list

// Open opens an Incident where the Platform wants that, one at a time. BadSince is in the status by now, and so the name, which is
// made of the onset, stays the same over a restart: creating it twice is impossible.
func (o *Opener) Open(ctx context.Context, p *v1alpha1.Platform, s signals.Signals) (ctrl.Result, error) {
	var category v1alpha1.IncidentCategory
	var onset time.Time
	// An outage is worse than webhooks that don't arrive, and is often why.
	for _, c := range []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage, v1alpha1.CategoryWebhookDelivery} {
		if onset = s.Of(c).BadSince(); !onset.IsZero() && slices.Contains(p.Spec.AutoOpen, c) {
			category = c
			break
		}
	}
	if category == "" || !p.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	began := metav1.NewTime(onset.UTC().Truncate(time.Second))
	incident := &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace,
			Name:      strings.TrimRight(p.Name[:min(len(p.Name), maxPlatformInName)], "-.") + "-" + began.Format("20060102t150405z"),
		},
		// The severity follows the signals.
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: p.Name}, Category: category, Onset: &began, Summary: summaryOf(s)},
	}
	var list v1alpha1.IncidentList
	if err := o.APIReader.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
		return ctrl.Result{}, fmt.Errorf("looking for an open Incident: %w", err)
	}
	for _, other := range list.Items {
		if other.Name == incident.Name || other.Spec.PlatformRef.Name == p.Name && isOpen(&other) {
			// While it is open, no other one is opened; afterwards, one for what is bad then.
			return ctrl.Result{RequeueAfter: openInterval}, nil
		}
	}
	if err := o.Client.Create(ctx, incident); apierrors.IsAlreadyExists(err) {
		return ctrl.Result{RequeueAfter: openInterval}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("opening an Incident: %w", err)
	}
	o.Recorder.Eventf(p, incident, "Warning", "IncidentOpened", "Open", "%s: opened Incident %s", s.Summary(), incident.Name)
	return ctrl.Result{RequeueAfter: openInterval}, nil
}

// summaryOf fits into spec.summary.
func summaryOf(s signals.Signals) string {
	const most = 255
	text := s.Because()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most-len("…")], "") + "…"
	}
	return text
}

func isOpen(i *v1alpha1.Incident) bool {
	resolved := meta.FindStatusCondition(i.Status.Conditions, v1alpha1.StepResolved)
	if resolved == nil {
		return true
	}
	return resolved.Status != metav1.ConditionTrue && (resolved.Status != metav1.ConditionFalse || resolved.Reason != v1alpha1.ReasonNotNeeded)
}
