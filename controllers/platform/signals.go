package platform

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
	// oftenPercent of the looks at one thing, in both halves of the window, fail too often. It is what the playbook's table allows
	// webhooks by default. What failed too often is good again when not even half as many fail.
	oftenPercent = 20
	// slowPercent of the answers may be slower than the 95th percentile.
	slowPercent = 5
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

	// outageSince and webhooksSince are BadSince of what belongs to one category of Incidents.
	outageSince, webhooksSince time.Time
	// lingering says that something was bad and is not known to be good again, while nothing is bad.
	lingering bool
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

// onset of the trouble for which an Incident of the category is opened, or zero.
func (s Signals) onset(category v1alpha1.IncidentCategory) time.Time {
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

// run is what looks at one thing say together. What was seen once changes nothing.
type run struct {
	what   string
	enough int     // looks in a row that make a state
	window *window // of looks that were good or bad; nil where only those in a row count

	state   metav1.ConditionStatus
	since   time.Time
	message string
	// onset is the first bad look since it was good last; zero while it is good, and while it never was bad.
	onset time.Time
	// partly says that it was never bad often enough in a row since the onset: only too large a share of the looks is.
	partly bool
	// flaps says that good and bad looks took turns: good ones in a row don't make it good any more, and the share must say so too.
	flaps  bool
	mended time.Time // when it last was good again

	good, bad, unknown, notGood             int // in a row; bad ones may have unknown ones between them, but not enough of them
	goodFrom, badFrom, unknownFrom, sinceIn time.Time
	failed                                  int // looks since it turned good, whatever is between them
	failedFrom                              time.Time
	said                                    string // the last message, and how often in a row
	times                                   int
}

// add takes in one look.
func (r *run) add(verdict platformapi.Verdict, message string, at time.Time) {
	count := func(n *int, from *time.Time) {
		if *n == 0 {
			*from = at
		}
		// No more is needed than enough.
		*n = min(*n+1, r.enough)
	}
	if message != r.said {
		r.said, r.times = message, 0
	}
	r.times = min(r.times+1, r.enough)
	switch verdict {
	case platformapi.Good:
		r.bad, r.unknown, r.notGood = 0, 0, 0
		count(&r.good, &r.goodFrom)
	case platformapi.Bad:
		r.good, r.unknown = 0, 0
		count(&r.bad, &r.badFrom)
		count(&r.notGood, &r.sinceIn)
		count(&r.failed, &r.failedFrom)
	default:
		r.good = 0
		count(&r.unknown, &r.unknownFrom)
		count(&r.notGood, &r.sinceIn)
		if r.unknown == r.enough {
			r.bad = 0
		}
	}
	often, calm := r.share(verdict, at)
	state, since, wasPartly := r.state, r.since, r.partly
	switch {
	case r.good == r.enough && (calm || !r.flaps):
		if !r.onset.IsZero() {
			r.mended = at
		}
		if r.state != metav1.ConditionTrue {
			r.failed = 0
		}
		state, since, r.onset, r.partly, r.flaps = metav1.ConditionTrue, r.goodFrom, time.Time{}, false, false
	case r.bad == r.enough:
		if r.onset.IsZero() {
			r.onset = r.badFrom
		}
		r.flaps = r.flaps || r.window != nil && at.Sub(r.mended) < r.window.span
		state, since, r.partly = metav1.ConditionFalse, r.onset, false
	case often && verdict == platformapi.Bad:
		if r.onset.IsZero() {
			r.onset, r.partly = r.window.firstHit(), true
			if r.failedFrom.After(r.onset) {
				r.onset = r.failedFrom
			}
		}
		state, since, r.flaps = metav1.ConditionFalse, r.onset, true
		message = fmt.Sprintf("%s fails in more than %d %% of the looks, for %d s", r.what, oftenPercent, int(r.window.span.Seconds()))
	case r.unknown == r.enough:
		state, since = metav1.ConditionUnknown, r.unknownFrom
	case r.notGood == r.enough && r.state == metav1.ConditionTrue:
		// Neither bad often enough in a row nor unknown, and good it is no more.
		state, since = metav1.ConditionUnknown, r.sinceIn
	}
	switch {
	case state != r.state, r.partly != wasPartly:
		r.state, r.since, r.message = state, since, message
	case r.since.IsZero():
		r.since = at
	}
	// One that fails now in this way and now in that does not say so each time.
	if r.times == r.enough && stateOf(verdict) == r.state {
		r.message = message
	}
}

// share takes a look into the window, and says whether so many failed that it is bad, and whether so few do now that it may be good.
func (r *run) share(verdict platformapi.Verdict, at time.Time) (often, calm bool) {
	if r.window == nil {
		return false, true
	}
	if verdict != platformapi.Unknown {
		r.window.add(verdict == platformapi.Bad, at)
	}
	older, newer, full := r.window.halves(at)
	// Of what is mended, the window still holds what failed before: a blip afterwards is still one.
	often = full && r.failed == r.enough && older.seen+newer.seen >= fewest && older.over(oftenPercent) && newer.over(oftenPercent)
	return often, at.Sub(r.window.began) >= r.window.span/2 && !newer.over(oftenPercent/2)
}

func stateOf(verdict platformapi.Verdict) metav1.ConditionStatus {
	switch verdict {
	case platformapi.Good:
		return metav1.ConditionTrue
	case platformapi.Bad:
		return metav1.ConditionFalse
	}
	return metav1.ConditionUnknown
}

func (r *run) signal(condition string) Signal {
	signal := Signal{Condition: condition, State: r.state, Severity: class[condition].severity, Partly: r.partly, Message: r.message, Since: r.since}
	if r.partly {
		// The playbook's sev1 is that nothing gets through.
		signal.Severity = v1alpha1.Sev2
	}
	return signal
}

// latency judges how long answers took. How long each took exactly does not matter, since the 95th percentile is over a limit where
// more than 5 % of the answers are.
type latency struct {
	run    *run
	limit  time.Duration
	window *window
}

// judge says whether it has been slow for the whole of the window.
func (l *latency) judge(at time.Time) {
	older, newer, full := l.window.halves(at)
	limit, span := l.limit.Milliseconds(), int(l.window.span.Seconds())
	switch {
	case older.seen+newer.seen < fewest:
		l.turn(metav1.ConditionUnknown, "there are too few answers to judge latency by", at)
	case full && older.over(slowPercent) && newer.over(slowPercent):
		l.turn(metav1.ConditionFalse, fmt.Sprintf("the 95th percentile of latency has been over %d ms for %d s", limit, span), at)
	case newer.over(slowPercent) && !full:
		l.turn(metav1.ConditionUnknown, fmt.Sprintf("the 95th percentile of latency is over %d ms, and not for long enough to judge it", limit), at)
	default:
		l.turn(metav1.ConditionTrue, fmt.Sprintf("the 95th percentile of latency has not been over %d ms for %d s", limit, span), at)
	}
}

// turn to a state: the window has smoothed it, so that once is enough.
func (l *latency) turn(state metav1.ConditionStatus, message string, at time.Time) {
	r := l.run
	r.message = message
	if state == r.state {
		if r.since.IsZero() {
			r.since = at
		}
		return
	}
	r.state, r.since = state, at
	switch state {
	case metav1.ConditionTrue:
		r.onset = time.Time{}
	case metav1.ConditionFalse:
		if r.onset.IsZero() {
			r.onset = l.window.firstHit()
		}
		r.since = r.onset
	}
}
