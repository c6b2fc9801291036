package jwks

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// answers of JWKS with these kids, each of which may be cached for five minutes.
func answers(kids ...string) (all []*platformapi.JWKS) {
	for _, text := range kids {
		all = append(all, &platformapi.JWKS{Kids: strings.Fields(text), MaxAge: 5 * time.Minute})
	}
	return all
}

func times(n int, kids string) (all []string) {
	for range n {
		all = append(all, kids)
	}
	return all
}

func TestOnlyTenAnswersWithoutAnOldActiveKidPutThePlatformAtFault(t *testing.T) {
	t.Parallel()
	key := func(age time.Duration) []platformdb.ActiveKid {
		return []platformdb.ActiveKid{{ApplicationID: 42, Kid: "new", Age: age}}
	}
	silent := errors.New("the answer was HTTP 502")
	for _, c := range []struct {
		what  string
		found seen
		fault v1alpha1.KeyFault
		says  string
	}{
		{"it is there", seen{answers: answers(times(10, "old new")...), active: key(time.Hour)},
			v1alpha1.KeyFaultNotPlatform, "for 5 min: ask it"},
		{"it lacks", seen{answers: answers(times(10, "old")...), active: key(time.Hour)},
			v1alpha1.KeyFaultPlatform, "AT FAULT"},
		{"caches explain it", seen{answers: answers(times(10, "old")...), active: key(6 * time.Minute)},
			v1alpha1.KeyFaultUnknown, "can't be told"},
		{"a replica is stale", seen{answers: answers(append(times(9, "old"), "new old")...), active: key(time.Hour)},
			v1alpha1.KeyFaultUnknown, "differ: a replica or a cache is stale"},
		{"nine answers", seen{answers: answers(times(9, "old")...), err: silent, active: key(time.Hour)},
			v1alpha1.KeyFaultUnknown, "answered 9 times, of ten"},
		{"no answer", seen{err: silent, active: key(time.Hour)}, v1alpha1.KeyFaultUnknown, "HTTP 502"},
		{"no database", seen{answers: answers(times(10, "old")...), keysErr: errors.New("no database")},
			v1alpha1.KeyFaultUnknown, "no database"},
		{"no active key", seen{answers: answers(times(10, "old")...)}, v1alpha1.KeyFaultUnknown, "has no active key"},
		{"the same kids in another order", seen{answers: answers(append(times(9, "old new"), "new old")...),
			active: key(time.Hour)}, v1alpha1.KeyFaultNotPlatform, "agree"},
	} {
		fault, text := c.found.judge("")
		if fault != c.fault || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, %q; want %s, %q", c.what, fault, text, c.fault, c.says)
		}
	}
}
