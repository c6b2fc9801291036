package dlqreplay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// plan fixes the cutoff, then which entries the replay is about.
func plan(ctx context.Context, s *replay) (playbook.Outcome, error) {
	if s.behind() {
		return s.stallBehind(), nil
	}
	spec := &s.obj.Spec
	if spec.Mode == v1alpha1.ReplayModeReplay && s.op == nil {
		twin, err := s.db.FinishedTwin(ctx, s.id)
		if err != nil {
			return playbook.Outcome{}, access.DatabaseError(err)
		}
		if twin != nil {
			return playbook.Moot(v1alpha1.ReasonAlreadyDone, "the same replay finished at %s under this name, with uid %s: "+
				"%d requeued, %d delivered. Apply it under a new name to run it again",
				twin.ClosedAt.UTC().Format("2006-01-02T15:04:05Z"), twin.UID, twin.Requeued, twin.Delivered), nil
		}
	}
	// An operation that was closed can't be planned again, and need not: its object lost its status, or a crash came
	// between the ledger and the status.
	if s.op == nil || s.op.PlannedAt == nil {
		if outcome, err := s.fixPlan(ctx); err != nil || outcome.Stops() {
			return outcome, err
		}
	}
	s.obj.Status.Cutoff = new(metav1.NewMicroTime(s.op.Cutoff))
	s.project()
	summary := summarise(s.op)
	if spec.Mode == v1alpha1.ReplayModePlan {
		if err := s.db.CloseOperation(ctx, s.id, platformdb.OutcomePlanned); err != nil {
			return playbook.Outcome{}, access.DatabaseError(err)
		}
		return playbook.Finish(v1alpha1.ReasonPlanOnly, "%s; nothing was changed", summary), nil
	}
	return playbook.Done("%s", summary), nil
}

// fixPlan opens the operation and keeps its plan in the ledger, or returns why it can't be carried out.
func (s *replay) fixPlan(ctx context.Context) (playbook.Outcome, error) {
	spec := &s.obj.Spec
	op, err := s.db.OpenOperation(ctx, s.id)
	if errors.Is(err, platformdb.ErrNoApplication) {
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "the platform has no application %s: delete this replay and "+
			"apply one with an id from oauth_applications", spec.ApplicationID), nil
	}
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	s.op = op
	s.obj.Status.Cutoff = new(metav1.NewMicroTime(op.Cutoff))

	op, err = s.db.Plan(ctx, s.id.UID, s.selection, spec.MaxEntries)
	if tooLarge := (*platformdb.TooLarge)(nil); errors.As(err, &tooLarge) {
		return playbook.Stall(v1alpha1.ReasonPlanTooLarge, "%s selected and maxEntries is %d; nothing was changed. "+
			"Delete this replay and apply one with a larger maxEntries or a narrower selector",
			playbook.Count(tooLarge.Entries, "entry is", "entries are"), tooLarge.Limit), nil
	}
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	s.op = op
	return playbook.Outcome{}, nil
}

func summarise(op *platformdb.Operation) string {
	named := accountForNamed(op.Plan)
	if op.Total == 0 {
		if named != "" {
			return "no dead entry is selected: " + named
		}
		return "no dead entry is selected"
	}
	if named != "" {
		named = "; " + named
	}
	causes := make([]string, len(op.Plan.Causes))
	for i, c := range op.Plan.Causes {
		causes[i] = fmt.Sprintf("%d %s", c.Entries, c.Cause)
	}
	oldest, newest := op.Plan.Oldest.Format("2006-01-02T15:04:05Z"), op.Plan.Newest.Format("2006-01-02T15:04:05Z")
	if op.Total == 1 {
		return fmt.Sprintf("1 dead entry: %s; enqueued at %s, so it arrives after newer events%s", causes[0], oldest, named)
	}
	return fmt.Sprintf("%s: %s; enqueued from %s to %s, so they arrive after newer events%s",
		playbook.Count(op.Total, "dead entry", "dead entries"), strings.Join(causes, ", "), oldest, newest, named)
}

// accountForNamed says what became of entries that the selector names and the plan lacks.
func accountForNamed(plan *platformdb.Plan) string {
	texts := []string{plan.Named.Text("entryIDs"), plan.Excluded.Text("excludeEntryIDs")}
	return strings.Join(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), "; ")
}
