package keycompromise

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// notifyInterval is how often the event is looked at.
	notifyInterval = time.Second
	// maxRequeueInterval bounds the wait between two requeues of the event, which doubles each time.
	maxRequeueInterval = 5 * time.Minute
)

// notify follows webhook_key.compromised until the relying party accepts it. A relying party that does not know the
// successor yet refuses the event, and the platform then lets it die. It is given back to the dispatcher, under its
// idempotency key, until it is delivered.
func notify(ctx context.Context, s *compromise) (playbook.Outcome, error) {
	name, oncall, _ := s.relyingParty()
	if s.db == nil {
		return playbook.NotNeeded("nobody looked whether %s accepted webhook_key.compromised, since %s. Ask them%s", name,
			onlyTheOutbox, call(oncall)), nil
	}
	s.noteCaches()
	event, err := s.db.CompromiseEvent(ctx, s.revoked)
	if errors.Is(err, platformdb.ErrNoEntry) {
		return playbook.Stall(v1alpha1.ReasonNotNotified, "somebody deleted outbox entry %d, which is "+
			"webhook_key.compromised. Tell %s by other means%s. Nothing is left to do for this object",
			s.revoked.EventEntryID, name, call(oncall)), nil
	}
	if err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	if event.DeliveredAt != nil {
		if err := s.replayRefused(ctx); err != nil {
			return playbook.Outcome{}, err
		}
		return playbook.Done("%s accepted webhook_key.compromised at %s, entry %d%s", name,
			event.DeliveredAt.Format(time.RFC3339), s.revoked.EventEntryID, s.replayed()), nil
	}
	if s.overdue(v1alpha1.StepRelyingPartyNotified, s.obj.Spec.NotifyTimeoutSeconds) {
		return playbook.Stall(v1alpha1.ReasonNotNotified, "%s has not accepted webhook_key.compromised within %d s (%s). "+
			"Ask them to fetch JWKS anew%s. Then: %s",
			name, s.obj.Spec.NotifyTimeoutSeconds, answered(event), call(oncall), s.resumeCommand()), nil
	}
	if event.DeadAt == nil {
		return playbook.Wait(notifyInterval, v1alpha1.ReasonNotifying, "%s has not accepted webhook_key.compromised yet "+
			"(%s)", name, answered(event)), nil
	}
	if outcome := s.mayAct(); outcome.Stops() {
		return outcome, nil
	}
	if wait := event.DeadAt.Add(requeueInterval(event.Requeued)).Sub(event.Now); wait > 0 {
		return playbook.Wait(wait, v1alpha1.ReasonNotifying, "%s refused webhook_key.compromised (%s). It may not know "+
			"the successor yet. The event is tried again", name, answered(event)), nil
	}
	if err := s.db.RequeueEvent(ctx, s.id.UID, event.Requeued); err != nil {
		return playbook.Outcome{}, access.DatabaseError(err)
	}
	return playbook.Wait(notifyInterval, v1alpha1.ReasonNotifying, "%s refused webhook_key.compromised (%s). The event "+
		"was given back to the dispatcher (%s so far)", name, answered(event),
		playbook.Count(event.Requeued+1, "time", "times")), nil
}

// requeueInterval is how long a dead event rests before it is requeued for the n-th time. n begins at 0.
func requeueInterval(n int32) time.Duration {
	return min(time.Second<<min(n, 16), maxRequeueInterval)
}

func answered(event *platformdb.Event) string {
	if event.Answer == "" {
		return "not attempted yet"
	}
	return "answered " + event.Answer
}

func call(oncall string) string {
	if oncall == "" {
		return ""
	}
	return fmt.Sprintf("; on call there: %s", oncall)
}

// replayRefused makes a DLQReplay of the webhooks that the relying party refused before it knew the successor.
func (s *compromise) replayRefused(ctx context.Context) error {
	died, err := s.db.DiedUnderSuccessor(ctx, s.revoked)
	if err != nil {
		return access.DatabaseError(err)
	}
	if died == 0 {
		return nil
	}
	// The name is the object's own, and the same in each try.
	name := fmt.Sprintf("%.240s-%.8s", s.obj.Name, s.obj.UID)
	replay := &v1alpha1.DLQReplay{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.obj.Namespace, Name: name,
			// Without blockOwnerDeletion: some clusters let only those set it who may change the owner's finalizers.
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "KeyCompromise", Name: s.obj.Name, UID: s.obj.UID,
				Controller: new(true),
			}},
		},
		Spec: v1alpha1.DLQReplaySpec{
			PlatformRef: s.obj.Spec.PlatformRef, ApplicationID: s.obj.Spec.ApplicationID,
			Selector: &v1alpha1.ReplaySelector{DeadAfter: s.obj.Status.RevokedAt,
				Causes: []v1alpha1.DeadLetterCause{v1alpha1.CauseSignatureRejected}},
		},
	}
	if err := s.Client.Create(ctx, replay); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating the replay of refused webhooks: %w", err)
	}
	s.obj.Status.ReplayRef = &v1alpha1.ReplayReference{Name: name}
	return nil
}

func (s *compromise) replayed() string {
	if s.obj.Status.ReplayRef == nil {
		return ""
	}
	return fmt.Sprintf("; DLQReplay %s brings the webhooks that it refused before", s.obj.Status.ReplayRef.Name)
}
