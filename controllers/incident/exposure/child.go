package exposure

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=keycompromises,verbs=create;get;list;watch

// find returns the KeyCompromise that the Incident made or took on. Where that is not there, it takes on another one of
// the same key. It returns nil where there is none. All is read past the cache: what was just made would not be in it.
func (e *Exposure) find(ctx context.Context) (*v1alpha1.KeyCompromise, error) {
	known := e.Incident.Status.KeyCompromise
	if known != nil {
		child, err := e.get(ctx, known.Name)
		if err != nil {
			return nil, err
		}
		if child != nil && (known.UID == "" || known.UID == string(child.UID)) {
			// Also where it is being deleted: then it is known that it was there.
			e.seen(child)
			if child.DeletionTimestamp.IsZero() {
				return child, nil
			}
		}
	}
	if known == nil && e.ByHand() {
		return nil, nil
	}
	var all v1alpha1.KeyCompromiseList
	if err := e.APIReader.List(ctx, &all, client.InNamespace(e.Incident.Namespace)); err != nil {
		return nil, fmt.Errorf("looking for KeyCompromises of this key: %w", err)
	}
	found := slices.DeleteFunc(all.Items, func(k v1alpha1.KeyCompromise) bool {
		return !Of(&k, e.Incident) || !k.DeletionTimestamp.IsZero()
	})
	if len(found) == 0 {
		return nil, nil
	}
	child := slices.MinFunc(found, e.better)
	return e.seen(&child), nil
}

// get returns the KeyCompromise of a name, if it is about the Incident's key.
func (e *Exposure) get(ctx context.Context, name string) (*v1alpha1.KeyCompromise, error) {
	child := &v1alpha1.KeyCompromise{}
	err := e.APIReader.Get(ctx, client.ObjectKey{Namespace: e.Incident.Namespace, Name: name}, child)
	if apierrors.IsNotFound(err) || err == nil && !Of(child, e.Incident) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading KeyCompromise %s: %w", name, err)
	}
	return child, nil
}

// Of says whether a KeyCompromise ends the key that an Incident is about.
func Of(k *v1alpha1.KeyCompromise, i *v1alpha1.Incident) bool {
	a := i.Spec.Affected
	return i.Spec.Category == v1alpha1.CategoryKeyExposure && a != nil && len(a.ApplicationIDs) == 1 &&
		k.Namespace == i.Namespace && k.Spec.PlatformRef == i.Spec.PlatformRef &&
		k.Spec.ApplicationID == a.ApplicationIDs[0] && k.Spec.Kid == a.Kid
}

// better puts that KeyCompromise first that the Incident takes on: its own; one that is under way; one that is Ready;
// one that is stalled. Of several the oldest.
func (e *Exposure) better(a, b v1alpha1.KeyCompromise) int {
	rank := func(k *v1alpha1.KeyCompromise) int {
		switch {
		case k.Name == e.name():
			return 0
		case playbook.Finished(k):
			return 2
		case playbook.Stalled(k):
			return 3
		}
		return 1
	}
	return cmp.Or(cmp.Compare(rank(&a), rank(&b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name))
}

// seen writes down which KeyCompromise it is.
func (e *Exposure) seen(child *v1alpha1.KeyCompromise) *v1alpha1.KeyCompromise {
	if child == nil {
		return nil
	}
	known := e.Incident.Status.KeyCompromise
	switch {
	case known != nil && known.Name == child.Name && known.UID == string(child.UID):
		return child
	case known != nil && known.Name == child.Name && known.UID == "":
		known.UID = string(child.UID)
		e.Record(v1alpha1.StepKeyCompromised, "KeyCompromise %s was made: it ends kid %q of application %s via: %s",
			child.Name, child.Spec.Kid, child.Spec.ApplicationID, child.Spec.Via)
		return child
	}
	e.Incident.Status.KeyCompromise = &v1alpha1.IncidentKeyCompromise{Name: child.Name, UID: string(child.UID)}
	e.Record(v1alpha1.StepKeyCompromised, "KeyCompromise %s is there for kid %q of application %s, and is taken on",
		child.Name, child.Spec.Kid, child.Spec.ApplicationID)
	return child
}

// name of the Incident's own KeyCompromise: by UID and step, so that it can't be made twice.
func (e *Exposure) name() string {
	return fmt.Sprintf("%s-keycompromised-%.8s", strings.TrimRight(fmt.Sprintf("%.200s", e.Incident.Name), "-."),
		e.Incident.UID)
}

// Via is how a Platform lets a key be ended; empty where it does not.
func Via(p *v1alpha1.Platform) v1alpha1.CompromiseVia {
	switch {
	case p.Spec.Database != nil && p.Spec.Database.SigningSecretRef != nil:
		return v1alpha1.CompromiseViaDatabase
	case p.Spec.Commands != nil:
		return v1alpha1.CompromiseViaCommand
	}
	return ""
}

// plan is what would be made.
func (e *Exposure) plan() *v1alpha1.KeyCompromise {
	affected, what := e.Incident.Spec.Affected, e.Incident.Spec.Summary
	return &v1alpha1.KeyCompromise{
		// No owner: the proof outlives the Incident.
		ObjectMeta: metav1.ObjectMeta{Namespace: e.Incident.Namespace, Name: e.name(),
			Labels: map[string]string{v1alpha1.LabelIncident: string(e.Incident.UID)}},
		Spec: v1alpha1.KeyCompromiseSpec{
			PlatformRef: e.Incident.Spec.PlatformRef, ApplicationID: affected.ApplicationIDs[0], Kid: affected.Kid,
			Reason: fmt.Sprintf("Incident %s: %s", e.Incident.Name, cmp.Or(what, "the key may have leaked")),
			Via:    Via(e.Platform),
		},
	}
}

// begin makes the KeyCompromise where it may be made now.
func (e *Exposure) begin(ctx context.Context) (playbook.Outcome, error) {
	// Past the cache: somebody may have pressed the red button a moment ago.
	now := &v1alpha1.Platform{}
	if err := e.APIReader.Get(ctx, e.PlatformKey(), now); err != nil {
		return playbook.Outcome{}, fmt.Errorf("reading the Platform: %w", err)
	}
	e.Platform = now
	child := e.plan()
	if child.Spec.Via == "" {
		return playbook.Stall(v1alpha1.ReasonNotConfigured, "kid %q of application %s is not ended: Platform %q has neither "+
			"spec.database.signingSecretRef nor spec.commands. Add one of them, and it goes on by itself. Or run the "+
			"platform's rake webhooks:compromise by hand, and close this: %s", child.Spec.Kid, child.Spec.ApplicationID,
			e.Platform.Name, e.ResolveCommand()).Loud(), nil
	}
	if held, err := e.held(ctx, child); err != nil || held.Stops() {
		return held.Loud(), err
	}
	return e.create(ctx, child)
}

// create makes the KeyCompromise, and says what came of it.
func (e *Exposure) create(ctx context.Context, child *v1alpha1.KeyCompromise) (playbook.Outcome, error) {
	fate, err := e.creation(child).Do(ctx)
	switch {
	case fate == playbook.Made:
		return e.follow(e.seen(child)), nil
	case fate == playbook.Withdrawn:
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "no KeyCompromise can be made of this: %s. Apply one by hand. "+
			"Then: %s", playbook.Normalise(err.Error()), e.ResumeCommand()).Loud(), nil
	case apierrors.IsForbidden(err):
		return playbook.Outcome{}, &playbook.Waiting{Reason: v1alpha1.ReasonRetrying, Urgent: true, Err: fmt.Errorf(
			"the key is not ended, since the manager may not create KeyCompromises. Apply config/rbac again, or a "+
				"KeyCompromise of application %s and kid %q, which this incident takes on: %w", child.Spec.ApplicationID,
			child.Spec.Kid, err)}
	case err != nil:
		return playbook.Outcome{}, fmt.Errorf("creating KeyCompromise %s: %w", child.Name, err)
	}
	return playbook.Outcome{}, fmt.Errorf("creating KeyCompromise %s: another object has that name", child.Name)
}

// creation is effectively once: the name is the same in each try. The name is in the status before, and the UID after.
// So it is known whether it was there, and one that was deleted since is not made again. Each try writes the status
// first: a manager that slept finds then that another one went on.
func (e *Exposure) creation(child *v1alpha1.KeyCompromise) playbook.Effect {
	made := false
	return playbook.Effect{
		Class: playbook.EffectivelyOnce, Now: e.Now,
		Intend: func(ctx context.Context) (bool, error) {
			if e.Incident.Status.KeyCompromise == nil {
				playbook.Announce(e.Incident, v1alpha1.StepKeyCompromised, v1alpha1.ReasonEndingKey,
					fmt.Sprintf("KeyCompromise %s is made", child.Name))
			}
			e.Incident.Status.KeyCompromise = &v1alpha1.IncidentKeyCompromise{Name: child.Name,
				AskedAt: new(metav1.NewMicroTime(e.Now))}
			return true, e.Save(ctx)
		},
		Act: func(ctx context.Context) error {
			err := e.Client.Create(ctx, child)
			switch made = err == nil; {
			case apierrors.IsInvalid(err):
				return &playbook.NoEffect{Err: err}
			case apierrors.IsAlreadyExists(err):
				return nil // Look tells what it is
			}
			return err
		},
		Look: func(ctx context.Context) (bool, error) {
			if made {
				return true, nil
			}
			there, err := e.get(ctx, child.Name)
			if err != nil || there == nil {
				return false, err
			}
			*child = *there
			return true, nil
		},
		Withdraw: func(ctx context.Context, _ error) error {
			e.Incident.Status.KeyCompromise = nil
			return e.Save(ctx)
		},
	}
}

// Followers maps a KeyCompromise to the Incidents that follow it, or may take it on. Some have no label: a person
// applied them.
func Followers(c client.Reader) func(context.Context, client.Object) []reconcile.Request {
	return func(ctx context.Context, obj client.Object) (requests []reconcile.Request) {
		var all v1alpha1.IncidentList
		if err := c.List(ctx, &all, client.InNamespace(obj.GetNamespace())); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "listing which Incidents follow a KeyCompromise")
		}
		for i := range all.Items {
			if incident := &all.Items[i]; Of(obj.(*v1alpha1.KeyCompromise), incident) && !playbook.Finished(incident) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(incident)})
			}
		}
		return requests
	}
}
