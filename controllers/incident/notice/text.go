package notice

import (
	"cmp"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// title and text are all that the public reads: what users see, and what is being done. What people wrote into the
// object is not for it.
func title(state v1alpha1.NoticeState) string {
	if state == v1alpha1.NoticeMonitoring || state == v1alpha1.NoticeResolved {
		return "Sign-in was unavailable"
	}
	return "Sign-in is unavailable"
}

// text of an update that is written now. over is when users could sign in again, as far as that is known.
func text(state v1alpha1.NoticeState, status *v1alpha1.IncidentStatus, over *metav1.Time, now time.Time) string {
	clock := func(t *metav1.Time) string {
		if at := t.UTC(); at.Format(time.DateOnly) != now.UTC().Format(time.DateOnly) {
			return at.Format("15:04 UTC on 2 January 2006")
		}
		return t.UTC().Format("15:04 UTC")
	}
	switch state {
	case v1alpha1.NoticeIdentified:
		return "Users may still be unable to sign in. The likely cause is a recent change of ours. We have begun to undo it."
	case v1alpha1.NoticeMonitoring:
		return fmt.Sprintf("Users have been able to sign in again since %s. We keep watching it.", clock(status.MitigatedAt))
	case v1alpha1.NoticeResolved:
		if over != nil {
			return fmt.Sprintf("Sign-in works again. Users may have been unable to sign in from %s to %s.",
				clock(status.Notice.StartedAt), clock(over))
		}
		return fmt.Sprintf("This notice is closed. Users may have been unable to sign in since %s.",
			clock(status.Notice.StartedAt))
	}
	return fmt.Sprintf("Users may have been unable to sign in since %s. We are looking for the cause.",
		clock(status.Notice.StartedAt))
}

// over is when users could sign in again; nil where nobody knows that they can: a signal says that they can't, or the
// object was deleted. Signals stay good for a while before the incident is resolved by them, and the public is not told
// that the outage lasted until then.
func (n *Notice) over() *metav1.Time {
	status := &n.Incident.Status
	switch {
	case n.KeptOut:
		return nil
	case status.MitigatedAt != nil:
		return status.MitigatedAt
	case n.ByHand():
		return status.ResolvedAt
	}
	return nil
}

// close is the notice's last update.
func (n *Notice) close() {
	n.add(v1alpha1.NoticeResolved)
	n.Incident.Status.Notice.ResolvedAt = cmp.Or(n.over(), n.Incident.Status.ResolvedAt)
}

// add an update to the notice, once per state, and never back to an earlier one.
func (n *Notice) add(state v1alpha1.NoticeState) {
	status := &n.Incident.Status
	if status.Notice == nil {
		// A person may have the public told of what no signal sees.
		status.Notice = &v1alpha1.IncidentNotice{StartedAt: cmp.Or(status.AffectedSince, status.Onset)}
	}
	order := map[v1alpha1.NoticeState]int{
		v1alpha1.NoticeInvestigating: 1, v1alpha1.NoticeIdentified: 2, v1alpha1.NoticeMonitoring: 3,
		v1alpha1.NoticeResolved: 4,
	}
	if order[state] <= order[status.Notice.State] {
		return
	}
	update := v1alpha1.NoticeUpdate{At: seconds(n.Now), State: state, Text: text(state, status, n.over(), n.Now)}
	status.Notice.Title, status.Notice.State = title(state), state
	status.Notice.Updates = append(status.Notice.Updates, update)
}
