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

// requeueByAdminAPI asks the admin API to retry each entry, at most once: the intent is written first, and whether the
// call landed is read from the entry, never found out by a second call.
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
		if outcome, err := s.retryEntry(ctx, ids[0]); err != nil || outcome.Stops() {
			return outcome, err
		}
	}
}

// retryEntry brings one entry a step further. Once the entry is in the ledger the replay goes on with the next one.
func (s *replay) retryEntry(ctx context.Context, id int64) (playbook.Outcome, error) {
	r := &entryRetry{replay: s, id: id}
	effect := playbook.Effect{
		Class: playbook.AtMostOnce, Settle: settleTime, Now: time.Now(),
		Intend: r.intend, Act: r.act, Look: r.landed, Withdraw: r.withdraw,
	}
	if intent := s.intent(id); intent != nil {
		if intent.State == v1alpha1.AdminRetryRefused {
			return s.stallRefused(id, ""), nil
		}
		effect.Intended, r.saw = intent.At.Time, &platformdb.Entry{EnqueuedAt: intent.SawEnqueuedAt.Time}
	}
	fate, err := effect.Do(ctx)
	refused, limited := (*outbound.Refused)(nil), (*outbound.Limited)(nil)
	switch {
	case fate == playbook.Lost:
		return playbook.Wait(time.Second, v1alpha1.ReasonRequeuing, "the admin API's answer for entry %d was lost (%s): "+
			"reading the entry to see whether it was retried",
			id, playbook.Normalise(err.Error())), nil
	case fate == playbook.Withdrawn && errors.As(err, &limited):
		return playbook.Wait(max(limited.After, time.Second), v1alpha1.ReasonRetrying,
			"the admin API wants fewer requests; entry %d is retried later", id), nil
	case fate == playbook.Withdrawn && errors.As(err, &refused) && refused.Status != 0:
		return s.stallRefused(id, ": "+err.Error()), nil
	case fate == playbook.Withdrawn:
		return playbook.Outcome{}, fmt.Errorf("asking the admin API to retry entry %d: %w", id, err)
	case fate == playbook.Open:
		return playbook.Wait(time.Second, v1alpha1.ReasonRequeuing, "reading entry %d to see whether its retry landed",
			id), nil
	case fate == playbook.Untold:
		intent := s.intent(id)
		intent.State = v1alpha1.AdminRetryUnknown
		return playbook.Stall(v1alpha1.ReasonOutcomeUnknown, "entry %d was to be retried at %s and does not show it. The "+
			"call is not repeated, since it might land twice. "+
			"If you are sure that it did not land, delete this replay and apply one with a new name and a fresh "+
			"nonce", id, intent.At.UTC().Format(time.RFC3339)), nil
	}
	return r.held, err
}

func (s *replay) stallRefused(id int64, answer string) playbook.Outcome {
	changed := "Nothing was changed"
	if before := s.op.Total - s.op.Remaining; before > 0 {
		changed = fmt.Sprintf("That entry was not changed; of the %d planned, %s dealt with before: %s", s.op.Total,
			playbook.Count(before, "was", "were"), s.handled())
	}
	return playbook.Stall(v1alpha1.ReasonRefused, "the admin API refused to retry entry %d%s. %s. "+
		"Mend the cause, such as a nonce that was used, by a fresh one in Secret %q; then: %s",
		id, answer, changed, s.obj.Spec.AdminAPI.NonceSecretRef.Name, playbook.ResumeCommand(s.obj, "dlqreplay"))
}

// entryRetry is the effect of retrying one entry.
type entryRetry struct {
	*replay
	id      int64
	saw     *platformdb.Entry // the entry before the call
	admin   *platformapi.Admin
	nonce   string
	earlier []v1alpha1.AdminRetry // the intents without this one
	held    playbook.Outcome      // why the call is not made now; zero where the entry is not to be retried at all
}

func (r *entryRetry) intend(ctx context.Context) (bool, error) {
	s := r.replay
	// The intent's optimistic lock notices a change of the object, and nothing but a new look one of the Platform.
	if exists, err := s.refresh(ctx); err != nil {
		return false, err
	} else if !exists {
		r.held = playbook.Wait(0, v1alpha1.ReasonRequeuing, "stopped: the replay is being deleted")
		return false, nil
	}
	if r.held = s.mayAct(); r.held.Stops() {
		return false, nil
	}
	var err error
	if r.admin, r.nonce, err = s.adminCall(ctx, r.id); err != nil {
		return false, err
	}
	r.saw, err = s.db.Entry(ctx, r.id)
	if err != nil && !errors.Is(err, platformdb.ErrNoEntry) {
		return false, access.DatabaseError(err)
	}
	if r.saw == nil {
		r.saw = &platformdb.Entry{}
	}
	r.earlier = slices.Clone(s.obj.Status.AdminRetries)
	s.obj.Status.AdminRetries = append(s.obj.Status.AdminRetries, v1alpha1.AdminRetry{
		EntryID: strconv.FormatInt(r.id,
			10), State: v1alpha1.AdminRetryIntended, At: metav1.NowMicro(), SawEnqueuedAt: metav1.NewMicroTime(r.saw.EnqueuedAt),
	})
	if err := s.visit.Save(ctx); err != nil {
		s.obj.Status.AdminRetries = r.earlier
		return false, fmt.Errorf("writing the intent to retry entry %d: %w", r.id, err)
	}
	// The planned entries are judged as a batch judges them: settled, left, parked, changed or gone. Only now: before the
	// intent was written, another manager could have been between its call and the ledger, and its retry would have looked
	// like somebody else's.
	remaining, err := s.setAside(ctx)
	if err != nil || !slices.Contains(remaining, r.id) {
		s.obj.Status.AdminRetries = r.earlier
		return false, err
	}
	return true, nil
}

func (r *entryRetry) act(ctx context.Context) error {
	err := r.admin.Retry(ctx, r.id, r.nonce)
	if outbound.NoEffect(err) {
		return &playbook.NoEffect{Err: err}
	}
	return err
}

// withdraw remembers that a nonce was refused: it is not tried again until a person asks.
func (r *entryRetry) withdraw(_ context.Context, answer error) error {
	if refused := (*outbound.Refused)(nil); errors.As(answer, &refused) && refused.Status != 0 {
		r.replay.intent(r.id).State = v1alpha1.AdminRetryRefused
		return nil
	}
	r.obj.Status.AdminRetries = r.earlier
	return nil
}

// landed enters a retry into the ledger once the entry shows it: a retry sets enqueued_at.
func (r *entryRetry) landed(ctx context.Context) (bool, error) {
	s := r.replay
	after, err := s.db.Entry(ctx, r.id)
	if errors.Is(err, platformdb.ErrNoEntry) {
		return false, nil
	}
	if err != nil {
		return false, access.DatabaseError(err)
	}
	if after.EnqueuedAt.Equal(r.saw.EnqueuedAt) {
		return false, nil
	}
	op, err := s.db.RecordRetry(ctx, s.id.UID, r.id, r.saw, after)
	if err != nil {
		return false, access.DatabaseError(err)
	}
	s.intent(r.id).State = v1alpha1.AdminRetryLanded
	s.op = op
	s.project()
	return true, nil
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
			Err: fmt.Errorf("there is no nonce for entry %d: add the key %q to Secret %q, with the action_request_nonce of a "+
				"step-up", id, strconv.FormatInt(id, 10), name)}
	}
	return admin, nonce, nil
}
