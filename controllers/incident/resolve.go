package incident

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// toldInterval is how soon a channel that does not know yet is told again.
const toldInterval = 5 * time.Second

// resolve closes the incident, by hand or on its category's own evidence, and tells the people who were paged.
func resolve(ctx context.Context, s *response) (playbook.Outcome, error) {
	status := &s.Incident.Status
	how, outcome, err := s.howResolved(ctx)
	if err != nil || outcome.Stops() {
		return outcome, err
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

// howResolved says how the incident ended. While it has not, the Outcome says what it waits for.
func (s *response) howResolved(ctx context.Context) (string, playbook.Outcome, error) {
	status := &s.Incident.Status
	switch r := s.Incident.Spec.Resolution; {
	case r != nil && r.Summary != "":
		return fmt.Sprintf("by %s: %s", r.By, r.Summary), playbook.Outcome{}, nil
	case r != nil:
		return "by " + r.By, playbook.Outcome{}, nil
	// One that the release before this one began has no such step, and waits for a person.
	case meta.FindStatusCondition(status.Conditions, v1alpha1.StepKeyCompromised) != nil:
		if status.ResolvedAt != nil {
			return "the key is ended, and no cache may hold it", playbook.Outcome{}, nil
		}
		return s.exposure().Over(ctx)
	case status.MitigatedAt == nil && status.ResolvedAt == nil:
		about := string(s.Incident.Spec.Category)
		if summary := s.Incident.Spec.Summary; summary != "" {
			about = fmt.Sprintf("%.60s", summary)
		}
		return "", playbook.Wait(0, v1alpha1.ReasonAwaitingResolution, "%s: the probes can't tell when it is over. A person "+
			"closes it: %s", about, s.ResolveCommand()), nil
	}
	return "the signals stayed good", playbook.Outcome{}, nil
}
