package notice

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/systems/statuspage"
)

// publish brings the page at Statuspage.io, where there is one, to what the notice says. It returns how long to wait
// where it can't now. The notice in the status is the intent: the pass that wrote it there acts. Any other pass only
// looks for what came of it, until a call that was under way must have ended. So two managers publish nothing twice.
func (n *Notice) publish(ctx context.Context, ours bool) (again time.Duration, err error) {
	notice := n.Incident.Status.Notice
	page, err := n.Access.StatusPage(ctx, n.Platform)
	if err != nil {
		return 0, err
	}
	if page == nil || notice.Published == notice.State {
		notice.Published = notice.State
		return 0, nil
	}
	ctx = context.WithoutCancel(ctx)
	last := &notice.Updates[len(notice.Updates)-1]
	said := statuspage.Notice{Name: notice.Title, Body: last.Text, Status: statusOf(notice.State), Impact: "critical"}
	key := client.ObjectKeyFromObject(n.Platform).String() + "/" + string(n.Platform.UID)
	found, err := page.Find(ctx, key)
	switch {
	case err != nil:
		return 0, err
	case found != nil && found.Body == said.Body:
		return 0, n.published(ctx, page, found.ID, notice.State)
	case found == nil && notice.State == v1alpha1.NoticeResolved:
		// It is resolved, or never came out.
		notice.Published = notice.State
		return 0, nil
	case found == nil && notice.PageIncidentID != "":
		n.Record(v1alpha1.ReasonPublished, "the notice %s is no longer open at the status page: somebody else resolved or "+
			"deleted it",
			notice.PageIncidentID)
		notice.Published = notice.State
		return 0, nil
	}
	if !ours {
		// A clock that went back says nothing about how long that was.
		if since := n.Now.Sub(last.At.Time); since >= 0 && since < journal.Settle {
			return journal.Settle - since, nil
		}
		last.At = seconds(n.Now)
	}
	if err := n.Save(ctx); err != nil {
		if apierrors.IsNotFound(err) {
			err = errors.Join(err, n.release(ctx))
		}
		return 0, fmt.Errorf("writing down what the public is told: %w", err)
	}
	if found == nil {
		found, err = page.Create(ctx, key, said)
	} else {
		_, err = page.Update(ctx, found.ID, said)
	}
	if err != nil {
		return 0, err
	}
	return 0, n.published(ctx, page, found.ID, notice.State)
}

func statusOf(state v1alpha1.NoticeState) string {
	return map[v1alpha1.NoticeState]string{
		v1alpha1.NoticeInvestigating: statuspage.Investigating, v1alpha1.NoticeIdentified: statuspage.Identified,
		v1alpha1.NoticeMonitoring: statuspage.Monitoring, v1alpha1.NoticeResolved: statuspage.Resolved,
	}[state]
}

// published writes down what the public reads. Where the Incident ended meanwhile, whoever ended it did not see this
// yet.
func (n *Notice) published(ctx context.Context, page *statuspage.Page, id string, state v1alpha1.NoticeState) error {
	reads := func(state v1alpha1.NoticeState) func(*v1alpha1.Incident) {
		return func(obj *v1alpha1.Incident) {
			if obj.Status.Notice != nil {
				obj.Status.Notice.PageIncidentID, obj.Status.Notice.Published = id, state
			}
		}
	}
	over := text(v1alpha1.NoticeResolved, &n.Incident.Status)
	err := n.SaveOutcome(ctx, reads(state))
	gone := apierrors.IsNotFound(err)
	if state == v1alpha1.NoticeResolved || !gone && (err != nil ||
		n.Incident.Status.Notice.State != v1alpha1.NoticeResolved) {
		return err
	}
	if _, err := page.Update(ctx, id, statuspage.Notice{Status: statuspage.Resolved, Body: over}); err != nil {
		return fmt.Errorf("resolving the notice of an incident that is over: %w", err)
	}
	if gone {
		return errors.Join(err, n.release(ctx))
	}
	return n.SaveOutcome(ctx, reads(v1alpha1.NoticeResolved))
}
