package ssh

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// outputHalf is how many bytes are kept of an output's beginning, and of its end.
const outputHalf = 32 << 10

// output keeps the beginning and the end of what is written to it. Both streams of a command write to it at the same
// time.
type output struct {
	mu         sync.Mutex
	head, tail []byte
	dropped    int64
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(p)
	kept := min(n, outputHalf-len(o.head))
	o.head = append(o.head, p[:kept]...)
	o.tail = append(o.tail, p[kept:]...)
	if over := len(o.tail) - outputHalf; over > 0 {
		o.dropped += int64(over)
		o.tail = append(o.tail[:0], o.tail[over:]...)
	}
	return n, nil
}

// String is what was kept, without what looks like a secret. A text column of Postgres takes it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dropped == 0 {
		return scrub(string(o.head) + string(o.tail))
	}
	// Each half is scrubbed by itself, since a key that was cut has only one of its ends. A word that was cut is left out:
	// it may be the end of a secret.
	head, tail := string(o.head), string(o.tail)
	head, tail = head[:strings.LastIndexAny(head, " \n")+1], tail[max(strings.IndexAny(tail, " \n"), 0):]
	return fmt.Sprintf("%s\n[%d bytes left out]\n%s", scrub(head), o.dropped, scrub(tail))
}

const removed = "[removed]"

var secrets = []struct {
	pattern *regexp.Regexp
	with    string
}{
	// Keys in PEM: whole, cut at the end, cut at the beginning.
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|$)`), removed},
	{regexp.MustCompile(`(?s)^.*-----END [A-Z0-9 ]+-----`), removed},
	{regexp.MustCompile(`(?i)(authorization["']?\s*(=>|[:=])\s*)[^\r\n]*`), "${1}" + removed},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`), "${1} " + removed},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@]*@`), "${1}" + removed + "@"},
	{regexp.MustCompile(`(?i)([a-z0-9_-]*(password|passwd|secret|token|api_?key|private_?key|credential)[a-z0-9_-]*["']?` +
		`\s*(=>|[:=])\s*)("[^"\r\n]*"|'[^'\r\n]*'|\S+)`), "${1}" + removed},
}

// long words with both letters and digits are mostly keys, tokens and digests, and seldom something that a person needs
// to read.
var long = regexp.MustCompile(`[A-Za-z0-9+=_-]{32,}|[A-Za-z0-9+/=]{48,}`)

// scrub removes from a text what looks like a secret: private keys, tokens, passwords, passwords in URLs, Authorization
// headers.
func scrub(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?")
	for _, s := range secrets {
		text = s.pattern.ReplaceAllString(text, s.with)
	}
	return long.ReplaceAllStringFunc(text, func(word string) string {
		if strings.ContainsAny(word, "0123456789") &&
			strings.ContainsAny(strings.ToLower(word), "abcdefghijklmnopqrstuvwxyz") {
			return removed
		}
		return word
	})
}
