package incident

import (
	"context"
	"slices"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// respondWithin is the playbook's.
var respondWithin = map[v1alpha1.Severity]time.Duration{v1alpha1.Sev1: 0, v1alpha1.Sev2: time.Hour, v1alpha1.Sev3: 24 * time.Hour}

// severity that an incident has now: what a person decided, or the worst that the signals have said. What matches no rule is sev3.
func severity(decided, known, seen v1alpha1.Severity) v1alpha1.Severity {
	if decided != "" {
		return decided
	}
	worst := v1alpha1.Sev3
	for _, s := range []v1alpha1.Severity{known, seen} {
		if s != "" {
			worst = min(worst, s)
		}
	}
	return worst
}

// assess takes the signals as they are now over into the status, in each pass: a worse one raises the severity, a better one never
// lowers it.
func (s *response) assess() {
	status, spec := &s.obj.Status, &s.obj.Spec
	opened := s.obj.CreationTimestamp.Time
	if status.DetectedAt == nil {
		status.DetectedAt = seconds(opened)
	}
	if status.Onset == nil {
		switch {
		case spec.Onset != nil:
			status.Onset = spec.Onset
		case !s.signals.BadSince().IsZero() && s.signals.BadSince().Before(opened):
			status.Onset = seconds(s.signals.BadSince())
		default:
			status.Onset = seconds(opened)
		}
	}
	if status.AffectedSince == nil && s.signals.Down() {
		status.AffectedSince = seconds(s.signals.BadSince())
	}
	if status.ResolvedAt != nil {
		return
	}
	now := severity(spec.Severity, status.Severity, s.signals.Severity())
	if now != status.Severity {
		because := s.signals.Because()
		switch {
		case spec.Severity != "":
			because = "as spec.severity says"
		case because == "":
			because = "no signal says that it is worse"
		}
		s.note(v1alpha1.ReasonClassifying, "%s: %s", now, because)
		status.Severity = now
	}
	status.RespondBy = seconds(opened.Add(respondWithin[now]))
	if spec.Severity != "" && s.signals.Severity() != "" && s.signals.Severity() < spec.Severity {
		text := "the signals say " + string(s.signals.Severity()) + ", and spec.severity says " + string(spec.Severity)
		if !slices.ContainsFunc(status.Timeline, func(e v1alpha1.TimelineEntry) bool { return e.Text == text }) {
			s.note(v1alpha1.ReasonClassifying, "%s", text)
		}
	}
}

// classify reports the severity that the response began with.
func classify(_ context.Context, s *response) (playbook.Outcome, error) {
	because := s.signals.Because()
	switch {
	case s.obj.Spec.Severity != "":
		because = "decided by spec.severity"
	case because == "" && len(s.signals.Each) == 0:
		because = "the signals are unknown"
	case because == "":
		because = "no signal is bad"
	}
	return playbook.Done("%s: %s", s.obj.Status.Severity, because), nil
}
