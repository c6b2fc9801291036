package webhooks

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// recoverInterval is how often it is looked whether webhooks arrive. A look at a million dead letters takes a second.
	recoverInterval = 30 * time.Second
	// gently is the ratePerSecond that is recommended for a relying party that wants fewer requests.
	gently = 5
	// mostApplications are looked at: each costs a statement.
	mostApplications = 64
	// window is how long ago an attempt may be and still say how deliveries fare now.
	window = 5 * time.Minute
	// skew is how far the clocks of the database and of the manager may be apart.
	skew = time.Minute
)

// lately is how webhooks of one application fared.
type lately struct {
	// died is when the last one died of something that a recovery ends; zero where none is dead of that.
	died time.Time
	// diedAny is when the last one died of anything.
	diedAny time.Time
	// arrived is when the last one was delivered that was enqueued since the onset; nil where none was.
	arrived *time.Time
	// failing says that attempts within the window failed, and none succeeded.
	failing bool
}

// recovered says that it receives again: something fresh arrived since the last one died, and nothing fails now. That
// nothing fails alone says nothing: there may have been no attempt.
func (l lately) recovered() bool { return !l.failing && l.arrived != nil && l.arrived.After(l.died) }

// over says that it receives again, as far as a cause goes. One that refuses some of the webhooks is not over while one
// of them died last.
func (l lately) over(cause v1alpha1.DeadLetterCause) bool {
	return l.recovered() && (cause != v1alpha1.CauseClientError || l.arrived.After(l.diedAny))
}

// seen is what a look at deliveries finds.
type seen struct {
	diagnosis *v1alpha1.IncidentDiagnosis
	each      map[string]lately
	// more is how many applications there are beyond those.
	more int
}

// Recover is the step that waits until the relying parties receive again. It changes nothing. What is still dead then
// is recommended to be replayed.
func (w *Webhooks) Recover(ctx context.Context) (playbook.Outcome, error) {
	switch {
	case w.ByHand():
		return playbook.NotNeeded("resolved by %s", w.Incident.Spec.Resolution.By), nil
	case w.Platform.Spec.Database == nil:
		return playbook.NotNeeded("nobody can tell whether webhooks arrive again: Platform %q has no spec.database",
			w.Platform.Name), nil
	}
	now, err := w.lately(ctx)
	if err != nil {
		return playbook.Outcome{}, err
	}
	w.keep(now.diagnosis)
	if len(now.each) == 0 {
		return w.recoverInBulk(), nil
	}
	var down, arrived []string
	unknown := true
	for _, application := range sorted(now.each) {
		l := now.each[application]
		switch {
		case l.recovered():
			arrived = append(arrived, fmt.Sprintf("%s at %s", application, l.arrived.UTC().Format(time.RFC3339)))
		case l.failing:
			down, unknown = append(down, fmt.Sprintf("application %s receives nothing: each attempt fails", application)), false
		case !l.died.Before(w.Incident.Status.Onset.Add(-skew)):
			down, unknown = append(down, fmt.Sprintf("the last webhook to application %s died at %s, and nothing fresh has "+
				"arrived since", application, l.died.UTC().Format(time.RFC3339))), false
		default:
			down = append(down, fmt.Sprintf("nothing that was enqueued since the onset has arrived at application %s, and "+
				"nothing fails now", application))
		}
	}
	reason := v1alpha1.ReasonRelyingPartyDown
	if unknown {
		reason = v1alpha1.ReasonSignalsUnknown
	}
	if now.more > 0 {
		down = append(down, fmt.Sprintf("%s not looked at", playbook.Count(now.more, "more application is",
			"more applications are")))
	}
	if len(down) > 0 {
		return playbook.Wait(recoverInterval, reason, "%s", strings.Join(down[:min(len(down), named)], "; ")), nil
	}
	return playbook.Done("fresh webhooks arrive: application %s%s", strings.Join(arrived[:min(len(arrived), named)], ", "),
		w.replayAdvice(now.diagnosis)), nil
}

// keep a diagnosis that says something new: while nothing changes, nothing is written.
func (w *Webhooks) keep(now *v1alpha1.IncidentDiagnosis) {
	if known := w.Incident.Status.Diagnosis; known != nil {
		same := now.DeepCopy()
		same.At = known.At
		if equality.Semantic.DeepEqual(known, same) {
			return
		}
	}
	w.Incident.Status.Diagnosis = now
}

// recoverInBulk is for deliveries that fail without a dead entry yet: then the signal is all that is known.
func (w *Webhooks) recoverInBulk() playbook.Outcome {
	for _, signal := range w.Own.Each {
		switch {
		case signal.Condition != v1alpha1.ConditionWebhooksDelivered:
		case signal.State == metav1.ConditionTrue && w.Incident.Status.ConfirmedAt != nil:
			return playbook.Done("%s", signal.Message)
		case signal.State == metav1.ConditionFalse:
			return playbook.Wait(recoverInterval, v1alpha1.ReasonRelyingPartyDown, "%s", signal.Message)
		}
	}
	return playbook.Wait(recoverInterval, v1alpha1.ReasonSignalsUnknown,
		"no webhook is dead, and whether they arrive is unknown")
}

// Over says that everything that died since the onset is delivered or settled, and that each relying party receives;
// otherwise what is missing.
func (w *Webhooks) Over(ctx context.Context) (over bool, missing string, err error) {
	now, err := w.lately(ctx)
	if err != nil {
		return false, "", err
	}
	w.keep(now.diagnosis)
	for _, application := range sorted(now.each) {
		switch l := now.each[application]; {
		case !l.recovered():
			playbook.Reopen(w.Incident, v1alpha1.StepRecovered, v1alpha1.ReasonRelyingPartyDown,
				"application "+application+" does not receive again")
			return false, fmt.Sprintf("application %s does not receive again", application), nil
		case !l.diedAny.Before(w.Incident.Status.Onset.Add(-skew)):
			return false, fmt.Sprintf("webhooks to application %s are dead that died since the onset", application), nil
		}
	}
	if now.more > 0 {
		return false, playbook.Count(now.more, "more application is", "more applications are") + " not looked at", nil
	}
	return true, "", nil
}

// lately looks beside the passes how the webhooks of the affected applications fare: those that the spec names, or
// those that were seen dead or failing since a day before the onset. What is dead for longer is another story. One that
// was seen stays: that nothing of it is dead any more does not say that it receives.
func (w *Webhooks) lately(ctx context.Context) (*seen, error) {
	l, err := w.looker()
	if err != nil {
		return nil, err
	}
	onset, known := w.Incident.Status.Onset.Time, slices.Clone(w.Incident.Status.Applications)
	now, err := playbook.Ask(ctx, w.Aside, string(w.Incident.UID)+"/recovery", "whether webhooks arrive", lookTimeout,
		func(ctx context.Context) (*seen, error) { return l.recovery(ctx, known, onset) })
	if err == nil && len(l.applications) == 0 {
		w.Incident.Status.Applications = sorted(now.each)
	}
	return now, err
}

// recovery reads how the applications fare. known are those that were seen before.
func (l *looker) recovery(ctx context.Context, known []string, onset time.Time) (*seen, error) {
	db, err := l.access.Monitor(ctx, l.platform)
	if err != nil {
		return nil, err
	}
	dead, err := db.Diagnose(ctx, l.applications, read)
	if err != nil {
		return nil, access.DatabaseError(err)
	}
	now, err := db.Deliveries(ctx, window)
	if err != nil {
		return nil, access.DatabaseError(err)
	}
	found := &seen{diagnosis: l.assembled(ctx, db, dead), each: map[string]lately{}}
	affected := slices.Clone(l.applications)
	if len(affected) == 0 {
		affected = slices.Clone(now.Failing)
		for _, d := range dead.Dead {
			if d.Newest.After(onset.Add(-stillDying)) {
				affected = append(affected, d.ApplicationID)
			}
		}
		for _, text := range known {
			// This package wrote it.
			if id, err := strconv.ParseInt(text, 10, 64); err == nil {
				affected = append(affected, id)
			}
		}
	}
	affected = slices.Compact(slices.Sorted(slices.Values(affected)))
	found.more = max(len(affected)-mostApplications, 0)
	for _, id := range affected[:len(affected)-found.more] {
		fresh, err := db.FreshDeliveries(ctx, id, onset, "")
		if err != nil {
			return nil, access.DatabaseError(err)
		}
		one := lately{arrived: fresh.Newest, failing: slices.Contains(now.Failing, id)}
		for _, d := range dead.Dead {
			if d.ApplicationID != id {
				continue
			}
			one.diedAny = later(one.diedAny, d.Newest)
			if mends(d) {
				one.died = later(one.died, d.Newest)
			}
		}
		found.each[strconv.FormatInt(id, 10)] = one
	}
	return found, nil
}

// mends says whether a cause ends when the relying party recovers. One that refuses some webhooks, or has them already,
// may well receive others.
func mends(d platformdb.Dead) bool {
	cause := v1alpha1.DeadLetterCause(d.Cause)
	return cause != v1alpha1.CauseClientError && cause != v1alpha1.CauseIdempotencyConflict
}

// replayAdvice is how a person brings what is still dead, and what a replay can mend.
func (w *Webhooks) replayAdvice(d *v1alpha1.IncidentDiagnosis) string {
	causes, entries := map[string][]v1alpha1.DeadLetterCause{}, map[string]int64{}
	for _, g := range d.Groups {
		if g.Finding == v1alpha1.FindingRelyingPartyFails || g.Finding == v1alpha1.FindingRelyingPartyLimits ||
			g.Finding == v1alpha1.FindingKidServed {
			if !slices.Contains(causes[g.ApplicationID], g.Cause) {
				causes[g.ApplicationID] = append(causes[g.ApplicationID], g.Cause)
			}
			entries[g.ApplicationID] += *g.Entries
		}
	}
	if len(causes) == 0 {
		return ""
	}
	var specs []v1alpha1.DLQReplaySpec
	for _, application := range sorted(causes)[:min(len(causes), named)] {
		spec := w.spec(application, 2*entries[application], causes[application]...)
		if onset := w.Incident.Spec.Onset; onset != nil {
			// What was dead before it began is another story. A signal is bad after what made it bad.
			spec.Selector.DeadAfter = new(metav1.NewTime(onset.Add(-2 * window)))
		}
		if slices.Contains(causes[application], v1alpha1.CauseRateLimited) {
			spec.RatePerSecond = new(int32(gently))
		}
		specs = append(specs, spec)
	}
	return ". What is still dead is not sent again by itself. To send it: " + w.commands(specs)
}

// sorted are the keys of a map by application, in the order of their numbers.
func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return keys
}
