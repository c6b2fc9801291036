package dlqreplay

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// maxAnswers is how many different answers of a relying party the status lists.
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
			plan.OldestEnqueued, plan.NewestEnqueued = new(metav1.NewTime(op.Plan.Oldest.Truncate(time.Second))), new(metav1.NewTime(op.Plan.Newest.Truncate(time.Second)))
		}
		status.Plan = plan
	}
	counts := &v1alpha1.ReplayProgress{
		Remaining: &op.Remaining, Requeued: &op.Requeued, Settled: &op.Settled, Left: &op.Left, Parked: &op.Parked,
		Unpublished: &op.Unpublished, Gone: &op.Gone, Changed: &op.Changed, Resigned: &op.Resigned,
		Delivered: &op.Delivered, Failing: &op.Failing, DiedAgain: &op.Died, Waiting: &op.Waiting,
	}
	if status.Progress != nil {
		counts.ObservedAt = status.Progress.ObservedAt
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

// writeStatus writes a changed status under the optimistic lock, then tells about it. Where nothing but counts changed, it
// writes at most once a second: they are in the ledger, and the next pass reads them again. After a write, written is obj.
func (r *Reconciler) writeStatus(ctx context.Context, written, obj *v1alpha1.DLQReplay) error {
	if equality.Semantic.DeepEqual(written.Status, obj.Status) {
		return nil
	}
	if onlyCounts(written, obj) && within(written.Status.Progress.ObservedAt, obj.Status.Progress.ObservedAt, time.Second) {
		return nil
	}
	base := obj.DeepCopy()
	base.Status = written.Status
	if err := playbook.PatchStatus(ctx, r.Client, base, obj); err != nil {
		return err
	}
	playbook.Tell(r.Recorder, written, obj, "Replay")
	obj.DeepCopyInto(written)
	return nil
}

func within(a, b *metav1.Time, d time.Duration) bool {
	return a != nil && b != nil && b.Sub(a.Time) < d
}

// onlyCounts says whether the two differ in nothing but counts and the messages that repeat them.
func onlyCounts(a, b *v1alpha1.DLQReplay) bool {
	if a.Status.Progress == nil || b.Status.Progress == nil {
		return false
	}
	strip := func(obj *v1alpha1.DLQReplay) v1alpha1.DLQReplayStatus {
		status := *obj.Status.DeepCopy()
		status.Progress, status.Failures = nil, nil
		for i := range status.Conditions {
			status.Conditions[i].Message = ""
		}
		return status
	}
	return equality.Semantic.DeepEqual(strip(a), strip(b))
}
