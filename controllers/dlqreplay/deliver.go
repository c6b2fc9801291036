package dlqreplay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// deliverInterval is how often requeued entries are looked at while some have not been attempted.
	deliverInterval = time.Second
	// failingInterval is how often they are looked at while all wait for the dispatcher's backoff.
	failingInterval = 5 * time.Second
)

// awaitDelivery follows each requeued entry until it was delivered or died again, and closes the operation.
func awaitDelivery(ctx context.Context, s *replay) (playbook.Outcome, error) {
	if s.behind() {
		return s.stallBehind(), nil
	}
	if s.op.ClosedAt == nil {
		// A look is at so many entries at most; a slice of looks gets through a million in seconds.
		for end := time.Now().Add(slice); ; {
			op, err := s.db.Observe(ctx, s.id.UID)
			if err != nil {
				return playbook.Outcome{}, access.DatabaseError(err)
			}
			s.op = op
			if op.Waiting+op.Failing == 0 || op.ObservedBatch == 0 || time.Now().After(end) {
				break
			}
		}
		s.project()
		if open := s.op.Waiting + s.op.Failing; open > 0 {
			return s.stillOpen(), nil
		}
		if err := s.db.CloseOperation(ctx, s.id, platformdb.OutcomeComplete); err != nil {
			return playbook.Outcome{}, access.DatabaseError(err)
		}
	}
	s.project()
	if s.op.Total == 0 {
		return playbook.NotNeeded("%s", summarise(s.op)), nil
	}
	if s.op.Requeued == 0 {
		return playbook.NotNeeded("nothing was requeued; %s%s", s.handled(), s.mendRefusals()), nil
	}
	return playbook.Done("%d delivered, %d died again; %s%s", s.op.Delivered, s.op.Died, s.handled(),
		s.mendRefusals()), nil
}

func (s *replay) stillOpen() playbook.Outcome {
	op, timeout := s.op, s.obj.Spec.DeliveryTimeoutSeconds
	if op.RequeuedAt != nil && op.Now.After(op.RequeuedAt.Add(time.Duration(timeout)*time.Second)) {
		return playbook.Stall(v1alpha1.ReasonDeliveryTimedOut, "%d s after the last requeue %s not attempted and %d "+
			"still fail (%d delivered, %d died again). The dispatcher keeps them. %s. To wait as long again: %s",
			timeout, playbook.Count(op.Waiting, "entry was", "entries were"), op.Failing, op.Delivered, op.Died,
			s.whomToCall(), playbook.ResumeCommand(s.obj, "dlqreplay"))
	}
	interval := failingInterval
	switch {
	case op.ObservedBatch != 0:
		interval = time.Millisecond // the round of looks goes on
	case op.Waiting > 0:
		interval = deliverInterval
	}
	return playbook.Wait(interval, v1alpha1.ReasonDelivering, "%d of %d delivered, %d failing, %d died again, %d not "+
		"attempted yet", op.Delivered, op.Requeued, op.Failing, op.Died, op.Waiting)
}

// handled says what became of the planned entries, leaving out what did not occur.
func (s *replay) handled() string {
	op := s.op
	text := fmt.Sprintf("%d of %d requeued", op.Requeued, op.Total)
	if op.Resigned > 0 {
		text += fmt.Sprintf(" (%d signed anew)", op.Resigned)
	}
	for _, c := range []struct {
		n    int64
		what string
	}{
		{op.Settled, "settled as delivered"}, {op.Left, "left"}, {op.Parked, "parked as poison"},
		{op.Unpublished, "under a kid that is no longer published"}, {op.Gone, "gone"}, {op.Changed, "changed by others"},
	} {
		if c.n > 0 {
			text = strings.Join([]string{text, fmt.Sprintf("%d %s", c.n, c.what)}, ", ")
		}
	}
	if op.Refused > 0 {
		text += fmt.Sprintf(", %d refused by the database (%s)", op.Refused, refusals(op))
	}
	return text
}

// refusals says by which SQLSTATE how many entries were refused, and names one of each.
func refusals(op *platformdb.Operation) string {
	var texts []string
	for _, r := range op.Refusals[:min(len(op.Refusals), maxAnswers)] {
		texts = append(texts, fmt.Sprintf("%s ×%d, such as entry %d", r.State, r.Entries, r.Entry))
	}
	return strings.Join(texts, "; ")
}

// mendRefusals says what to do about refused entries; the database's own words may quote a row, and are not shown.
func (s *replay) mendRefusals() string {
	if s.op.Refused == 0 {
		return ""
	}
	return fmt.Sprintf(". The refused ones are dead as before: update entry %d by hand in a transaction to see what "+
		"refuses it, mend that, and apply the replay under a new name", s.op.Refusals[0].Entry)
}
