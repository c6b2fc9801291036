package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/replays"
)

const (
	// interval is how often a step looks again at what it waits for.
	interval = 10 * time.Second
	// replayInterval is how often a DLQReplay that runs is looked at, beside what its changes tell.
	replayInterval = 5 * time.Second
	// leastEntries and mostEntries bound the maxEntries of a DLQReplay that settles: v1alpha1's default and maximum.
	leastEntries = 50_000
	mostEntries  = 10_000_000
)

// Settle is the step that marks as delivered what a relying party has already: it answered 409 to a retry. A DLQReplay
// does it, which sends nothing. So it works while the relying party is down.
func (w *Webhooks) Settle(ctx context.Context) (playbook.Outcome, error) {
	conflicts := w.conflicts()
	switch {
	case w.ByHand():
		return playbook.NotNeeded("resolved by %s", w.Incident.Spec.Resolution.By), nil
	case len(conflicts) == 0 && w.mayStillDie():
		return playbook.Wait(interval, v1alpha1.ReasonPending, "no webhook died of HTTP 409 to a retry so far"), nil
	case len(conflicts) == 0:
		return playbook.NotNeeded("no webhook died of HTTP 409 to a retry"), nil
	case w.Platform.Spec.Database == nil:
		return playbook.NotNeeded("nothing is settled without the database. A person looks at each in the admin UI: the " +
			"relying party has them already"), nil
	case w.recommends():
		return playbook.NotNeeded("spec.webhookDelivery.replay is Recommend. To settle them: %s", w.commands(conflicts)), nil
	}
	var waits, ends []string
	var first playbook.Outcome
	gone := false
	for _, spec := range conflicts {
		outcome, ended, err := w.settleOne(ctx, spec)
		if errors.Is(err, replays.ErrDeleted) {
			gone, ended, err = true, w.deleted(w.replay(v1alpha1.StepConflictsSettled, spec.ApplicationID)), nil
		}
		switch {
		case err != nil:
			return playbook.Outcome{}, err
		case !outcome.Stops():
			ends = append(ends, ended)
			continue
		case len(waits) == 0:
			first = outcome
		}
		waits = append(waits, spec.ApplicationID)
	}
	if len(waits) > 0 {
		return first, nil
	}
	if gone {
		// What it names did not happen.
		return playbook.NotNeeded("%s", strings.Join(ends, "; ")), nil
	}
	return playbook.Done("%s", strings.Join(ends, "; ")), nil
}

// mayStillDie says that the incident goes on: what is not dead yet may die later, as retries take hours.
func (w *Webhooks) mayStillDie() bool {
	c := meta.FindStatusCondition(w.Incident.Status.Conditions, v1alpha1.StepRecovered)
	return c != nil && c.Status == metav1.ConditionUnknown && w.Platform.Spec.Database != nil &&
		w.Incident.Status.ResolvedAt == nil
}

// settleOne makes the DLQReplay of an application, or looks at it. The Outcome is what is waited for, or zero; then
// ended says how it ended.
func (w *Webhooks) settleOne(ctx context.Context, spec v1alpha1.DLQReplaySpec) (outcome playbook.Outcome, ended string,
	err error) {
	known := w.replay(v1alpha1.StepConflictsSettled, spec.ApplicationID)
	want := replays.Want{Owner: w.Incident, Kind: "Incident", Step: v1alpha1.StepConflictsSettled, Spec: spec}
	if known != nil {
		want.Made = known.UID
	} else if outcome, err := w.gate(ctx); err != nil || outcome.Stops() {
		return outcome, "", err
	}
	made, err := replays.Replays{Claims: w.Claims}.Make(ctx, want)
	taken := (*replays.Taken)(nil)
	switch {
	case errors.As(err, &taken):
		return playbook.Wait(replayInterval, v1alpha1.ReasonWaitingForOther, "%s", taken), "", nil
	case err != nil:
		return playbook.Outcome{}, "", err
	case known == nil:
		w.Incident.Status.Replays = append(w.Incident.Status.Replays, v1alpha1.IncidentReplay{
			Name: made.Name, UID: string(made.UID), Step: v1alpha1.StepConflictsSettled, ApplicationID: spec.ApplicationID,
		})
		w.Record(v1alpha1.ReasonSettling, "DLQReplay %s settles what application %s has already", made.Name,
			spec.ApplicationID)
		// At once: one that is deleted must be known to have been there.
		if err := w.Save(ctx); err != nil {
			return playbook.Outcome{}, "", fmt.Errorf("writing down DLQReplay %s: %w", made.Name, err)
		}
	}
	outcome, ended = follow(made)
	return outcome, ended, nil
}

// follow says what a DLQReplay does, or how it ended.
func follow(made *v1alpha1.DLQReplay) (outcome playbook.Outcome, ended string) {
	said := "not begun"
	if ready := meta.FindStatusCondition(made.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		said = ready.Message
	}
	switch {
	case playbook.Finished(made):
		return playbook.Outcome{}, fmt.Sprintf("DLQReplay %s ended: %s", made.Name, said)
	case playbook.Stalled(made):
		return playbook.Wait(replayInterval, v1alpha1.ReasonReplayStalled, "DLQReplay %s stalled: %s", made.Name,
			said).Loud(), ""
	}
	return playbook.Wait(replayInterval, v1alpha1.ReasonSettling, "DLQReplay %s: %s", made.Name, said), ""
}

// deleted says once that somebody deleted a DLQReplay, whose work is then not done.
func (w *Webhooks) deleted(known *v1alpha1.IncidentReplay) string {
	text := fmt.Sprintf("DLQReplay %s for application %s was deleted, and is not made again", known.Name,
		known.ApplicationID)
	if slices.ContainsFunc(w.Incident.Status.Timeline,
		func(e v1alpha1.TimelineEntry) bool { return strings.HasPrefix(e.Text, text) }) {
		return text
	}
	w.Warn(v1alpha1.ReasonChildDeleted, "%s. What it did not settle stays dead: apply a DLQReplay by hand if it "+
		"should not",
		text)
	return text
}

// replay that this Incident made; nil where it made none.
func (w *Webhooks) replay(step, application string) *v1alpha1.IncidentReplay {
	made := w.Incident.Status.Replays
	i := slices.IndexFunc(made,
		func(r v1alpha1.IncidentReplay) bool { return r.Step == step && r.ApplicationID == application })
	if i < 0 {
		return nil
	}
	return &made[i]
}

// conflicts are the DLQReplays that settle what the diagnosis found, by application, after those that were made: what
// is settled is in no later diagnosis.
func (w *Webhooks) conflicts() (specs []v1alpha1.DLQReplaySpec) {
	for _, made := range w.Incident.Status.Replays {
		if made.Step == v1alpha1.StepConflictsSettled {
			specs = append(specs, w.spec(made.ApplicationID, 0, v1alpha1.CauseIdempotencyConflict))
		}
	}
	if w.Incident.Status.Diagnosis == nil {
		return specs
	}
	for _, g := range w.Incident.Status.Diagnosis.Groups {
		if g.Cause == v1alpha1.CauseIdempotencyConflict && w.replay(v1alpha1.StepConflictsSettled, g.ApplicationID) == nil {
			// Some more may die until it is planned.
			specs = append(specs, w.spec(g.ApplicationID, 2*ptr.Deref(g.Entries, 0), g.Cause))
		}
	}
	return specs
}

// spec of a DLQReplay for an application.
func (w *Webhooks) spec(application string, entries int64, causes ...v1alpha1.DeadLetterCause) v1alpha1.DLQReplaySpec {
	return v1alpha1.DLQReplaySpec{
		PlatformRef: w.Incident.Spec.PlatformRef, ApplicationID: application,
		Selector:   &v1alpha1.ReplaySelector{Causes: causes},
		MaxEntries: min(max(entries, leastEntries), mostEntries),
	}
}

// recommends says that the Incident makes no DLQReplay.
func (w *Webhooks) recommends() bool {
	block := w.Incident.Spec.WebhookDelivery
	return block != nil && block.Replay == v1alpha1.ReplayRecommend
}

// commands apply DLQReplays by hand.
func (w *Webhooks) commands(specs []v1alpha1.DLQReplaySpec) string {
	texts := make([]string, len(specs))
	for i, spec := range specs {
		fields := map[string]any{"platformRef": spec.PlatformRef, "applicationID": spec.ApplicationID,
			"selector": spec.Selector, "maxEntries": spec.MaxEntries}
		if spec.RatePerSecond != nil {
			fields["ratePerSecond"] = spec.RatePerSecond
		}
		manifest, err := json.Marshal(map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "DLQReplay",
			"metadata": map[string]string{"generateName": "app-" + spec.ApplicationID + "-"},
			"spec":     fields,
		})
		if err != nil {
			panic(err) // strings and numbers always marshal
		}
		texts[i] = fmt.Sprintf("echo '%s' | kubectl -n %s create -f -", manifest, w.Incident.Namespace)
	}
	return strings.Join(texts, " ; ")
}
