// Package signals probes identity platforms and judges what is good, bad or unknown, since when, and of which severity.
package signals

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// bulkApplications whose webhooks all fail, or bulkPercent of at least fewestAttempts, are delivery failing in bulk.
	bulkApplications = 2
	bulkPercent      = 20
	fewestAttempts   = 20
	// maxBecause keeps status.signals.summary, with the severity before it, within its 512.
	maxBecause = 400
)

// Signals is what the probes of a Platform say together. The zero Signals is a Platform that is not probed, or not yet: nothing of
// it is known.
type Signals struct {
	// Each signal by its condition.
	Each []Signal
	// Severity that they amount to by the playbook's table; empty while none is bad.
	Severity v1alpha1.Severity
	// Because says what is bad, in a few words; empty while nothing is.
	Because string
	// BadSince is the first bad sample of the trouble that has this severity: it stays while any of it is bad, or not known to be
	// good again. Zero while nothing is bad.
	BadSince time.Time
	// ClearSince is since when every signal is good; zero while one is bad or unknown.
	ClearSince time.Time
	// Down says that relying parties' users are kept out: /up, tokens or JWKS are bad.
	Down bool

	// lingering says that something was bad and is not known to be good again, while nothing is bad.
	lingering bool

	// outageSince and webhooksSince are BadSince of what belongs to one category of Incidents.
	outageSince, webhooksSince time.Time
}

// Signal is one of a Platform's signals.
type Signal struct {
	// Condition of the Platform that reports it.
	Condition string
	// State is True where it is good, False where it is bad, and Unknown.
	State metav1.ConditionStatus
	// Severity that it has while it is bad.
	Severity v1alpha1.Severity
	// Partly says that it is bad since too many looks fail, and not each.
	Partly bool
	// Message says what was seen.
	Message string
	// Since is the first sample of this state. One that was bad, then unknown, and is bad again is bad since the first time.
	Since time.Time
}

// Summary is "ok", what is bad with its severity, or what is unknown.
func (s Signals) Summary() string {
	if s.Severity != "" {
		return fmt.Sprintf("%s: %s", s.Severity, s.Because)
	}
	var unknown []string
	for _, signal := range s.Each {
		if signal.State == metav1.ConditionUnknown {
			unknown = append(unknown, signal.Condition)
		}
	}
	if len(unknown) > 0 {
		return "unknown: " + strings.Join(unknown, ", ")
	}
	return "ok"
}

// Onset of the trouble for which an Incident of the category is opened, or zero.
func (s Signals) Onset(category v1alpha1.IncidentCategory) time.Time {
	if category == v1alpha1.CategoryWebhookDelivery {
		return s.webhooksSince
	}
	return s.outageSince
}

// class is the playbook's table.
var class = map[string]struct {
	severity v1alpha1.Severity
	category v1alpha1.IncidentCategory
}{
	v1alpha1.ConditionUpAnswers:         {v1alpha1.Sev1, v1alpha1.CategoryOutage},
	v1alpha1.ConditionTokensIssued:      {v1alpha1.Sev1, v1alpha1.CategoryOutage},
	v1alpha1.ConditionJWKSServed:        {v1alpha1.Sev1, v1alpha1.CategoryOutage},
	v1alpha1.ConditionEndpointsAnswer:   {v1alpha1.Sev2, v1alpha1.CategoryOutage},
	v1alpha1.ConditionLatencyGood:       {v1alpha1.Sev2, v1alpha1.CategoryOutage},
	v1alpha1.ConditionWebhooksDelivered: {v1alpha1.Sev2, v1alpha1.CategoryWebhookDelivery},
}

// judge makes Signals of looks. It has no clock but the one that each look comes with, and is for one goroutine at a time.
type judge struct {
	up, tokens, jwks *run
	webhooks         *run // nil without a database
	paths            []*run
	latency          *latency
	// troubles by severity and category: since when there is one.
	troubles map[[2]string]time.Time
}

// newJudge begins to judge a Platform. What its conditions say is bad is so since then if it turns out to be bad still: a manager
// that starts in the middle of an outage did not begin it.
func newJudge(p *v1alpha1.Platform) *judge {
	probes := p.Spec.Probes
	// Each look has three answers, and one of each path.
	answers := fewest / (3 + len(probes.Paths))
	j := &judge{troubles: map[[2]string]time.Time{}, latency: &latency{limit: time.Duration(probes.LatencyMilliseconds) * time.Millisecond, window: newWindow(probes, answers)}}
	begin := func(condition, what string) *run {
		r := &run{what: what, enough: int(probes.Failures), state: metav1.ConditionUnknown, message: what + " was not asked often enough yet"}
		if c := meta.FindStatusCondition(p.Status.Conditions, condition); c != nil && c.Status == metav1.ConditionFalse {
			r.onset = c.LastTransitionTime.Time
			r.partly = c.Reason == v1alpha1.ReasonSignalFlaky
			r.flaps = r.partly
		}
		return r
	}
	asked := func(condition, path string) *run {
		r := begin(condition, path)
		r.window = newWindow(probes, fewest)
		return r
	}
	j.up = asked(v1alpha1.ConditionUpAnswers, "/up")
	j.tokens = asked(v1alpha1.ConditionTokensIssued, "/oauth/token")
	j.jwks = asked(v1alpha1.ConditionJWKSServed, "/.well-known/jwks.json")
	// Without one, nothing would ever be clear that waits for what only a database could say.
	if p.Spec.Database != nil {
		j.webhooks = begin(v1alpha1.ConditionWebhooksDelivered, "the database")
	}
	j.latency.run = begin(v1alpha1.ConditionLatencyGood, "the platform")
	for _, path := range probes.Paths {
		path, _, _ = strings.Cut(path, "?")
		j.paths = append(j.paths, asked(v1alpha1.ConditionEndpointsAnswer, path))
	}
	for _, signal := range j.each() {
		if _, since := j.bad(signal.Condition); !since.IsZero() {
			j.trouble(signal, since)
		}
	}
	// Some of what began it may be good again.
	if s := p.Status.Signals; s != nil && s.BadSince != nil {
		for key, since := range j.troubles {
			if key[0] == string(s.Severity) && s.BadSince.Time.Before(since) {
				j.troubles[key] = s.BadSince.Time
			}
		}
	}
	return j
}

// kind of trouble that a signal is.
func kind(signal Signal) [2]string {
	return [2]string{string(signal.Severity), string(class[signal.Condition].category)}
}

func (j *judge) trouble(signal Signal, since time.Time) {
	key := kind(signal)
	if known, ok := j.troubles[key]; !ok || since.Before(known) {
		j.troubles[key] = since
	}
}

// look takes in what a look saw at an instant, for one of the runs.
func (j *judge) look(r *run, look platformapi.Look, at time.Time) {
	r.add(look.Verdict, look.Message, at)
	if look.Answered {
		j.latency.window.add(look.Took > j.latency.limit, at)
	}
	j.latency.judge(at)
}

// deliveries takes in what the database says about webhooks, or why it could not be asked.
func (j *judge) deliveries(d *platformdb.Deliveries, window time.Duration, err error, at time.Time) {
	switch {
	case err != nil:
		j.webhooks.add(platformapi.Unknown, "webhooks could not be counted: "+playbook.Normalise(err.Error()), at)
	case len(d.Failing) >= bulkApplications:
		j.webhooks.add(platformapi.Bad, "no webhook reaches "+some(d.Failing), at)
	case d.Attempted >= fewestAttempts && d.Failed*100 >= d.Attempted*bulkPercent:
		j.webhooks.add(platformapi.Bad, fmt.Sprintf("at least %d %% of the webhooks of the last %d s fail", bulkPercent, int(window.Seconds())), at)
	default:
		j.webhooks.add(platformapi.Good, "webhooks are delivered", at)
	}
}

// some names the first few applications.
func some(applications []int64) string {
	const most = 5
	var names []string
	for _, id := range applications[:min(most, len(applications))] {
		names = append(names, fmt.Sprint(id))
	}
	text := "applications " + strings.Join(names, ", ")
	if len(applications) > most {
		text += " and others"
	}
	return text
}

// each signal as it is now.
func (j *judge) each() []Signal {
	all := []Signal{
		j.up.signal(v1alpha1.ConditionUpAnswers), j.tokens.signal(v1alpha1.ConditionTokensIssued), j.jwks.signal(v1alpha1.ConditionJWKSServed),
	}
	if len(j.paths) > 0 {
		all = append(all, j.endpoints())
	}
	all = append(all, j.latency.run.signal(v1alpha1.ConditionLatencyGood))
	if j.webhooks != nil {
		all = append(all, j.webhooks.signal(v1alpha1.ConditionWebhooksDelivered))
	}
	return all
}

// endpoints are bad where one of them is, and good where all are.
func (j *judge) endpoints() Signal {
	all := Signal{Condition: v1alpha1.ConditionEndpointsAnswer, Severity: class[v1alpha1.ConditionEndpointsAnswer].severity, State: metav1.ConditionTrue, Message: "all endpoints answer"}
	rank := map[metav1.ConditionStatus]int{metav1.ConditionTrue: 0, metav1.ConditionUnknown: 1, metav1.ConditionFalse: 2}
	var messages []string
	for _, r := range j.paths {
		one := r.signal(all.Condition)
		switch {
		case rank[one.State] > rank[all.State]:
			all.State, all.Since, all.Partly, messages = one.State, one.Since, one.Partly, []string{one.Message}
		case one.State != all.State:
		case one.State == metav1.ConditionFalse:
			messages, all.Partly = append(messages, one.Message), all.Partly && one.Partly
			if one.Since.Before(all.Since) {
				all.Since = one.Since
			}
		default:
			messages = append(messages, one.Message)
			if one.Since.After(all.Since) {
				all.Since = one.Since
			}
		}
	}
	if all.State != metav1.ConditionTrue {
		all.Message = shorten(strings.Join(messages, "; "))
	}
	return all
}

// bad says whether a signal's runs are bad, and since when they are, or were and are not known to be good again.
func (j *judge) bad(condition string) (now bool, since time.Time) {
	runs := map[string][]*run{
		v1alpha1.ConditionUpAnswers: {j.up}, v1alpha1.ConditionTokensIssued: {j.tokens}, v1alpha1.ConditionJWKSServed: {j.jwks},
		v1alpha1.ConditionEndpointsAnswer: j.paths, v1alpha1.ConditionLatencyGood: {j.latency.run}, v1alpha1.ConditionWebhooksDelivered: {j.webhooks},
	}
	for _, r := range runs[condition] {
		now = now || r.state == metav1.ConditionFalse
		if !r.onset.IsZero() && (since.IsZero() || r.onset.Before(since)) {
			since = r.onset
		}
	}
	return now, since
}

// signals as they are now.
func (j *judge) signals() Signals {
	s := Signals{Each: j.each()}
	var because []string
	over, bad := map[[2]string]bool{}, map[[2]string]bool{}
	for key := range j.troubles {
		over[key] = true
	}
	// The worst first: what is named first is what the column shows.
	for _, signal := range slices.SortedStableFunc(slices.Values(s.Each), func(a, b Signal) int { return cmp.Compare(a.Severity, b.Severity) }) {
		now, since := j.bad(signal.Condition)
		if since.IsZero() {
			continue
		}
		key := kind(signal)
		over[key] = false
		if !now {
			continue
		}
		bad[key] = true
		j.trouble(signal, since)
		if s.Severity == "" {
			s.Severity = signal.Severity
		}
		because = append(because, signal.Message)
		s.Down = s.Down || signal.Severity == v1alpha1.Sev1
	}
	for key, ended := range over {
		if ended {
			delete(j.troubles, key)
		}
	}
	s.Because = shorten(strings.Join(because, "; "))
	s.lingering = s.Severity == "" && len(j.troubles) > 0
	for _, severity := range []v1alpha1.Severity{v1alpha1.Sev1, v1alpha1.Sev2} {
		for category, onset := range map[v1alpha1.IncidentCategory]*time.Time{v1alpha1.CategoryOutage: &s.outageSince, v1alpha1.CategoryWebhookDelivery: &s.webhooksSince} {
			key := [2]string{string(severity), string(category)}
			if !bad[key] {
				continue
			}
			if onset.IsZero() {
				*onset = j.troubles[key]
			}
			if severity == s.Severity && (s.BadSince.IsZero() || j.troubles[key].Before(s.BadSince)) {
				s.BadSince = j.troubles[key]
			}
		}
	}
	for _, signal := range s.Each {
		if signal.State != metav1.ConditionTrue {
			s.ClearSince = time.Time{}
			break
		}
		if signal.Since.After(s.ClearSince) {
			s.ClearSince = signal.Since
		}
	}
	return s
}

func shorten(text string) string {
	if len(text) > maxBecause {
		text = strings.ToValidUTF8(text[:maxBecause], "") + "…"
	}
	return text
}
