package webhooks

import "testing"

func TestRecoveredNeedsSomethingFreshSinceTheLastOneDied(t *testing.T) {
	t.Parallel()
	early, late := at(1), at(2)
	for _, c := range []struct {
		what string
		now  lately
		want bool
	}{
		{"nothing is known", lately{}, false},
		{"nothing fails, and nothing arrived", lately{died: early}, false},
		{"it arrived since", lately{died: early, arrived: &late}, true},
		{"one died since it arrived", lately{died: late, arrived: &early}, false},
		{"one died as it arrived", lately{died: early, arrived: &early}, false},
		{"attempts fail now", lately{died: early, arrived: &late, failing: true}, false},
		{"it refuses some, and receives others", lately{diedAny: late, arrived: &early}, true},
	} {
		if got := c.now.recovered(); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}
