// Package opening opens Incidents for what the signals say: one per category.
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
	// openInterval is how often it is checked, while a signal is bad, that an Incident is still open.
	openInterval = 5 * time.Second
	// tidyInterval is how often it is checked, while no signal is bad, that the Incidents in the slots still exist.
	tidyInterval = 30 * time.Second
	// maxSummary is the maximum length of spec.summary.
	maxSummary = 255
)

// Opener opens Incidents of Platforms.
type Opener struct {
	Claims   claims.Claims
	Recorder events.EventRecorder
}

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=create;get

// Claim takes the free slots that the Platform wants for what its signals say. It changes no more than p's status. The
// caller writes that under the optimistic lock, with what the signals say: one write less before the page. Then Open
// creates the Incidents. p is from the cache. If that is old, the write is a conflict.
func (o *Opener) Claim(ctx context.Context, p *v1alpha1.Platform, s signals.Signals) (Claimed, error) {
	claimed := Claimed{}
	if !p.DeletionTimestamp.IsZero() {
		return claimed, nil
	}
	for _, category := range wanted(p) {
		place := platformwide(category)
		if claims.Slot(&p.Status, place) != nil || len(claims.Alarms(s, category)) == 0 {
			continue
		}
		incident := incidentFor(p, category, s)
		name, err := o.Claims.TakeFree(ctx, claims.Want{Platform: p, Place: place, Name: incident.Name, Signals: s})
		if err != nil {
			return nil, fmt.Errorf("taking the place of an Incident of category %s: %w", category, err)
		}
		if incident.Name = name; name != "" {
			claimed[place] = incident
		}
	}
	return claimed, nil
}

// Claimed are Incidents that have their slots, and are to be created.
type Claimed map[claims.Place]*v1alpha1.Incident

// Open creates the Incidents that were claimed. It opens those too that the Platform wants where a slot was not free:
// what had it may be over.
func (o *Opener) Open(ctx context.Context, p *v1alpha1.Platform, s signals.Signals, claimed Claimed) (ctrl.Result,
	error) {
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
		place, err := platformwide(category), error(nil)
		if incident := claimed[place]; incident != nil {
			err = o.create(ctx, p, place, incident)
		} else {
			err = o.open(ctx, p, place, s)
		}
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: time.Second}, nil // another writer changed the Platform's status
		} else if err != nil {
			return ctrl.Result{}, fmt.Errorf("opening an Incident of category %s: %w", category, err)
		}
	}
	if len(claimed) > 0 {
		return ctrl.Result{RequeueAfter: again}, nil // the Incident's own first pass completes its slot
	}
	if err := o.Claims.Tidy(ctx, p, s); apierrors.IsConflict(err) {
		again = time.Second
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("tidying the slots of Incidents: %w", err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

func platformwide(category v1alpha1.IncidentCategory) claims.Place {
	return claims.Place{Category: category, ApplicationID: claims.Platformwide}
}

// wanted lists the categories that open by themselves. If that includes Outage, it includes Unclassified: such an
// Incident asks people what an answer of the platform means.
func wanted(p *v1alpha1.Platform) []v1alpha1.IncidentCategory {
	categories := slices.Clone(p.Spec.AutoOpen)
	if slices.Contains(categories, v1alpha1.CategoryOutage) {
		categories = append(categories, v1alpha1.CategoryUnclassified)
	}
	return categories
}

// open takes a place that was not free, and creates its Incident, unless the slot keeps it from opening.
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
	return o.create(ctx, p, place, incident)
}

// create an Incident that has the slot of its place.
func (o *Opener) create(ctx context.Context, p *v1alpha1.Platform, place claims.Place,
	incident *v1alpha1.Incident) error {
	err := o.Claims.Client.Create(ctx, incident)
	switch {
	case apierrors.IsAlreadyExists(err):
		return o.adopt(ctx, incident, place)
	case err != nil:
		return fmt.Errorf("creating it: %w", err)
	}
	o.Recorder.Eventf(p, incident, "Warning", "IncidentOpened", "Open", "%s: %s: opened Incident %s",
		incident.Annotations[v1alpha1.AnnotationSeenSeverity], incident.Spec.Summary, incident.Name)
	return nil
}

// adopt fills the slot if the name exists already. Another manager created it, or this one did and lost the answer.
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

// incidentFor is the Incident for what the signals of a category say. spec.severity stays empty, since only a person
// sets it. The severity that was seen is in an annotation.
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
			Name:      p.Name + "-" + began.Format("20060102t150405z"),
			Annotations: map[string]string{
				v1alpha1.AnnotationSeenSeverity: string(alarms[0].Severity), v1alpha1.AnnotationSeenBy: alarms[0].Condition,
			},
			// It pages in its first pass, and needs the finalizer for that. Here the finalizer costs no write of its own.
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
