package dlqreplay

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
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
		Unpublished: &op.Unpublished, Gone: &op.Gone, Changed: &op.Changed,
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
	// The patch replaces what it is given by what the server answered.
	answered := obj.DeepCopy()
	if err := r.Client.Status().Patch(ctx, answered, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	obj.ResourceVersion = answered.ResourceVersion
	r.tell(written, obj)
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

// tell emits an event when the root condition's reason changed.
func (r *Reconciler) tell(before, obj *v1alpha1.DLQReplay) {
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionReady)
	is := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionReady)
	if is == nil || was != nil && was.Reason == is.Reason {
		return
	}
	kind := "Normal"
	if meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionStalled) {
		kind = "Warning"
	}
	// The API takes notes of up to 1024 bytes.
	r.Recorder.Eventf(obj, nil, kind, is.Reason, "Replay", "%.1000s", is.Message)
}
