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

// deliveriesInterval is how often it is looked whether an incident about webhooks is over.
const deliveriesInterval = 30 * time.Second

// resolve closes the incident, by hand or because an outage was mitigated, and tells the people who were paged.
func resolve(ctx context.Context, s *response) (playbook.Outcome, error) {
	status := &s.Incident.Status
	if wait, err := s.webhooksOver(ctx); err != nil || wait.Stops() {
		return wait, err
	}
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
	if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.StepRecovered) {
		theirs, err := s.webhooks().TellOver(ctx, status.ResolvedAt.Time)
		if err != nil {
			return playbook.Outcome{}, err
		}
		told = told && theirs
	}
	if err := s.claims().Resolved(ctx, s.Incident, s.signals); err != nil {
		return playbook.Outcome{}, fmt.Errorf("giving up the place of the Platform's %s: %w", s.Incident.Spec.Category, err)
	}
	if !told {
		return playbook.Wait(toldInterval, v1alpha1.StepResolved, "resolved, %s; not every channel knows yet", how), nil
	}
	return playbook.Done("resolved, %s", how), nil
}

// webhooksOver looks whether an incident about webhooks that a signal confirmed is over by its own evidence: deliveries
// are good for as long as the Platform asks for, and nothing is dead that died since the onset. It returns what is
// waited for, or the zero Outcome.
func (s *response) webhooksOver(ctx context.Context) (playbook.Outcome, error) {
	status := &s.Incident.Status
	if s.Incident.Spec.Category != v1alpha1.CategoryWebhookDelivery || s.ByHand() || status.ConfirmedAt == nil ||
		status.MitigatedAt != nil || !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.StepRecovered) {
		return playbook.Outcome{}, nil
	}
	over, missing, err := s.webhooks().Over(ctx)
	switch at := s.clearAt(); {
	case err != nil:
		return playbook.Outcome{}, err
	case !over:
		return playbook.Wait(deliveriesInterval, v1alpha1.ReasonAwaitingResolution, "%s. Or close it by hand: %s", missing,
			s.ResolveCommand()), nil
	case at.IsZero():
		return playbook.Wait(deliveriesInterval, v1alpha1.ReasonSignalsUnknown, "whether webhooks are delivered is not "+
			"known to be good. To close it by hand: %s", s.ResolveCommand()), nil
	case s.Now.Before(at):
		return playbook.Wait(s.Until(at), v1alpha1.ReasonAwaitingMitigation, "deliveries are good; it is over at %s if they "+
			"stay so", at.UTC().Format(time.RFC3339)), nil
	}
	status.MitigatedAt = journal.Seconds(s.Now)
	return playbook.Outcome{}, nil
}
