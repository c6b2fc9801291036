package platformdb

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// phrases are what HTTP libraries and servers write after a status code, by code: its reason phrase in the words of RFC
// 9110, of earlier RFCs and of nginx.
var phrases = map[int]string{
	400: "Bad Request", 401: "Unauthorized|Authorization Required", 402: "Payment Required", 403: "Forbidden",
	404: "Not Found", 405: "Method Not Allowed|Not Allowed", 406: "Not Acceptable",
	407: "Proxy Authentication Required", 408: "Request Time-?[Oo]ut", 409: "Conflict", 410: "Gone",
	411: "Length Required", 412: "Precondition Failed",
	413: "Content Too Large|Payload Too Large|Request Entity Too Large", 414: "URI Too Long|Request-URI Too (Long|Large)",
	415: "Unsupported Media Type", 417: "Expectation Failed", 418: "I'm a [Tt]eapot", 421: "Misdirected Request",
	422: "Unprocessable (Entity|Content)", 423: "Locked", 424: "Failed Dependency", 425: "Too Early",
	426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
	431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service (Temporarily )?Unavailable",
	504: "Gateway Time-?[Oo]ut", 505: "HTTP Version Not Supported", 507: "Insufficient Storage", 508: "Loop Detected",
	511: "Network Authentication Required",
}

// status is the pattern of an answer's status line, whose code is from first to last, as dispatchers write it: with or
// without the version, with or without the phrase, and then a colon or the end. A phrase must be the code's own: "503
// orders are unknown" is the relying party's sentence, and no status.
func status(first, last int) string {
	// As Python's requests writes it.
	codes := []string{between(first, last) + map[int]string{4: "( Client Error)?", 5: "( Server Error)?"}[first/100]}
	for code := first; code <= last; code++ {
		if phrases[code] != "" {
			codes = append(codes, fmt.Sprintf("%d (%s)", code, phrases[code]))
		}
	}
	return `^((HTTP(/[0-9](\.[0-9])?)? )?(` + strings.Join(codes, "|") + `)|the server responded with status ` +
		between(first, last) + `)(:|$)`
}

// between is the pattern of the bare numbers from first to last.
func between(first, last int) string {
	if first == last {
		return strconv.Itoa(first)
	}
	return fmt.Sprintf("%d[0-9][0-9]", first/100)
}

// causes is the closed list of what dispatchers write to last_error, in the order in which the patterns are tried. Each
// is anchored at the start, so that digits in the relying party's own words decide nothing; what none matches is
// Unknown. answered is of a status line, so that the first three digits in a row of what matched are the code.
//
// The words before the first colon are the dispatcher's (the status line, or the Ruby exception's class or message);
// those after it are the relying party's. No pattern looks beyond the first colon with a blank after it, so that the
// diagnosis can group by what comes before that. A change needs a migration, so that managers ask for `manager
// migrate`, which gives the list to the ledger.
var causes = []struct {
	name     string
	pattern  string
	answered bool
}{
	{"RateLimited", status(408, 408), true},
	{"RateLimited", status(429, 429), true},
	{"SignatureRejected", status(401, 401), true},
	{conflict, conflictPattern, true},
	{"ServerError", status(500, 599), true},
	{"ClientError", status(400, 499), true},
	{"Timeout", `^(Net::(Open|Read|Write)Timeout( with #<.*)?|Timeout::Error|Errno::ETIMEDOUT|` +
		`Faraday::TimeoutError|HTTP::TimeoutError)(:|$)`, false},
	{"Timeout", `^(execution expired|Connection timed out)( - |:|$)`, false},
	{"Timeout", `^Failed to open TCP connection to [^ ]*[^ :] \(execution expired\)(:|$)`, false},
	{"ServerError", `^(Errno::(ECONNREFUSED|ECONNRESET|EHOSTUNREACH|ENETUNREACH|EPIPE)|SocketError|EOFError|` +
		`OpenSSL::SSL::SSLError|Faraday::(ConnectionFailed|SSLError))(:|$)`, false},
	{"ServerError", `^(Connection refused|Connection reset by peer|Broken pipe|No route to host|` +
		`Network is unreachable|end of file reached|getaddrinfo)( - |:|$)`, false},
	{"ServerError", `^Failed to open TCP connection to [^ ]*[^ :] ` +
		`\((Connection refused|No route to host|Network is unreachable|getaddrinfo)( - |:|\)|$)`, false},
	// Neither a cause nor a failure of ours: a redirect, which is not followed.
	{unknown, `^HTTP [1-3][0-9][0-9](:|$)`, true},
}

const (
	conflict = "IdempotencyConflict"
	unknown  = "Unknown"
)

var conflictPattern = status(409, 409)

// literal is a text as SQL writes it.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// compiled are the patterns for texts that are not in the database. In Postgres a dot is any character, too.
var compiled = sync.OnceValue(func() []*regexp.Regexp {
	patterns := make([]*regexp.Regexp, len(causes))
	for i, c := range causes {
		patterns[i] = regexp.MustCompile("(?s)" + c.pattern)
	}
	return patterns
})

var threeDigits = regexp.MustCompile(`[1-5][0-9][0-9]`)

// Cause is why an entry died whose last_error and attempts are not read from the database, and the status code that was
// answered; 0 where none is known. It does not know whether a replay requeued the entry.
func Cause(lastError string, attempts int) (cause string, code int) {
	if attempts == 0 {
		return unknown, 0
	}
	for i, c := range causes {
		if c.name == conflict && attempts == 1 || !compiled()[i].MatchString(lastError) {
			continue
		}
		if c.answered {
			code, _ = strconv.Atoi(threeDigits.FindString(lastError)) // digits only
		}
		return c.name, code
	}
	return unknown, 0
}

// conflictSQL says whether an outbox row o died of an idempotency conflict. A 409 is one only on a retry: the first
// attempt can't have been preceded by a delivery, and is a ClientError like another 4xx. Requeueing resets attempts,
// hence requeuedBefore, an SQL condition: whether a replay requeued the row earlier.
func conflictSQL(requeuedBefore string) string {
	return `(o.last_error LIKE '%409%' AND o.last_error ~ ` + literal(conflictPattern) +
		` AND (o.attempts > 1 OR o.attempts = 1 AND ` + requeuedBefore + `))`
}

// causeSQL is the cause of an outbox row o, as text. attempts = 0 on a dead row is not the dispatcher's work, so its
// last_error is left over from another life.
func causeSQL(requeuedBefore string) string {
	var b strings.Builder
	b.WriteString("CASE WHEN o.attempts = 0 OR o.last_error IS NULL THEN '" + unknown + "'\n")
	for _, c := range causes {
		if c.name == unknown {
			continue
		}
		if c.name == conflict {
			fmt.Fprintf(&b, "WHEN %s THEN '%s'\n", conflictSQL(requeuedBefore), conflict)
			continue
		}
		fmt.Fprintf(&b, "WHEN o.last_error ~ %s THEN '%s'\n", literal(c.pattern), c.name)
	}
	b.WriteString("ELSE '" + unknown + "' END")
	return b.String()
}

// answerSQL is what the relying party answered to the last attempt at an outbox row o: the status code, or the cause
// where there was none. The first three digits of a status line are its code.
var answerSQL = `coalesce(CASE WHEN o.last_error ~ ` + literal(status(400, 499)) + `
		OR o.last_error ~ ` + literal(status(500, 599)) + `
		OR o.last_error ~ '^HTTP [1-3][0-9][0-9](:|$)'
	THEN substring(o.last_error from '[1-5][0-9][0-9]') END, ` + causeSQL("false") + `)`

// fillCauses writes the list for playbook.dead_letters, which classifies in the database what its caller may not read.
func fillCauses(ctx context.Context, tx pgx.Tx) error {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM playbook.causes`)
	for i, c := range causes {
		batch.Queue(`INSERT INTO playbook.causes (position, cause, pattern, answered, retried) VALUES ($1, $2, $3, $4, $5)`,
			i, c.name, c.pattern, c.answered, c.name == conflict)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("writing down which causes there are: %w", err)
	}
	return nil
}
