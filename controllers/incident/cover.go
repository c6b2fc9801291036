package incident

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

const (
	// coverGrace is how long a page of the Incident that acts is waited for. All of a category rise in the same moment.
	coverGrace = 15 * time.Second
	// coverInterval is how often it is looked whether that Incident is still open.
	coverInterval = 10 * time.Second
)

// covered is the wait of an Incident that signals raised to sev1, where people accepted the page of another one for the
// same signals: one outage with a dozen tickets would page a dozen times. Only the Incident that acts covers others. It
// pages on, tier after tier, until somebody takes it on. Where it is not known to have paged, this one pages.
func (s *response) covered(ctx context.Context) *playbook.Outcome {
	status, by := &s.Incident.Status, s.escalation()
	if s.Incident.Spec.Severity != "" || status.Severity != v1alpha1.Sev1 || status.ResolvedAt != nil || s.ByHand() ||
		by.Acknowledged() || !by.Risen() {
		return nil
	}
	if err := s.place(ctx); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "looking for an Incident that pages; this one does")
		return nil
	}
	bad := badSince(s)
	switch first := s.first; {
	case first != nil && pagedFor(first, bad):
		status.Escalation.CoveredBy = first.Name
		return new(playbook.Wait(coverInterval, v1alpha1.ReasonPaging, "Incident %s was paged for the same signals: %s",
			first.Name, s.own.Because()))
	case status.Escalation.CoveredBy != "" && bad.IsZero():
		return new(playbook.Wait(coverInterval, v1alpha1.ReasonPaging, "Incident %s was paged for the same signals, and "+
			"they are not bad now", status.Escalation.CoveredBy))
	case first != nil && first.Spec.Severity == "" && s.Now.Before(status.Escalation.Since.Add(coverGrace)):
		return new(playbook.Wait(time.Second, v1alpha1.ReasonPaging, "Incident %s is about to page for the same signals",
			first.Name))
	}
	status.Escalation.CoveredBy = ""
	return nil
}

// badSince is when the first of the sev1 signals that are bad became bad; zero where none is.
func badSince(s *response) (since time.Time) {
	for _, signal := range s.own.Each {
		if signal.State == metav1.ConditionFalse && signal.Severity == v1alpha1.Sev1 &&
			(since.IsZero() || signal.Since.Before(since)) {
			since = signal.Since
		}
	}
	return since
}

// pagedFor says that people accepted a page of a sev1 that signals made one, since they are bad. A page of before was
// about something else.
func pagedFor(first *v1alpha1.Incident, bad time.Time) bool {
	status := &first.Status
	return first.Spec.Severity == "" && status.Severity == v1alpha1.Sev1 && status.PagedAt != nil && !bad.IsZero() &&
		!status.PagedAt.Time.Before(bad.Truncate(time.Second))
}
