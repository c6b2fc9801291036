package incident

import (
	"context"
	"errors"
	"fmt"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/escalation"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/incident/notice"
	"github.com/1pass-dev/playbook-operator/controllers/incident/rollback"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
)

// response is what a pass works with. A room gets of it what it needs.
type response struct {
	r *Reconciler
	*journal.Journal
	// signals of the Platform, and own are those of the Incident's category.
	signals, own signals.Signals
	// first is the Incident of the same category that has the slot; empty where this one has it.
	first  string
	placed bool
	// unplaced is why it is not known who has the slot. Until then this Incident only pages.
	unplaced error
}

func (s *response) claims() claims.Claims {
	return claims.Claims{Client: s.r.Client, APIReader: s.r.APIReader, Now: s.r.Now}
}

// place takes the slot of the Incident's category, or finds out who has it, once in a pass. Of several Incidents of a
// category one acts. People are paged before that.
func (s *response) place(ctx context.Context) error {
	if s.placed {
		return s.unplaced
	}
	s.placed = true
	first, err := s.claims().Hold(ctx, s.Incident, s.signals)
	switch {
	case err != nil:
		s.unplaced = fmt.Errorf("taking the place of the Platform's %s: %w", s.Incident.Spec.Category, err)
	case first != nil:
		s.first = first.Incident
	}
	return s.unplaced
}

func (s *response) escalation() *escalation.Escalation {
	return &escalation.Escalation{Journal: s.Journal, Access: s.r.Connections, Because: s.own.Because()}
}

func (s *response) notice() *notice.Notice {
	return &notice.Notice{
		Journal: s.Journal, Claims: s.claims(), Access: s.r.Connections,
		KeptOut: s.own.Down(), RollingBack: s.rollback().Asked(), First: s.first,
	}
}

func (s *response) rollback() *rollback.Rollback {
	return &rollback.Rollback{
		Journal: s.Journal, Claims: s.claims(), Access: s.r.Connections, Aside: &s.r.aside, Evidence: s.grounds(),
		First: s.first,
	}
}

func escalate(ctx context.Context, s *response) (playbook.Outcome, error) {
	return s.escalation().Run(ctx)
}

func announce(ctx context.Context, s *response) (playbook.Outcome, error) {
	if err := s.place(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return s.notice().Run(ctx)
}

func rollBack(ctx context.Context, s *response) (playbook.Outcome, error) {
	if err := s.place(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return s.rollback().Run(ctx)
}

func restoreAutoDeploy(ctx context.Context, s *response) (playbook.Outcome, error) {
	return s.rollback().RestoreAutoDeploy(ctx)
}

var errNotTold = errors.New("not every channel knows yet that it is over")

// takeBack tells the people who were paged that it is over. It reports whether all were told.
func (s *response) takeBack(ctx context.Context) bool {
	return s.escalation().TakeBack(ctx, paging.Resolve, v1alpha1.PageResolved, s.Incident.Status.ResolvedAt.Time)
}
