package signals

import (
	"fmt"
	"maps"
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
)

// judge makes Signals of looks. It has no clock but the one that each look comes with, and is for one goroutine at a time.
type judge struct {
	up, tokens, jwks *run
	webhooks         *run // nil without a database
	paths            []*run
	latency          *latency
	// troubles by severity and category: since when there is one.
	troubles map[kind]time.Time
}

// newJudge begins to judge a Platform. What its conditions say is bad is so since then if it turns out to be bad still: a manager
// that starts in the middle of an outage did not begin it.
func newJudge(p *v1alpha1.Platform) *judge {
	probes := p.Spec.Probes
	// Each look has three answers, and one of each path.
	answers := fewest / (3 + len(probes.Paths))
	j := &judge{troubles: map[kind]time.Time{}, latency: &latency{limit: time.Duration(probes.LatencyMilliseconds) * time.Millisecond, window: newWindow(probes, answers)}}
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
			if key.severity == s.Severity && s.BadSince.Time.Before(since) {
				j.troubles[key] = s.BadSince.Time
			}
		}
	}
	return j
}

// kind of trouble.
type kind struct {
	severity v1alpha1.Severity
	category v1alpha1.IncidentCategory
}

func kindOf(signal Signal) kind { return kind{signal.Severity, class[signal.Condition].category} }

func (j *judge) trouble(signal Signal, since time.Time) {
	key := kindOf(signal)
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
			all.State, all.Since, all.Flaky, messages = one.State, one.Since, one.Flaky, []string{one.Message}
		case one.State != all.State:
		case one.State == metav1.ConditionFalse:
			messages, all.Flaky = append(messages, one.Message), all.Flaky && one.Flaky
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
	going := map[kind]bool{}
	for _, signal := range s.Each {
		now, since := j.bad(signal.Condition)
		if since.IsZero() {
			continue
		}
		going[kindOf(signal)] = true
		if now {
			j.trouble(signal, since)
		}
	}
	maps.DeleteFunc(j.troubles, func(k kind, _ time.Time) bool { return !going[k] })
	for i, signal := range s.Each {
		if _, since := j.bad(signal.Condition); !since.IsZero() {
			s.Each[i].trouble = j.troubles[kindOf(signal)]
		}
	}
	return s
}
