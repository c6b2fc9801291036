package escalation

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
)

// A shift is an escalation as the reconciler plays it: what round.next says is due is begun, and settles or not.
type shift struct {
	tiers  []v1alpha1.OncallTier
	repeat time.Duration
	policy v1alpha1.EscalationPolicy
	status *v1alpha1.EscalationStatus
	opened time.Time
	now    time.Time
}

func (s *shift) next() due {
	r := round{severity: v1alpha1.Sev1, tiers: s.tiers, repeat: s.repeat, policy: s.policy, opened: s.opened}
	if s.status != nil {
		r.pages = s.status.Pages
	}
	return r.next(s.now)
}

// begin writes a page down as the reconciler does.
func (s *shift) begin(d due) *v1alpha1.PageStatus {
	if s.status == nil {
		s.status = &v1alpha1.EscalationStatus{}
	}
	pages := &s.status.Pages
	i := slices.IndexFunc(*pages, func(p v1alpha1.PageStatus) bool { return p.Key == d.key })
	if i < 0 {
		*pages = append(*pages, v1alpha1.PageStatus{Key: d.key, Tier: d.tier, Channel: d.channel.SecretRef.Name,
			Severity: v1alpha1.Sev1, State: v1alpha1.PageSending, BegunAt: journal.Seconds(s.now)})
		if len(*pages) > maxPages {
			*pages = trim(*pages)
		}
		i = len(*pages) - 1
	}
	return &(*pages)[i]
}

func (s *shift) settle(d due, state v1alpha1.PageState) {
	page := s.begin(d)
	page.State = state
	if state != v1alpha1.PageSending {
		page.SettledAt = journal.Seconds(s.now)
	}
}

func newShift(tiers, channels int, policy v1alpha1.EscalationPolicy) *shift {
	s := &shift{repeat: 30 * time.Minute, policy: policy, opened: time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)}
	s.now = s.opened
	for i := range tiers {
		tier := v1alpha1.OncallTier{Name: fmt.Sprintf("tier-%d", i+1)}
		for j := range channels {
			tier.Notify = append(tier.Notify, v1alpha1.Channel{Type: "Slack",
				SecretRef: v1alpha1.SecretReference{Name: fmt.Sprintf("channel-%d", j+1)}})
		}
		s.tiers = append(s.tiers, tier)
	}
	return s
}

// expect compares what is due with "key", or with "tier at minutes after opening" where nothing is due now.
func (s *shift) expect(t *testing.T, want string) {
	t.Helper()
	d := s.next()
	got := "nothing"
	switch {
	case d.channel != nil:
		got = d.key
	case !d.at.IsZero():
		got = fmt.Sprintf("%s at %g", d.tier, d.at.Sub(s.opened).Minutes())
	}
	if got != want {
		t.Errorf("due is %q, want %q", got, want)
	}
}

func TestNextPageGoesFromTierToTierAndStartsOver(t *testing.T) {
	s := newShift(2, 2, v1alpha1.EscalateAllTiers)
	s.expect(t, "sev1-1-1-1")
	s.settle(s.next(), v1alpha1.PageAccepted)
	s.expect(t, "tier-2 at 15")
	s.now = s.opened.Add(15 * time.Minute)
	s.expect(t, "sev1-1-2-1")
	s.settle(s.next(), v1alpha1.PageAccepted)
	s.expect(t, "tier-1 at 45")
	s.now = s.opened.Add(45 * time.Minute)
	s.expect(t, "sev1-2-1-1")
}

func TestNextPageTriesEachChannelBeforeTheNextTierWhichThenIsNotWaitedFor(t *testing.T) {
	s := newShift(2, 2, v1alpha1.EscalateAllTiers)
	s.settle(s.next(), v1alpha1.PageSending)
	s.expect(t, "sev1-1-1-1")
	s.now = s.opened.Add(time.Minute)
	s.settle(s.next(), v1alpha1.PageFailed)
	s.expect(t, "sev1-1-1-2")
	s.settle(s.next(), v1alpha1.PageFailed)
	s.expect(t, "sev1-1-2-1")
	s.settle(s.next(), v1alpha1.PageFailed)
	s.settle(s.next(), v1alpha1.PageFailed)
	// Nobody heard anything: it starts over after a minute, and not after half an hour.
	s.expect(t, "tier-1 at 2")
}

// A tier has four channels at most, each of which has a minute.
func TestNextPageReachesTheSecondTierWithinFiveMinutesWhereTheFirstIsDead(t *testing.T) {
	s := newShift(2, 4, v1alpha1.EscalateAllTiers)
	for i := range 4 {
		s.expect(t, fmt.Sprintf("sev1-1-1-%d", i+1))
		s.settle(s.next(), v1alpha1.PageSending)
		s.now = s.now.Add(channelPatience)
		s.settle(s.next(), v1alpha1.PageFailed)
	}
	s.expect(t, "sev1-1-2-1")
	if took := s.now.Sub(s.opened); took > 5*time.Minute {
		t.Errorf("it took %s", took)
	}
}

func TestNextPageOfASingleTierIsNotRepeatedOnceItWasHeard(t *testing.T) {
	s := newShift(1, 1, v1alpha1.EscalateFirstTier)
	s.settle(s.next(), v1alpha1.PageAccepted)
	s.now = s.now.Add(100 * time.Hour)
	s.expect(t, "nothing")
}

func TestNextPageIsDueAtOnceWhereTheClockIsBehindTheAPIServers(t *testing.T) {
	s := newShift(1, 1, v1alpha1.EscalateAllTiers)
	s.now = s.opened.Add(-time.Hour)
	s.expect(t, "sev1-1-1-1")
}

// Whatever becomes of the pages, however long nobody looks, and whichever way the clock jumps: none is skipped, and
// none is due again once it is settled.
func TestNextPageNeverSkipsAndNeverRepeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]v1alpha1.EscalationPolicy{v1alpha1.EscalateAllTiers,
			v1alpha1.EscalateFirstTier}).Draw(t, "policy")
		tiers := 1
		if policy == v1alpha1.EscalateAllTiers {
			tiers = rapid.IntRange(1, 4).Draw(t, "tiers")
		}
		s := newShift(tiers, rapid.IntRange(1, 4).Draw(t, "channels"), policy)
		s.repeat = time.Duration(rapid.IntRange(60, 7200).Draw(t, "repeat")) * time.Second
		for i := range s.tiers {
			if rapid.Bool().Draw(t, "own time") {
				s.tiers[i].AfterSeconds = new(int32(rapid.IntRange(0, 3600).Draw(t, "after")))
			}
		}
		settled := map[string]v1alpha1.PageState{}
		last := [3]int{1, 1, 0}
		steps := rapid.IntRange(1, 120).Draw(t, "steps")
		for range steps {
			s.now = s.now.Add(time.Duration(rapid.IntRange(-600, 3600).Draw(t, "passes")) * time.Second)
			d := s.next()
			restarted := *s
			restarted.status = s.status.DeepCopy()
			if again := restarted.next(); !reflect.DeepEqual(d, again) {
				t.Fatalf("after a restart %+v is due instead of %+v", again, d)
			}
			if d.channel == nil {
				if d.at.IsZero() {
					if policy != v1alpha1.EscalateFirstTier {
						t.Fatalf("nothing will ever be due after %+v", s.status)
					}
					continue
				}
				if !d.at.After(s.now) {
					t.Fatalf("%+v is due, and is waited for", d)
				}
				// It comes when its time has come.
				if s.now = d.at; s.next().channel == nil {
					t.Fatalf("%s is not due at %s, when it was to be: %+v", d.tier, d.at, s.next())
				}
				continue
			}
			if settled[d.key] != "" {
				t.Fatalf("%s is due again, and is %s", d.key, settled[d.key])
			}
			var at [3]int
			if _, err := fmt.Sscanf(d.key, "sev1-%d-%d-%d", &at[0], &at[1], &at[2]); err != nil {
				t.Fatal(err)
			}
			// What may follow the last page that was settled.
			heard := settled[fmt.Sprintf("sev1-%d-%d-%d", last[0], last[1], last[2])] == v1alpha1.PageAccepted
			want := [3]int{last[0], last[1], last[2] + 1}
			if heard || last[2] == len(s.tiers[0].Notify) {
				want = [3]int{last[0], last[1] + 1, 1}
			}
			if want[1] > tiers {
				want = [3]int{last[0] + 1, 1, 1}
			}
			if at != want {
				t.Fatalf("%v follows %v, want %v", at, last, want)
			}
			state := rapid.SampledFrom([]v1alpha1.PageState{v1alpha1.PageSending, v1alpha1.PageAccepted,
				v1alpha1.PageFailed}).Draw(t, "becomes")
			s.settle(d, state)
			if state != v1alpha1.PageSending {
				settled[d.key], last = state, at
			}
		}
	})
}

// The second tier is late by no more than what the rules say, whenever somebody looks.
func TestNextPageOfTheSecondTierIsDueFifteenMinutesAfterTheFirstPage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newShift(2, 2, v1alpha1.EscalateAllTiers)
		s.now = s.opened.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "begins late")) * time.Second)
		first := s.now
		s.settle(s.next(), v1alpha1.PageAccepted)
		s.now = first.Add(time.Duration(rapid.IntRange(0, 3600).Draw(t, "looked at after")) * time.Second)
		d := s.next()
		if want := first.Add(15 * time.Minute); !d.at.Equal(want) {
			t.Fatalf("%s is due at %s, want %s", d.tier, d.at, want)
		}
		if now := d.channel != nil; now != !s.now.Before(d.at) {
			t.Fatalf("at %s, %+v is due: %t", s.now, d, now)
		}
	})
}
