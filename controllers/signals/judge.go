package signals

import (
	"fmt"
	"maps"
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
)

// judge makes Signals of looks. It has no clock but the one that each look comes with, and is for one goroutine at a
// time.
type judge struct {
	up, tokens, jwks *run
	webhooks         *run // nil without a database
	paths            []*run
	latency          *latency
	// issued is the kid of the newest token that has one.
	issued issuedKid
	// troubles by their kind: since when there is one.
	troubles map[kind]time.Time
}

// newJudge begins to judge a Platform. What its conditions say is bad is so since then if it turns out to be bad still:
// a manager that starts in the middle of an outage did not begin it.
func newJudge(p *v1alpha1.Platform) *judge {
	probes := p.Spec.Probes
	// Each look has three answers, and one of each path.
	answers := fewest / (3 + len(probes.Paths))
	j := &judge{troubles: map[kind]time.Time{}}
	// Two intervals, since the next token may be late.
	j.issued.kept = time.Duration(2*probes.IntervalSeconds+probes.TimeoutSeconds) * time.Second
	asked := func(condition, path, check string) *run {
		r := newRun(p, condition, path)
		r.url, r.check, r.window = endpoint(p, path), check, newWindow(probes, fewest)
		r.goodAt = goodOnce(p, condition, r.url)
		return r
	}
	j.up = asked(v1alpha1.ConditionUpAnswers, "/up", "spec.url")
	j.tokens = asked(v1alpha1.ConditionTokensIssued, "/oauth/token", "spec.url")
	j.jwks = asked(v1alpha1.ConditionJWKSServed, "/.well-known/jwks.json", "spec.url")
	// Without a database nothing could ever say that webhooks are delivered.
	if p.Spec.Database != nil {
		j.webhooks = newRun(p, v1alpha1.ConditionWebhooksDelivered, "the database")
	}
	j.latency = &latency{
		limit: time.Duration(probes.LatencyMilliseconds) * time.Millisecond, window: newWindow(probes, answers),
		run: newRun(p, v1alpha1.ConditionLatencyGood, "the platform"),
	}
	// Latency is of all that is asked, and has the URL that all of it begins with.
	j.latency.run.url, j.latency.run.check = endpoint(p, ""), "spec.url and probes.latencyMilliseconds"
	j.latency.run.goodAt = goodOnce(p, v1alpha1.ConditionLatencyGood, j.latency.run.url)
	for _, path := range probes.Paths {
		path, _, _ = strings.Cut(path, "?")
		j.paths = append(j.paths, asked(v1alpha1.ConditionEndpointsAnswer, path, "spec.url and probes.paths"))
	}
	j.resume(p)
	return j
}

// newRun begins with what the Platform's condition says.
func newRun(p *v1alpha1.Platform, condition, what string) *run {
	r := &run{
		what: what, enough: int(p.Spec.Probes.Failures), kept: newWindow(p.Spec.Probes, fewest).span,
		state: metav1.ConditionUnknown, message: what + " was not asked often enough yet",
	}
	if c := meta.FindStatusCondition(p.Status.Conditions, condition); c != nil && c.Status == metav1.ConditionFalse {
		// The present episode began no earlier than that. Nobody knows when exactly.
		r.onset, r.episode = c.LastTransitionTime.Time, c.LastTransitionTime.Time
		r.partly = c.Reason == v1alpha1.ReasonSignalFlaky
		r.flaps = r.partly
	}
	return r
}

// resume the troubles that the Platform's status has. Some of what began them may be good again.
func (j *judge) resume(p *v1alpha1.Platform) {
	for _, signal := range j.each(time.Time{}) {
		if _, since := j.bad(signal.Condition); !since.IsZero() {
			j.trouble(signal, since)
		}
	}
	if s := p.Status.Signals; s != nil && s.BadSince != nil {
		for key, since := range j.troubles {
			if key.severity == s.Severity && s.BadSince.Time.Before(since) {
				j.troubles[key] = s.BadSince.Time
			}
		}
	}
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
	if look.Kid != "" {
		j.issued.kid, j.issued.at = look.Kid, at
	}
	r.add(look, at)
	if look.Answered {
		j.latency.window.add(look.Took > j.latency.limit, at)
	}
	j.latency.judge(at)
}

// lookAtJWKS takes in what a look at JWKS saw, with what the database says of the platform's keys.
func (j *judge) lookAtJWKS(look platformapi.Look, active *activeKids, at time.Time) {
	j.look(j.jwks, compare(look, j.issued, active, at), at)
}

// deliveries takes in what the database says about webhooks, or why it could not be asked. Webhooks that nobody tried
// to deliver prove nothing, and neither do a few that all failed.
func (j *judge) deliveries(d *platformdb.Deliveries, window time.Duration, err error, at time.Time) {
	look := platformapi.Look{Verdict: platformapi.Good, Message: "webhooks are delivered"}
	span := int(window.Seconds())
	switch {
	case err != nil:
		look.Verdict, look.Message = platformapi.Unknown, "webhooks could not be counted: "+playbook.Normalise(err.Error())
	case len(d.Failing) >= bulkApplications:
		look.Verdict, look.Message = platformapi.Bad, "no webhook reaches "+some(d.Failing)
	case d.Attempted >= fewestAttempts && d.Failed*100 >= d.Attempted*bulkPercent:
		look.Verdict = platformapi.Bad
		look.Message = fmt.Sprintf("at least %d %% of the webhooks of the last %d s fail", bulkPercent, span)
	case d.Attempted == 0 && len(d.Failing) == 0:
		look.Verdict, look.Message = platformapi.Unknown, fmt.Sprintf("no webhook was attempted in the last %d s", span)
	case d.Failed == d.Attempted:
		look.Verdict = platformapi.Unknown
		look.Message = fmt.Sprintf("no webhook of the last %d s was delivered, and too few were attempted to say more", span)
	}
	j.webhooks.add(look, at)
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

// each signal as it is at an instant.
func (j *judge) each(at time.Time) []Signal {
	all := []Signal{
		j.up.signal(v1alpha1.ConditionUpAnswers, at), j.tokens.signal(v1alpha1.ConditionTokensIssued, at),
		j.jwks.signal(v1alpha1.ConditionJWKSServed, at),
	}
	if len(j.paths) > 0 {
		all = append(all, j.endpoints(at))
	}
	all = append(all, j.latency.run.signal(v1alpha1.ConditionLatencyGood, at))
	if j.webhooks != nil {
		all = append(all, j.webhooks.signal(v1alpha1.ConditionWebhooksDelivered, at))
	}
	return all
}

// endpoints are bad where one of them is, and good where all are.
func (j *judge) endpoints(at time.Time) Signal {
	rank := []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionUnknown, metav1.ConditionFalse}
	var worst []Signal
	for _, r := range j.paths {
		one := r.signal(v1alpha1.ConditionEndpointsAnswer, at)
		if len(worst) > 0 && slices.Index(rank, one.State) > slices.Index(rank, worst[0].State) {
			worst = nil
		}
		if len(worst) == 0 || one.State == worst[0].State {
			worst = append(worst, one)
		}
	}
	all, messages := worst[0], []string(nil)
	for _, one := range worst {
		messages = append(messages, one.Message)
		all.Flaky = all.Flaky && one.Flaky
		// All of them are good since the last one is, and bad since the first one is.
		if all.State == metav1.ConditionFalse {
			all.Since, all.BadFrom = earlier(all.Since, one.Since), earlier(all.BadFrom, one.BadFrom)
		} else {
			all.Since = later(all.Since, one.Since)
		}
		// The newest looks that suffice are those at the one that was bad last.
		all.EnoughFrom = later(all.EnoughFrom, one.EnoughFrom)
	}
	all.Message = "all endpoints answer"
	if all.State != metav1.ConditionTrue {
		all.Message = shorten(strings.Join(messages, "; "))
	}
	return all
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// runsOf a signal.
func (j *judge) runsOf(condition string) []*run {
	switch condition {
	case v1alpha1.ConditionUpAnswers:
		return []*run{j.up}
	case v1alpha1.ConditionTokensIssued:
		return []*run{j.tokens}
	case v1alpha1.ConditionJWKSServed:
		return []*run{j.jwks}
	case v1alpha1.ConditionLatencyGood:
		return []*run{j.latency.run}
	case v1alpha1.ConditionWebhooksDelivered:
		return []*run{j.webhooks}
	}
	return j.paths
}

// bad says whether a signal's runs are bad, and since when they are, or were and are not known to be good again.
func (j *judge) bad(condition string) (now bool, since time.Time) {
	for _, r := range j.runsOf(condition) {
		began := r.trouble()
		if began.IsZero() {
			continue
		}
		now = now || r.state == metav1.ConditionFalse
		if since.IsZero() || began.Before(since) {
			since = began
		}
	}
	return now, since
}

// signals as they are at an instant.
func (j *judge) signals(at time.Time) Signals {
	s := Signals{Each: j.each(at), endpoints: j.goodEndpoints()}
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
