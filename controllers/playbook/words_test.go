package playbook

import (
	"testing"
	"time"
)

func TestADurationIsWrittenAsPeopleDo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 250 * time.Millisecond: "250 ms", 45 * time.Second: "45 s", 90 * time.Second: "1 min 30 " +
			"s", 30 * time.Minute: "30 min",
		65 * time.Minute: "1 h 5 min", time.Hour + time.Second: "1 h", 72 * time.Hour: "3 d", 75*time.Hour +
			10*time.Minute: "3 d 3 h",
		-time.Minute: "-1 min",
	} {
		if got := Words(d); got != want {
			t.Errorf("%s is written %q, want %q", d, got, want)
		}
	}
}

func TestOneIsNotWrittenAsMany(t *testing.T) {
	for n, want := range map[int64]string{0: "0 entries are dead", 1: "1 entry is dead", 2: "2 entries are dead"} {
		if got := Count(n, "entry is", "entries are") + " dead"; got != want {
			t.Errorf("%d is written %q, want %q", n, got, want)
		}
	}
}
