package dlqreplay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// settleTime is how long after a call its effect may still appear: longer than the call itself can take.
const settleTime = 2 * outbound.Timeout

// requeueByAdminAPI asks the admin API to retry each entry, at most once: the intent is written first, and whether the call
// landed is read from the entry, never found out by a second call.
func requeueByAdminAPI(ctx context.Context, s *replay) (playbook.Outcome, error) {
	if s.op.Total == 0 {
		return playbook.NotNeeded("nothing to replay"), nil
	}
	for {
		ids, err := s.db.RemainingEntries(ctx, s.op)
		if err != nil {
			return playbook.Outcome{}, access.DatabaseError(err)
		}
		if len(ids) == 0 {
			return playbook.Done("%s", s.handled()), nil
		}
		outcome, landed, err := s.retryEntry(ctx, ids[0])
		if err != nil || !landed {
			return outcome, err
		}
	}
}

// retryEntry brings one entry a step further; it reports true once the entry is in the ledger.
func (s *replay) retryEntry(ctx context.Context, id int64) (playbook.Outcome, bool, error) {
	if intent := s.intent(id); intent != nil {
		return s.observeRetry(ctx, id, intent)
	}
	// The intent's optimistic lock notices a change of the object, and nothing but a new look one of the Platform.
	if exists, err := s.refresh(ctx); err != nil {
		return playbook.Outcome{}, false, err
	} else if !exists {
		return playbook.Wait(0, v1alpha1.ReasonRequeuing, "stopped: the replay is being deleted"), false, nil
	}
	if outcome, ok := s.mayAct(); !ok {
		return outcome, false, nil
	}
	admin, nonce, err := s.adminCall(ctx, id)
	if err != nil {
		return playbook.Outcome{}, false, err
	}
	saw, err := s.db.Entry(ctx, id)
	if err != nil && !errors.Is(err, platformdb.ErrNoEntry) {
		return playbook.Outcome{}, false, access.DatabaseError(err)
	}
	if saw == nil {
		saw = &platformdb.Entry{}
	}
	earlier := slices.Clone(s.obj.Status.AdminRetries)
	s.obj.Status.AdminRetries = append(s.obj.Status.AdminRetries, v1alpha1.AdminRetry{
		EntryID: strconv.FormatInt(id, 10), State: v1alpha1.AdminRetryIntended, At: metav1.NowMicro(), SawEnqueuedAt: metav1.NewMicroTime(saw.EnqueuedAt),
	})
	if err := s.writeStatus(ctx, s.written, s.obj); err != nil {
		s.obj.Status.AdminRetries = earlier
		return playbook.Outcome{}, false, fmt.Errorf("writing the intent to retry entry %d: %w", id, err)
	}
	// The planned entries are judged as a batch judges them: settled, left, parked, changed or gone. Only now: before the intent was
	// written, another manager could have been between its call and the ledger, and its retry would have looked like somebody else's.
	remaining, err := s.setAside(ctx)
	if err != nil || !slices.Contains(remaining, id) {
		s.obj.Status.AdminRetries = earlier
		return playbook.Outcome{}, err == nil, err
	}
	err = admin.Retry(ctx, id, nonce)
	intent := s.intent(id)
	refused, limited := (*outbound.Refused)(nil), (*outbound.Limited)(nil)
	switch {
	case errors.As(err, &refused) && refused.Status != 0:
		intent.State = v1alpha1.AdminRetryRefused
		return playbook.Stall(v1alpha1.ReasonRefused, "the admin API refused to retry entry %d: %v. Nothing was changed. Mend that, where it is the nonce by a fresh one in Secret %q, then: %s",
			id, err, s.obj.Spec.AdminAPI.NonceSecretRef.Name, playbook.ResumeCommand(s.obj, "dlqreplay")), false, nil
	case errors.As(err, &limited):
		s.obj.Status.AdminRetries = earlier
		return playbook.Wait(max(limited.After, time.Second), v1alpha1.ReasonRetrying, "the admin API wants fewer requests; entry %d is retried later", id), false, nil
	case outbound.NoEffect(err):
		s.obj.Status.AdminRetries = earlier
		return playbook.Outcome{}, false, fmt.Errorf("asking the admin API to retry entry %d: %w", id, err)
	case err != nil:
		return playbook.Wait(time.Second, v1alpha1.ReasonRequeuing, "the admin API's answer for entry %d was lost (%s): reading the entry to see whether it was retried", id, playbook.Normalise(err.Error())), false, nil
	}
	return s.landed(ctx, id, intent, saw)
}

// setAside deals with the planned entries that are not to be retried, and returns the others.
func (s *replay) setAside(ctx context.Context) ([]int64, error) {
	batch, err := s.db.SetAside(ctx, s.id.UID, s.selection)
	if err != nil {
		return nil, access.DatabaseError(err)
	}
	s.op = batch.Operation
	s.project()
	remaining, err := s.db.RemainingEntries(ctx, s.op)
	if err != nil {
		return nil, access.DatabaseError(err)
	}
	return remaining, nil
}

// observeRetry reads from the entry whether a call that an earlier pass intended has landed.
func (s *replay) observeRetry(ctx context.Context, id int64, intent *v1alpha1.AdminRetry) (playbook.Outcome, bool, error) {
	if intent.State == v1alpha1.AdminRetryRefused {
		return playbook.Stall(v1alpha1.ReasonRefused, "the admin API refused to retry entry %d. Mend that, where it is the nonce by a fresh one in Secret %q, then: %s",
			id, s.obj.Spec.AdminAPI.NonceSecretRef.Name, playbook.ResumeCommand(s.obj, "dlqreplay")), false, nil
	}
	return s.landed(ctx, id, intent, &platformdb.Entry{EnqueuedAt: intent.SawEnqueuedAt.Time})
}

// landed enters a retry into the ledger once the entry shows it: a retry sets enqueued_at.
func (s *replay) landed(ctx context.Context, id int64, intent *v1alpha1.AdminRetry, before *platformdb.Entry) (playbook.Outcome, bool, error) {
	after, err := s.db.Entry(ctx, id)
	if err != nil && !errors.Is(err, platformdb.ErrNoEntry) {
		return playbook.Outcome{}, false, access.DatabaseError(err)
	}
	if err == nil && !after.EnqueuedAt.Equal(before.EnqueuedAt) {
		op, err := s.db.RecordRetry(ctx, s.id.UID, id, before, after)
		if err != nil {
			return playbook.Outcome{}, false, access.DatabaseError(err)
		}
		intent.State = v1alpha1.AdminRetryLanded
		s.op = op
		s.project()
		return playbook.Outcome{}, true, nil
	}
	if time.Since(intent.At.Time) < settleTime {
		return playbook.Wait(time.Second, v1alpha1.ReasonRequeuing, "reading entry %d to see whether its retry landed", id), false, nil
	}
	intent.State = v1alpha1.AdminRetryUnknown
	return playbook.Stall(v1alpha1.ReasonOutcomeUnknown, "entry %d was to be retried at %s and does not show it. The call is not repeated, since it might land twice. "+
		"If you are sure that it did not land, delete this replay and apply one with a new name and a fresh nonce", id, intent.At.UTC().Format(time.RFC3339)), false, nil
}

func (s *replay) intent(id int64) *v1alpha1.AdminRetry {
	text := strconv.FormatInt(id, 10)
	for i := range s.obj.Status.AdminRetries {
		if s.obj.Status.AdminRetries[i].EntryID == text {
			return &s.obj.Status.AdminRetries[i]
		}
	}
	return nil
}

// adminCall returns what a call needs, before its intent is written.
func (s *replay) adminCall(ctx context.Context, id int64) (*platformapi.Admin, string, error) {
	admin, err := s.Connections.AdminAPI(ctx, s.platform)
	if err != nil {
		return nil, "", err
	}
	name := s.obj.Spec.AdminAPI.NonceSecretRef.Name
	nonces, err := s.Connections.Secret(ctx, s.platform, name)
	if err != nil {
		return nil, "", err
	}
	nonce := string(nonces[strconv.FormatInt(id, 10)])
	if nonce == "" {
		return nil, "", &playbook.Waiting{Reason: v1alpha1.ReasonSecretUnusable,
			Err: fmt.Errorf("there is no nonce for entry %d: add the key %q to Secret %q, with the action_request_nonce of a step-up", id, strconv.FormatInt(id, 10), name)}
	}
	return admin, nonce, nil
}
