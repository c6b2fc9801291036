package webhooks

import (
	"context"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// gate returns what a step waits for before it does something by itself; the zero Outcome where it may. It asks for
// evidence: a signal confirmed the incident, or a person opened it. And nothing is done while the platform itself is
// down, since what is seen then is about that.
func (w *Webhooks) gate(ctx context.Context) (playbook.Outcome, error) {
	switch {
	case w.First != "":
		return playbook.Wait(interval, v1alpha1.ReasonWaitingForOther, "Incident %s of the same category is open, and "+
			"acts; this one does no more than page, as its severity asks", w.First), nil
	case w.StatusLost():
		return playbook.Wait(0, v1alpha1.ReasonStatusLost, "the incident's status was lost, and nobody knows what it did "+
			"before: nothing is done by itself"), nil
	case w.ByAlert() && w.Incident.Status.ConfirmedAt == nil:
		return playbook.Wait(interval, v1alpha1.ReasonNotConfirmed, "no signal confirmed it: nothing is done by itself"), nil
	}
	// Past the cache: somebody may have pressed the red button a moment ago.
	p, err := w.Claims.Read(ctx, w.PlatformKey())
	if err != nil {
		return playbook.Outcome{}, err
	}
	w.Platform = p
	if outcome, ok := w.MayAct(); !ok {
		return outcome, nil
	}
	outage, err := w.OpenOutage(ctx)
	if err != nil || outage == "" {
		return playbook.Outcome{}, err
	}
	return playbook.Wait(interval, v1alpha1.ReasonWaitingForOutage, "Outage %s is open: nothing else is done by itself "+
		"until it is over", outage), nil
}
