package incident

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	// maxTimeline is v1alpha1's.
	maxTimeline = 50
	// maxText is v1alpha1's, of an entry of the timeline.
	maxText = 512
	// settle is how long a call may still take effect after its answer was lost: longer than Render's and the channels' timeouts.
	settle = 30 * time.Second
)

// response is what a pass works with: the object, its Platform, and the Platform's signals.
type response struct {
	*Reconciler
	obj      *v1alpha1.Incident
	written  *v1alpha1.Incident // as the API server has it
	platform *v1alpha1.Platform
	signals  signals.Signals
	now      time.Time
}

// pass brings the object's playbook as far as it goes now.
func (s *response) pass(ctx context.Context) (time.Duration, error) {
	obj := s.obj
	obj.Status.ObservedGeneration = obj.Generation
	if playbook.Finished(obj) {
		return 0, nil
	}
	playbook.Begin(obj, slices.Concat(lanes...))
	s.now = s.Now()
	// Before the first page: what people were told must be taken back when the object goes.
	if err := playbook.PatchFinalizer(ctx, s.Client, obj, controllerutil.AddFinalizer); err != nil {
		return 0, err
	}
	var err error
	if s.platform, err = access.Find(ctx, s.Client, obj.Namespace, obj.Spec.PlatformRef.Name); err != nil {
		playbook.Fail(obj, err)
		return 0, err
	}
	if playbook.Asked(obj, obj.Status.LastHandledRequestedAt) || obj.Spec.Resolution != nil && playbook.Stalled(obj) {
		playbook.Resume(obj)
	}
	obj.Status.LastHandledRequestedAt = playbook.Request(obj, obj.Status.LastHandledRequestedAt)
	s.signals = s.Signals(client.ObjectKeyFromObject(s.platform))
	resolved := obj.Status.ResolvedAt != nil
	s.assess()
	after := playbook.RunLanes(ctx, obj, lanes, s)
	if !resolved && obj.Status.ResolvedAt != nil {
		after = time.Millisecond // the people's lanes have run, and end now
	}
	after = soonest(after, s.overdue())
	s.measure()
	return after, nil
}

// soonest is the shorter of two waits, of which zero is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// until is how long to wait for an instant, at least a moment.
func (s *response) until(t time.Time) time.Duration { return max(t.Sub(s.now), time.Millisecond) }

// seconds makes a time for a status, which keeps no more than seconds.
func seconds(t time.Time) *metav1.Time { return new(metav1.NewTime(t.Truncate(time.Second))) }

// note enters what happened into the timeline, whose first entry stays, and tells it as an event.
func (s *response) note(reason, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-3], "") + "…"
	}
	timeline := append(s.obj.Status.Timeline, v1alpha1.TimelineEntry{At: seconds(s.now), Text: text})
	if len(timeline) > maxTimeline {
		timeline = slices.Delete(timeline, 1, 1+len(timeline)-maxTimeline)
	}
	s.obj.Status.Timeline = timeline
	kind := "Normal"
	if reason == v1alpha1.ReasonOverdue {
		kind = "Warning"
	}
	s.Recorder.Eventf(s.obj, nil, kind, reason, "Respond", "%s", text)
}

// save writes a changed status under the optimistic lock: what is decided after it was decided by this process alone. After a
// write, written is obj.
func (s *response) save(ctx context.Context) error {
	if equality.Semantic.DeepEqual(s.written.Status, s.obj.Status) {
		return nil
	}
	base := s.obj.DeepCopy()
	base.Status = s.written.Status
	if err := playbook.PatchStatus(ctx, s.Client, base, s.obj); err != nil {
		return err
	}
	playbook.Tell(s.Recorder, s.written, s.obj, "Respond")
	s.obj.DeepCopyInto(s.written)
	return nil
}

// afterEffect writes what an effect came to. Where somebody changed the object meanwhile it is read again and change repeated, since
// a page whose acceptance is lost is sent twice. A manager that is being stopped finishes this first.
func (s *response) afterEffect(ctx context.Context, change func(*v1alpha1.Incident)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settle)
	defer cancel()
	for {
		change(s.obj)
		err := s.save(ctx)
		if !apierrors.IsConflict(err) {
			return err
		}
		fresh := &v1alpha1.Incident{}
		if err := s.APIReader.Get(ctx, client.ObjectKeyFromObject(s.obj), fresh); err != nil {
			return fmt.Errorf("reading the incident again: %w", err)
		}
		if fresh.UID != s.obj.UID {
			return err
		}
		fresh.DeepCopyInto(s.obj)
		fresh.DeepCopyInto(s.written)
	}
}

// claim changes the Platform's status under the optimistic lock: effects that belong to the Platform are decided there. decide gets
// the status as it is past the cache, and says whether to write it.
func (s *response) claim(ctx context.Context, decide func(*v1alpha1.PlatformStatus) bool) error {
	fresh := &v1alpha1.Platform{}
	if err := s.APIReader.Get(ctx, client.ObjectKeyFromObject(s.platform), fresh); err != nil {
		return fmt.Errorf("reading the Platform: %w", err)
	}
	base := fresh.DeepCopy()
	if !decide(&fresh.Status) || equality.Semantic.DeepEqual(base.Status, fresh.Status) {
		s.platform = base
		return nil
	}
	if err := s.Client.Status().Patch(ctx, fresh, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("writing the Platform's status: %w", err)
	}
	s.platform = fresh
	return nil
}

// insist is claim for what happened already: it must be written, whoever else writes meanwhile.
func (s *response) insist(ctx context.Context, change func(*v1alpha1.PlatformStatus)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settle)
	defer cancel()
	for {
		err := s.claim(ctx, func(status *v1alpha1.PlatformStatus) bool { change(status); return true })
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

// mayAct says whether the platform may be changed now; otherwise it returns what the step waits for.
func (s *response) mayAct() (playbook.Outcome, bool) {
	if s.platform.Spec.Automation == v1alpha1.AutomationObserveOnly {
		return playbook.Wait(0, v1alpha1.ReasonAutomationOff, "Platform %q is ObserveOnly: nothing is changed until its spec.automation is Enabled", s.platform.Name), false
	}
	return playbook.Outcome{}, true
}

func (s *response) resumeCommand() string { return playbook.ResumeCommand(s.obj, "incident") }

// patient makes a far side that wants to be left alone a wait, and leaves any other error to be one.
func patient(err error) (playbook.Outcome, error) {
	if limited := (*outbound.Limited)(nil); errors.As(err, &limited) {
		return playbook.Wait(limited.After, v1alpha1.ReasonRetrying, "Render wants fewer requests"), nil
	}
	return playbook.Outcome{}, err
}

// overdue keeps the condition that says so while nobody has responded in time, and returns how long that still has.
func (s *response) overdue() time.Duration {
	status := &s.obj.Status
	// At once means a page; the playbook allows five minutes for it.
	deadline, responded := status.RespondBy.Time, status.AcknowledgedAt != nil || status.ResolvedAt != nil
	if status.Severity == v1alpha1.Sev1 {
		deadline, responded = deadline.Add(firstPageWithin), responded || status.PagedAt != nil
	}
	if responded {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionResponseOverdue)
		return 0
	}
	if deadline.After(s.now) {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionResponseOverdue)
		return s.until(deadline)
	}
	if meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionResponseOverdue, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonOverdue, ObservedGeneration: s.obj.Generation,
		Message: fmt.Sprintf("nobody has responded by %s", deadline.UTC().Format(time.RFC3339)),
	}) {
		overdueTotal.WithLabelValues(string(status.Severity)).Inc()
		s.note(v1alpha1.ReasonOverdue, "nobody has responded to this %s by %s", status.Severity, deadline.UTC().Format(time.RFC3339))
	}
	return 0
}

// measure writes the durations between the moments that are known.
func (s *response) measure() {
	status := &s.obj.Status
	if status.Onset == nil {
		return
	}
	from := func(t *metav1.Time) *int64 {
		if t == nil {
			return nil
		}
		return new(max(0, int64(t.Sub(status.Onset.Time).Seconds())))
	}
	status.Durations = &v1alpha1.IncidentDurations{
		ToDetectSeconds: from(status.DetectedAt), ToPageSeconds: from(status.PagedAt), ToAcknowledgeSeconds: from(status.AcknowledgedAt),
		ToMitigateSeconds: from(status.MitigatedAt), ToResolveSeconds: from(status.ResolvedAt),
	}
}
