// Package signals probes identity platforms. It judges what is good, bad or unknown, since when, and how severe that
// is.
package signals

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// maxBecause keeps status.signals.summary, with the severity before it, within its 512.
const maxBecause = 400

// Signals is what the probes of a Platform say. The zero Signals is a Platform that is not probed, or not yet: nothing
// of it is known. All else is derived from Each.
type Signals struct {
	// Each signal, at most one per condition.
	Each []Signal

	// endpoints that were good once, for the Platform's status.
	endpoints []v1alpha1.ProbedEndpoint
}

// Signal is one of a Platform's signals.
type Signal struct {
	// Condition of the Platform that reports it.
	Condition string
	// State is True where the signal is good, False where it is bad, else Unknown. One look changes no state.
	State metav1.ConditionStatus
	// Severity that the signal has while it is bad.
	Severity v1alpha1.Severity
	// Flaky says that it is bad because too large a share of the looks fails. The others succeed.
	Flaky bool
	// Ground says that it is bad now by HTTP 404, a 5xx, a time-out, or a connection that was refused or closed before an
	// answer, and that its severity is sev1. Nothing else is a ground for a rollback without a person.
	Ground bool
	// Ask says that people must find out what it means. Message says what it may be.
	Ask bool
	// Message says what was seen.
	Message string
	// Since is the first sample of this state. A signal that was bad, then unknown, and is bad again is bad since the
	// first time.
	Since time.Time
	// BadFrom is the first bad look of the present bad episode: no look since then was good. It may be later than Since,
	// where the signal flapped before. Zero while the signal is not bad.
	BadFrom time.Time
	// EnoughFrom is the oldest of the newest bad looks that suffice to call it bad. What went live after it is not yet
	// known to be bad. Zero while the signal is not bad.
	EnoughFrom time.Time

	// trouble is the first sample of the trouble that the signal belongs to: what is bad, or was and is not known to be
	// good again, of the same severity and category. Zero where it belongs to none.
	trouble time.Time
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

// Of are the signals of a category of Incidents: all of them for Unclassified, none for a category that probes can't
// see.
func (s Signals) Of(category v1alpha1.IncidentCategory) Signals {
	var of []Signal
	for _, signal := range s.Each {
		if category == v1alpha1.CategoryUnclassified || class[signal.Condition].category == category {
			of = append(of, signal)
		}
	}
	return Signals{Each: of}
}

// bad are the signals that are bad, the worst first.
func (s Signals) bad() []Signal {
	var bad []Signal
	for _, signal := range s.Each {
		if signal.State == metav1.ConditionFalse {
			bad = append(bad, signal)
		}
	}
	slices.SortStableFunc(bad, func(a, b Signal) int { return cmp.Compare(a.Severity, b.Severity) })
	return bad
}

// Severity of the worst signal that is bad; empty while none is.
func (s Signals) Severity() v1alpha1.Severity {
	if bad := s.bad(); len(bad) > 0 {
		return bad[0].Severity
	}
	return ""
}

// Because says what is bad, the worst first; empty while nothing is.
func (s Signals) Because() string {
	var because []string
	for _, signal := range s.bad() {
		because = append(because, signal.Message)
	}
	return shorten(strings.Join(because, "; "))
}

// BadSince is the first bad sample of the trouble that has the worst severity. It stays the same while any signal of
// that trouble is bad, also after the first one is good again. Zero while nothing is bad.
func (s Signals) BadSince() time.Time {
	var since time.Time
	for _, signal := range s.bad() {
		first := signal.Since
		if !signal.trouble.IsZero() {
			first = signal.trouble
		}
		if signal.Severity == s.Severity() && (since.IsZero() || first.Before(since)) {
			since = first
		}
	}
	return since
}

// ClearSince is since when every signal is good; zero while one is bad or unknown.
func (s Signals) ClearSince() time.Time {
	var since time.Time
	for _, signal := range s.Each {
		if signal.State != metav1.ConditionTrue {
			return time.Time{}
		}
		if signal.Since.After(since) {
			since = signal.Since
		}
	}
	return since
}

// Down says that relying parties' users are kept out: /up, tokens or JWKS are bad.
func (s Signals) Down() bool { return s.Severity() == v1alpha1.Sev1 }

// lingering says that something was bad and is not known to be good again, while nothing is bad.
func (s Signals) lingering() bool {
	return s.Severity() == "" && slices.ContainsFunc(s.Each, func(signal Signal) bool { return !signal.trouble.IsZero() })
}

// Summary is "ok", or what is bad with its severity, or what is unknown.
func (s Signals) Summary() string {
	if severity := s.Severity(); severity != "" {
		return fmt.Sprintf("%s: %s", severity, s.Because())
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

func shorten(text string) string {
	if len(text) > maxBecause {
		text = strings.ToValidUTF8(text[:maxBecause], "") + "…"
	}
	return text
}
