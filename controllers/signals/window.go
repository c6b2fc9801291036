package signals

import (
	"slices"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

const (
	// slots that a window is counted in.
	slots = 20
	// fewest of what a window counts say something about its share.
	fewest = 20
)

// window counts what was seen within the span that ends now. It is counted in slots: when exactly does not matter where
// only shares do.
type window struct {
	span  time.Duration
	slots []slot // the oldest first
	began time.Time
}

// slot counts what was seen in a part of a window, and what of it was a hit: too slow, or failed.
type slot struct {
	at        time.Time
	seen, hit int
	firstHit  time.Time
}

// over says whether more than so many percent were hits.
func (s slot) over(percent int) bool { return s.hit*100 > s.seen*percent }

// newWindow is the window of the spec, or one in which so many looks fit: a window that can't hold enough would never
// say anything.
func newWindow(probes *v1alpha1.PlatformProbes, looks int) *window {
	interval := time.Duration(probes.IntervalSeconds) * time.Second
	return &window{span: max(time.Duration(probes.WindowSeconds)*time.Second, time.Duration(looks+2)*interval)}
}

func (w *window) add(hit bool, at time.Time) {
	w.forget(at)
	last := len(w.slots) - 1
	if last >= 0 && at.Before(w.slots[last].at) {
		// The clock was put back.
		w.slots, last = nil, -1
	}
	if last < 0 {
		w.began = at
	}
	if last < 0 || at.Sub(w.slots[last].at) >= w.span/slots {
		w.slots = append(w.slots, slot{at: at})
		last++
	}
	s := &w.slots[last]
	s.seen++
	if hit {
		if s.hit == 0 {
			s.firstHit = at
		}
		s.hit++
	}
}

// forget what is older than the window.
func (w *window) forget(at time.Time) {
	w.slots = slices.DeleteFunc(w.slots, func(s slot) bool { return at.Sub(s.at) > w.span })
}

// halves of the window at an instant, and whether it has been filled for long enough. A burst fills one half only.
func (w *window) halves(at time.Time) (older, newer slot, full bool) {
	w.forget(at)
	for _, s := range w.slots {
		half := &newer
		if at.Sub(s.at) > w.span/2 {
			half = &older
		}
		half.seen += s.seen
		half.hit += s.hit
	}
	return older, newer, at.Sub(w.began) >= w.span && older.seen > 0 && newer.seen > 0
}

// firstHit that the window holds; zero where it has none.
func (w *window) firstHit() time.Time {
	if i := slices.IndexFunc(w.slots, func(s slot) bool { return s.hit > 0 }); i >= 0 {
		return w.slots[i].firstHit
	}
	return time.Time{}
}
