package evidencematrix

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

const (
	up        = v1alpha1.ConditionUpAnswers
	jwks      = v1alpha1.ConditionJWKSServed
	tokens    = v1alpha1.ConditionTokensIssued
	endpoints = v1alpha1.ConditionEndpointsAnswer
	webhooks  = v1alpha1.ConditionWebhooksDelivered
)

// The patterns are what the signals say from the opening of the Incident on. turn is a minute later.
const (
	Good            = "good"
	Bad             = "bad"               // /up by 502, and the webhooks, since before the Incident was opened
	BadBy4xx        = "bad by 4xx"        // no ground for a rollback
	Flaky           = "flaky"             // sev2, as the signals call it
	Unknown         = "unknown"           // since long before
	NeverGood       = "never good"        // unknown, since its URL is new; JWKS is good
	BadThenGood     = "bad then good"     // good from the turn on; JWKS is unknown since before the onset
	BadBefore       = "bad only before"   // good again by the time of the first pass
	GoodThenUnknown = "good then unknown" // unknown from the turn on
	BadThenUnknown  = "bad then unknown"
	Rises           = "rises" // an endpoint by 500, and from the turn on /up by 502
)

var patterns = []string{
	Good, Bad, BadBy4xx, Flaky, Unknown, NeverGood, BadThenGood, BadBefore, GoodThenUnknown, BadThenUnknown, Rises,
}

const turn = time.Minute

// say makes a signal that has been in a state since an instant.
func say(condition string, state metav1.ConditionStatus, since time.Time) signals.Signal {
	severity := v1alpha1.Sev1
	if condition == endpoints || condition == webhooks {
		severity = v1alpha1.Sev2
	}
	return signals.Signal{Condition: condition, State: state, Severity: severity, Since: since, Message: condition +
		" is " + string(state)}
}

func good(since time.Time, conditions ...string) (s []signals.Signal) {
	for _, condition := range conditions {
		s = append(s, say(condition, metav1.ConditionTrue, since))
	}
	return s
}

func unknown(since time.Time, conditions ...string) (s []signals.Signal) {
	for _, condition := range conditions {
		s = append(s, say(condition, metav1.ConditionUnknown, since))
	}
	return s
}

func bad(condition string, severity v1alpha1.Severity, ground bool, since time.Time) signals.Signal {
	s := say(condition, metav1.ConditionFalse, since)
	s.Severity, s.Ground, s.BadFrom, s.EnoughFrom = severity, ground, since, since.Add(10*time.Second)
	return s
}

// seen is what the signals said when they opened an Incident of a category.
func seen(category v1alpha1.IncidentCategory, pattern string, at time.Time) []signals.Signal {
	since := at.Add(-30 * time.Second)
	switch {
	case category == v1alpha1.CategoryWebhookDelivery:
		return []signals.Signal{bad(webhooks, v1alpha1.Sev2, false, since)}
	case category == v1alpha1.CategoryUnclassified:
		ask := say(tokens, metav1.ConditionUnknown, since)
		ask.Ask = true
		return []signals.Signal{ask}
	case pattern == Flaky:
		s := bad(up, v1alpha1.Sev2, false, since)
		s.Flaky = true
		return []signals.Signal{s}
	case pattern == Rises:
		return []signals.Signal{bad(endpoints, v1alpha1.Sev2, false, since)}
	}
	return []signals.Signal{bad(up, v1alpha1.Sev1, pattern != BadBy4xx, since)}
}

// look is what the signals say at an instant. The Incident was opened at another.
func look(pattern string, bySignals bool, opened, now time.Time) []signals.Signal {
	turned := !now.Before(opened.Add(turn))
	long, since, then := opened.Add(-10*time.Hour), opened.Add(-30*time.Second), opened.Add(turn)
	broken := []signals.Signal{bad(up, v1alpha1.Sev1, true, since), bad(webhooks, v1alpha1.Sev2, false, since)}
	if bySignals && (pattern == Good || pattern == GoodThenUnknown) {
		long = opened // the signals saw it bad just before
	}
	switch pattern {
	case Good:
		return good(long, up, webhooks)
	case Bad:
		return broken
	case BadBy4xx:
		return []signals.Signal{bad(up, v1alpha1.Sev1, false, since), broken[1]}
	case Flaky:
		s := bad(up, v1alpha1.Sev2, false, since)
		s.Flaky = true
		return []signals.Signal{s, broken[1]}
	case Unknown:
		return unknown(long, up, webhooks)
	case NeverGood:
		return append(unknown(long, up, webhooks), good(long, jwks)...)
	case BadThenGood:
		if turned {
			return append(good(then, up, webhooks), unknown(long, jwks)...)
		}
		return append(broken, unknown(long, jwks)...)
	case BadBefore:
		if bySignals {
			return good(opened.Add(-5*time.Second), up, webhooks)
		}
		return good(opened.Add(-10*time.Minute), up, webhooks)
	case GoodThenUnknown:
		if turned {
			return unknown(then, up, webhooks)
		}
		return good(long, up, webhooks)
	case BadThenUnknown:
		if turned {
			return unknown(then, up, webhooks)
		}
		return broken
	case Rises:
		s := []signals.Signal{bad(endpoints, v1alpha1.Sev2, false, since)}
		if turned {
			return append(s, bad(up, v1alpha1.Sev1, true, then), bad(webhooks, v1alpha1.Sev2, false, then))
		}
		return append(s, good(long, up, webhooks)...)
	}
	panic("no such pattern: " + pattern)
}
