package notice

import (
	"fmt"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// title and text are all that the public reads. What people wrote into the object is not for it.
const title = "Sign-in is unavailable"

func text(state v1alpha1.NoticeState, status *v1alpha1.IncidentStatus) string {
	clock := func(t time.Time) string { return t.UTC().Format("15:04 UTC") }
	switch state {
	case v1alpha1.NoticeIdentified:
		return "A recent change is the likely cause. It is being taken back."
	case v1alpha1.NoticeMonitoring:
		return fmt.Sprintf("Sign-in works again since %s. We keep watching it.", clock(status.MitigatedAt.Time))
	case v1alpha1.NoticeResolved:
		return fmt.Sprintf("This is resolved. Users may have been unable to sign in since %s.",
			clock(status.Notice.StartedAt.Time))
	}
	return fmt.Sprintf("Since %s, users may be unable to sign in by our platform. We are looking into it.",
		clock(status.AffectedSince.Time))
}

// add an update to the notice, once per state, and never back to an earlier one.
func (n *Notice) add(state v1alpha1.NoticeState) {
	status := &n.Incident.Status
	if status.Notice == nil {
		status.Notice = &v1alpha1.IncidentNotice{Title: title, StartedAt: status.AffectedSince}
	}
	order := map[v1alpha1.NoticeState]int{
		v1alpha1.NoticeInvestigating: 1, v1alpha1.NoticeIdentified: 2, v1alpha1.NoticeMonitoring: 3,
		v1alpha1.NoticeResolved: 4,
	}
	if order[state] <= order[status.Notice.State] {
		return
	}
	update := v1alpha1.NoticeUpdate{At: seconds(n.Now), State: state, Text: text(state, status)}
	status.Notice.State = state
	status.Notice.Updates = append(status.Notice.Updates, update)
}
