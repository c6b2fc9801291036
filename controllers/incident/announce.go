package incident

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	if status.Notice == nil {
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
	if published, err := s.publish(ctx); err != nil || !published {
		return playbook.Wait(noticeInterval, v1alpha1.ReasonPublished, "the status page wants fewer requests"), err
	}
	if status.Notice.State != v1alpha1.NoticeResolved {
		return playbook.Wait(0, v1alpha1.ReasonPublished, "the public reads: %s", status.Notice.State), nil
	}
	if err := s.insist(ctx, func(p *v1alpha1.PlatformStatus) {
		if p.Notice != nil && p.Notice.IncidentUID == string(s.obj.UID) {
			p.Notice = nil
		}
	}); err != nil {
		return playbook.Outcome{}, err
	}
	return playbook.Done("the public was told, and that it is over"), nil
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
	case !s.signals.Down:
		return not(0, "relying parties' users are not kept out at this moment")
	}
	if outcome, ok := s.mayAct(); !ok {
		return outcome, false, nil
	}
	var other string
	if err := s.claim(ctx, func(p *v1alpha1.PlatformStatus) bool {
		if p.Notice != nil && p.Notice.IncidentUID != string(s.obj.UID) {
			other = p.Notice.Incident
			return false
		}
		p.Notice = &v1alpha1.NoticeClaim{Incident: s.obj.Name, IncidentUID: string(s.obj.UID), At: seconds(s.now)}
		return true
	}); err != nil {
		return playbook.Outcome{}, false, err
	}
	if other != "" {
		return not(time.Minute, "the public reads the notice of Incident %s", other)
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

// publish brings the page at Statuspage.io, where there is one, to what the notice says. It reports false where it has to wait. A
// notice whose creation had no answer is found again by the Platform's key, and never published twice.
func (s *response) publish(ctx context.Context) (bool, error) {
	notice := s.obj.Status.Notice
	page, err := s.Connections.StatusPage(ctx, s.platform)
	if err != nil {
		return false, err
	}
	if page == nil || notice.Published == notice.State {
		notice.Published = notice.State
		return true, nil
	}
	ctx = context.WithoutCancel(ctx)
	last := notice.Updates[len(notice.Updates)-1]
	tell := statuspage.Notice{Name: notice.Title, Body: last.Text, Status: map[v1alpha1.NoticeState]string{
		v1alpha1.NoticeInvestigating: statuspage.Investigating, v1alpha1.NoticeIdentified: statuspage.Identified,
		v1alpha1.NoticeMonitoring: statuspage.Monitoring, v1alpha1.NoticeResolved: statuspage.Resolved,
	}[notice.State], Impact: "critical"}
	id := notice.PageIncidentID
	if id == "" {
		key := client.ObjectKeyFromObject(s.platform).String() + "/" + string(s.platform.UID)
		found, err := page.Find(ctx, key)
		if err != nil {
			return limited(err)
		}
		switch {
		case found == nil && notice.State == v1alpha1.NoticeResolved:
			// It never came out, or somebody resolved it by hand.
			notice.Published = notice.State
			return true, nil
		case found == nil:
			made, err := page.Create(ctx, key, tell)
			if err != nil {
				return limited(err)
			}
			return true, s.published(ctx, made.ID, notice.State)
		}
		id = found.ID
		if found.Body == tell.Body {
			return true, s.published(ctx, id, notice.State)
		}
	}
	_, err = page.Update(ctx, id, tell)
	if refused := (*outbound.Refused)(nil); errors.As(err, &refused) && refused.Status == 404 {
		s.note(v1alpha1.ReasonPublished, "the notice %s was deleted from the status page by somebody else", id)
		err = nil
	}
	if err != nil {
		return limited(err)
	}
	return true, s.published(ctx, id, notice.State)
}

func (s *response) published(ctx context.Context, id string, state v1alpha1.NoticeState) error {
	return s.afterEffect(ctx, func(obj *v1alpha1.Incident) {
		if obj.Status.Notice != nil {
			obj.Status.Notice.PageIncidentID, obj.Status.Notice.Published = id, state
		}
	})
}

func limited(err error) (bool, error) {
	if wait := (*outbound.Limited)(nil); errors.As(err, &wait) {
		return false, nil
	}
	return false, err
}
