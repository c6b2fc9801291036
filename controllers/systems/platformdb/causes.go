package platformdb

import (
	"fmt"
	"strconv"
	"strings"
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
			codes = append(codes, fmt.Sprintf("%d (%s)", code, strings.ReplaceAll(phrases[code], "'", "''")))
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
// Unknown.
//
// The words before the first colon are the dispatcher's (the status line, or the Ruby exception's class or message);
// those after it are the relying party's.
var causes = []struct {
	name    string
	pattern string
}{
	{"RateLimited", status(408, 408)},
	{"RateLimited", status(429, 429)},
	{"SignatureRejected", status(401, 401)},
	{conflict, conflictPattern},
	{"ServerError", status(500, 599)},
	{"ClientError", status(400, 499)},
	{"Timeout", `^(Net::(Open|Read|Write)Timeout( with #<.*)?|Timeout::Error|Errno::ETIMEDOUT|` +
		`Faraday::TimeoutError|HTTP::TimeoutError)(:|$)`},
	{"Timeout", `^(execution expired|Connection timed out)( - |:|$)`},
	{"Timeout", `^Failed to open TCP connection to [^ ]+ \(execution expired\)$`},
	{"ServerError", `^(Errno::(ECONNREFUSED|ECONNRESET|EHOSTUNREACH|ENETUNREACH|EPIPE)|SocketError|EOFError|` +
		`OpenSSL::SSL::SSLError|Faraday::(ConnectionFailed|SSLError))(:|$)`},
	{"ServerError", `^(Connection refused|Connection reset by peer|Broken pipe|No route to host|` +
		`Network is unreachable|end of file reached|getaddrinfo)( - |:|$)`},
	{"ServerError", `^Failed to open TCP connection to [^ ]+ ` +
		`\((Connection refused|No route to host|Network is unreachable|getaddrinfo)( - |:|\))`},
}

const (
	conflict = "IdempotencyConflict"
	unknown  = "Unknown"
)

var conflictPattern = status(409, 409)

// conflictSQL says whether an outbox row o died of an idempotency conflict. A 409 is one only on a retry: the first
// attempt can't have been preceded by a delivery, and is a ClientError like another 4xx. Requeueing resets attempts,
// hence requeuedBefore, an SQL condition: whether a replay requeued the row earlier.
func conflictSQL(requeuedBefore string) string {
	return `(o.last_error LIKE '%409%' AND o.last_error ~ '` + conflictPattern +
		`' AND (o.attempts > 1 OR o.attempts = 1 AND ` + requeuedBefore + `))`
}

// causeSQL is the cause of an outbox row o, as text. attempts = 0 on a dead row is not the dispatcher's work, so its
// last_error is left over from another life.
func causeSQL(requeuedBefore string) string {
	var b strings.Builder
	b.WriteString("CASE WHEN o.attempts = 0 OR o.last_error IS NULL THEN '" + unknown + "'\n")
	for _, c := range causes {
		if c.name == conflict {
			fmt.Fprintf(&b, "WHEN %s THEN '%s'\n", conflictSQL(requeuedBefore), conflict)
			continue
		}
		fmt.Fprintf(&b, "WHEN o.last_error ~ '%s' THEN '%s'\n", c.pattern, c.name)
	}
	b.WriteString("ELSE '" + unknown + "' END")
	return b.String()
}

// answerSQL is what the relying party answered to the last attempt at an outbox row o: the status code, or the cause
// where there was none. The first three digits of a status line are its code.
var answerSQL = `coalesce(CASE WHEN o.last_error ~ '` + status(400, 499) + `'
		OR o.last_error ~ '` + status(500, 599) + `'
		OR o.last_error ~ '^HTTP [1-3][0-9][0-9](:|$)'
	THEN substring(o.last_error from '[1-5][0-9][0-9]') END, ` + causeSQL("false") + `)`
