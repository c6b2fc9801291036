// Package notice tells the public of an outage: one notice per Platform, which is updated and resolved.
package notice

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	// defaultAnnounceAfter is the playbook's: the public is told of what lasts longer.
	defaultAnnounceAfter = 30 * time.Minute
	// noticeInterval keeps to Statuspage's one request a second.
	noticeInterval = 2 * time.Second
	// longestNoticeWait keeps a status page that is wrong about its clock from silencing us.
	longestNoticeWait = 5 * time.Minute
	// holderInterval is how often it is looked at whether another Incident still holds the notice.
	holderInterval = time.Minute
)

var seconds = journal.Seconds

// Notice tells the public of one Incident.
type Notice struct {
	*journal.Journal
	Claims claims.Claims
	Access *access.Connections
	Aside  *playbook.Aside
	// KeptOut says that relying parties' users are kept out now.
	KeptOut bool
	// RollingBack says that a rollback of this Incident was asked for.
	RollingBack bool
	// First is the Incident that decides what the public is told, where this one does not; empty otherwise.
	First string
}

// Run brings the notice to what is known. It settles once the public was told that it is over.
func (n *Notice) Run(ctx context.Context) (playbook.Outcome, error) {
	if err := n.heard(ctx); err != nil {
		return patient(err)
	}
	status := &n.Incident.Status
	var known v1alpha1.NoticeState // by whoever was here before
	if status.Notice != nil {
		known = status.Notice.State
		if n.unsettled() {
			if outcome, ok := n.MayAct(); !ok {
				return outcome, nil
			}
			if again, err := n.publish(ctx, false); err != nil || again > 0 {
				return n.later(again, err)
			}
		}
	} else {
		wait, err := n.due(ctx)
		if err != nil || wait != nil {
			return ptr.Deref(wait, playbook.Outcome{}), err
		}
		n.add(v1alpha1.NoticeInvestigating)
		n.Record(v1alpha1.ReasonPublished, "the public is told")
	}
	switch {
	case status.ResolvedAt != nil:
		n.close()
	case status.MitigatedAt != nil:
		n.add(v1alpha1.NoticeMonitoring)
	case n.RollingBack:
		n.add(v1alpha1.NoticeIdentified)
	}
	if outcome, ok := n.MayAct(); !ok {
		return outcome, nil
	}
	if again, err := n.publish(ctx, known != status.Notice.State); err != nil || again > 0 {
		return n.later(again, err)
	}
	if status.Notice.State != v1alpha1.NoticeResolved {
		return playbook.Wait(0, v1alpha1.ReasonPublished, "the public reads: %s", status.Notice.State), nil
	}
	if err := n.release(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return playbook.Done("the public was told, and that it is over"), nil
}

// later comes back for a call that may still take effect. The condition says already why it is looked for.
func (n *Notice) later(again time.Duration, err error) (playbook.Outcome, error) {
	if err != nil {
		return patient(err)
	}
	c := meta.FindStatusCondition(n.Incident.Status.Conditions, v1alpha1.StepAnnounced)
	return playbook.Wait(again, c.Reason, "%s", c.Message), nil
}

// patient waits where the status page wants to be left alone, and leaves any other error to be one.
func patient(err error) (playbook.Outcome, error) {
	limited := (*outbound.Limited)(nil)
	if !errors.As(err, &limited) {
		return playbook.Outcome{}, err
	}
	after := min(max(limited.After, noticeInterval), longestNoticeWait)
	return playbook.Wait(after, v1alpha1.ReasonRetrying, "the status page wants fewer requests"), nil
}

// Close tells the public that it is over, where the object is deleted. It reports whether that is told.
func (n *Notice) Close(ctx context.Context) (told bool, err error) {
	status := &n.Incident.Status
	if status.Notice != nil {
		if again, err := n.resolve(ctx); err != nil || again > 0 {
			return false, err
		}
	}
	return true, n.release(ctx)
}

// resolve publishes that it is over. No page waits behind that, so it waits for a slow status page itself.
func (n *Notice) resolve(ctx context.Context) (again time.Duration, err error) {
	ours := n.Incident.Status.Notice.State != v1alpha1.NoticeResolved
	err = ctx.Err()
	for under := (*playbook.UnderWay)(nil); ctx.Err() == nil; {
		err = n.heard(ctx)
		if err == nil && n.unsettled() {
			again, err = n.publish(ctx, false)
		}
		if err == nil && again == 0 {
			n.close()
			again, err = n.publish(ctx, ours)
		}
		if !errors.As(err, &under) {
			break
		}
	}
	return again, err
}

// release lets another Incident of the Platform tell the public.
func (n *Notice) release(ctx context.Context) error {
	p, err := free(ctx, n.Claims, n.PlatformKey(), n.Incident.UID)
	if err == nil {
		n.Platform = p
	}
	return err
}

func free(ctx context.Context, c claims.Claims, platform client.ObjectKey, uid types.UID) (*v1alpha1.Platform, error) {
	p, err := c.Insist(ctx, platform, func(p *v1alpha1.PlatformStatus) {
		if p.Notice != nil && p.Notice.IncidentUID == string(uid) {
			p.Notice = nil
		}
	})
	if err != nil {
		return nil, fmt.Errorf("releasing the Platform's notice: %w", err)
	}
	return p, nil
}

// due returns why the public is not told now. Where it is to be told, it takes the Platform's one notice for this
// Incident, and returns nil.
func (n *Notice) due(ctx context.Context) (*playbook.Outcome, error) {
	if n.Incident.Status.ResolvedAt != nil && !n.toldBefore() {
		// A manager may have ended between taking the notice and writing that down here.
		if err := n.release(ctx); err != nil {
			return nil, err
		}
		return new(playbook.NotNeeded("resolved before the public had to be told")), nil
	}
	if why, after := n.notDue(); why != "" && !n.toldBefore() {
		return new(playbook.Wait(after, v1alpha1.ReasonNotAnnounced, "%s", why)), nil
	}
	if outcome, ok := n.MayAct(); !ok {
		return &outcome, nil
	}
	// Past the cache: a notice is an effect. One that is out is brought to its end by whoever told it.
	elsewhere, err := n.Claims.HeldElsewhere(ctx, n.APIReader, n.Platform, claims.Page(n.Platform))
	if err != nil {
		return nil, err
	}
	if elsewhere != "" && !n.toldBefore() {
		return new(playbook.Wait(holderInterval, v1alpha1.ReasonHeldByOther, "nothing is told there: %s", elsewhere)), nil
	}
	holder, err := n.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("taking the Platform's notice: %w", err)
	}
	if holder != "" {
		return new(playbook.Wait(holderInterval, v1alpha1.ReasonNotAnnounced, "the public reads the notice of Incident %s",
			holder)), nil
	}
	return nil, nil
}

// toldBefore says that the public reads a notice of this Incident, or may read one, which its lost status no longer
// has. It is found at the status page, and brought to its end.
func (n *Notice) toldBefore() bool {
	claim := n.Platform.Status.Notice
	return n.StatusLost() && claim != nil && claim.IncidentUID == string(n.Incident.UID)
}

// notDue says why the public is not told now, and when that may change. It is empty where the public is to be told.
func (n *Notice) notDue() (why string, after time.Duration) {
	status, spec := &n.Incident.Status, &n.Incident.Spec
	allowed := defaultAnnounceAfter
	if page := n.Platform.Spec.StatusPage; page != nil && page.AfterSeconds != nil {
		allowed = time.Duration(*page.AfterSeconds) * time.Second
	}
	switch {
	case n.First != "":
		return fmt.Sprintf("Incident %s of the same category is open, and acts: what the public is told is decided there",
			n.First), 0
	case spec.Notice == v1alpha1.NoticeWithhold:
		return "withheld by spec.notice", 0
	case n.StatusLost() && spec.Notice != v1alpha1.NoticePublish:
		return "the incident's status was lost; spec.notice: Publish tells the public", 0
	case status.Severity != v1alpha1.Sev1:
		return "the public is told of sev1 only", 0
	case spec.Notice == v1alpha1.NoticePublish:
		return "", 0
	case status.ConfirmedAt == nil:
		return "no signal confirms this outage; spec.notice: Publish tells the public all the same", 0
	case status.AffectedSince == nil:
		return "no signal says that relying parties' users are kept out; spec.notice: Publish tells the public all the " +
			"same", 0
	case n.Now.Before(status.AffectedSince.Add(allowed)):
		return fmt.Sprintf("relying parties' users are kept out since %s; the public is told after %s",
			status.AffectedSince.UTC().Format(time.RFC3339), playbook.Words(allowed)), n.Until(status.AffectedSince.Add(allowed))
	case !n.KeptOut:
		return "relying parties' users are not kept out at this moment", 0
	}
	return "", 0
}

// take claims the Platform's notice, or returns the Incident that has it.
func (n *Notice) take(ctx context.Context) (holder string, err error) {
	var other *v1alpha1.NoticeClaim
	take := func(p *v1alpha1.PlatformStatus) bool {
		if p.Notice != nil && p.Notice.IncidentUID != string(n.Incident.UID) && (other == nil ||
			p.Notice.IncidentUID != other.IncidentUID) {
			other = p.Notice
			return false
		}
		p.Notice = &v1alpha1.NoticeClaim{Incident: n.Incident.Name, IncidentUID: string(n.Incident.UID), At: seconds(n.Now)}
		other = nil
		return true
	}
	p, err := n.Claims.Decide(ctx, n.PlatformKey(), take)
	if err == nil && other != nil {
		holder := &v1alpha1.Incident{}
		err = n.APIReader.Get(ctx, client.ObjectKey{Namespace: n.Incident.Namespace, Name: other.Incident}, holder)
		if apierrors.IsNotFound(err) || err == nil && string(holder.UID) != other.IncidentUID {
			// It is gone and did not give it back: its notice is found at the status page.
			p, err = n.Claims.Decide(ctx, n.PlatformKey(), take)
		}
	}
	if err != nil {
		return "", err
	}
	n.Platform = p
	if other != nil {
		return other.Incident, nil
	}
	return "", nil
}
