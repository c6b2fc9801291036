package webhooks

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// gate returns what a step waits for before it does something by itself; the zero Outcome where it may. It asks for
// evidence: a signal confirmed the incident, or a person opened it. And nothing is done while the platform itself is
// down, since what is seen then is about that.
func (w *Webhooks) gate(ctx context.Context) (playbook.Outcome, error) {
	switch obj := w.Incident; {
	case w.First != "":
		return playbook.Wait(interval, v1alpha1.ReasonWaitingForOther, "Incident %s of the same category is open, and "+
			"acts; this one does no more than page, as its severity asks", w.First), nil
	case w.StatusLost():
		return playbook.Wait(0, v1alpha1.ReasonStatusLost, "the incident's status was lost, and nobody knows what it did "+
			"before: nothing is done by itself"), nil
	case obj.Annotations[v1alpha1.AnnotationSeenBy] != "" && obj.Status.ConfirmedAt == nil:
		return playbook.Wait(interval, v1alpha1.ReasonNotConfirmed, "no signal confirmed it: nothing is done by itself"), nil
	}
	if outcome, ok := w.MayAct(); !ok {
		return outcome, nil
	}
	var all v1alpha1.IncidentList
	if err := w.Claims.Client.List(ctx, &all, client.InNamespace(w.Incident.Namespace)); err != nil {
		return playbook.Outcome{}, fmt.Errorf("looking for an open Outage: %w", err)
	}
	for i := range all.Items {
		other := &all.Items[i]
		if other.Spec.Category == v1alpha1.CategoryOutage && !claims.Ended(other) &&
			other.Spec.PlatformRef == w.Incident.Spec.PlatformRef {
			return playbook.Wait(interval, v1alpha1.ReasonOutageOpen, "Outage %s is open: nothing else is done by itself "+
				"until it is over", other.Name), nil
		}
	}
	return playbook.Outcome{}, nil
}
