package signals

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

// oftenPercent of the looks at one thing, in both halves of the window, fail too often. It is what the playbook's table
// allows webhooks by default. A thing that failed too often is good again when at most half as many looks fail.
const oftenPercent = 20

// run is what the looks at one thing say together. One look changes nothing.
type run struct {
	what   string
	enough int           // looks in a row that make a state
	window *window       // of looks that were good or bad; nil where only those in a row count
	kept   time.Duration // for which the state counts after the last look

	// url that is asked, without a query. Empty where there is none.
	url string
	// check is what a person looks at where the url was never good.
	check string
	// goodAt is when the url was good for the first time. Until then a run with a url is never bad.
	goodAt time.Time

	state   metav1.ConditionStatus
	since   time.Time
	message string
	ask     bool // of the look that the message is from
	// onset is the first bad look since it was good last; zero while it is good, and while it never was bad.
	onset time.Time
	// partly says that since the onset it was never bad often enough in a row: only too large a share of the looks is.
	partly bool
	// flaps says that good and bad looks took turns. Good looks in a row are then not enough: the share must be small too.
	flaps  bool
	mended time.Time // when it last was good again

	// episode is the first bad look after the newest good one before it. interrupted says that a good look came since.
	episode     time.Time
	interrupted bool
	// row has the newest bad looks in a row, at most enough of them. Unknown ones may stand between them, but not enough
	// of them.
	row []badLook
	// enoughFrom is the oldest of the newest bad looks that were enough.
	enoughFrom time.Time

	firstAt, lastAt                         time.Time
	good, bad, unknown, notGood             int // in a row, as in row
	goodFrom, badFrom, unknownFrom, sinceIn time.Time
	failed                                  int // looks since it turned good, whatever is between them
	failedFrom                              time.Time
	said                                    string // the last message, and how often in a row
	times                                   int
}

// badLook is what is kept of one.
type badLook struct {
	at   time.Time
	down bool
}

// add takes in one look.
func (r *run) add(look platformapi.Look, at time.Time) {
	r.lastAt = at
	if r.firstAt.IsZero() {
		r.firstAt = at
	}
	if look.Message != r.said {
		r.said, r.times = look.Message, 0
	}
	r.times = min(r.times+1, r.enough)
	r.count(look, at)
	often, calm := r.share(look.Verdict, at)
	r.judge(look, often, calm, at)
	if r.state == metav1.ConditionTrue && r.goodAt.IsZero() {
		r.goodAt = r.since
	}
	// One that fails now in this way and now in that does not say so each time.
	if r.times == r.enough && stateOf(look.Verdict) == r.state {
		r.message, r.ask = look.Message, look.Ask
	}
}

// count the looks in a row.
func (r *run) count(look platformapi.Look, at time.Time) {
	count := func(n *int, from *time.Time) {
		if *n == 0 {
			*from = at
		}
		// No more is needed than enough.
		*n = min(*n+1, r.enough)
	}
	switch look.Verdict {
	case platformapi.Good:
		r.bad, r.unknown, r.notGood, r.row, r.interrupted = 0, 0, 0, nil, true
		count(&r.good, &r.goodFrom)
	case platformapi.Bad:
		if r.episode.IsZero() || r.interrupted {
			r.episode, r.interrupted = at, false
		}
		r.row = append(r.row[max(0, len(r.row)+1-r.enough):], badLook{at, look.Down})
		r.good, r.unknown = 0, 0
		count(&r.bad, &r.badFrom)
		count(&r.notGood, &r.sinceIn)
		count(&r.failed, &r.failedFrom)
	default:
		r.good = 0
		count(&r.unknown, &r.unknownFrom)
		count(&r.notGood, &r.sinceIn)
		if r.unknown == r.enough {
			r.bad, r.row = 0, nil
		}
	}
}

// judge turns to the state that the looks make.
func (r *run) judge(look platformapi.Look, often, calm bool, at time.Time) {
	state, since, wasPartly, message, ask := r.state, r.since, r.partly, look.Message, look.Ask
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
		state, since, r.partly, r.enoughFrom = metav1.ConditionFalse, r.onset, false, r.row[0].at
	case often && look.Verdict == platformapi.Bad:
		first := r.window.firstHit()
		r.enoughFrom = later(r.enoughFrom, first)
		if r.onset.IsZero() {
			r.onset, r.partly = first, true
			if r.failedFrom.After(r.onset) {
				r.onset = r.failedFrom
			}
		}
		state, since, r.flaps, ask = metav1.ConditionFalse, r.onset, true, false
		message = fmt.Sprintf("%s fails in more than %d %% of the looks, for %d s", r.what, oftenPercent,
			int(r.window.span.Seconds()))
	case r.unknown == r.enough:
		state, since = metav1.ConditionUnknown, r.unknownFrom
	case r.notGood == r.enough && r.state == metav1.ConditionTrue:
		// The looks are neither bad often enough in a row nor unknown often enough. It is no longer known to be good.
		state, since = metav1.ConditionUnknown, r.sinceIn
	}
	switch {
	case state != r.state, r.partly != wasPartly:
		r.state, r.since, r.message, r.ask = state, since, message, ask
	case r.since.IsZero():
		r.since = at
	}
}

// share takes a look into the window. It says whether so many looks failed that it is bad, and whether so few do now
// that it may be good.
func (r *run) share(verdict platformapi.Verdict, at time.Time) (often, calm bool) {
	if r.window == nil {
		return false, true
	}
	if verdict != platformapi.Unknown {
		r.window.add(verdict == platformapi.Bad, at)
	}
	older, newer, full := r.window.halves(at)
	// After it was mended, the window still holds what failed before. A blip then is still a blip.
	often = full && r.failed == r.enough && older.seen+newer.seen >= fewest && older.over(oftenPercent) &&
		newer.over(oftenPercent)
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

// wasGood says whether what the run says may count: a url that was never good since it was configured may be mistyped.
func (r *run) wasGood() bool { return r.url == "" || !r.goodAt.IsZero() }

// trouble is since when it is bad, or was and is not known to be good again. Zero where it is no trouble.
func (r *run) trouble() time.Time {
	if !r.wasGood() {
		return time.Time{}
	}
	return r.onset
}

// signal that the run is at an instant.
func (r *run) signal(condition string, at time.Time) Signal {
	s := Signal{Condition: condition, State: r.state, Severity: class[condition].severity, Message: r.message,
		Since: r.since}
	switch {
	case at.Sub(r.lastAt) > r.kept && !r.lastAt.IsZero():
		s.State, s.Since = metav1.ConditionUnknown, r.lastAt
		s.Message = fmt.Sprintf("%s was not asked for more than %d s", r.what, int(r.kept.Seconds()))
	case r.state != metav1.ConditionTrue && !r.wasGood():
		s.State, s.Since = metav1.ConditionUnknown, r.firstAt
		if r.state == metav1.ConditionFalse {
			s.Message += ", and was never good since it was configured: check " + r.check
		}
	case r.state == metav1.ConditionFalse:
		s.Flaky, s.BadFrom, s.EnoughFrom = r.partly, r.episode, r.enoughFrom
		if r.partly {
			// The playbook's sev1 is that nothing gets through.
			s.Severity = v1alpha1.Sev2
		}
		s.Ground = s.Severity == v1alpha1.Sev1 && len(r.row) == r.enough &&
			!slices.ContainsFunc(r.row, func(look badLook) bool { return !look.down })
	case r.state == metav1.ConditionUnknown:
		s.Ask = r.ask
	}
	return s
}
