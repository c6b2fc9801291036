package incident

import (
	"context"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// acknowledge takes over who took the incident on, and up to which severity. One that names no severity holds for the
// one that the incident had when it was first seen: a rise outdates it.
func (s *response) acknowledge() {
	status, given := &s.Incident.Status, s.Incident.Spec.Acknowledgement
	if given == nil {
		return
	}
	if status.AcknowledgedAt != nil && status.AcknowledgedSeverity == "" {
		// Seen by the release before this one.
		status.AcknowledgedBy, status.AcknowledgedSeverity = given.By, status.Severity
	}
	upTo := given.Severity
	if upTo == "" {
		upTo = status.Severity
	}
	switch {
	case status.AcknowledgedAt == nil:
	case given.By != status.AcknowledgedBy:
	case given.Severity != "" && given.Severity < status.AcknowledgedSeverity:
	default:
		return
	}
	status.AcknowledgedAt, status.AcknowledgedBy, status.AcknowledgedSeverity = journal.Seconds(s.Now), given.By, upTo
	status.Reached = given.By
	s.Record(v1alpha1.StepAcknowledged, "acknowledged by %s, up to %s", given.By, upTo)
}

// awaitAcknowledgement reports whether somebody took the incident on.
func awaitAcknowledgement(_ context.Context, s *response) (playbook.Outcome, error) {
	status := &s.Incident.Status
	switch {
	case s.escalation().Acknowledged():
		return playbook.Done("by %s, up to %s", status.AcknowledgedBy, status.AcknowledgedSeverity), nil
	case status.ResolvedAt != nil && status.AcknowledgedAt != nil:
		return playbook.NotNeeded("resolved before anybody acknowledged it as %s", status.Severity), nil
	case status.ResolvedAt != nil:
		return playbook.NotNeeded("resolved before anybody acknowledged"), nil
	case status.AcknowledgedAt != nil:
		return playbook.Wait(0, v1alpha1.ReasonWaitingForAcknowledgement, "%s acknowledged it as %s, and it is %s now. To "+
			"take it on: %s",
			status.AcknowledgedBy, status.AcknowledgedSeverity, status.Severity, s.AcknowledgeCommand()), nil
	}
	return playbook.Wait(0, v1alpha1.ReasonWaitingForAcknowledgement, "to take it on: %s", s.AcknowledgeCommand()), nil
}
