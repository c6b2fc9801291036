package claims

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// quietFor stands for spec.oncall.repeatSeconds if there is no spec.oncall.
const quietFor = 30 * time.Minute

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms,verbs=get;list;watch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=platforms/status,verbs=patch
// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=incidents,verbs=get;list;watch

// Want is an Incident that signals ask for.
type Want struct {
	// Platform that has the place.
	Platform *v1alpha1.Platform
	Place    Place
	// Name that the Incident gets, if no other has it.
	Name    string
	Signals signals.Signals
}

func repeat(p *v1alpha1.Platform) time.Duration {
	if p.Spec.Oncall == nil || p.Spec.Oncall.RepeatSeconds == 0 {
		return quietFor
	}
	return time.Duration(p.Spec.Oncall.RepeatSeconds) * time.Second
}

// Kept says whether the slot of a place keeps another Incident from opening for what the signals say. It reads the
// cache only: while a slot does, the API server is not read.
func (c Claims) Kept(ctx context.Context, p *v1alpha1.Platform, place Place, s signals.Signals) (bool, error) {
	slot := Slot(&p.Status, place)
	if slot == nil || slot.IncidentUID == "" {
		return false, nil
	}
	incidents, err := named(ctx, c.Client, p, *slot)
	if err != nil {
		return false, err
	}
	holder := holderOf(slot, incidents)
	open := holder != nil && !Ended(holder)
	if !open && slot.QuietSince == nil {
		return false, nil
	}
	return keeps(*slot, open, Alarms(s, place.Category), c.Now(), repeat(p)), nil
}

// Take decides who has a place while signals ask for an Incident there. It returns the name of the Incident that the
// caller must create now, or none. The slot is written before it returns. Whoever finds a slot without a UID creates an
// Incident of the same name, and the API server creates only one of them. The Incident's first pass writes the UID, or
// Tidy does. A conflict means that another writer decides.
func (c Claims) Take(ctx context.Context, want Want) (create string, err error) {
	// A place that is taken in the cache may be free by now.
	if want.Platform, err = c.Read(ctx, client.ObjectKeyFromObject(want.Platform)); err != nil {
		return "", err
	}
	base := want.Platform.DeepCopy()
	if create, err = c.TakeFree(ctx, want); err != nil {
		return "", err
	}
	if _, err = c.DecideOn(ctx, base, func(status *v1alpha1.PlatformStatus) bool {
		*status = want.Platform.Status
		return true
	}); err != nil {
		return "", err
	}
	return create, nil
}

// TakeFree is Take in a Platform's status that the caller writes, under the optimistic lock. Only then the caller
// creates the Incident.
func (c Claims) TakeFree(ctx context.Context, want Want) (create string, err error) {
	// This is read after the slots. Whoever takes a slot and creates its Incident after this read also changes the slot.
	var all v1alpha1.IncidentList
	if err := c.APIReader.List(ctx, &all, client.InNamespace(want.Platform.Namespace)); err != nil {
		return "", fmt.Errorf("looking for open Incidents: %w", err)
	}
	return choose(&want.Platform.Status, want, all.Items, c.Now(), repeat(want.Platform)), nil
}

// Fill writes the UID of an Incident that was created into the slot that has its name.
func (c Claims) Fill(ctx context.Context, i *v1alpha1.Incident) error {
	_, err := c.Insist(ctx, platformOf(i), func(status *v1alpha1.PlatformStatus) {
		if slot := Slot(status, PlaceOf(i)); isOf(slot, i) {
			slot.IncidentUID = string(i.UID)
		}
	})
	return err
}

// Free gives up a place that was taken for a name, when another Incident has that name.
func (c Claims) Free(ctx context.Context, platform client.ObjectKey, place Place, name string) error {
	_, err := c.Insist(ctx, platform, func(status *v1alpha1.PlatformStatus) {
		if slot := Slot(status, place); slot != nil && slot.Incident == name && slot.IncidentUID == "" {
			free(status, place)
		}
	})
	return err
}

// Hold takes the place for an Incident. It returns nil while the Incident has the place. Otherwise it returns the
// Incident that has it, with no more than its name if it is not created yet. Then this one only pages, and calls Hold
// again in its next pass. While nothing changes, nothing is written, and only the cache is read. An Incident that
// ended, or is being deleted, takes no place.
func (c Claims) Hold(ctx context.Context, i *v1alpha1.Incident, s signals.Signals) (first *v1alpha1.Incident,
	err error) {
	if Ended(i) || !i.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	p := &v1alpha1.Platform{}
	if err := c.Client.Get(ctx, platformOf(i), p); err != nil {
		return nil, fmt.Errorf("reading the Platform: %w", err)
	}
	slot := Slot(&p.Status, PlaceOf(i))
	if isOf(slot, i) && slot.IncidentUID != "" && slot.Severity == i.Spec.Severity {
		return nil, nil
	}
	if first, err := c.stands(ctx, c.Client, p, slot, i); err != nil || first != nil {
		return first, err
	}
	if p, err = c.Read(ctx, platformOf(i)); err != nil {
		return nil, err
	}
	slot = Slot(&p.Status, PlaceOf(i))
	if first, err := c.stands(ctx, c.APIReader, p, slot, i); err != nil || first != nil {
		return first, err
	}
	_, err = c.DecideOn(ctx, p, func(status *v1alpha1.PlatformStatus) bool {
		hold(status, i, s, c.Now())
		return true
	})
	return nil, err
}

// stands returns the Incident that a slot belongs to, where that is another one than i, and is open, or may be created
// soon.
func (c Claims) stands(ctx context.Context, reader client.Reader, p *v1alpha1.Platform, slot *v1alpha1.IncidentSlot,
	i *v1alpha1.Incident) (*v1alpha1.Incident, error) {
	if slot == nil || isOf(slot, i) {
		return nil, nil
	}
	incidents, err := named(ctx, reader, p, *slot)
	if err != nil {
		return nil, err
	}
	holder := holderOf(slot, incidents)
	switch {
	case holder != nil && !Ended(holder):
		return holder, nil
	case holder == nil && slot.IncidentUID == "" && c.Now().Before(slot.At.Add(settle)):
		return &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: slot.Incident}}, nil
	}
	return nil, nil
}

// Resolved frees the place of an Incident that ended. If spec.resolution ended it while a signal was bad, the place is
// quiet. It is called after status.resolvedAt is set. If the manager dies before the call, Tidy does the same.
func (c Claims) Resolved(ctx context.Context, i *v1alpha1.Incident, s signals.Signals) error {
	_, err := c.Insist(ctx, platformOf(i), func(status *v1alpha1.PlatformStatus) { end(status, i, s) })
	if apierrors.IsNotFound(err) {
		return nil // a deleted Platform has no places
	}
	return err
}

// Tidy removes from a Platform's slots what is over. p is from the cache. If nothing is over there, only the cache is
// read.
func (c Claims) Tidy(ctx context.Context, p *v1alpha1.Platform, s signals.Signals) error {
	if len(p.Status.Incidents) == 0 {
		return nil
	}
	tidied := func(reader client.Reader, p *v1alpha1.Platform) (*v1alpha1.PlatformStatus, error) {
		incidents, err := named(ctx, reader, p, p.Status.Incidents...)
		if err != nil {
			return nil, err
		}
		status := p.Status.DeepCopy()
		tidy(status, incidents, s, c.Now(), repeat(p))
		return status, nil
	}
	after, err := tidied(c.Client, p)
	if err != nil || equality.Semantic.DeepEqual(p.Status.Incidents, after.Incidents) {
		return err
	}
	before, err := c.Read(ctx, client.ObjectKeyFromObject(p))
	if err != nil {
		return err
	}
	if after, err = tidied(c.APIReader, before); err != nil {
		return err
	}
	_, err = c.Decide(ctx, client.ObjectKeyFromObject(p), func(status *v1alpha1.PlatformStatus) bool {
		if !equality.Semantic.DeepEqual(status.Incidents, before.Status.Incidents) {
			return false
		}
		status.Incidents = after.Incidents
		return true
	})
	return err
}

// named returns the Incidents that the slots of a Platform name, if they exist.
func named(ctx context.Context, reader client.Reader, p *v1alpha1.Platform,
	slots ...v1alpha1.IncidentSlot) ([]v1alpha1.Incident, error) {
	var found []v1alpha1.Incident
	for _, slot := range slots {
		i := v1alpha1.Incident{}
		err := reader.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: slot.Incident}, &i)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading Incident %s: %w", slot.Incident, err)
		}
		if err == nil {
			found = append(found, i)
		}
	}
	return slices.DeleteFunc(found, func(i v1alpha1.Incident) bool { return i.Spec.PlatformRef.Name != p.Name }), nil
}

func platformOf(i *v1alpha1.Incident) client.ObjectKey {
	return client.ObjectKey{Namespace: i.Namespace, Name: i.Spec.PlatformRef.Name}
}
