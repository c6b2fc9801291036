package dlqreplay

import (
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// maxAnswers is how many different answers of a relying party, or of the database, the status lists.
const maxAnswers = 10

// project writes what the ledger says into the status. Where they disagree, the ledger wins.
func (s *replay) project() {
	op, status := s.op, &s.obj.Status
	if op.PlannedAt != nil {
		plan := &v1alpha1.ReplayPlan{Digest: *op.PlanDigest, Total: &op.Total}
		for _, c := range op.Plan.Causes {
			plan.Causes = append(plan.Causes, v1alpha1.CauseCount{Cause: v1alpha1.DeadLetterCause(c.Cause), Entries: &c.Entries})
		}
		if op.Plan.Oldest != nil {
			// The API keeps seconds: anything finer would differ from what was written, in each pass.
			plan.OldestEnqueued = new(metav1.NewTime(op.Plan.Oldest.Truncate(time.Second)))
			plan.NewestEnqueued = new(metav1.NewTime(op.Plan.Newest.Truncate(time.Second)))
		}
		status.Plan = plan
	}
	counts := &v1alpha1.ReplayProgress{
		Remaining: &op.Remaining, Requeued: &op.Requeued, Settled: &op.Settled, Left: &op.Left, Parked: &op.Parked,
		Unpublished: &op.Unpublished, Gone: &op.Gone, Changed: &op.Changed, Refused: &op.Refused, Resigned: &op.Resigned,
		Delivered: &op.Delivered, Failing: &op.Failing, DiedAgain: &op.Died, Waiting: &op.Waiting,
	}
	if status.Progress != nil {
		counts.ObservedAt = status.Progress.ObservedAt
	}
	status.Refusals = nil
	for _, r := range op.Refusals[:min(len(op.Refusals), maxAnswers)] {
		status.Refusals = append(status.Refusals, v1alpha1.Refusal{SQLState: r.State, Entries: &r.Entries,
			EntryID: strconv.FormatInt(r.Entry, 10)})
	}
	if !equality.Semantic.DeepEqual(counts, status.Progress) {
		counts.ObservedAt = new(metav1.NewTime(op.Now))
		status.Progress = counts
	}
}

func (s *replay) projectFailures(a *platformdb.Attempts) {
	s.obj.Status.Failures = nil
	for _, c := range a.Answers[:min(len(a.Answers), maxAnswers)] {
		s.obj.Status.Failures = append(s.obj.Status.Failures, v1alpha1.AnswerCount{Answer: c.Answer, Entries: &c.Entries})
	}
}

// dropCounts leaves out what may be written late: counts are in the ledger, and the next pass reads them again.
func dropCounts(obj *v1alpha1.DLQReplay) {
	obj.Status.Progress, obj.Status.Failures, obj.Status.Refusals = nil, nil, nil
}
