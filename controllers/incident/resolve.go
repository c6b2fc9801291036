package incident

import (
	"context"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// toldInterval is how soon a channel that does not know yet is told again.
const toldInterval = 5 * time.Second

// resolve closes the incident, by hand or because an outage was mitigated, and tells the people who were paged.
func resolve(ctx context.Context, s *response) (playbook.Outcome, error) {
	status := &s.Incident.Status
	how := "the signals stayed good"
	switch r := s.Incident.Spec.Resolution; {
	case r != nil && r.Summary != "":
		how = fmt.Sprintf("by %s: %s", r.By, r.Summary)
	case r != nil:
		how = "by " + r.By
	case status.MitigatedAt == nil && status.ResolvedAt == nil:
		about := string(s.Incident.Spec.Category)
		if summary := s.Incident.Spec.Summary; summary != "" {
			about = fmt.Sprintf("%.60s", summary)
		}
		return playbook.Wait(0, v1alpha1.ReasonAwaitingResolution, "%s: the probes can't tell when it is over. A person "+
			"closes it: %s", about, s.ResolveCommand()), nil
	}
	if status.ResolvedAt == nil {
		status.ResolvedAt = journal.Seconds(s.Now)
		s.Record(v1alpha1.StepResolved, "resolved, %s", how)
		// Before people are told: what is not written down might be decided otherwise, with nobody paged for it.
		if err := s.Save(ctx); err != nil {
			return playbook.Outcome{}, fmt.Errorf("writing down that it is resolved: %w", err)
		}
	}
	told := s.takeBack(ctx)
	if err := s.claims().Resolved(ctx, s.Incident, s.signals); err != nil {
		return playbook.Outcome{}, fmt.Errorf("giving up the place of the Platform's %s: %w", s.Incident.Spec.Category, err)
	}
	if !told {
		return playbook.Wait(toldInterval, v1alpha1.StepResolved, "resolved, %s; not every channel knows yet", how), nil
	}
	return playbook.Done("resolved, %s", how), nil
}
