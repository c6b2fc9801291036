package signals

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

// Whatever the looks before: fewer than enough others change no verdict, nothing is good that was not seen good often
// enough in a row, and nothing bad, unless too many looks of both halves of the window fail.
func TestAnyLooks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		enough := rapid.IntRange(1, 5).Draw(t, "enough")
		// So many good looks follow each that is drawn: shares are met as well as rows.
		quiet := rapid.IntRange(0, 12).Draw(t, "quiet")
		r := aRun(enough)
		drawn := rapid.SliceOfN(rapid.SampledFrom([]platformapi.Verdict{platformapi.Good, platformapi.Bad,
			platformapi.Unknown}), 1, 60).Draw(t, "verdicts")
		var verdicts []platformapi.Verdict
		for _, v := range drawn {
			verdicts = append(append(verdicts, v), slices.Repeat([]platformapi.Verdict{platformapi.Good}, quiet)...)
		}
		failed := 0 // since it turned good
		for i, v := range verdicts {
			was := *r
			at := start.Add(time.Duration(i) * 15 * time.Second) // a slot each
			if v == platformapi.Bad {
				failed++
			}
			r.add(platformapi.Look{Verdict: v, Message: string(v)}, at)
			last := verdicts[max(0, i+1-enough) : i+1]
			older, newer := share(verdicts[:i+1], 11, 21), share(verdicts[:i+1], 0, 11)
			often := failed >= enough && older > 0.20 && newer > 0.20
			row := len(last) == enough && !slices.ContainsFunc(last,
				func(v platformapi.Verdict) bool { return v != platformapi.Bad })
			switch {
			case r.state == metav1.ConditionTrue && was.state != metav1.ConditionTrue && (len(last) < enough ||
				slices.ContainsFunc(last, func(v platformapi.Verdict) bool { return v != platformapi.Good })):
				t.Fatalf("good after %v", verdicts[:i+1])
			case r.state == metav1.ConditionFalse && was.state != metav1.ConditionFalse && (v != platformapi.Bad ||
				slices.Contains(last, platformapi.Good) && !often):
				t.Fatalf("bad after %v", verdicts[:i+1])
			case was.state == metav1.ConditionTrue && r.state != metav1.ConditionTrue && slices.Contains(last,
				platformapi.Good) && !often:
				t.Fatalf("good no more after %v", verdicts[:i+1])
			case was.flaps && r.state == metav1.ConditionTrue && newer > 0.10:
				t.Fatalf("flaps, and is good after %v", verdicts[:i+1])
			case row && (r.state != metav1.ConditionFalse || r.partly):
				t.Fatalf("not bad, or in part only, after %v", verdicts[:i+1])
			case often && v == platformapi.Bad && i >= 20 && !slices.Contains(verdicts[i-20:i+1], platformapi.Unknown) &&
				r.state != metav1.ConditionFalse:
				t.Fatalf("too many fail, and it is %s after %v", r.state, verdicts[:i+1])
			case r.partly && (was.state != metav1.ConditionFalse && !often):
				t.Fatalf("bad in part after %v", verdicts[:i+1])
			case was.state == metav1.ConditionFalse && r.state == metav1.ConditionTrue && len(last) < enough:
				t.Fatalf("over after %v", verdicts[:i+1])
			case r.state == metav1.ConditionTrue && len(last) == enough && !slices.Contains(last, platformapi.Good):
				t.Fatalf("still good after %v", verdicts[:i+1])
			case (r.state == metav1.ConditionTrue) && !r.onset.IsZero(), r.state == metav1.ConditionFalse && r.onset.IsZero():
				t.Fatalf("the onset is %v after %v", r.onset, verdicts[:i+1])
			case r.state == was.state && r.state == metav1.ConditionFalse && !r.onset.Equal(was.onset):
				t.Fatalf("the onset moved from %v to %v after %v", was.onset, r.onset, verdicts[:i+1])
			}
			if r.state == metav1.ConditionTrue && was.state != metav1.ConditionTrue {
				failed = 0
			}
		}
		// One blip.
		settled := aRun(max(2, enough))
		state := rapid.SampledFrom([]platformapi.Verdict{platformapi.Good, platformapi.Bad, platformapi.Unknown}).Draw(t,
			"state")
		blip := rapid.SampledFrom([]platformapi.Verdict{platformapi.Good, platformapi.Bad, platformapi.Unknown}).Draw(t,
			"blip")
		for range settled.enough {
			settled.add(platformapi.Look{Verdict: state}, start)
		}
		before, since := settled.state, settled.since
		times := rapid.IntRange(1, 5).Draw(t, "times")
		if state == platformapi.Unknown {
			// Several bad ones, with nothing good between them, are no blip.
			times = 1
		}
		for i := range times {
			at := start.Add(time.Duration(i) * 10 * time.Second)
			settled.add(platformapi.Look{Verdict: blip}, at)
			for range settled.enough - 1 {
				settled.add(platformapi.Look{Verdict: state}, at)
			}
			if settled.state != before || settled.since != since {
				t.Fatalf("%s became %s by one %s among %d", before, settled.state, blip, settled.enough)
			}
		}
	})
}

// aRun has a window of 300 s.
func aRun(enough int) *run {
	return &run{what: "/up", enough: enough, state: metav1.ConditionUnknown, window: newWindow(probed().Spec.Probes,
		fewest)}
}

// share of the looks that fail, among those that are from to to looks old; those that say neither don't count.
func share(verdicts []platformapi.Verdict, from, to int) float64 {
	good, bad := 0, 0
	for i, v := range slices.Backward(verdicts) {
		if age := len(verdicts) - 1 - i; age < from || age >= to {
			continue
		}
		switch v {
		case platformapi.Good:
			good++
		case platformapi.Bad:
			bad++
		}
	}
	if good+bad == 0 {
		return 0
	}
	return float64(bad) / float64(good+bad)
}

// What fails more often than the limit, in whatever order, is bad by the end of the window, and stays so; what fails
// less often never is.
func TestAnyShareIsJudged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Each half of the window has 15 or 16 looks: of 4 of 12 it has at least 4, of 1 of 12 at most 2.
		many := rapid.Bool().Draw(t, "many")
		bad := map[bool]int{true: 4, false: 1}[many]
		period := rapid.Permutation(append(slices.Repeat([]platformapi.Verdict{platformapi.Bad}, bad),
			slices.Repeat([]platformapi.Verdict{platformapi.Good}, 12-bad)...)).Draw(t, "period")
		r := aRun(3)
		at := start
		look := func(v platformapi.Verdict) {
			r.add(platformapi.Look{Verdict: v, Message: string(v)}, at)
			at = at.Add(10 * time.Second)
		}
		for range 31 {
			look(platformapi.Good)
		}
		for i := range 10 * len(period) {
			look(period[i%len(period)])
			switch {
			case !many && r.state != metav1.ConditionTrue:
				t.Fatalf("one of %d looks fails: it is %s, %s", len(period), r.state, r.message)
			case many && i > 36 && r.state != metav1.ConditionFalse:
				t.Fatalf("%d of %d looks fail: it is %s", bad, len(period), r.state)
			}
		}
	})
}
