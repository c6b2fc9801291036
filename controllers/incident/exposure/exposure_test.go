package exposure

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
)

var clear = time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC)

// key is a KeyCompromise whose steps are as given, in their order; "" leaves one out.
func key(states ...string) *v1alpha1.KeyCompromise {
	k := &v1alpha1.KeyCompromise{}
	k.Status.ExposedUntil = new(metav1.NewTime(clear))
	steps := []string{v1alpha1.StepRevoked, v1alpha1.StepReSigned, v1alpha1.StepPublished,
		v1alpha1.StepRelyingPartyNotified, v1alpha1.StepVerified}
	for i, state := range states {
		c := metav1.Condition{Type: steps[i], Status: metav1.ConditionStatus(state), Reason: "Any"}
		switch state {
		case "":
			continue
		case "NotNeeded":
			c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonNotNeeded
		}
		k.Status.Conditions = append(k.Status.Conditions, c)
	}
	return k
}

func TestOnlyWhatIsTheRelyingPartysIsLeft(t *testing.T) {
	for name, c := range map[string]struct {
		key  *v1alpha1.KeyCompromise
		now  time.Time
		want bool
	}{
		"it accepts nothing":           {key("True", "True", "True", "Unknown", "Unknown"), clear, true},
		"it did not accept it in time": {key("True", "True", "True", "False", "Unknown"), clear, true},
		"nothing was delivered yet":    {key("True", "True", "True", "True", "Unknown"), clear, true},
		"a cache may hold it":          {key("True", "True", "True", "Unknown", "Unknown"), clear.Add(-time.Second), false},
		"a replica is stale":           {key("True", "True", "Unknown", "Unknown", "Unknown"), clear, false},
		"the platform still signs":     {key("True", "False", "True", "Unknown", "Unknown"), clear, false},
		"not revoked":                  {key("Unknown", "", "", "Unknown", "Unknown"), clear, false},
		"all is done":                  {key("True", "True", "True", "True", "True"), clear, false},
		"nobody looks":                 {key("True", "True", "True", "NotNeeded", "NotNeeded"), clear, false},
	} {
		if got := (&Exposure{Journal: &journal.Journal{Now: c.now}}).deaf(c.key); got != c.want {
			t.Errorf("%s: held up by the relying party alone: %t", name, got)
		}
	}
	never := key("True", "True", "True", "Unknown", "Unknown")
	never.Status.ExposedUntil = nil
	if (&Exposure{Journal: &journal.Journal{Now: clear}}).deaf(never) {
		t.Error("caches are clear though nobody knows until when they hold it")
	}
}

func TestTheNameIsByTheUIDAndFits(t *testing.T) {
	named := func(name, uid string) string {
		i := &v1alpha1.Incident{}
		i.Name, i.UID = name, "1a2b3c4d-0000-0000-0000-000000000000"
		if uid != "" {
			i.UID = "9f8e7d6c-0000-0000-0000-000000000000"
		}
		return (&Exposure{Journal: &journal.Journal{Incident: i}}).name()
	}
	if got := named("acme-leak", ""); got != "acme-leak-keycompromised-1a2b3c4d" {
		t.Errorf("it is %s", got)
	}
	if named("acme-leak", "") == named("acme-leak", "another") {
		t.Error("two Incidents of a name share one")
	}
	// It is cut in the middle, where a label ends.
	long := named(strings.Repeat("a", 199)+"."+strings.Repeat("b", 53), "")
	if wrong := validation.IsDNS1123Subdomain(long); len(wrong) > 0 {
		t.Errorf("no object may be called %s: %v", long, wrong)
	}
}

func TestViaIsTheOneTransactionWhereThePlatformHasBoth(t *testing.T) {
	signing, commands := &v1alpha1.SecretReference{Name: "s"}, &v1alpha1.PlatformCommands{}
	for _, c := range []struct {
		spec v1alpha1.PlatformSpec
		want v1alpha1.CompromiseVia
	}{
		{v1alpha1.PlatformSpec{}, ""},
		{v1alpha1.PlatformSpec{Database: &v1alpha1.PlatformDatabase{}}, ""},
		{v1alpha1.PlatformSpec{Database: &v1alpha1.PlatformDatabase{}, Commands: commands}, v1alpha1.CompromiseViaCommand},
		{v1alpha1.PlatformSpec{Database: &v1alpha1.PlatformDatabase{SigningSecretRef: signing}, Commands: commands},
			v1alpha1.CompromiseViaDatabase},
	} {
		if got := Via(&v1alpha1.Platform{Spec: c.spec}); got != c.want {
			t.Errorf("%+v: via %q, want %q", c.spec, got, c.want)
		}
	}
}
