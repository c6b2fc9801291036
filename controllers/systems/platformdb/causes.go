package platformdb

import (
	"fmt"
	"strings"
)

// causes is the closed list of what the dispatcher writes to last_error, in the order in which the patterns are tried.
// Each is anchored at the start, so that digits in the relying party's own words decide nothing; what none matches is
// Unknown.
//
// The words before the first colon are the dispatcher's (the HTTP status, or the Ruby exception's class); those after
// it are the relying party's.
var causes = []struct {
	name    string
	pattern string
}{
	{"RateLimited", `^HTTP (408|429)(:|$)`},
	{"SignatureRejected", `^HTTP 401(:|$)`},
	{conflict, conflictPattern},
	{"ServerError", `^HTTP 5[0-9][0-9](:|$)`},
	{"ClientError", `^HTTP 4[0-9][0-9](:|$)`},
	{"Timeout", `^(Net::(Open|Read|Write)Timeout|Timeout::Error|Errno::ETIMEDOUT|Faraday::TimeoutError|HTTP::TimeoutError)(:|$)`},
	{"ServerError", `^(Errno::(ECONNREFUSED|ECONNRESET|EHOSTUNREACH|ENETUNREACH|EPIPE)|SocketError|EOFError|OpenSSL::SSL::SSLError|Faraday::(ConnectionFailed|SSLError))(:|$)`},
}

const (
	conflict        = "IdempotencyConflict"
	conflictPattern = `^HTTP 409(:|$)`
	unknown         = "Unknown"
)

// conflictSQL says whether an outbox row o died of an idempotency conflict. A 409 is one only on a retry: the first
// attempt can't have been preceded by a delivery, and is a ClientError like another 4xx. Requeueing resets attempts,
// hence requeuedBefore, an SQL condition: whether a replay requeued the row earlier.
func conflictSQL(requeuedBefore string) string {
	return `(o.last_error LIKE 'HTTP 409%' AND o.last_error ~ '` + conflictPattern +
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
// where there was none.
var answerSQL = `coalesce(substring(o.last_error from '^HTTP ([1-5][0-9][0-9])(?::|$)'), ` + causeSQL("false") + `)`
