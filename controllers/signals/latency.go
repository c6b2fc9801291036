package signals

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// slowPercent of the answers may be slower than the 95th percentile.
const slowPercent = 5

// latency judges how long answers took. How long each took exactly does not matter: the 95th percentile is over a limit
// where more than 5 % of the answers are.
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
		l.turn(metav1.ConditionFalse, fmt.Sprintf("the 95th percentile of latency has been over %d ms for %d s", limit, span),
			at)
	case newer.over(slowPercent) && !full:
		l.turn(metav1.ConditionUnknown,
			fmt.Sprintf("the 95th percentile of latency is over %d ms, and not for long enough to judge it", limit), at)
	default:
		l.turn(metav1.ConditionTrue, fmt.Sprintf("the 95th percentile of latency has not been over %d ms for %d s", limit,
			span), at)
	}
}

// turn to a state. Once is enough, since the window has smoothed it.
func (l *latency) turn(state metav1.ConditionStatus, message string, at time.Time) {
	r := l.run
	r.message, r.lastAt = message, at
	if r.firstAt.IsZero() {
		r.firstAt = at
	}
	if state == metav1.ConditionFalse {
		r.enoughFrom = l.window.firstHit()
	}
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
		if r.goodAt.IsZero() {
			r.goodAt = at
		}
	case metav1.ConditionFalse:
		r.episode = r.enoughFrom
		if r.onset.IsZero() {
			r.onset = r.episode
		}
		r.since = r.onset
	}
}
