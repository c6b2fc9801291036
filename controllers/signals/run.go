package signals

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

// oftenPercent of the looks at one thing, in both halves of the window, fail too often. It is what the playbook's table allows
// webhooks by default. What failed too often is good again when not even half as many fail.
const oftenPercent = 20

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
	signal := Signal{Condition: condition, State: r.state, Severity: class[condition].severity, Flaky: r.partly, Message: r.message, Since: r.since}
	if r.partly {
		// The playbook's sev1 is that nothing gets through.
		signal.Severity = v1alpha1.Sev2
	}
	return signal
}
