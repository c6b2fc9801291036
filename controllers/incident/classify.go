package incident

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// respondWithin is the playbook's.
var respondWithin = map[v1alpha1.Severity]time.Duration{v1alpha1.Sev1: 0, v1alpha1.Sev2: time.Hour,
	v1alpha1.Sev3: 24 * time.Hour}

// floor is the severity that an incident has at least, where no person decided.
func floor(category v1alpha1.IncidentCategory) v1alpha1.Severity {
	switch category {
	case v1alpha1.CategoryOutage, v1alpha1.CategoryKeyExposure:
		return v1alpha1.Sev2
	}
	return v1alpha1.Sev3
}

// severity that an incident has now: what a person decided, or the worst of its floor, of what is known and of what was
// seen.
func severity(decided v1alpha1.Severity, category v1alpha1.IncidentCategory,
	known ...v1alpha1.Severity) v1alpha1.Severity {
	if decided != "" {
		return decided
	}
	worst := floor(category)
	for _, s := range known {
		if s != "" {
			worst = min(worst, s)
		}
	}
	return worst
}

// assess takes what the signals say now over into the status, in each pass.
func (s *response) assess() {
	status, spec := &s.Incident.Status, &s.Incident.Spec
	s.own = s.signals.Of(spec.Category)
	if spec.Category == v1alpha1.CategoryWebhookDelivery && spec.Affected != nil && len(spec.Affected.ApplicationIDs) > 0 {
		// The signal is about all relying parties: it says nothing of the one that this incident is about.
		s.own = signals.Signals{}
	}
	opened := s.Incident.CreationTimestamp.Time
	if status.DetectedAt == nil {
		status.DetectedAt = journal.Seconds(opened)
	}
	if status.Onset == nil {
		since := s.own.BadSince()
		switch {
		case spec.Onset != nil:
			status.Onset = spec.Onset
		case !since.IsZero() && since.Before(opened):
			status.Onset = journal.Seconds(since)
		default:
			status.Onset = journal.Seconds(opened)
		}
	}
	if status.ResolvedAt != nil {
		return
	}
	if status.AffectedSince == nil && s.own.Down() {
		status.AffectedSince = journal.Seconds(s.own.BadSince())
	}
	status.Signals = observe(status.Signals, s.own)
	if status.Severity != "" {
		// Before a rise: who took it on did not know of it.
		s.acknowledge()
	}
	s.rise()
	s.confirm()
	s.acknowledge()
}

// rise follows the severity. A rise begins a new round of pages, and outdates an acknowledgement that was given before.
func (s *response) rise() {
	status, spec := &s.Incident.Status, &s.Incident.Spec
	now := severity(spec.Severity, spec.Category, status.Severity, s.own.Severity(), seenSeverity(s.Incident),
		keySeverity(status.KeyCheck))
	if now != status.Severity {
		why := s.whyClassified(now)
		s.Record(v1alpha1.ReasonClassifying, "%s: %s", now, why)
		if status.Severity != "" {
			playbook.Happened(s.Incident, v1alpha1.StepClassified, "%s: %s", now, why)
			s.rose = true
		}
		status.Severity = now
	}
	if s.escalation().Begin() && !s.escalation().Acknowledged() {
		for _, step := range []string{v1alpha1.StepEscalated, v1alpha1.StepAcknowledged} {
			playbook.Reopen(s.Incident, step, v1alpha1.ReasonPaging, "the severity rose to "+string(now))
		}
	}
	status.RespondBy = journal.Seconds(status.Escalation.Since.Add(respondWithin[now]))
	if seen := s.own.Severity(); spec.Severity != "" && seen != "" && seen < spec.Severity {
		text := fmt.Sprintf("the signals say %s, and spec.severity says %s", seen, spec.Severity)
		if !slices.ContainsFunc(status.Timeline, func(e v1alpha1.TimelineEntry) bool { return e.Text == text }) {
			s.Warn(v1alpha1.ReasonClassifying, "%s", text)
		}
	}
}

// confirm writes down, once, that a signal of the incident's own category was bad.
func (s *response) confirm() {
	status := &s.Incident.Status
	if status.ConfirmedAt != nil || s.Incident.Spec.Category == v1alpha1.CategoryUnclassified {
		return
	}
	by, at := "", s.Now
	if signal := confirms(s.own, status.Severity); signal != nil {
		by = signal.Condition
	} else if seen := seenBy(s.Incident); seen != "" && seenSeverity(s.Incident) <= status.Severity {
		// Whoever opened it saw it bad, also where it is good again a second later.
		by = seen
		status.Signals = mark(status.Signals, seen, status.Onset)
	} else if status.AffectedSince != nil && s.Incident.Spec.Category == v1alpha1.CategoryOutage &&
		s.Incident.Spec.Notice != v1alpha1.NoticePublish {
		// The release before this one wrote down only that a sev1 signal was bad, and since when. Where a person had the
		// public told, it wrote that without a signal.
		by, at = v1alpha1.ReasonSignalBad, status.AffectedSince.Time
	}
	if by == "" {
		return
	}
	status.ConfirmedAt, status.ConfirmedBy = journal.Seconds(at), by
	s.Record(v1alpha1.ReasonClassifying, "confirmed by %s", by)
}

// mark a signal as seen bad.
func mark(seen []v1alpha1.IncidentSignal, condition string, at *metav1.Time) []v1alpha1.IncidentSignal {
	for i := range seen {
		if seen[i].Condition == condition {
			seen[i].Seen, seen[i].BadAt = v1alpha1.SignalSeenBad, at
			return seen
		}
	}
	return append(seen, v1alpha1.IncidentSignal{Condition: condition, Seen: v1alpha1.SignalSeenBad, BadAt: at})
}

// seenSeverity and seenBy are what whoever opened the incident saw; empty where a person did.
func seenSeverity(obj *v1alpha1.Incident) v1alpha1.Severity {
	return v1alpha1.Severity(obj.Annotations[v1alpha1.AnnotationSeenSeverity])
}

// keySeverity is that of a platform that signs with a kid that its JWKS lacks: no relying party can verify it. It is
// evidence for a page, and no ground for a rollback.
func keySeverity(check *v1alpha1.IncidentKeyCheck) v1alpha1.Severity {
	if check != nil && check.Fault == v1alpha1.KeyFaultPlatform {
		return v1alpha1.Sev1
	}
	return ""
}

func seenBy(obj *v1alpha1.Incident) string { return obj.Annotations[v1alpha1.AnnotationSeenBy] }

// classify reports the severity that the response began with.
func classify(_ context.Context, s *response) (playbook.Outcome, error) {
	return playbook.Done("%s: %s", s.Incident.Status.Severity, s.whyClassified(s.Incident.Status.Severity)), nil
}

// whyClassified says why an incident has a severity.
func (s *response) whyClassified(now v1alpha1.Severity) string {
	switch because := s.own.Because(); {
	case s.Incident.Spec.Severity != "":
		return "decided by spec.severity"
	case because != "":
		return because
	case keySeverity(s.Incident.Status.KeyCheck) == now:
		return "the platform signs with a kid that its JWKS lacks"
	case seenSeverity(s.Incident) == now:
		return cmp.Or(s.Incident.Spec.Summary, "seen by "+seenBy(s.Incident))
	case len(s.signals.Each) == 0:
		return "the signals are unknown"
	case len(s.own.Each) == 0:
		return fmt.Sprintf("no signal is about %s", s.Incident.Spec.Category)
	}
	return "no signal is bad"
}

// overdue keeps the condition that says so while nobody has responded in time, and returns how long that still has.
func (s *response) overdue() time.Duration {
	status := &s.Incident.Status
	// At once means a page; the playbook allows five minutes for it.
	deadline, responded := status.RespondBy.Time, s.escalation().Acknowledged() || status.ResolvedAt != nil
	if status.Severity == v1alpha1.Sev1 {
		deadline = deadline.Add(firstPageWithin)
		responded = responded || status.PagedAt != nil || status.Escalation.CoveredBy != ""
	}
	if responded || deadline.After(s.Now) {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionResponseOverdue)
		if responded {
			return 0
		}
		return s.Until(deadline)
	}
	by := deadline.UTC().Format(time.RFC3339)
	if meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionResponseOverdue, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonOverdue,
		ObservedGeneration: s.Incident.Generation, Message: "nobody has responded by " + by,
	}) {
		overdueTotal.WithLabelValues(string(status.Severity)).Inc()
		s.Warn(v1alpha1.ReasonOverdue, "nobody has responded to this %s by %s", status.Severity, by)
	}
	return 0
}

// firstPageWithin is what the playbook allows for the first page of a sev1.
const firstPageWithin = 5 * time.Minute

// measure writes the durations between the moments that are known.
func (s *response) measure() {
	status := &s.Incident.Status
	if status.Onset == nil {
		return
	}
	from := func(t *metav1.Time) *int64 {
		if t == nil {
			return nil
		}
		return new(max(0, int64(t.Sub(status.Onset.Time).Seconds())))
	}
	status.Durations = &v1alpha1.IncidentDurations{
		ToDetectSeconds: from(status.DetectedAt), ToPageSeconds: from(status.PagedAt),
		ToAcknowledgeSeconds: from(status.AcknowledgedAt),
		ToMitigateSeconds:    from(status.MitigatedAt), ToResolveSeconds: from(status.ResolvedAt),
	}
}
