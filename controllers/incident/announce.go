package incident

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/statuspage"
)

const (
	// defaultAnnounceAfter is the playbook's: the public is told of what lasts longer.
	defaultAnnounceAfter = 30 * time.Minute
	// noticeInterval keeps to Statuspage's one request a second.
	noticeInterval = 2 * time.Second
	// longestNoticeWait keeps a status page that is wrong about its clock from silencing us.
	longestNoticeWait = 5 * time.Minute
)

// publicTitle and publicText are all that the public reads; what people wrote into the object is not for it.
const publicTitle = "Sign-in is unavailable"

func (s *response) publicText(state v1alpha1.NoticeState) string {
	clock := func(t time.Time) string { return t.UTC().Format("15:04 UTC") }
	notice := s.obj.Status.Notice
	switch state {
	case v1alpha1.NoticeIdentified:
		return "A recent change is the likely cause. It is being taken back."
	case v1alpha1.NoticeMonitoring:
		return fmt.Sprintf("Sign-in works again since %s. We keep watching it.", clock(s.obj.Status.MitigatedAt.Time))
	case v1alpha1.NoticeResolved:
		return fmt.Sprintf("This is resolved. Users may have been unable to sign in since %s.", clock(notice.StartedAt.Time))
	}
	return fmt.Sprintf("Since %s, users may be unable to sign in by our platform. We are looking into it.", clock(s.obj.Status.AffectedSince.Time))
}

// announce tells the public of a sev1 that keeps relying parties' users out: one notice per Platform, updated and resolved.
func announce(ctx context.Context, s *response) (playbook.Outcome, error) {
	status := &s.obj.Status
	var known v1alpha1.NoticeState // by whoever was here before
	if status.Notice != nil {
		known = status.Notice.State
	} else {
		outcome, due, err := s.noticeDue(ctx)
		if err != nil || !due {
			return outcome, err
		}
		s.notify(v1alpha1.NoticeInvestigating)
		s.note(v1alpha1.ReasonPublished, "the public is told")
	}
	switch {
	case status.ResolvedAt != nil:
		s.notify(v1alpha1.NoticeResolved)
		status.Notice.ResolvedAt = status.ResolvedAt
	case status.MitigatedAt != nil:
		s.notify(v1alpha1.NoticeMonitoring)
	case s.rolling():
		s.notify(v1alpha1.NoticeIdentified)
	}
	if outcome, ok := s.mayAct(); !ok {
		return outcome, nil
	}
	again, err := s.publish(ctx, known != status.Notice.State)
	limited := (*outbound.Limited)(nil)
	switch {
	case errors.As(err, &limited):
		return playbook.Wait(min(max(limited.After, noticeInterval), longestNoticeWait), v1alpha1.ReasonRetrying, "the status page wants fewer requests"), nil
	case err != nil:
		return playbook.Outcome{}, err
	case again > 0:
		// What it says is why the call has to be looked for.
		c := meta.FindStatusCondition(status.Conditions, v1alpha1.StepAnnounced)
		return playbook.Wait(again, c.Reason, "%s", c.Message), nil
	}
	if status.Notice.State != v1alpha1.NoticeResolved {
		return playbook.Wait(0, v1alpha1.ReasonPublished, "the public reads: %s", status.Notice.State), nil
	}
	if err := s.releaseNotice(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return playbook.Done("the public was told, and that it is over"), nil
}

// releaseNotice lets another incident of the Platform tell the public.
func (s *response) releaseNotice(ctx context.Context) error {
	return s.insist(ctx, func(p *v1alpha1.PlatformStatus) {
		if p.Notice != nil && p.Notice.IncidentUID == string(s.obj.UID) {
			p.Notice = nil
		}
	})
}

// noticeDue says whether the public is to be told now, and takes the Platform's one notice for this incident.
func (s *response) noticeDue(ctx context.Context) (playbook.Outcome, bool, error) {
	not := func(after time.Duration, format string, args ...any) (playbook.Outcome, bool, error) {
		return playbook.Wait(after, v1alpha1.ReasonNotAnnounced, format, args...), false, nil
	}
	status, spec := &s.obj.Status, &s.obj.Spec
	after := defaultAnnounceAfter
	if page := s.platform.Spec.StatusPage; page != nil && page.AfterSeconds != nil {
		after = time.Duration(*page.AfterSeconds) * time.Second
	}
	switch {
	case status.ResolvedAt != nil:
		// A manager may have ended between taking the notice and writing that down here.
		if err := s.releaseNotice(ctx); err != nil {
			return playbook.Outcome{}, false, err
		}
		return playbook.NotNeeded("resolved before the public had to be told"), false, nil
	case spec.Notice == v1alpha1.NoticeWithhold:
		return not(0, "withheld by spec.notice")
	case status.Severity != v1alpha1.Sev1:
		return not(0, "the public is told of sev1 only")
	case spec.Notice == v1alpha1.NoticePublish:
		if status.AffectedSince == nil {
			status.AffectedSince = status.Onset
		}
	case status.AffectedSince == nil:
		return not(0, "no signal says that relying parties' users are kept out; spec.notice: Publish tells the public all the same")
	case s.now.Before(status.AffectedSince.Add(after)):
		return not(s.until(status.AffectedSince.Add(after)), "relying parties' users are kept out since %s; the public is told after %s", status.AffectedSince.UTC().Format(time.RFC3339), after)
	case !s.signals.Down():
		return not(0, "relying parties' users are not kept out at this moment")
	}
	if outcome, ok := s.mayAct(); !ok {
		return outcome, false, nil
	}
	var other *v1alpha1.NoticeClaim
	take := func(p *v1alpha1.PlatformStatus) bool {
		if p.Notice != nil && p.Notice.IncidentUID != string(s.obj.UID) && (other == nil || p.Notice.IncidentUID != other.IncidentUID) {
			other = p.Notice
			return false
		}
		p.Notice = &v1alpha1.NoticeClaim{Incident: s.obj.Name, IncidentUID: string(s.obj.UID), At: seconds(s.now)}
		other = nil
		return true
	}
	err := s.claim(ctx, take)
	if err == nil && other != nil {
		holder := &v1alpha1.Incident{}
		err = s.APIReader.Get(ctx, client.ObjectKey{Namespace: s.obj.Namespace, Name: other.Incident}, holder)
		if apierrors.IsNotFound(err) || err == nil && string(holder.UID) != other.IncidentUID {
			// It is gone and did not give it back: its notice is found at the status page.
			err = s.claim(ctx, take)
		}
	}
	switch {
	case err != nil:
		return playbook.Outcome{}, false, fmt.Errorf("taking the Platform's notice: %w", err)
	case other != nil:
		return not(time.Minute, "the public reads the notice of Incident %s", other.Incident)
	}
	return playbook.Outcome{}, true, nil
}

// notify adds an update to the notice, once per state, and never back to an earlier one.
func (s *response) notify(state v1alpha1.NoticeState) {
	status := &s.obj.Status
	if status.Notice == nil {
		status.Notice = &v1alpha1.IncidentNotice{Title: publicTitle, StartedAt: status.AffectedSince}
	}
	order := map[v1alpha1.NoticeState]int{v1alpha1.NoticeInvestigating: 1, v1alpha1.NoticeIdentified: 2, v1alpha1.NoticeMonitoring: 3, v1alpha1.NoticeResolved: 4}
	if order[state] <= order[status.Notice.State] {
		return
	}
	text := s.publicText(state)
	status.Notice.State = state
	status.Notice.Updates = append(status.Notice.Updates, v1alpha1.NoticeUpdate{At: seconds(s.now), State: state, Text: text})
}

// publish brings the page at Statuspage.io, where there is one, to what the notice says, and returns how long to wait where it can't
// now. The notice in the status is the intent: the pass that wrote it there acts, and any other only looks for what came of it until a
// call that was under way must have ended. Two managers publish nothing twice.
func (s *response) publish(ctx context.Context, ours bool) (again time.Duration, err error) {
	notice := s.obj.Status.Notice
	page, err := s.Connections.StatusPage(ctx, s.platform)
	if err != nil {
		return 0, err
	}
	if page == nil || notice.Published == notice.State {
		notice.Published = notice.State
		return 0, nil
	}
	ctx = context.WithoutCancel(ctx)
	last := &notice.Updates[len(notice.Updates)-1]
	tell := statuspage.Notice{Name: notice.Title, Body: last.Text, Status: map[v1alpha1.NoticeState]string{
		v1alpha1.NoticeInvestigating: statuspage.Investigating, v1alpha1.NoticeIdentified: statuspage.Identified,
		v1alpha1.NoticeMonitoring: statuspage.Monitoring, v1alpha1.NoticeResolved: statuspage.Resolved,
	}[notice.State], Impact: "critical"}
	key := client.ObjectKeyFromObject(s.platform).String() + "/" + string(s.platform.UID)
	found, err := page.Find(ctx, key)
	switch {
	case err != nil:
		return 0, err
	case found != nil && found.Body == tell.Body:
		return 0, s.published(ctx, page, found.ID, notice.State)
	case found == nil && notice.PageIncidentID != "" && notice.State != v1alpha1.NoticeResolved:
		s.note(v1alpha1.ReasonPublished, "the notice %s is no longer open at the status page: somebody else resolved or deleted it", notice.PageIncidentID)
		fallthrough
	case found == nil && notice.State == v1alpha1.NoticeResolved:
		// It is resolved, or never came out.
		notice.Published = notice.State
		return 0, nil
	}
	if !ours {
		// A clock that went back says nothing about how long that was.
		if since := s.now.Sub(last.At.Time); since >= 0 && since < settle {
			return settle - since, nil
		}
		last.At = seconds(s.now)
	}
	if err := s.save(ctx); err != nil {
		if apierrors.IsNotFound(err) {
			err = errors.Join(err, s.releaseNotice(ctx))
		}
		return 0, fmt.Errorf("writing down what the public is told: %w", err)
	}
	if found == nil {
		found, err = page.Create(ctx, key, tell)
	} else {
		_, err = page.Update(ctx, found.ID, tell)
	}
	if err != nil {
		return 0, err
	}
	return 0, s.published(ctx, page, found.ID, notice.State)
}

// published writes down what the public reads. Where the incident ended meanwhile, whoever ended it did not see this yet.
func (s *response) published(ctx context.Context, page *statuspage.Page, id string, state v1alpha1.NoticeState) error {
	note := func(state v1alpha1.NoticeState) func(*v1alpha1.Incident) {
		return func(obj *v1alpha1.Incident) {
			if obj.Status.Notice != nil {
				obj.Status.Notice.PageIncidentID, obj.Status.Notice.Published = id, state
			}
		}
	}
	over := s.publicText(v1alpha1.NoticeResolved)
	err := s.afterEffect(ctx, note(state))
	gone := apierrors.IsNotFound(err)
	if state == v1alpha1.NoticeResolved || !gone && (err != nil || s.obj.Status.Notice.State != v1alpha1.NoticeResolved) {
		return err
	}
	if _, err := page.Update(ctx, id, statuspage.Notice{Status: statuspage.Resolved, Body: over}); err != nil {
		return fmt.Errorf("the incident is over: %w", err)
	}
	if gone {
		return errors.Join(err, s.releaseNotice(ctx))
	}
	return s.afterEffect(ctx, note(v1alpha1.NoticeResolved))
}
