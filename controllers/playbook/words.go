package playbook

import (
	"fmt"
	"strings"
	"time"
)

// Words writes a duration as people do, with at most two units: 45 s, 30 min, 1 h 5 min, 3 d.
func Words(d time.Duration) string {
	if d < 0 {
		return "-" + Words(-d)
	}
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	var parts []string
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}} {
		if n := d / unit.size; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, unit.name))
			d -= n * unit.size
		} else if len(parts) > 0 {
			break
		}
		if len(parts) == 2 {
			break
		}
	}
	return strings.Join(parts, " ")
}

// Count writes how many there are, with the words that fit the number: 1 entry, 2 entries. Words after the noun that
// change with it are part of both: "entry is", "entries are".
func Count[N int | int32 | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
