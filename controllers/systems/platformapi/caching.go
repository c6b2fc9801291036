package platformapi

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultMaxAge is for how long an answer that says nothing is taken to be kept: what JWKS clients do by default.
	defaultMaxAge = time.Hour
	// maxHeuristic bounds what a cache that has to guess is taken to guess (RFC 9111, 4.2.2).
	maxHeuristic = 24 * time.Hour
	// heuristicShare of the time since an answer was last modified is what caches guess.
	heuristicShare = 10
	// maxLifetime is what is longer (RFC 9111, 1.2.2).
	maxLifetime = math.MaxInt32 * time.Second
)

// lifetime is for how long a cache may use an answer that came at a time (RFC 9111, 4.2.1), and for how long after that
// (RFC 5861). It may be a private cache or a shared one, of HTTP/1.0 or later, and nobody knows which: of max-age,
// s-maxage and Expires, and of what is repeated, the longest counts. What a cache serves while it is disconnected
// (4.2.4) has no end, and is left out.
func lifetime(header http.Header, at time.Time) (maxAge, stale time.Duration) {
	date := at
	if d, err := http.ParseTime(header.Get("Date")); err == nil {
		date = d
	}
	said := false
	say := func(d time.Duration) { said, maxAge = true, max(maxAge, min(d, maxLifetime)) }
	stored, understood := true, false
	for _, d := range directives(header.Values("Cache-Control")) {
		switch d.name {
		case "no-store":
			stored = false
		case "must-understand": // whoever knows it may store what no-store forbids the others (5.2.2.3)
			understood = true
		case "no-cache":
			// With field names it forbids only those (5.2.2.4).
			if d.value == "" {
				return 0, 0
			}
		case "max-age", "s-maxage":
			if d, ok := seconds(d.value); ok {
				say(d)
			}
		case "stale-while-revalidate", "stale-if-error":
			if d, ok := seconds(d.value); ok {
				stale = max(stale, d)
			}
		}
	}
	if !stored && !understood {
		return 0, 0
	}
	for _, text := range header.Values("Expires") {
		expires, err := http.ParseTime(text)
		if err != nil {
			say(0) // what is no date, such as 0, has passed (5.3)
			continue
		}
		say(max(0, expires.Sub(date)))
	}
	if !said {
		return heuristic(header, date), stale
	}
	return maxAge, stale
}

// heuristic is what a cache may guess where an answer does not say how long it is good.
func heuristic(header http.Header, date time.Time) time.Duration {
	guess := defaultMaxAge
	if modified, err := http.ParseTime(header.Get("Last-Modified")); err == nil {
		guess = max(guess, date.Sub(modified)/heuristicShare)
	}
	return min(guess, maxHeuristic)
}

// age is how long ago the platform made an answer, by the caches that it came through (RFC 9111, 5.1). Of several the
// least counts.
func age(header http.Header) time.Duration {
	least, found := time.Duration(0), false
	for _, text := range header.Values("Age") {
		if d, ok := seconds(text); ok && (!found || d < least) {
			least, found = d, true
		}
	}
	return least
}

// directive of Cache-Control; its name is in small letters, and its value without quotes.
type directive struct{ name, value string }

// directives reads Cache-Control (RFC 9111, 5.2). A comma in a quoted value ends nothing.
func directives(headers []string) (all []directive) {
	for _, header := range headers {
		var text strings.Builder
		add := func() {
			name, value, _ := strings.Cut(text.String(), "=")
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
				all = append(all, directive{name, strings.TrimSpace(value)})
			}
			text.Reset()
		}
		quoted, escaped := false, false
		for _, r := range header {
			switch {
			case escaped:
				escaped = false
				text.WriteRune(r)
			case quoted && r == '\\':
				escaped = true
			case r == '"':
				quoted = !quoted
			case r == ',' && !quoted:
				add()
			default:
				text.WriteRune(r)
			}
		}
		add()
	}
	return all
}

// seconds reads delta-seconds (RFC 9111, 1.2.2); what is too large is 2^31 s.
func seconds(text string) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > math.MaxInt32 {
		n = math.MaxInt32
	}
	return time.Duration(n) * time.Second, true
}
