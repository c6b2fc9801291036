package signals

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

// Whatever is seen, in whatever order: what is said of a bad episode follows from the looks alone.
func TestAnyEpisode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		enough := rapid.IntRange(1, 4).Draw(t, "enough")
		kinds := rapid.SampledFrom([][]rune{[]rune(".xo?"), []rune("..xx?"), []rune(".xxxx"), []rune(".......x")}).Draw(t,
			"kinds")
		looks := rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 90).Draw(t, "looks")
		r := aRun(enough)
		r.url = "https://api.example.com/up"
		var before Signal
		goodOnce := false
		for i, look := range looks {
			at := start.Add(time.Duration(i) * 10 * time.Second)
			seen := platformapi.Look{Verdict: platformapi.Bad, Down: look == 'x', Message: string(look)}
			switch look {
			case '.':
				seen.Verdict = platformapi.Good
			case '?':
				seen.Verdict = platformapi.Unknown
			}
			r.add(seen, at)
			now := r.signal(v1alpha1.ConditionUpAnswers, at)
			so := string(looks[:i+1])
			goodOnce = goodOnce || now.State == metav1.ConditionTrue
			if !goodOnce && now.State != metav1.ConditionUnknown {
				t.Fatalf("%s: never good, and %s", so, now.State)
			}
			if now.State != metav1.ConditionFalse {
				if now.Ground || !now.BadFrom.IsZero() || !now.EnoughFrom.IsZero() {
					t.Fatalf("%s: not bad, and %+v", so, now)
				}
				before = now
				continue
			}
			from, row, down := episode(looks[:i+1], enough)
			if want := start.Add(time.Duration(from) * 10 * time.Second); !now.BadFrom.Equal(want) {
				t.Fatalf("%s: bad from %v, want %v", so, now.BadFrom, want)
			}
			if want := row == enough && down == enough && !now.Flaky; now.Ground != want {
				t.Fatalf("%s: ground %v, want %v", so, now.Ground, want)
			}
			suffice := 0
			for k, look := range looks[:i+1] {
				if look != '.' && look != '?' && !start.Add(time.Duration(k)*10*time.Second).Before(now.EnoughFrom) {
					suffice++
				}
			}
			if suffice < enough || before.State == metav1.ConditionFalse && now.EnoughFrom.Before(before.EnoughFrom) {
				t.Fatalf("%s: enough from %v, before from %v, and %d looks", so, now.EnoughFrom, before.EnoughFrom, suffice)
			}
			before = now
		}
	})
}

// episode has the first bad look of the newest episode. Of the newest bad looks in a row, at most enough, it counts
// all, and those that are down.
func episode(looks []rune, enough int) (from, row, down int) {
	from = -1
	unknown, ended := 0, false
	for i := len(looks) - 1; i >= 0; i-- {
		switch looks[i] {
		case '.':
			if from >= 0 {
				return from, row, down
			}
			ended = true
		case '?':
			unknown++
			ended = ended || unknown == enough
		default:
			from, unknown = i, 0
			if !ended && row < enough {
				row++
				if looks[i] == 'x' {
					down++
				}
			}
		}
	}
	return from, row, down
}
