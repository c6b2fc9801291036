package incident

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// toldInterval is how soon a channel that does not know yet is told again.
const toldInterval = 5 * time.Second

// deliveriesInterval is how often it is looked whether an incident about webhooks is over.
const deliveriesInterval = 30 * time.Second

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
	switch recovered := meta.FindStatusCondition(status.Conditions, v1alpha1.StepRecovered); {
	case recovered == nil:
	case recovered.Status != metav1.ConditionTrue:
		s.webhooks().Orphans()
	default:
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

// howResolved says how the incident ended. While it has not, the Outcome says what it waits for.
func (s *response) howResolved(ctx context.Context) (string, playbook.Outcome, error) {
	status := &s.Incident.Status
	ended := meta.FindStatusCondition(status.Conditions, v1alpha1.StepKeyCompromised)
	switch r := s.Incident.Spec.Resolution; {
	case r != nil:
		how := "by " + r.By
		if r.Summary != "" {
			how += ": " + r.Summary
		}
		if ended != nil && status.KeyCompromise == nil {
			how += ". The key was NOT ended by this incident"
		}
		return how, playbook.Outcome{}, nil
	// One that the release before this one began has no such step, and waits for a person.
	case ended != nil:
		if status.ResolvedAt != nil {
			return "the key is ended, and no cache may hold it", playbook.Outcome{}, nil
		}
		return s.exposure().Over(ctx)
	case s.watchesDeliveries():
		return s.webhooksOver(ctx)
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

// watchesDeliveries says that an incident about webhooks closes by itself: a signal confirmed it, and it has recovered.
func (s *response) watchesDeliveries() bool {
	status := &s.Incident.Status
	return s.Incident.Spec.Category == v1alpha1.CategoryWebhookDelivery && status.ConfirmedAt != nil &&
		meta.IsStatusConditionTrue(status.Conditions, v1alpha1.StepRecovered)
}

// webhooksOver says how an incident about webhooks ended: deliveries are good for as long as the Platform asks for, and
// nothing is dead that died since the onset. While that is not so, the Outcome says what is waited for.
func (s *response) webhooksOver(ctx context.Context) (string, playbook.Outcome, error) {
	const how = "what died since the onset is delivered or settled, and deliveries stayed good"
	status := &s.Incident.Status
	if status.MitigatedAt != nil || status.ResolvedAt != nil {
		return how, playbook.Outcome{}, nil
	}
	over, missing, err := s.webhooks().Over(ctx)
	switch at := s.clearAt(); {
	case err != nil:
		return "", playbook.Outcome{}, err
	case !over:
		return "", playbook.Wait(deliveriesInterval, v1alpha1.ReasonAwaitingResolution, "%s. Or close it by hand: %s",
			missing,
			s.ResolveCommand()), nil
	case at.IsZero():
		return "", playbook.Wait(deliveriesInterval, v1alpha1.ReasonSignalsUnknown, "whether webhooks are delivered is not "+
			"known to be good. To close it by hand: %s", s.ResolveCommand()), nil
	case s.Now.Before(at):
		return "", playbook.Wait(s.Until(at), v1alpha1.ReasonAwaitingMitigation, "deliveries are good; it is over at %s if "+
			"they stay so", at.UTC().Format(time.RFC3339)), nil
	}
	status.MitigatedAt = journal.Seconds(s.Now)
	return how, playbook.Outcome{}, nil
}
