package notice

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
)

var night = time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)

// down is a confirmed sev1 Outage that keeps users out for forty minutes.
func down() *Notice {
	at := func(d time.Duration) *metav1.Time { return journal.Seconds(night.Add(d)) }
	return &Notice{
		KeptOut: true,
		Journal: &journal.Journal{
			Now: night.Add(40 * time.Minute), Platform: &v1alpha1.Platform{},
			Incident: &v1alpha1.Incident{
				Spec: v1alpha1.IncidentSpec{Category: v1alpha1.CategoryOutage, Notice: v1alpha1.NoticeAutomatic},
				Status: v1alpha1.IncidentStatus{
					Severity: v1alpha1.Sev1, ConfirmedAt: at(0), AffectedSince: at(0), Onset: at(0),
				},
			},
		},
	}
}

func TestThePublicIsToldOfAConfirmedOutageThatLasts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Notice)
		why    string
		after  time.Duration
	}{
		"as it is": {change: func(*Notice) {}},
		"another Incident has the slot": {
			change: func(n *Notice) { n.First = "first" }, why: "Incident first of the same category is open, and acts: " +
				"what the public is told is decided there",
		},
		"withheld": {
			change: func(n *Notice) { n.Incident.Spec.Notice = v1alpha1.NoticeWithhold }, why: "withheld by spec.notice",
		},
		"sev2": {
			change: func(n *Notice) { n.Incident.Status.Severity = v1alpha1.Sev2 }, why: "the public is told of sev1 only",
		},
		"sev2, to be published": {
			change: func(n *Notice) {
				n.Incident.Status.Severity, n.Incident.Spec.Notice = v1alpha1.Sev2, v1alpha1.NoticePublish
			},
			why: "the public is told of sev1 only",
		},
		"never confirmed": {
			change: func(n *Notice) { n.Incident.Status.ConfirmedAt = nil },
			why:    "no signal confirms this outage; spec.notice: Publish tells the public all the same",
		},
		"never confirmed, to be published": {
			change: func(n *Notice) {
				n.Incident.Status.ConfirmedAt, n.Incident.Spec.Notice = nil, v1alpha1.NoticePublish
			},
		},
		"nobody kept out": {
			change: func(n *Notice) { n.Incident.Status.AffectedSince = nil },
			why: "no signal says that relying parties' users are kept out; spec.notice: Publish tells the public all the " +
				"same",
		},
		"for less than half an hour": {
			change: func(n *Notice) { n.Now = night.Add(20 * time.Minute) }, after: 10 * time.Minute,
			why: "relying parties' users are kept out since 2026-11-27T03:00:00Z; the public is told after 30 min",
		},
		"for less than the Platform allows": {
			change: func(n *Notice) {
				n.Platform.Spec.StatusPage = &v1alpha1.PlatformStatusPage{AfterSeconds: new(int32(3600))}
			},
			after: 20 * time.Minute,
			why:   "relying parties' users are kept out since 2026-11-27T03:00:00Z; the public is told after 1 h",
		},
		"good again at this moment": {
			change: func(n *Notice) { n.KeptOut = false }, why: "relying parties' users are not kept out at this moment",
		},
	} {
		n := down()
		c.change(n)
		if why, after := n.notDue(); why != c.why || after != c.after {
			t.Errorf("%s: it is not due for %q, and again after %s", name, why, after)
		}
	}
}

func TestANoticeGoesForwardAndSaysEachThingOnce(t *testing.T) {
	n := down()
	for _, state := range []v1alpha1.NoticeState{
		v1alpha1.NoticeInvestigating, v1alpha1.NoticeIdentified, v1alpha1.NoticeInvestigating, v1alpha1.NoticeIdentified,
		v1alpha1.NoticeResolved,
	} {
		n.add(state)
	}
	var said []v1alpha1.NoticeState
	for _, update := range n.Incident.Status.Notice.Updates {
		said = append(said, update.State)
	}
	if len(said) != 3 || said[0] != v1alpha1.NoticeInvestigating || said[1] != v1alpha1.NoticeIdentified ||
		said[2] != v1alpha1.NoticeResolved {
		t.Errorf("the public reads %v", said)
	}
}
