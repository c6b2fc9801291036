package notice

import (
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
)

func TestThePublicReadsWhatUsersSeeAndWhatIsDone(t *testing.T) {
	afternoon := time.Date(2026, 11, 27, 14, 0, 0, 0, time.UTC)
	newYear := time.Date(2026, 12, 31, 23, 50, 0, 0, time.UTC)
	const down, was = "Sign-in is unavailable", "Sign-in was unavailable"
	for name, c := range map[string]struct {
		since       time.Time
		now         time.Duration
		state       v1alpha1.NoticeState
		change      func(*Notice)
		title, text string
	}{
		"at first": {afternoon, 31 * time.Minute, v1alpha1.NoticeInvestigating, nil, down,
			"Users may have been unable to sign in since 14:00 UTC. We are looking for the cause."},
		"at first, after midnight": {newYear, 31 * time.Minute, v1alpha1.NoticeInvestigating, nil, down,
			"Users may have been unable to sign in since 23:50 UTC on 31 December 2026. We are looking for the cause."},
		"a rollback": {afternoon, 35 * time.Minute, v1alpha1.NoticeIdentified, nil, down,
			"Users may still be unable to sign in. The likely cause is a recent change of ours. We have begun to undo it."},
		"good again": {afternoon, 45 * time.Minute, v1alpha1.NoticeMonitoring, mitigated(afternoon, 40*time.Minute), was,
			"Users have been able to sign in again since 14:40 UTC. We keep watching it."},
		// The signals were good for five minutes before they counted.
		"over by the signals": {afternoon, 45 * time.Minute, v1alpha1.NoticeResolved,
			mitigated(afternoon, 40*time.Minute), was,
			"Sign-in works again. Users may have been unable to sign in from 14:00 UTC to 14:40 UTC."},
		"over by hand, in another year": {newYear, 45 * time.Minute, v1alpha1.NoticeResolved,
			byHand(newYear, 45*time.Minute), was, "Sign-in works again. Users may have been unable to sign in from 23:50 UTC " +
				"on 31 December 2026 to " +
				"00:35 UTC."},
		"closed by hand, while users are kept out": {afternoon, 45 * time.Minute, v1alpha1.NoticeResolved,
			func(n *Notice) {
				byHand(afternoon, 45*time.Minute)(n)
				n.KeptOut = true
			}, was, "This notice is closed. Users may have been unable to sign in since 14:00 UTC."},
		"deleted": {afternoon, 45 * time.Minute, v1alpha1.NoticeResolved, func(n *Notice) {
			n.KeptOut, n.Incident.Status.ResolvedAt = false, journal.Seconds(afternoon.Add(45*time.Minute))
		}, was,
			"This notice is closed. Users may have been unable to sign in since 14:00 UTC."},
	} {
		n := downSince(c.since, c.now)
		n.add(v1alpha1.NoticeInvestigating)
		if c.change != nil {
			c.change(n)
		}
		n.add(c.state)
		notice := n.Incident.Status.Notice
		if got := notice.Updates[len(notice.Updates)-1].Text; got != c.text {
			t.Errorf("%s: the public reads %q, want %q", name, got, c.text)
		}
		if notice.Title != c.title {
			t.Errorf("%s: the title is %q, want %q", name, notice.Title, c.title)
		}
	}
}

// downSince is a notice of users who are kept out since then, in the pass that runs now after that.
func downSince(since time.Time, now time.Duration) *Notice {
	n := down()
	n.Now, n.Incident.Status.AffectedSince = since.Add(now), journal.Seconds(since)
	return n
}

func mitigated(since time.Time, after time.Duration) func(*Notice) {
	return func(n *Notice) {
		n.KeptOut, n.Incident.Status.MitigatedAt = false, journal.Seconds(since.Add(after))
	}
}

func byHand(since time.Time, after time.Duration) func(*Notice) {
	return func(n *Notice) {
		n.KeptOut, n.Incident.Status.ResolvedAt = false, journal.Seconds(since.Add(after))
		n.Incident.Spec.Resolution = &v1alpha1.IncidentResolution{By: "dana"}
	}
}
