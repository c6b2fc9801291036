package dlqreplay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// quoted lists entry ids as a manifest has them.
func quoted(ids ...int64) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = fmt.Sprintf("%q", fmt.Sprint(id))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// An id that was mistyped selects nothing, and the person who typed it is told so.
func TestItIsSaidWhatBecameOfEachEntryThatIsNamed(t *testing.T) {
	s := newScene(t, "named", manual)
	if err := s.CreateApplication(s.Ctx, 43, "globex"); err != nil {
		t.Fatal(err)
	}
	foreign, err := s.SeedDead(s.Ctx, 43, 2, "HTTP 503: down", 7)
	if err != nil {
		t.Fatal(err)
	}
	dead := s.seed(3, "HTTP 503: down", 7)
	refused := s.seed(1, "HTTP 422: no", 1)
	if _, err := s.Enqueue(s.Ctx, acme, 1); err != nil {
		t.Fatal(err)
	}
	pending := s.count(`SELECT max(id) FROM webhook_outbox_entries WHERE dlq_at IS NULL`)
	s.Exec(`UPDATE webhook_outbox_entries SET delivered_at = clock_timestamp(), dlq_at = NULL WHERE id = $1`, dead[2])
	const missing = 900000000

	for name, c := range map[string]struct {
		selector string
		parts    []string
		absent   string
	}{
		"none": {
			fmt.Sprintf("{entryIDs: %s}", quoted(missing, missing+1, foreign[0])),
			[]string{"no dead entry is selected", "of 3 entries in entryIDs, 2 do not exist, 1 is another application's"},
			"dead entries:",
		},
		"some": {
			fmt.Sprintf("{entryIDs: %s, causes: [ServerError]}", quoted(missing, foreign[0], foreign[1], dead[0], dead[1],
				dead[2],
				pending, refused[0])),
			[]string{"2 dead entries: 2 ServerError", "of 8 entries in entryIDs, 1 does not exist, 2 are another " +
				"application's, " +
				"1 was delivered, 1 is with the dispatcher, 1 is dead and left out by the rest of the selector"},
			"excludeEntryIDs",
		},
		"all": {
			fmt.Sprintf("{entryIDs: %s}", quoted(dead[0], dead[1])), []string{"2 dead entries: 2 ServerError"}, "in entryIDs",
		},
		"one": {
			fmt.Sprintf("{entryIDs: %s}", quoted(dead[0])), []string{"1 dead entry: 1 ServerError; enqueued at "}, "entries",
		},
		"spared": {
			fmt.Sprintf("{excludeEntryIDs: %s}", quoted(missing, dead[0], foreign[1])),
			[]string{"2 dead entries:", "of 3 entries in excludeEntryIDs, 1 does not exist, 1 is another application's"},
			"left out by",
		},
	} {
		r := s.AwaitReady(s.apply(name, fmt.Sprintf("{mode: Plan, selector: %s}", c.selector)))
		planned := stage.Condition(r, v1alpha1.StepPlanned).Message
		for _, text := range []string{planned, message(r)} {
			for _, part := range c.parts {
				if !strings.Contains(text, part) {
					t.Errorf("%s: the message lacks %q: %s", name, part, text)
				}
			}
			if strings.Contains(text, c.absent) {
				t.Errorf("%s: the message has %q: %s", name, c.absent, text)
			}
		}
	}

	r := s.AwaitReady(s.apply("typo", fmt.Sprintf("{selector: {entryIDs: %s}}", quoted(missing))))
	if want := "no dead entry is selected: of 1 entry in entryIDs, 1 does not exist"; !strings.Contains(message(r), want) {
		t.Errorf("the message lacks %q: %s", want, message(r))
	}
}

func TestExcludedEntriesAreLeftAlone(t *testing.T) {
	s := newScene(t, "excluded", quick)
	ids := s.seed(30, "HTTP 503: down", 7)
	r := s.AwaitReady(s.apply("r", fmt.Sprintf("{selector: {excludeEntryIDs: %s}}", quoted(ids[0], ids[9], ids[29]))))
	s.progress(r, map[string]int64{"requeued": 27, "delivered": 27})
	s.asTheyWere(ids[0], ids[9], ids[29])
	r = s.AwaitReady(s.apply("both", fmt.Sprintf("{selector: {entryIDs: %s, excludeEntryIDs: %s}}", quoted(ids[0], ids[9]),
		quoted(ids[9]))))
	s.progress(r, map[string]int64{"requeued": 1, "delivered": 1})
	s.asTheyWere(ids[9], ids[29])
	s.eachOnce(28)
}
