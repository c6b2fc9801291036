package evidencematrix

import (
	"slices"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

const (
	person     = "a person"
	bySignals  = "the signals"
	notGiven   = v1alpha1.Severity("")
	keyExposed = v1alpha1.CategoryKeyExposure
	webhook    = v1alpha1.CategoryWebhookDelivery
	outage     = v1alpha1.CategoryOutage
	all        = "" // of what a row does not select by
)

// A row says what becomes of the cells that it selects: "pages; rollback or keys; state; public", as scene.outcome
// writes it, 31 minutes after the Incident was opened. Nobody acknowledges, and the signals stay as they are after the
// turn.
type row struct {
	categories []v1alpha1.IncidentCategory
	opener     string
	severity   []v1alpha1.Severity
	patterns   []string
	want       string
}

func of[T any](v ...T) []T { return v }

var (
	sev1, sev3 = v1alpha1.Sev1, v1alpha1.Sev3
	reported   = of(v1alpha1.CategoryMergeInconsistency, v1alpha1.CategoryKeyMismatch)
	// quiet are the patterns in which no signal is bad after the Incident was opened.
	quiet = of(Good, BadBefore, Unknown, NeverGood, GoodThenUnknown)
)

// table is written by hand from the evidence table of the Incident. Each cell has exactly one row.
var table = []row{
	// An Outage that a person reports. Its floor is sev2. If no signal confirms it, signals never close it, and a rollback
	// needs an approval.
	{of(outage), person, of(notGiven), quiet, "E2; asks; unconfirmed; -"},
	{of(outage), person, of(notGiven), of(Bad), "E1 O1; back; bad; public"},
	{of(outage), person, of(notGiven), of(BadBy4xx), "E1 O1; asks; bad; public"},
	{of(outage), person, of(notGiven), of(Flaky), "E2; asks; bad; -"},
	{of(outage), person, of(notGiven), of(BadThenGood), "E1r; back; closed; -"},
	{of(outage), person, of(notGiven), of(BadThenUnknown), "E1 O1; back; lost; -"},
	{of(outage), person, of(notGiven), of(Rises), "E2 E1 O1; back; bad; public"},
	// With sev1, a sev2 signal does not confirm it.
	{of(outage), person, of(sev1), quiet, "E1 O1; asks; unconfirmed; -"},
	{of(outage), person, of(sev1), of(Bad), "E1 O1; back; bad; public"},
	{of(outage), person, of(sev1), of(BadBy4xx), "E1 O1; asks; bad; public"},
	{of(outage), person, of(sev1), of(Flaky), "E1 O1; asks; bad; -"},
	{of(outage), person, of(sev1), of(BadThenGood), "E1r; back; closed; -"},
	{of(outage), person, of(sev1), of(BadThenUnknown), "E1 O1; back; lost; -"},
	{of(outage), person, of(sev1), of(Rises), "E1 O1; back; bad; public"},
	// With sev3, nobody is paged and the public is not told. The evidence for a rollback is the same.
	{of(outage), person, of(sev3), quiet, "-; asks; unconfirmed; -"},
	{of(outage), person, of(sev3), of(Bad, Rises), "-; back; bad; -"},
	{of(outage), person, of(sev3), of(BadBy4xx, Flaky), "-; asks; bad; -"},
	{of(outage), person, of(sev3), of(BadThenGood), "-; back; closed; -"},
	{of(outage), person, of(sev3), of(BadThenUnknown), "-; back; lost; -"},

	// An Outage that the signals opened. What they saw confirms it, even if the signal is good or unknown a moment later.
	{of(outage), bySignals, of(notGiven, sev1), of(Good, BadBefore), "E1r; -; closed; -"},
	{of(outage), bySignals, of(notGiven, sev1), of(Unknown, NeverGood, GoodThenUnknown), "E1 O1; asks; lost; -"},
	{of(outage), bySignals, of(notGiven, sev1), of(Bad), "E1 O1; back; bad; public"},
	{of(outage), bySignals, of(notGiven, sev1), of(BadBy4xx), "E1 O1; asks; bad; public"},
	{of(outage), bySignals, of(notGiven), of(Flaky), "E2; asks; bad; -"},
	{of(outage), bySignals, of(sev1), of(Flaky), "E1 O1; asks; bad; -"},
	{of(outage), bySignals, of(notGiven, sev1), of(BadThenGood), "E1r; back; closed; -"},
	{of(outage), bySignals, of(notGiven, sev1), of(BadThenUnknown), "E1 O1; back; lost; -"},
	{of(outage), bySignals, of(notGiven), of(Rises), "E2 E1 O1; back; bad; public"},
	{of(outage), bySignals, of(sev1), of(Rises), "E1 O1; back; bad; public"},
	{of(outage), bySignals, of(sev3), of(Good, BadBefore), "-; -; closed; -"},
	{of(outage), bySignals, of(sev3), of(Unknown, NeverGood, GoodThenUnknown), "-; asks; lost; -"},
	{of(outage), bySignals, of(sev3), of(Bad, Rises), "-; back; bad; -"},
	{of(outage), bySignals, of(sev3), of(BadBy4xx, Flaky), "-; asks; bad; -"},
	{of(outage), bySignals, of(sev3), of(BadThenGood), "-; back; closed; -"},
	{of(outage), bySignals, of(sev3), of(BadThenUnknown), "-; back; lost; -"},

	// WebhookDelivery: the signal of the webhooks is sev2. No signal rolls anything back, and none closes it while the
	// relying parties are deaf. What a person opened, or a signal of its own confirmed, settles and tells. A signal of
	// sev2 confirms no sev1.
	{of(webhook), person, of(notGiven), quiet, "-; settles 42, tells both; deaf; -"},
	{of(webhook), person, of(notGiven), of(Bad, BadBy4xx, Flaky, BadThenGood, BadThenUnknown, Rises),
		"E2; settles 42, tells both; deaf; -"},
	{of(webhook), bySignals, of(notGiven), patterns, "E2; settles 42, tells both; deaf; -"},
	{of(webhook), person, of(sev1), patterns, "E1 O1; settles 42, tells both; deaf; -"},
	{of(webhook), bySignals, of(sev1), patterns, "E1 O1; NotConfirmed; deaf; -"},
	{of(webhook), all, of(sev3), patterns, "-; settles 42, tells both; deaf; -"},

	// Unclassified: all signals raise it.
	{of(v1alpha1.CategoryUnclassified), person, of(notGiven), quiet, "-; -; person; -"},
	{of(v1alpha1.CategoryUnclassified), bySignals, of(notGiven), quiet, "E2; -; person; -"},
	{of(v1alpha1.CategoryUnclassified), all, of(notGiven), of(Flaky), "E2; -; person; -"},
	{of(v1alpha1.CategoryUnclassified), all, of(notGiven), of(Bad, BadBy4xx, BadThenGood, BadThenUnknown),
		"E1 O1; -; person; -"},
	{of(v1alpha1.CategoryUnclassified), all, of(notGiven), of(Rises), "E2 E1 O1; -; person; -"},

	// No signal is about these. An alert that opens one passes sev2.
	{reported, person, of(notGiven), patterns, "-; -; person; -"},
	{reported, bySignals, of(notGiven), patterns, "E2; -; person; -"},
	// Its floor is sev2, and a sev3 is refused. No signal says anything about it, and none closes it. What a person
	// reports makes a KeyCompromise; an alert makes none.
	{of(keyExposed), person, of(notGiven), patterns, "E2; ends; ending; -"},
	{of(keyExposed), person, of(sev1), patterns, "E1 O1; ends; ending; -"},
	{of(keyExposed), bySignals, of(notGiven), patterns, "E2; asks; ending; -"},
	{of(keyExposed), bySignals, of(sev1), patterns, "E1 O1; asks; ending; -"},

	// A person's severity is final.
	{append(of(v1alpha1.CategoryUnclassified), reported...), all, of(sev1), patterns, "E1 O1; -; person; -"},
	{append(of(v1alpha1.CategoryUnclassified), reported...), all, of(sev3), patterns, "-; -; person; -"},
}

// twists are the other events, each with the outcomes that it changes. An outcome that a twist does not name stays the
// same.
var twists = []struct {
	name    string
	changes map[string]string
	// rising are the changes for cells that rise only after the twist, if these differ.
	rising map[string]string
}{
	{name: otherOpen},
	{name: restarted},
	{name: reapplied},
	{name: observeOnly, changes: map[string]string{
		"E1 O1; back; bad; public":            "E1 O1; AutomationOff; bad; -",
		"E1 O1; asks; bad; public":            "E1 O1; asks; bad; -",
		"E1r; back; closed; -":                "E1r; -; closed; -",
		"E1 O1; back; lost; -":                "E1 O1; asks; lost; -",
		"E2 E1 O1; back; bad; public":         "E2 E1 O1; AutomationOff; bad; -",
		"E2; ends; ending; -":                 "E2; AutomationOff; ending; -",
		"E2; asks; ending; -":                 "E2; AutomationOff; ending; -",
		"-; settles 42, tells both; deaf; -":  "-; AutomationOff; deaf; -",
		"E2; settles 42, tells both; deaf; -": "E2; AutomationOff; deaf; -",
	}},
	// The Outage is a person's sev3, which pages nobody and rolls nothing back while the signals are good.
	{name: outageOpen, changes: map[string]string{
		"-; settles 42, tells both; deaf; -":  "-; WaitingForOutage; deaf; -",
		"E2; settles 42, tells both; deaf; -": "E2; WaitingForOutage; deaf; -",
	}},
	// Nobody knows what it did. People are paged again.
	{name: statusLost, changes: map[string]string{
		"-; settles 42, tells both; deaf; -":  "-; StatusLost; deaf; -",
		"E2; settles 42, tells both; deaf; -": "E2x2; StatusLost; deaf; -",
	}},
	{name: acknowledged, changes: map[string]string{
		"E2; ends; ending; -":                 "E2a; ends; ending; -",
		"E2; asks; ending; -":                 "E2a; asks; ending; -",
		"E2; asks; unconfirmed; -":            "E2a; asks; unconfirmed; -",
		"E2; asks; bad; -":                    "E2a; asks; bad; -",
		"E2; -; person; -":                    "E2a; -; person; -",
		"E2; settles 42, tells both; deaf; -": "E2a; settles 42, tells both; deaf; -",
		"E1 O1; back; bad; public":            "E1a; back; bad; public",
		"E1 O1; asks; bad; public":            "E1a; asks; bad; public",
		"E1 O1; back; lost; -":                "E1a; back; lost; -",
		"E1 O1; asks; lost; -":                "E1a; asks; lost; -",
		"E1 O1; -; person; -":                 "E1a; -; person; -",
		"E2 E1 O1; back; bad; public":         "E2a E1 O1; back; bad; public",
		"E2 E1 O1; -; person; -":              "E2a E1 O1; -; person; -",
	}, rising: map[string]string{
		// It was acknowledged as sev3, before anybody was paged.
		"E2; settles 42, tells both; deaf; -": "E2; settles 42, tells both; deaf; -",
	}},
	// The acknowledgement was for the lower severity only. The page of the higher one rings.
	{name: ackedUnseen, changes: map[string]string{
		"E2; -; person; -":                    "E2a; -; person; -",
		"E2; ends; ending; -":                 "E2a; ends; ending; -",
		"E2; asks; ending; -":                 "E2a; asks; ending; -",
		"E2; settles 42, tells both; deaf; -": "E2a; settles 42, tells both; deaf; -",
	}, rising: map[string]string{
		"E2; settles 42, tells both; deaf; -": "E2; settles 42, tells both; deaf; -",
	}},
	{name: approved, changes: map[string]string{
		"E2; asks; unconfirmed; -": "E2; back; unconfirmed; -",
		"E2; asks; bad; -":         "E2; back; bad; -",
		"E1 O1; asks; bad; public": "E1 O1; back; bad; public",
		"E1 O1; asks; lost; -":     "E1 O1; back; lost; -",
		"E2; asks; ending; -":      "E2; ends; ending; -",
	}},
	// The approved pair is not live any more. A new deploy went live after the turn, and since then no signal is bad in a
	// way that allows a rollback.
	{name: approvedOther},
	{name: resolvedByHand, changes: map[string]string{
		"E2; asks; unconfirmed; -":            "E2r; -; closed; -",
		"E2; asks; bad; -":                    "E2r; -; closed; -",
		"E2; -; person; -":                    "E2r; -; closed; -",
		"-; -; person; -":                     "-; -; closed; -",
		"E1 O1; -; person; -":                 "E1r; -; closed; -",
		"E1 O1; asks; bad; public":            "E1r; -; closed; -",
		"E1 O1; asks; lost; -":                "E1r; -; closed; -",
		"E1 O1; back; bad; public":            "E1r; back and auto-deploy on; closed; -",
		"E1 O1; back; lost; -":                "E1r; back and auto-deploy on; closed; -",
		"E1r; back; closed; -":                "E1r; back and auto-deploy on; closed; -",
		"E2 E1 O1; back; bad; public":         "E2r; -; closed; -",
		"E2 E1 O1; -; person; -":              "E2r; -; closed; -",
		"E2; ends; ending; -":                 "E2r; ends; closed; -",
		"E2; asks; ending; -":                 "E2r; -; closed; -",
		"-; settles 42, tells both; deaf; -":  "-; settles 42, tells both; closed; -",
		"E2; settles 42, tells both; deaf; -": "E2r; settles 42, tells both; closed; -",
	}, rising: map[string]string{
		"E2; settles 42, tells both; deaf; -": "-; settles 42, tells both; closed; -",
	}},
	// The first Incident keeps the place. It is a person's sev3, and no signal was bad for it. This one only pages. It
	// does not close, since it can't see the end.
	{name: sameOpen, changes: map[string]string{
		"E2; asks; unconfirmed; -":    "E2; WaitingForOther; unconfirmed; -",
		"E2; asks; bad; -":            "E2; WaitingForOther; bad; -",
		"E1 O1; back; bad; public":    "E1 O1; WaitingForOther; bad; -",
		"E1 O1; asks; bad; public":    "E1 O1; WaitingForOther; bad; -",
		"E1r; back; closed; -":        "E1r; -; closed; -",
		"E1 O1; back; lost; -":        "E1 O1; WaitingForOther; lost; -",
		"E2 E1 O1; back; bad; public": "E2 E1 O1; WaitingForOther; bad; -",
	}},
}

// rises says that no signal of the cell was bad, or had been seen bad, when the twist came.
func (c cell) rises() bool { return c.pattern == Rises && c.category == webhook && c.opener == person }

// want is the outcome of a cell by the table, and how many rows select it.
func (c cell) want() (want string, rows int) {
	for _, r := range table {
		if slices.Contains(r.categories, c.category) && (r.opener == all || r.opener == c.opener) &&
			slices.Contains(r.severity, c.severity) && slices.Contains(r.patterns, c.pattern) {
			want, rows = r.want, rows+1
		}
	}
	if c.twist == sameOpen && c.category == keyExposed {
		// The first is sev2 at least, and pages too. The second one takes on its KeyCompromise.
		return "E2 E2; ends; ending; -", rows
	}
	if c.twist == statusLost && c.opener == person && slices.Contains(of(BadThenGood, BadThenUnknown, Rises), c.pattern) {
		// The signals are bad either before the status is lost or after that.
		return "E2; StatusLost; deaf; -", rows
	}
	for _, t := range twists {
		if t.name != c.twist {
			continue
		}
		if changed, ok := t.rising[want]; ok && c.rises() {
			return changed, rows
		}
		if changed, ok := t.changes[want]; ok {
			return changed, rows
		}
	}
	return want, rows
}
