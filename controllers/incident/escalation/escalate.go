// Package escalation pages people, tier after tier, until one takes an Incident on or it is over.
package escalation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
)

const (
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
	// lateBy is what is called late. Deadlines that passed while the API server or the manager was away are kept late, and
	// it is said.
	lateBy = time.Minute
)

// Escalation pages people for one Incident.
type Escalation struct {
	*journal.Journal
	Access *access.Connections
	// Because is what the signals say is bad; empty where none is.
	Because string
}

// Begin starts the round of the present severity: when the Incident opens, and anew when its severity rises. It reports
// whether the severity rose.
func (e *Escalation) Begin() (rose bool) {
	status := &e.Incident.Status
	known := status.Escalation
	switch {
	case known == nil:
		status.Escalation = &v1alpha1.EscalationStatus{Severity: status.Severity,
			Since: journal.Seconds(e.Incident.CreationTimestamp.Time)}
		return false
	case known.Severity == "":
		// Begun by the release before this one, whose pages are of no severity.
		known.Severity, known.Since = status.Severity, journal.Seconds(e.Incident.CreationTimestamp.Time)
		for i := range known.Pages {
			known.Pages[i].Severity = status.Severity
		}
		return false
	case known.Severity == status.Severity:
		return false
	}
	rose = status.Severity < known.Severity
	known.Severity, known.Since, known.CoveredBy = status.Severity, journal.Seconds(e.Now), ""
	if rose {
		status.PagedAt, status.Reached = nil, ""
	}
	return rose
}

// Risen says that the severity rose, and that nobody was paged since.
func (e *Escalation) Risen() bool {
	known := e.Incident.Status.Escalation
	return known != nil && known.Since.After(e.Incident.CreationTimestamp.Time) && len(e.pages()) == 0
}

// Acknowledged says whether somebody took the Incident on at its present severity.
func (e *Escalation) Acknowledged() bool {
	status := &e.Incident.Status
	return status.AcknowledgedAt != nil && status.AcknowledgedSeverity <= status.Severity
}

// Run pages tier after tier. It settles when the Incident is resolved.
func (e *Escalation) Run(ctx context.Context) (playbook.Outcome, error) {
	status := &e.Incident.Status
	switch {
	case status.ResolvedAt != nil && !e.anybody():
		return playbook.NotNeeded("resolved before anybody was paged"), nil
	case status.ResolvedAt != nil:
		return playbook.Done("%s", e.paged()), nil
	case e.Acknowledged():
		return e.stop(ctx)
	case e.ByHand():
		// The step Resolved, which comes after people, closes it.
		return playbook.Wait(0, v1alpha1.ReasonPaging, "resolved by %s; nobody else is paged",
			e.Incident.Spec.Resolution.By), nil
	}
	oncall, policy := e.Platform.Spec.Oncall, e.policy()
	switch {
	case policy == v1alpha1.EscalateNone:
		return playbook.Wait(0, v1alpha1.ReasonNotPaging, "nobody is paged for %s", status.Severity), nil
	case oncall == nil:
		return playbook.Wait(0, v1alpha1.ReasonNobodyReached,
			"nobody can be paged: Platform %q has no spec.oncall. Call somebody", e.Platform.Name).Loud(), nil
	}
	tiers := oncall.Tiers
	if policy == v1alpha1.EscalateFirstTier {
		tiers = tiers[:1]
	}
	for {
		next := round{
			severity: status.Severity, tiers: tiers, repeat: time.Duration(oncall.RepeatSeconds) * time.Second, policy: policy,
			pages: e.pages(), opened: status.Escalation.Since.Time,
		}.next(e.Now)
		if next.channel == nil {
			return e.wait(next), nil
		}
		settled, again, err := e.page(ctx, next)
		if err != nil {
			return playbook.Outcome{}, err
		}
		if !settled {
			return e.unheard(again, fmt.Sprintf("%s did not accept the page to %s yet; it is tried again",
				next.channel.SecretRef.Name, next.tier)), nil
		}
		// That took its time, and what is due now was not before.
		e.Now = e.Clock()
	}
}

// pages of the present severity.
func (e *Escalation) pages() []v1alpha1.PageStatus {
	return slices.DeleteFunc(slices.Clone(e.Incident.Status.Escalation.Pages), func(p v1alpha1.PageStatus) bool {
		return p.Severity != e.Incident.Status.Escalation.Severity
	})
}

func (e *Escalation) anybody() bool {
	escalation := e.Incident.Status.Escalation
	return escalation != nil && slices.ContainsFunc(escalation.Pages, reached)
}

func reached(p v1alpha1.PageStatus) bool {
	return p.State != v1alpha1.PageFailed && p.State != v1alpha1.PageSending
}

// wait for the next tier, or for an acknowledgement.
func (e *Escalation) wait(next due) playbook.Outcome {
	if next.at.IsZero() {
		return playbook.Wait(0, v1alpha1.ReasonPaging, "%s; waiting for an acknowledgement", e.paged())
	}
	then := fmt.Sprintf("%s is next at %s, unless somebody acknowledges", next.tier, next.at.UTC().Format(time.RFC3339))
	if e.Incident.Status.PagedAt == nil {
		return e.unheard(e.Until(next.at), then)
	}
	return playbook.Wait(e.Until(next.at), v1alpha1.ReasonPaging, "%s; %s", e.paged(), then)
}

// unheard is a wait that is loud where nobody was reached and at least one channel failed: nothing is more urgent.
func (e *Escalation) unheard(after time.Duration, then string) playbook.Outcome {
	pages := e.pages()
	failed := slices.IndexFunc(pages, func(p v1alpha1.PageStatus) bool { return p.Problem != "" })
	if e.Incident.Status.PagedAt != nil || failed < 0 {
		return playbook.Wait(after, v1alpha1.ReasonPaging, "%s", then)
	}
	return playbook.Wait(after, v1alpha1.ReasonNobodyReached, "NOBODY WAS REACHED, call somebody: %s: %s. %s",
		pages[failed].Channel, pages[failed].Problem, then).Loud()
}

// policy of the Incident's severity. Sev1's is the playbook's, the others are the Platform's.
func (e *Escalation) policy() v1alpha1.EscalationPolicy {
	rules := e.Platform.Spec.Escalation
	if rules == nil {
		rules = &v1alpha1.PlatformEscalation{Sev2: v1alpha1.EscalateFirstTier, Sev3: v1alpha1.EscalateNone}
	}
	switch e.Incident.Status.Severity {
	case v1alpha1.Sev1:
		return v1alpha1.EscalateAllTiers
	case v1alpha1.Sev2:
		return rules.Sev2
	}
	return rules.Sev3
}

// stop pages nobody else, since somebody is on it.
func (e *Escalation) stop(ctx context.Context) (playbook.Outcome, error) {
	by := e.Incident.Status.AcknowledgedBy
	if !e.TakeBack(ctx, paging.Acknowledge, v1alpha1.PageAcknowledged, e.Incident.Status.AcknowledgedAt.Time) {
		return playbook.Wait(channelRetry, v1alpha1.ReasonAcknowledged, "acknowledged by %s; not every channel knows yet",
			by), nil
	}
	if !e.anybody() {
		return playbook.Wait(0, v1alpha1.ReasonAcknowledged, "acknowledged by %s before anybody was paged", by), nil
	}
	return playbook.Wait(0, v1alpha1.ReasonAcknowledged, "%s; acknowledged by %s", e.paged(), by), nil
}

// paged says who was, and when first, in a few words: in the present round, or in the ones before if nobody was in it.
func (e *Escalation) paged() string {
	pages := e.pages()
	if !slices.ContainsFunc(pages, reached) {
		pages = e.Incident.Status.Escalation.Pages
	}
	var tiers []string
	said := map[string]bool{}
	for _, page := range pages {
		if !reached(page) || said[page.Tier] {
			continue
		}
		said[page.Tier] = true
		text := page.Tier
		if page.SettledAt != nil {
			text += " at " + page.SettledAt.UTC().Format(time.RFC3339)
		}
		tiers = append(tiers, text)
	}
	if len(tiers) == 0 {
		return "nobody was paged yet"
	}
	return "paged " + strings.Join(tiers, " and ")
}
