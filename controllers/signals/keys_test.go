package signals

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

func jwks(maxAge time.Duration, kids ...string) platformapi.Look {
	return platformapi.Look{
		Verdict: platformapi.Good, Message: "JWKS has keys", Answered: true,
		Keys: &platformapi.JWKS{Kids: kids, MaxAge: maxAge, StaleFor: time.Minute},
	}
}

func TestTheContentOfJWKS(t *testing.T) {
	t.Parallel()
	now := start
	token := func(kid string, ago time.Duration) issuedKid {
		return issuedKid{kid: kid, at: now.Add(-ago),
			kept: 25 * time.Second}
	}
	keys := func(readAgo time.Duration, kids ...platformdb.ActiveKid) *activeKids {
		return &activeKids{kids: kids, readAt: now.Add(-readAgo)}
	}
	key := func(kid string, age time.Duration) platformdb.ActiveKid {
		return platformdb.ActiveKid{ApplicationID: 42, Kid: kid, Age: age}
	}
	for name, c := range map[string]struct {
		look    platformapi.Look
		issued  issuedKid
		active  *activeKids
		verdict platformapi.Verdict
		says    string
	}{
		"the token's key is there": {jwks(time.Hour, "a", "b"), token("b", 5*time.Second), nil, "Good",
			"JWKS has keys"},
		"the token's key is missing": {jwks(time.Hour, "a"), token("b", 5*time.Second), nil, "Bad",
			`JWKS lacks the key "b", by which a token was just signed`},
		"the token is not the newest": {jwks(time.Hour, "a"), token("b", 26*time.Second), nil, "Good",
			"JWKS has keys"},
		"no token has a kid": {jwks(time.Hour, "a"), issuedKid{}, nil, "Good", "JWKS has keys"},
		"each active key is there": {jwks(time.Hour, "a", "b"), issuedKid{}, keys(0, key("a", 2*time.Hour),
			key("b", 2*time.Hour)), "Good", "JWKS has keys, and each active one"},
		"no key is active": {jwks(time.Hour, "a"), issuedKid{}, keys(0), "Good",
			"JWKS has keys, and each active one"},
		"an active key is missing": {jwks(time.Hour, "a"), issuedKid{}, keys(0, key("a", 2*time.Hour),
			key("b", 2*time.Hour)), "Bad", `JWKS lacks the active key "b" of application 42`},
		"three are missing": {jwks(0), issuedKid{}, keys(0, key("a", time.Hour), key("b", time.Hour),
			key("c", time.Hour)), "Bad", `JWKS lacks the active key "a" of application 42, and 2 more`},
		"caches may lag by max-age and stale": {jwks(time.Hour, "a"), issuedKid{}, keys(0, key("b", 61*time.Minute)),
			"Good", "JWKS has keys, and each active one"},
		"for longer than they may": {jwks(time.Hour, "a"), issuedKid{}, keys(time.Second, key("b",
			61*time.Minute)), "Bad", `JWKS lacks the active key "b"`},
		"five minutes at least": {jwks(0, "a"), issuedKid{}, keys(0, key("b", 5*time.Minute)), "Good",
			"JWKS has keys, and each active one"},
		"for longer than five minutes": {jwks(0, "a"), issuedKid{}, keys(time.Second, key("b", 5*time.Minute)),
			"Bad", `JWKS lacks the active key "b"`},
		"the database can't be asked": {jwks(0, "a"), issuedKid{}, &activeKids{err: errors.New("no grant")},
			"Good", "JWKS has keys; which keys are active could not be read: no grant"},
		"the database can't, and the token's lack": {jwks(0, "a"), token("b", 0), &activeKids{err: errors.New("no grant")},
			"Bad", `JWKS lacks the key "b"`},
		"no answer": {bad("JWKS answers HTTP 502"), token("b", 0), nil, "Bad",
			"JWKS answers HTTP 502"},
		"an answer that says neither": {platformapi.Look{Verdict: platformapi.Unknown, Message: "HTTP 429"},
			token("b", 0), nil, "Unknown", "HTTP 429"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := compare(c.look, c.issued, c.active, now)
			if got.Verdict != c.verdict || !strings.HasPrefix(got.Message, c.says) || got.Down != c.look.Down {
				t.Errorf("%+v, want %s: %s", got, c.verdict, c.says)
			}
		})
	}
}

// JWKS that lacks a key is sev1, and no ground for a rollback.
func TestJWKSThatLacksAKey(t *testing.T) {
	t.Parallel()
	c := newTrial(probed())
	served := "a"
	look := func() Signals {
		c.look(c.tokens, platformapi.Look{Verdict: platformapi.Good, Message: "fine", Kid: "a", Answered: true}, c.now)
		c.lookAtJWKS(jwks(0, served), &activeKids{readAt: c.now}, c.now)
		c.now = c.now.Add(10 * time.Second)
		return c.signals()
	}
	for range 3 {
		look()
	}
	if got := c.signals().of(v1alpha1.ConditionJWKSServed); got.State != metav1.ConditionTrue {
		t.Fatalf("%+v", got)
	}
	served = "b"
	for i := range 3 {
		if got := look().of(v1alpha1.ConditionJWKSServed); (got.State == metav1.ConditionFalse) != (i == 2) {
			t.Errorf("look %d: %+v", i, got)
		}
	}
	s := c.signals()
	if got := s.of(v1alpha1.ConditionJWKSServed); got.Ground || got.Severity != v1alpha1.Sev1 || !s.Down() {
		t.Errorf("%+v", got)
	}
	// No token is issued any more: what the last one was signed with says nothing for long.
	for range 2 {
		c.look(c.tokens, bad("/oauth/token answers HTTP 502"), c.now)
		c.now = c.now.Add(10 * time.Second)
	}
	c.lookAtJWKS(jwks(0, served), &activeKids{readAt: c.now}, c.now)
	if got := c.jwks; got.good != 1 {
		t.Errorf("after %v it counts still: %s", fmt.Sprint(c.now.Sub(c.issued.at)), got.said)
	}
}
