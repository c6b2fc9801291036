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
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/statuspage"
)

const (
	// findTimeout bounds the look for a notice, which may be some pages of a list.
	findTimeout = 20 * time.Second
	// tellTimeout bounds a call, and the one after it where the Incident ended meanwhile. It is shorter than
	// journal.Settle.
	tellTimeout = 25 * time.Second
)

// found is what the status page had.
type found struct {
	*statuspage.Incident
	// at is when the public was to be told, as the pass knew it that began the look. ours says that it had decided so.
	at   time.Time
	ours bool
}

// told is what the public reads since a call.
type told struct {
	id    string
	state v1alpha1.NoticeState
}

// publish brings the page at Statuspage.io, where there is one, to what the notice says. It returns how long to wait
// where it can't now. The calls go on beside the passes where the status page takes its time.
//
// The notice in the status is the intent: the manager that wrote it there acts. Any other only looks for what came of
// it, until a call that was under way must have ended. So two managers publish nothing twice.
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
	last := &notice.Updates[len(notice.Updates)-1]
	said := statuspage.Notice{Name: notice.Title, Body: last.Text, Status: statusOf(notice.State), Impact: "critical"}
	key := client.ObjectKeyFromObject(n.Platform).String() + "/" + string(n.Platform.UID)
	seen, err := n.find(ctx, page, key, last.At.Time, ours)
	if err == nil && !seen.at.Equal(last.At.Time) {
		// It is old: something was decided or published since.
		seen, err = n.find(ctx, page, key, last.At.Time, ours)
	}
	switch {
	case err != nil:
		return 0, err
	case seen.Incident != nil && seen.Body == said.Body:
		return 0, n.published(ctx, told{seen.ID, notice.State})
	case seen.Incident == nil && notice.State == v1alpha1.NoticeResolved:
		// It is resolved, or never came out.
		notice.Published = notice.State
		return 0, nil
	case seen.Incident == nil && notice.PageIncidentID != "":
		n.Record(v1alpha1.ReasonPublished, "the notice %s is no longer open at the status page: somebody else resolved or "+
			"deleted it",
			notice.PageIncidentID)
		notice.Published = notice.State
		return 0, nil
	}
	if !ours && !seen.ours {
		// A clock that went back says nothing about how long that was.
		if since := n.Now.Sub(last.At.Time); since >= 0 && since < journal.Settle {
			return journal.Settle - since, nil
		}
	}
	last.At = seconds(n.Now)
	ctx = context.WithoutCancel(ctx)
	if err := n.Save(ctx); err != nil {
		if apierrors.IsNotFound(err) {
			err = errors.Join(err, n.release(ctx))
		}
		return 0, fmt.Errorf("writing down what the public is told: %w", err)
	}
	answer, err := playbook.Change(ctx, n.Aside, n.key("tell"), "telling the public", tellTimeout,
		n.tell(page, key, seen.Incident, said), playbook.Readable)
	if err != nil {
		return 0, err
	}
	return 0, n.published(ctx, answer)
}

// unsettled says that a call for what was decided last may still take effect, perhaps another manager's. Nothing else
// is decided before that: whoever finds no notice, and takes it for over, would leave the one open that comes out
// later.
func (n *Notice) unsettled() bool {
	notice := n.Incident.Status.Notice
	since := n.Now.Sub(notice.Updates[len(notice.Updates)-1].At.Time)
	return notice.Published != notice.State && since >= 0 && since < journal.Settle
}

// find the notice at the status page.
func (n *Notice) find(ctx context.Context, page *statuspage.Page, key string, at time.Time, ours bool) (found, error) {
	return playbook.Ask(ctx, n.Aside, n.key("find"), "the status page", findTimeout,
		func(ctx context.Context) (found, error) {
			incident, err := page.Find(ctx, key)
			return found{incident, at, ours}, err
		})
}

// key of what the status page is asked about this Incident.
func (n *Notice) key(what string) string { return string(n.Incident.UID) + "/notice/" + what }

// heard takes over the answer of a call that an earlier pass began. Until it is there nothing else is published.
func (n *Notice) heard(ctx context.Context) error {
	answer, asked, err := playbook.Answer[told](ctx, n.Aside, n.key("tell"))
	if !asked || err != nil {
		return err
	}
	return n.published(ctx, answer)
}

func statusOf(state v1alpha1.NoticeState) string {
	return map[v1alpha1.NoticeState]string{
		v1alpha1.NoticeInvestigating: statuspage.Investigating, v1alpha1.NoticeIdentified: statuspage.Identified,
		v1alpha1.NoticeMonitoring: statuspage.Monitoring, v1alpha1.NoticeResolved: statuspage.Resolved,
	}[state]
}

// tell is the call that publishes. It shares nothing with the pass, which may end before it.
func (n *Notice) tell(page *statuspage.Page, key string, at *statuspage.Incident,
	said statuspage.Notice) func(context.Context) (told, error) {
	state, reader, platforms := n.Incident.Status.Notice.State, n.APIReader, n.Claims
	end := statuspage.Notice{Name: title(v1alpha1.NoticeResolved), Status: statuspage.Resolved,
		Body: text(v1alpha1.NoticeResolved, &n.Incident.Status, n.over(), n.Now)}
	incident, uid, platform := client.ObjectKeyFromObject(n.Incident), n.Incident.UID, n.PlatformKey()
	return func(ctx context.Context) (told, error) {
		var err error
		if at == nil {
			at, err = page.Create(ctx, key, said)
		} else {
			_, err = page.Update(ctx, at.ID, said)
		}
		if err != nil {
			return told{}, err
		}
		if state == v1alpha1.NoticeResolved {
			return told{at.ID, state}, nil
		}
		// Where the Incident ended meanwhile, whoever ended it did not see this yet.
		fresh := &v1alpha1.Incident{}
		err = reader.Get(ctx, incident, fresh)
		gone := apierrors.IsNotFound(err) || err == nil && fresh.UID != uid
		switch {
		case err != nil && !gone:
			return told{}, fmt.Errorf("looking whether the incident of a notice is over: %w", err)
		case !gone && (fresh.Status.Notice == nil || fresh.Status.Notice.State != v1alpha1.NoticeResolved):
			return told{at.ID, state}, nil
		}
		if _, err := page.Update(ctx, at.ID, end); err != nil {
			return told{}, fmt.Errorf("resolving the notice of an incident that is over: %w", err)
		}
		if gone {
			_, err = free(ctx, platforms, platform, uid)
		}
		return told{at.ID, v1alpha1.NoticeResolved}, err
	}
}

// published writes down what the public reads.
func (n *Notice) published(ctx context.Context, is told) error {
	return n.SaveOutcome(ctx, func(obj *v1alpha1.Incident) {
		if obj.Status.Notice != nil {
			obj.Status.Notice.PageIncidentID, obj.Status.Notice.Published = is.id, is.state
		}
	})
}
