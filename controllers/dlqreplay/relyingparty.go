package dlqreplay

import (
	"context"
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// relyingParty is the application's relying party in the Platform's words, with whom to call there.
func (s *replay) relyingParty() (name, oncall string) {
	for _, rp := range s.platform.Spec.RelyingParties {
		if rp.ApplicationID == s.obj.Spec.ApplicationID {
			return rp.Name, rp.Oncall
		}
	}
	return "application " + s.obj.Spec.ApplicationID, ""
}

// whomToCall is a sentence for a message that says that the relying party fails.
func (s *replay) whomToCall() string {
	name, oncall := s.relyingParty()
	if oncall == "" {
		return fmt.Sprintf("Whom to call at %s, relyingParties of Platform %q does not say", name, s.platform.Name)
	}
	return fmt.Sprintf("On call at %s: %s", name, oncall)
}

// slowness says at which pace the relying party takes what is requeued, where that holds up the rest; else nothing.
func (s *replay) slowness(ctx context.Context) (string, error) {
	if s.op.Waiting < int64(s.obj.Spec.MaxInFlight) {
		return "", nil
	}
	perSecond, err := s.db.Pace(ctx, s.op)
	if err != nil {
		return "", access.DatabaseError(err)
	}
	name, _ := s.relyingParty()
	text := fmt.Sprintf("; maxInFlight is full: %s with the dispatcher, and %s ",
		playbook.Count(s.op.Waiting, "entry is", "entries are"), name)
	if perSecond == 0 {
		return text + "took none in the last minute", nil
	}
	left := time.Duration(float64(s.op.Remaining+s.op.Waiting) / perSecond * float64(time.Second))
	pace := fmt.Sprintf("%.0f", perSecond)
	if perSecond < 10 {
		pace = fmt.Sprintf("%.2g", perSecond)
	}
	return text + fmt.Sprintf("takes about %s a second; the rest takes about %s", pace,
		playbook.Words(max(left, time.Second))), nil
}
