// Package opening opens Incidents: one per cause.
package opening

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

const (
	// openInterval is how often a Platform in trouble is asked whether its Incident is still open.
	openInterval = 5 * time.Second
	// tidyInterval is how often a Platform that is well is asked whether its Incidents still exist.
	tidyInterval = 30 * time.Second
	// maxPlatformInName leaves room for the onset and a number in an Incident's name, whose limit is 253.
	maxPlatformInName = 200
	// maxSummary is spec.summary's.
	maxSummary = 255
)

// Opener opens Incidents of Platforms.
type Opener struct {
	Claims   claims.Claims
	Recorder events.EventRecorder
}

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=create;get

// Open opens the Incidents that the Platform wants for what its signals say, where nobody has their places. BadSince is
// in the status by now, and so the name, which is made of the onset, stays the same over a restart.
func (o *Opener) Open(ctx context.Context, p *v1alpha1.Platform, s signals.Signals) (ctrl.Result, error) {
	if !p.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	var again time.Duration
	if len(p.Status.Incidents) > 0 {
		again = tidyInterval
	}
	for _, category := range wanted(p) {
		if len(claims.Alarms(s, category)) == 0 {
			continue
		}
		again = openInterval
		if err := o.open(ctx, p, claims.Place{Category: category, ApplicationID: claims.Platformwide},
			s); apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: time.Second}, nil // somebody else wrote the Platform's status
		} else if err != nil {
			return ctrl.Result{}, fmt.Errorf("opening an Incident of category %s: %w", category, err)
		}
	}
	if err := o.Claims.Tidy(ctx, p, s); apierrors.IsConflict(err) {
		again = time.Second
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("tidying the slots of Incidents: %w", err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// wanted are the categories of which Incidents open by themselves. What a signal asks people to find out is about the
// platform's answers, as an Outage is.
func wanted(p *v1alpha1.Platform) []v1alpha1.IncidentCategory {
	categories := slices.Clone(p.Spec.AutoOpen)
	if slices.Contains(categories, v1alpha1.CategoryOutage) {
		categories = append(categories, v1alpha1.CategoryUnclassified)
	}
	return categories
}

// open takes a place and creates its Incident, unless somebody keeps the place.
func (o *Opener) open(ctx context.Context, p *v1alpha1.Platform, place claims.Place, s signals.Signals) error {
	if kept, err := o.Claims.Kept(ctx, p, place, s); err != nil || kept {
		return err
	}
	incident := incidentFor(p, place.Category, s)
	name, err := o.Claims.Take(ctx, claims.Want{Platform: p, Place: place, Name: incident.Name,
		Signals: s})
	if err != nil || name == "" {
		return err
	}
	incident.Name = name
	err = o.Claims.Client.Create(ctx, incident)
	switch {
	case apierrors.IsAlreadyExists(err):
		return o.adopt(ctx, incident, place)
	case err != nil:
		return fmt.Errorf("creating it: %w", err)
	}
	o.Recorder.Eventf(p, incident, "Warning", "IncidentOpened", "Open", "%s: %s: opened Incident %s",
		incident.Annotations[v1alpha1.AnnotationSeenSeverity], incident.Spec.Summary, name)
	return nil
}

// adopt fills the slot where the name exists: another manager created it, or this one did and did not hear of it.
func (o *Opener) adopt(ctx context.Context, wanted *v1alpha1.Incident, place claims.Place) error {
	found := &v1alpha1.Incident{}
	if err := o.Claims.APIReader.Get(ctx, client.ObjectKeyFromObject(wanted), found); err != nil {
		return fmt.Errorf("reading the Incident that has its name: %w", err)
	}
	if found.Spec.PlatformRef == wanted.Spec.PlatformRef && claims.PlaceOf(found) == place {
		return o.Claims.Fill(ctx, found)
	}
	platform := client.ObjectKey{Namespace: wanted.Namespace, Name: wanted.Spec.PlatformRef.Name}
	return o.Claims.Free(ctx, platform, place, wanted.Name)
}

// incidentFor is the Incident for what the signals of a category say. spec.severity is a person's; what was seen stands
// beside it.
func incidentFor(p *v1alpha1.Platform, category v1alpha1.IncidentCategory, s signals.Signals) *v1alpha1.Incident {
	alarms := claims.Alarms(s, category)
	onset := s.Of(category).BadSince()
	if category == v1alpha1.CategoryUnclassified {
		onset = alarms[0].Since
	}
	began := metav1.NewTime(onset.UTC().Truncate(time.Second))
	var summary []string
	for _, alarm := range alarms {
		summary = append(summary, alarm.Message)
	}
	return &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace,
			Name: strings.TrimRight(p.Name[:min(len(p.Name), maxPlatformInName)], "-.") + "-" +
				began.Format("20060102t150405z"),
			Annotations: map[string]string{
				v1alpha1.AnnotationSeenSeverity: string(alarms[0].Severity), v1alpha1.AnnotationSeenBy: alarms[0].Condition,
			},
			// It pages in its first pass. The finalizer that this needs costs no write of its own so.
			Finalizers: []string{v1alpha1.Finalizer},
		},
		Spec: v1alpha1.IncidentSpec{
			PlatformRef: v1alpha1.PlatformReference{Name: p.Name}, Category: category, Onset: &began,
			Summary: shorten(strings.Join(summary, "; ")),
		},
	}
}

func shorten(text string) string {
	if len(text) > maxSummary {
		text = strings.ToValidUTF8(text[:maxSummary-len("…")], "") + "…"
	}
	return text
}
