package escalation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
)

// page sends a page once and writes down what came of it. It reports false where the outcome is open and the channel
// has time left, and when to try again.
func (e *Escalation) page(ctx context.Context, next due) (settled bool, again time.Duration, err error) {
	page := e.find(e.Incident, next)
	begun, sent := page.BegunAt.Time, *page
	// Two managers must not both page. The one that writes this does. If it dies, the next one sends again.
	if err := e.Save(ctx); err != nil {
		return false, 0, fmt.Errorf("writing down that a page is sent: %w", err)
	}
	sendErr := e.send(ctx, *next.channel, sent, paging.Trigger, begun)
	state, again := e.judge(sendErr, begun)
	pagesTotal.WithLabelValues(next.channel.Type, string(state)).Inc()
	first := state == v1alpha1.PageAccepted && e.Incident.Status.PagedAt == nil
	at := e.Clock()
	var back v1alpha1.PageState
	err = e.SaveOutcome(ctx, func(obj *v1alpha1.Incident) {
		page := e.find(obj, next)
		if back = page.State; back == v1alpha1.PageSending {
			e.settle(obj, page, next, state, sendErr, at)
		}
	})
	// Whoever took it back, or deleted the Incident, did so before it arrived.
	events := map[v1alpha1.PageState]paging.Event{v1alpha1.PageAcknowledged: paging.Acknowledge,
		v1alpha1.PageResolved: paging.Resolve}
	if event := events[back]; sendErr == nil {
		if apierrors.IsNotFound(err) {
			event = paging.Resolve
		}
		if event != "" {
			err = errors.Join(err, e.send(ctx, *next.channel, sent, event, at))
		}
	}
	if err != nil {
		return false, 0, fmt.Errorf("writing down what became of a page: %w", err)
	}
	if first {
		took := at.Sub(e.Incident.Status.Escalation.Since.Time)
		secondsToPage.WithLabelValues(string(e.Incident.Status.Severity)).Observe(took.Seconds())
	}
	return state != v1alpha1.PageSending, again, nil
}

// find the page in the status, or begin it there.
func (e *Escalation) find(obj *v1alpha1.Incident, next due) *v1alpha1.PageStatus {
	if obj.Status.Escalation == nil {
		obj.Status.Escalation = &v1alpha1.EscalationStatus{}
	}
	pages := &obj.Status.Escalation.Pages
	i := slices.IndexFunc(*pages, func(p v1alpha1.PageStatus) bool { return p.Key == next.key })
	if i < 0 {
		*pages = append(*pages, v1alpha1.PageStatus{
			Key: next.key, Tier: next.tier, Channel: next.channel.SecretRef.Name, Severity: e.Incident.Status.Severity,
			State: v1alpha1.PageSending, BegunAt: journal.Seconds(e.Now),
		})
		if len(*pages) > maxPages {
			*pages = trim(*pages)
		}
		i = len(*pages) - 1
	}
	return &(*pages)[i]
}

// judge says what a try came to, and when to try again where that is open.
func (e *Escalation) judge(err error, begun time.Time) (v1alpha1.PageState, time.Duration) {
	refused := (*outbound.Refused)(nil)
	limited := (*outbound.Limited)(nil)
	waiting := (*playbook.Waiting)(nil)
	again := channelRetry
	if errors.As(err, &limited) {
		again = max(again, limited.After)
	}
	left := channelPatience - e.Clock().Sub(begun)
	switch {
	case err == nil:
		return v1alpha1.PageAccepted, again
	case errors.As(err, &refused), errors.As(err, &waiting), left <= 0, limited != nil && limited.After > left:
		// A channel that wants to be left alone for longer than it has is not waited for.
		return v1alpha1.PageFailed, again
	}
	return v1alpha1.PageSending, again
}

// settle writes what a page came to into the status.
func (e *Escalation) settle(obj *v1alpha1.Incident, page *v1alpha1.PageStatus, next due, state v1alpha1.PageState,
	err error, at time.Time) {
	page.State, page.Problem = state, ""
	if err != nil {
		page.Problem = journal.Text(err)
	}
	late := ""
	if d := at.Sub(next.at); d > lateBy {
		late = fmt.Sprintf(", %s late", playbook.Words(d))
	}
	switch state {
	case v1alpha1.PageAccepted:
		page.SettledAt = journal.Seconds(at)
		if obj.Status.PagedAt == nil {
			obj.Status.PagedAt = journal.Seconds(at)
		}
		obj.Status.Reached = next.tier
		e.Record(v1alpha1.ReasonPaging, "%s was paged by %s%s", next.tier, next.channel.SecretRef.Name, late)
	case v1alpha1.PageFailed:
		page.SettledAt = journal.Seconds(at)
		e.Warn(v1alpha1.ReasonNobodyReached, "%s could not be paged by %s: %s", next.tier, next.channel.SecretRef.Name,
			page.Problem)
	}
}

// trim drops the oldest round. The pages of one that is under way are the newest.
func trim(pages []v1alpha1.PageStatus) []v1alpha1.PageStatus {
	severity, oldest := pages[0].Severity, firstRound(pages)
	return slices.DeleteFunc(pages, func(p v1alpha1.PageStatus) bool {
		return p.Severity == severity && firstRound([]v1alpha1.PageStatus{p}) == oldest
	})
}

// send a message about the Incident by a channel. A manager that is being stopped finishes it: cut off, it would be
// sent again.
func (e *Escalation) send(ctx context.Context, channel v1alpha1.Channel, page v1alpha1.PageStatus, event paging.Event,
	at time.Time) error {
	ctx = context.WithoutCancel(ctx)
	opened, err := e.Access.Channel(ctx, e.Platform, channel)
	if err != nil {
		return err
	}
	return opened.Send(ctx, e.Access.Transport, e.message(page, event, at))
}

func (e *Escalation) message(page v1alpha1.PageStatus, event paging.Event, at time.Time) paging.Message {
	obj := e.Incident
	host := e.Platform.Name
	if u, err := url.Parse(e.Platform.Spec.URL); err == nil {
		host = u.Host
	}
	summary := obj.Spec.Summary
	switch {
	case summary == "" && obj.Spec.Category == v1alpha1.CategoryKeyExposure && obj.Spec.Affected != nil:
		summary = fmt.Sprintf("kid %q of application %s may have leaked", obj.Spec.Affected.Kid,
			strings.Join(obj.Spec.Affected.ApplicationIDs, ", "))
	case summary == "":
		summary = cmp.Or(e.Because, fmt.Sprintf("%s incident", obj.Spec.Category))
	case strings.Contains(e.Because, summary):
		summary = e.Because
	case !strings.Contains(summary, e.Because):
		// What a person reported may not be why it pages now.
		summary += "; " + e.Because
	}
	return paging.Message{
		Key: e.alert(page), Event: event, Severity: string(page.Severity), Source: host, At: at,
		Summary: fmt.Sprintf("%s %s: %s", page.Severity, host, summary),
		Details: map[string]string{
			"incident": obj.Namespace + "/" + obj.Name, "platform": e.Platform.Name, "tier": page.Tier,
			"read":        fmt.Sprintf("kubectl -n %s describe incident %s", obj.Namespace, obj.Name),
			"acknowledge": e.AcknowledgeCommand(),
		},
	}
}

// alert is the key of the alert that a page belongs to.
func (e *Escalation) alert(page v1alpha1.PageStatus) string {
	obj := e.Incident
	key := fmt.Sprintf("%s/%s/%s/%s", obj.Namespace, obj.Name, obj.UID, page.Tier)
	if !unmarked(page) {
		// A page of a higher severity is another alert: the one before may be acknowledged.
		key += "/" + string(page.Severity)
	}
	return key
}

// Rings says whether a channel may not know yet that it is over.
func (e *Escalation) Rings() bool {
	escalation := e.Incident.Status.Escalation
	return escalation != nil && slices.ContainsFunc(escalation.Pages,
		func(p v1alpha1.PageStatus) bool { return p.State != v1alpha1.PageResolved })
}

// TakeBack tells each channel that accepted a page that somebody took it on, or that it is over. It reports whether all
// were told. since is when that began. A channel that doesn't answer for a minute after that is given up.
func (e *Escalation) TakeBack(ctx context.Context, event paging.Event, state v1alpha1.PageState, since time.Time) bool {
	all := true
	if e.Incident.Status.Escalation == nil {
		return all
	}
	told := map[string]bool{}
	for i := range e.Incident.Status.Escalation.Pages {
		page := &e.Incident.Status.Escalation.Pages[i]
		channel := e.channel(page)
		// PagerDuty may have opened an alert for a page that is called failed, since its answers were lost. It drops what is
		// about none.
		failed := page.State == v1alpha1.PageFailed && (channel == nil || channel.Type != paging.TypePagerDuty)
		if failed || page.State == v1alpha1.PageResolved || page.State == state {
			continue
		}
		alert := fmt.Sprintf("%s/%s/%s/%t", page.Tier, page.Channel, page.Severity, unmarked(*page))
		if told[alert] {
			page.State = state
			continue
		}
		err := errNoChannel
		if channel != nil {
			err = e.send(ctx, *channel, *page, event, since)
		}
		refused := (*outbound.Refused)(nil)
		switch {
		case err == nil:
		case channel != nil && !errors.As(err, &refused) && e.Clock().Sub(since) < channelPatience:
			page.Problem, all = journal.Text(err), false
			continue
		default:
			page.Problem = journal.Text(err)
			e.stillRings(page, channel, state)
		}
		told[alert] = true
		page.State = state
	}
	return all
}

var errNoChannel = errors.New("the Platform no longer names it")

// stillRings says that a channel was given up, and what a person does about it.
func (e *Escalation) stillRings(page *v1alpha1.PageStatus, channel *v1alpha1.Channel, state v1alpha1.PageState) {
	what := map[v1alpha1.PageState]string{v1alpha1.PageAcknowledged: "somebody took it on",
		v1alpha1.PageResolved: "it is over"}[state]
	if channel != nil && channel.Type != paging.TypePagerDuty {
		e.Warn(v1alpha1.ReasonStillRings, "%s by %s was not told that %s: %.200s. Tell them", page.Tier, page.Channel, what,
			page.Problem)
		return
	}
	e.Warn(v1alpha1.ReasonStillRings, "%s by %s was not told that %s: %.100s. %s", page.Tier, page.Channel, what,
		page.Problem, e.byHand(*page))
}

// byHand is what a person does about an alert that PagerDuty was not told of.
func (e *Escalation) byHand(page v1alpha1.PageStatus) string {
	return "If PagerDuty still shows the alert with the dedup key " + paging.Message{Key: e.alert(page)}.DedupKey() +
		", resolve it there"
}

// Untold says what a person does about the alerts that may still ring; empty where none does.
func (e *Escalation) Untold() string {
	var texts []string
	if e.Incident.Status.Escalation == nil {
		return ""
	}
	for _, page := range e.Incident.Status.Escalation.Pages {
		if text := e.byHand(page); reached(page) && page.State != v1alpha1.PageResolved && !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}

// channel that a page was sent by; nil where the Platform no longer has it.
func (e *Escalation) channel(page *v1alpha1.PageStatus) *v1alpha1.Channel {
	if e.Platform.Spec.Oncall == nil {
		return nil
	}
	for _, tier := range e.Platform.Spec.Oncall.Tiers {
		for i := range tier.Notify {
			if tier.Name == page.Tier && tier.Notify[i].SecretRef.Name == page.Channel {
				return &tier.Notify[i]
			}
		}
	}
	return nil
}
