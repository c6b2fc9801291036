package incident

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
)

const (
	// firstPageWithin is what the playbook allows for the first page of a sev1.
	firstPageWithin = 5 * time.Minute
	// defaultTierAfter is the playbook's: the second tier, after the first did not respond.
	defaultTierAfter = 15 * time.Minute
	// channelPatience is how long one channel is tried before the next one.
	channelPatience = time.Minute
	// channelRetry is how soon a channel is tried again.
	channelRetry = 5 * time.Second
	// unheardRetry is how soon all tiers are tried again where no channel of any accepted a page.
	unheardRetry = time.Minute
	// maxPages bounds what the status keeps.
	maxPages = 64
	// lateBy is what is called late: deadlines that passed while the API server or the manager was away are kept late, and it is said.
	lateBy = time.Minute
)

// escalate pages tier after tier until somebody acknowledges or it is over.
func escalate(ctx context.Context, s *response) (playbook.Outcome, error) {
	status := &s.obj.Status
	switch {
	case status.ResolvedAt != nil && status.PagedAt == nil:
		return playbook.NotNeeded("resolved before anybody was paged"), nil
	case status.ResolvedAt != nil:
		return playbook.Done("%s; resolved before anybody acknowledged", s.paged()), nil
	case s.obj.Spec.Acknowledgement != nil:
		return s.stopPaging(ctx)
	case s.obj.Spec.Resolution != nil:
		// The response, which comes after people, closes it.
		return playbook.Wait(0, v1alpha1.ReasonPaging, "resolved by %s; nobody else is paged", s.obj.Spec.Resolution.By), nil
	}
	oncall := s.platform.Spec.Oncall
	policy := s.policy()
	if oncall == nil || policy == v1alpha1.EscalateNone {
		why := fmt.Sprintf("nobody is paged for %s", status.Severity)
		if oncall == nil {
			why = fmt.Sprintf("nobody can be paged: Platform %q has no spec.oncall", s.platform.Name)
		}
		return playbook.Wait(0, v1alpha1.ReasonNotPaging, "%s", why), nil
	}
	tiers := oncall.Tiers
	if policy == v1alpha1.EscalateFirstTier {
		tiers = tiers[:1]
	}
	for {
		next := nextPage(tiers, time.Duration(oncall.RepeatSeconds)*time.Second, policy, status.Escalation, s.obj.CreationTimestamp.Time, s.now)
		if next.channel == nil {
			if next.at.IsZero() {
				return playbook.Wait(0, v1alpha1.ReasonPaging, "%s; waiting for an acknowledgement", s.paged()), nil
			}
			return playbook.Wait(s.until(next.at), v1alpha1.ReasonPaging, "%s; %s is next at %s, unless somebody acknowledges", s.paged(), next.tier, next.at.UTC().Format(time.RFC3339)), nil
		}
		settled, again, err := s.page(ctx, next)
		if err != nil {
			return playbook.Outcome{}, err
		}
		if !settled {
			return playbook.Wait(again, v1alpha1.ReasonPaging, "%s did not accept the page to %s yet; it is tried again", next.channel.SecretRef.Name, next.tier), nil
		}
		// That took its time, and what is due now was not before.
		s.now = s.Now()
	}
}

// policy of the incident's severity: sev1's is the playbook's, the others are the Platform's.
func (s *response) policy() v1alpha1.EscalationPolicy {
	e := s.platform.Spec.Escalation
	if e == nil {
		e = &v1alpha1.PlatformEscalation{Sev2: v1alpha1.EscalateFirstTier, Sev3: v1alpha1.EscalateNone}
	}
	switch s.obj.Status.Severity {
	case v1alpha1.Sev1:
		return v1alpha1.EscalateAllTiers
	case v1alpha1.Sev2:
		return e.Sev2
	}
	return e.Sev3
}

// due is a page that is due now, or a tier whose page will be.
type due struct {
	key     string
	tier    string
	channel *v1alpha1.Channel // nil where nothing is due now
	at      time.Time         // when it was or will be due; zero where nothing will be
}

// nextPage finds what is to be paged next. All it needs is in the status, so that a restart neither loses nor repeats a page.
func nextPage(tiers []v1alpha1.OncallTier, repeat time.Duration, policy v1alpha1.EscalationPolicy, status *v1alpha1.EscalationStatus, opened, now time.Time) due {
	var pages []v1alpha1.PageStatus
	if status != nil {
		pages = status.Pages
	}
	begin := opened
	switch {
	case len(pages) > 0:
		begin = pages[0].BegunAt.Time
	case now.Before(opened):
		begin = now // a clock that is behind the API server's delays no first page
	}
	round := firstRound(pages)
	for ; ; round++ {
		roundAt, heard, last := time.Time{}, false, begin
		dueAt := begin
		for i, tier := range tiers {
			if i > 0 && heard {
				after := defaultTierAfter
				if tier.AfterSeconds != nil {
					after = time.Duration(*tier.AfterSeconds) * time.Second
				}
				dueAt = later(roundAt.Add(after), dueAt)
			}
			accepted := false
			for j := range tier.Notify {
				key := fmt.Sprintf("%d-%d-%d", round, i+1, j+1)
				k := slices.IndexFunc(pages, func(p v1alpha1.PageStatus) bool { return p.Key == key })
				switch {
				case k < 0 && dueAt.After(now):
					return due{tier: tier.Name, at: dueAt}
				case k < 0, pages[k].State == v1alpha1.PageSending:
					return due{key: key, tier: tier.Name, channel: &tier.Notify[j], at: dueAt}
				}
				if roundAt.IsZero() {
					roundAt = pages[k].BegunAt.Time
				}
				last = pages[k].BegunAt.Time
				if pages[k].State != v1alpha1.PageFailed {
					accepted = true
					break
				}
				dueAt = later(dueAt, pages[k].SettledAt.Time)
			}
			heard = heard || accepted
			if !accepted {
				// The tier after one that nobody could reach is not waited for.
				heard = false
			}
		}
		anybody := slices.ContainsFunc(pages, func(p v1alpha1.PageStatus) bool { return p.State != v1alpha1.PageFailed })
		switch {
		case !anybody:
			begin = later(last, dueAt).Add(unheardRetry)
		case policy == v1alpha1.EscalateFirstTier:
			return due{}
		default:
			begin = last.Add(repeat)
		}
	}
}

// firstRound is the round of the oldest page that the status still has.
func firstRound(pages []v1alpha1.PageStatus) int {
	round := 1
	if len(pages) > 0 {
		_, _ = fmt.Sscanf(pages[0].Key, "%d-", &round) // our own key
	}
	return round
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// page sends a page once and writes down what came of it. It reports false where the outcome is open and the channel has time left, and
// when to try again.
func (s *response) page(ctx context.Context, next due) (settled bool, again time.Duration, err error) {
	find := func(obj *v1alpha1.Incident) *v1alpha1.PageStatus {
		if obj.Status.Escalation == nil {
			obj.Status.Escalation = &v1alpha1.EscalationStatus{}
		}
		pages := &obj.Status.Escalation.Pages
		i := slices.IndexFunc(*pages, func(p v1alpha1.PageStatus) bool { return p.Key == next.key })
		if i < 0 {
			*pages = append(*pages, v1alpha1.PageStatus{
				Key: next.key, Tier: next.tier, Channel: next.channel.SecretRef.Name, State: v1alpha1.PageSending, BegunAt: seconds(s.now),
			})
			if len(*pages) > maxPages {
				*pages = trim(*pages)
			}
			i = len(*pages) - 1
		}
		return &(*pages)[i]
	}
	page := find(s.obj)
	begun := page.BegunAt.Time
	// Two managers must not both page. The one that writes this does; if it dies, the next one sends again.
	if err := s.save(ctx); err != nil {
		return false, 0, fmt.Errorf("writing down that a page is sent: %w", err)
	}
	sendErr := s.tell(ctx, *next.channel, next.tier, paging.Trigger, begun)
	refused := (*outbound.Refused)(nil)
	limited := (*outbound.Limited)(nil)
	waiting := (*playbook.Waiting)(nil)
	state := v1alpha1.PageSending
	again = channelRetry
	if errors.As(sendErr, &limited) {
		again = max(again, limited.After)
	}
	left := channelPatience - s.Now().Sub(begun)
	switch {
	case sendErr == nil:
		state = v1alpha1.PageAccepted
	case errors.As(sendErr, &refused), errors.As(sendErr, &waiting), left <= 0, limited != nil && limited.After > left:
		// A channel that wants to be left alone for longer than it has is not waited for.
		state = v1alpha1.PageFailed
	}
	pagesTotal.WithLabelValues(next.channel.Type, string(state)).Inc()
	first := state == v1alpha1.PageAccepted && s.obj.Status.PagedAt == nil
	at := s.Now()
	late := ""
	if d := at.Sub(next.at); d > lateBy {
		late = fmt.Sprintf(", %s late", d.Round(time.Second))
	}
	var back v1alpha1.PageState
	err = s.afterEffect(ctx, func(obj *v1alpha1.Incident) {
		page := find(obj)
		if back = page.State; back != v1alpha1.PageSending {
			return // another manager has settled it
		}
		page.State, page.Problem = state, ""
		if sendErr != nil {
			page.Problem = fmt.Sprintf("%.500s", playbook.Normalise(sendErr.Error()))
		}
		switch state {
		case v1alpha1.PageAccepted:
			page.SettledAt = seconds(at)
			if obj.Status.PagedAt == nil {
				obj.Status.PagedAt = seconds(at)
			}
			s.note(v1alpha1.ReasonPaging, "%s was paged by %s%s", next.tier, next.channel.SecretRef.Name, late)
		case v1alpha1.PageFailed:
			page.SettledAt = seconds(at)
			s.note(v1alpha1.ReasonPaging, "%s could not be paged by %s: %s", next.tier, next.channel.SecretRef.Name, page.Problem)
		}
	})
	// Whoever took it back, or deleted the incident, did so before it arrived.
	if event := map[v1alpha1.PageState]paging.Event{v1alpha1.PageAcknowledged: paging.Acknowledge, v1alpha1.PageResolved: paging.Resolve}[back]; sendErr == nil {
		if apierrors.IsNotFound(err) {
			event = paging.Resolve
		}
		if event != "" {
			err = errors.Join(err, s.tell(ctx, *next.channel, next.tier, event, at))
		}
	}
	if err != nil {
		return false, 0, fmt.Errorf("writing down what became of a page: %w", err)
	}
	if first {
		secondsToPage.WithLabelValues(string(s.obj.Status.Severity)).Observe(at.Sub(s.obj.CreationTimestamp.Time).Seconds())
	}
	return state != v1alpha1.PageSending, again, nil
}

// trim drops the oldest round.
func trim(pages []v1alpha1.PageStatus) []v1alpha1.PageStatus {
	oldest := firstRound(pages)
	return slices.DeleteFunc(pages, func(p v1alpha1.PageStatus) bool { return firstRound([]v1alpha1.PageStatus{p}) == oldest })
}

// tell sends a message about the incident by a channel. A manager that is being stopped finishes it: cut off, it would be sent again.
func (s *response) tell(ctx context.Context, channel v1alpha1.Channel, tier string, event paging.Event, at time.Time) error {
	ctx = context.WithoutCancel(ctx)
	opened, err := s.Connections.Channel(ctx, s.platform, channel)
	if err != nil {
		return err
	}
	host := s.platform.Name
	if u, err := url.Parse(s.platform.Spec.URL); err == nil {
		host = u.Host
	}
	summary := s.obj.Spec.Summary
	if summary == "" {
		summary = s.signals.Because()
	}
	if summary == "" {
		summary = fmt.Sprintf("%s incident", s.obj.Spec.Category)
	}
	return opened.Send(ctx, s.Connections.Transport, paging.Message{
		Key:   fmt.Sprintf("%s/%s/%s/%s", s.obj.Namespace, s.obj.Name, s.obj.UID, tier),
		Event: event, Severity: string(s.obj.Status.Severity), Source: host, At: at,
		Summary: fmt.Sprintf("%s %s: %s", s.obj.Status.Severity, host, summary),
		Details: map[string]string{
			"incident": s.obj.Namespace + "/" + s.obj.Name, "platform": s.platform.Name, "tier": tier,
			"read": fmt.Sprintf("kubectl -n %s describe incident %s", s.obj.Namespace, s.obj.Name),
			"acknowledge": fmt.Sprintf(`kubectl -n %s patch incident %s --type=merge -p '{"spec":{"acknowledgement":{"by":"YOUR-NAME"}}}'`,
				s.obj.Namespace, s.obj.Name),
		},
	})
}

// takeBack tells each channel that accepted a page that somebody took it on, or that it is over. It reports whether all were told;
// since is when that began, after which a channel that doesn't answer is given up.
func (s *response) takeBack(ctx context.Context, event paging.Event, state v1alpha1.PageState, since time.Time) bool {
	all := true
	if s.obj.Status.Escalation == nil || s.platform.Spec.Oncall == nil {
		return all
	}
	told := map[string]bool{}
	for i := range s.obj.Status.Escalation.Pages {
		page := &s.obj.Status.Escalation.Pages[i]
		if page.State == v1alpha1.PageFailed || page.State == v1alpha1.PageResolved || page.State == state {
			continue
		}
		channel := s.channel(page)
		if channel == nil || told[page.Tier+"/"+page.Channel] {
			page.State = state
			continue
		}
		if err := s.tell(ctx, *channel, page.Tier, event, since); err != nil {
			page.Problem = fmt.Sprintf("%.500s", playbook.Normalise(err.Error()))
			if refused := (*outbound.Refused)(nil); !errors.As(err, &refused) && s.Now().Sub(since) < channelPatience {
				all = false
				continue
			}
		}
		told[page.Tier+"/"+page.Channel] = true
		page.State = state
	}
	return all
}

// channel that a page was sent by; nil where the Platform no longer has it.
func (s *response) channel(page *v1alpha1.PageStatus) *v1alpha1.Channel {
	for _, tier := range s.platform.Spec.Oncall.Tiers {
		for i := range tier.Notify {
			if tier.Name == page.Tier && tier.Notify[i].SecretRef.Name == page.Channel {
				return &tier.Notify[i]
			}
		}
	}
	return nil
}

// stopPaging ends the escalation: somebody is on it.
func (s *response) stopPaging(ctx context.Context) (playbook.Outcome, error) {
	s.acknowledge()
	by := s.obj.Spec.Acknowledgement.By
	if !s.takeBack(ctx, paging.Acknowledge, v1alpha1.PageAcknowledged, s.obj.Status.AcknowledgedAt.Time) {
		return playbook.Wait(channelRetry, v1alpha1.ReasonPaging, "acknowledged by %s; not every channel knows yet", by), nil
	}
	if s.obj.Status.PagedAt == nil {
		return playbook.NotNeeded("acknowledged by %s before anybody was paged", by), nil
	}
	return playbook.Done("%s; acknowledged by %s", s.paged(), by), nil
}

// paged says who was, in a few words.
func (s *response) paged() string {
	var tiers []string
	if s.obj.Status.Escalation != nil {
		for _, page := range s.obj.Status.Escalation.Pages {
			if page.State != v1alpha1.PageFailed && page.State != v1alpha1.PageSending && !slices.Contains(tiers, page.Tier) {
				tiers = append(tiers, page.Tier)
			}
		}
	}
	if len(tiers) == 0 {
		return "nobody could be paged yet"
	}
	text := tiers[0]
	for _, tier := range tiers[1:] {
		text += " and " + tier
	}
	return fmt.Sprintf("paged %s at %s", text, s.obj.Status.PagedAt.UTC().Format(time.RFC3339))
}

func (s *response) acknowledge() {
	if s.obj.Status.AcknowledgedAt == nil {
		s.obj.Status.AcknowledgedAt = new(metav1.NewTime(s.now.Truncate(time.Second)))
		s.note(v1alpha1.StepAcknowledged, "acknowledged by %s", s.obj.Spec.Acknowledgement.By)
	}
}

// awaitAcknowledgement reports whether somebody took the incident on.
func awaitAcknowledgement(_ context.Context, s *response) (playbook.Outcome, error) {
	if s.obj.Spec.Acknowledgement != nil {
		s.acknowledge()
		return playbook.Done("by %s", s.obj.Spec.Acknowledgement.By), nil
	}
	if s.obj.Status.ResolvedAt != nil {
		return playbook.NotNeeded("resolved before anybody acknowledged"), nil
	}
	return playbook.Wait(0, v1alpha1.ReasonWaitingForAcknowledgement, `to take it on: kubectl -n %s patch incident %s --type=merge -p '{"spec":{"acknowledgement":{"by":"YOUR-NAME"}}}'`,
		s.obj.Namespace, s.obj.Name), nil
}
