package platformdb_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// awkward values mean something to SQL, to a pattern, to a shell or to Unicode, and must mean nothing to a selector.
var awkward = []string{
	"user.updated", "USER.UPDATED", "user%", "user_updated", "%", "_", `\`, `'`, `''`, `"`, ";", "'; DROP TABLE " +
		"webhook_outbox_entries; --", "$1", "@application", "?",
	"{a,b}", "a,b", "{}", "NULL", "null", " ", " user.updated", "user.updated " +
		"", "user.updated\n", "user.*", "é", "e\u0301", "ß", "ss", "ﬀ", "🔑", "\u202e", "E'\\047'",
}

// beginnings of last_error, right and almost right.
var beginnings = []string{
	"", "HTTP 503", "HTTP 500:", "HTTP 599: ", "HTTP 408", "HTTP 429: ", "HTTP 401", "HTTP 409: ", "HTTP 409", "HTTP " +
		"422:", "HTTP 4099", "HTTP 50", "HTTP 301: ", "http 503", " HTTP 503",
	"\nHTTP 503", "HTTP 503\n", "HTTP 409 ", "Net::ReadTimeout", "Net::OpenTimeout: " +
		"", "Net::Timeout", "Errno::ETIMEDOUT: ", "Errno::ECONNREFUSED", "Errno::EPIPE: ", "SocketError: " +
		"", "Socket", "EOFError",
	"409 Conflict", "409", "422: ", "503 ", "503 Service Unavailable", "HTTP 422 Unprocessable Entity: ", "HTTP 503 " +
		"Conflict",
	"HTTP/1.1 503 Service Unavailable", "HTTP/1.1 409", "HTTP/2 429: ", "HTTP/11 503", "HTTP/1.1  503", "504 Gateway " +
		"Time-out",
	"503 Service Temporarily Unavailable: ", "401 Client Error: ", "500 Client Error: ", "execution " +
		"expired", "execution " +
		"expired: ", "execution expired at dawn", "expected 200, got 502", "the server responded with status 409",
	"the server responded with status 40", "the server responded with status 5033", "Net::ReadTimeout with " +
		"#<TCPSocket:(closed)>", "Connection refused - connect(2)", "Connection refused by the party", "end of file reached",
	"OpenSSL::SSL::SSLError: ", "Faraday::TimeoutError", "Faraday::ConnectionFailed: ", "Timeout: HTTP 503: ",
}

// row is an outbox entry as the test knows it.
type row struct {
	id, application  int64
	eventType        string
	attempts         int
	lastError        *string
	diedAt           *time.Time
	delivered        bool
	requeuedByReplay bool
}

// cause is what the dispatcher's words say, read without a pattern.
func (r row) cause() string {
	if r.attempts == 0 || r.lastError == nil {
		return "Unknown"
	}
	word, _, _ := strings.Cut(*r.lastError, ":")
	// The names of Ruby's exceptions have colons of their own.
	for name, cause := range map[string]string{
		"Net::OpenTimeout": "Timeout", "Net::ReadTimeout": "Timeout", "Net::WriteTimeout": "Timeout",
		"Timeout::Error": "Timeout", "Errno::ETIMEDOUT": "Timeout",
		"Faraday::TimeoutError": "Timeout", "HTTP::TimeoutError": "Timeout",
		"Errno::ECONNREFUSED": "ServerError", "Errno::ECONNRESET": "ServerError", "Errno::EHOSTUNREACH": "ServerError",
		"Errno::ENETUNREACH": "ServerError",
		"Errno::EPIPE":       "ServerError", "SocketError": "ServerError", "EOFError": "ServerError",
		"OpenSSL::SSL::SSLError":    "ServerError",
		"Faraday::ConnectionFailed": "ServerError", "Faraday::SSLError": "ServerError",
	} {
		if rest, ok := strings.CutPrefix(*r.lastError, name); ok && (rest == "" || rest[0] == ':') {
			return cause
		}
	}
	if rest, ok := strings.CutPrefix(*r.lastError, "Net::ReadTimeout with #<"); ok && rest != "" {
		return "Timeout"
	}
	for message, cause := range map[string]string{
		"execution expired": "Timeout", "Connection refused": "ServerError", "end of file reached": "ServerError",
	} {
		if rest, ok := strings.CutPrefix(*r.lastError, message); ok &&
			(rest == "" || rest[0] == ':' || strings.HasPrefix(rest, " - ")) {
			return cause
		}
	}
	code := statusIn(word)
	if code == "" {
		return "Unknown"
	}
	switch {
	case code == "408", code == "429":
		return "RateLimited"
	case code == "401":
		return "SignatureRejected"
	case code == "409" && (r.attempts > 1 || r.requeuedByReplay):
		return "IdempotencyConflict"
	case code[0] == '5':
		return "ServerError"
	case code[0] == '4':
		return "ClientError"
	}
	return "Unknown"
}

// statusIn reads the code of a status line, or nothing where its words are not exactly one's.
func statusIn(line string) string {
	if code, ok := strings.CutPrefix(line, "the server responded with status "); ok {
		if len(code) != 3 || strings.Trim(code, "0123456789") != "" {
			return ""
		}
		return code
	}
	for _, prefix := range []string{"HTTP ", "HTTP/1.1 ", "HTTP/1.0 ", "HTTP/2 "} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			line = rest
			break
		}
	}
	code, phrase, spoken := strings.Cut(line, " ")
	if len(code) != 3 || strings.Trim(code, "0123456789") != "" {
		return ""
	}
	if spoken && !slices.Contains(map[string][]string{
		"409": {"Conflict"}, "422": {"Unprocessable Entity"}, "503": {"Service Unavailable",
			"Service Temporarily Unavailable"},
		"504": {"Gateway Time-out"},
	}[code], phrase) && phrase != map[byte]string{'4': "Client Error", '5': "Server Error"}[code[0]] {
		return ""
	}
	return code
}

func (r row) isSelected(s platformdb.Selection, cutoff time.Time) bool {
	return r.application == s.ApplicationID && r.diedAt != nil && !r.delivered && !r.diedAt.After(cutoff) &&
		(s.EventTypes == nil || slices.Contains(s.EventTypes, r.eventType)) &&
		(s.DeadAfter == nil || !r.diedAt.Before(*s.DeadAfter)) &&
		(s.DeadBefore == nil || r.diedAt.Before(*s.DeadBefore)) &&
		(s.EntryIDs == nil || slices.Contains(s.EntryIDs, r.id)) &&
		!slices.Contains(s.ExcludeIDs, r.id) &&
		(s.Causes == nil || slices.Contains(s.Causes, r.cause()))
}

var (
	words = rapid.OneOf(rapid.SampledFrom(awkward),
		rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 })))
	// times are few, so that the ends of a span are hit exactly.
	times = rapid.Custom(func(t *rapid.T) time.Time {
		return time.Date(2026, 1, 2, 3, 4, rapid.IntRange(0, 3).Draw(t, "s"), rapid.IntRange(0, 1).Draw(t, "µs")*1000,
			time.UTC)
	})
	rowsGenerator = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) row {
		r := row{
			application: rapid.Int64Range(1, 2).Draw(t, "application"), eventType: words.Draw(t,
				"event type"), attempts: rapid.IntRange(0, 3).Draw(t, "attempts"),
			delivered: rapid.IntRange(0, 9).Draw(t, "delivered") == 0, requeuedByReplay: rapid.Bool().Draw(t,
				"requeued by a replay"),
		}
		if rapid.IntRange(0, 9).Draw(t, "has error") > 0 {
			text := rapid.SampledFrom(beginnings).Draw(t, "beginning") + words.Draw(t, "rest")
			r.lastError = &text
		}
		if rapid.IntRange(0, 9).Draw(t, "dead") > 0 {
			at := times.Draw(t, "died at")
			if rapid.IntRange(0, 9).Draw(t, "after the cutoff") == 0 {
				at = at.AddDate(1000, 0, 0)
			}
			r.diedAt = &at
		}
		return r
	}), 0, 30)
	allCauses = []string{"ServerError", "Timeout", "RateLimited", "SignatureRejected", "IdempotencyConflict",
		"ClientError", "Unknown"}
)

func drawSelection(t *rapid.T, rows []row) platformdb.Selection {
	s := platformdb.Selection{ApplicationID: rapid.Int64Range(1, 2).Draw(t, "application"), Conflicts: "Settle",
		MaxReplays: 3}
	narrows := func(by string) bool { return rapid.IntRange(0, 2).Draw(t, "narrows by "+by) == 0 }
	if narrows("event type") {
		candidates := words
		if len(rows) > 0 {
			candidates = rapid.OneOf(words, rapid.Map(rapid.SampledFrom(rows), func(r row) string { return r.eventType }))
		}
		s.EventTypes = rapid.SliceOfN(candidates, 1, 4).Draw(t, "event types")
	}
	if narrows("cause") {
		s.Causes = rapid.SliceOfNDistinct(rapid.SampledFrom(allCauses), 1, 7, rapid.ID[string]).Draw(t, "causes")
	}
	if narrows("entry") {
		s.EntryIDs = rapid.SliceOfN(rapid.Int64Range(1, 40), 1, 20).Draw(t, "entries")
	}
	if narrows("exclusion") {
		s.ExcludeIDs = rapid.SliceOfN(rapid.Int64Range(1, 40), 1, 20).Draw(t, "excluded entries")
	}
	if narrows("earliest death") {
		s.DeadAfter = new(times.Draw(t, "dead after"))
	}
	if narrows("latest death") {
		s.DeadBefore = new(times.Draw(t, "dead before"))
	}
	return s
}

func TestASelectorsValuesAreData(t *testing.T) {
	ctx := t.Context()
	postgres := startPostgres(t, nil)
	db, err := platformdb.Open(postgres.URL("postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn := connect(t, postgres)
	exec := func(t interface{ Fatalf(string, ...any) }, sql string, args ...any) {
		if _, err := conn.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(t, `INSERT INTO oauth_applications (id, name, uid, secret) VALUES (1, 'one', '1', ''), (2, 'two', '2', '')`)

	n := 0
	rapid.Check(t, func(t *rapid.T) {
		rows := rowsGenerator.Draw(t, "rows")
		selection := drawSelection(t, rows)
		exec(t, `TRUNCATE webhook_outbox_entries, playbook.replay_entries`)
		for i := range rows {
			r := &rows[i]
			r.id = int64(i + 1)
			exec(t, `INSERT INTO webhook_outbox_entries (id, oauth_application_id, event_type, idempotency_key, kid,
					signature, attempts, enqueued_at, delivered_at, dlq_at, last_error)
				VALUES ($1, $2, $3, $1::bigint::text, 'kid', '', $4, now() + $1::bigint * interval '1 s',
					CASE WHEN $5 THEN now() END, $6::timestamp, $7)`,
				r.id, r.application, r.eventType, r.attempts, r.delivered, r.diedAt, r.lastError)
			if r.requeuedByReplay {
				exec(t, `INSERT INTO playbook.replay_entries
						(entry_id, operation_id, acted_at, batch, action, outcome)
					VALUES ($1, 0, now(), 1, 'requeued', 'died')`, r.id)
			}
		}
		n++
		id := platformdb.Identity{UID: fmt.Sprintf("00000000-0000-0000-0000-%012d", n), Kind: "DLQReplay", Namespace: "n",
			Name: "r", SpecDigest: "d", ApplicationID: selection.ApplicationID}
		op, err := db.OpenOperation(ctx, id)
		if err == nil {
			op, err = db.Plan(ctx, id.UID, selection, 1000)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := db.RemainingEntries(ctx, op)
		if err != nil {
			t.Fatal(err)
		}
		var want []int64
		causes := map[string]int64{}
		for _, r := range rows {
			if r.isSelected(selection, op.Cutoff) {
				want = append(want, r.id)
				causes[r.cause()]++
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("the plan selects %v and should select %v", got, want)
		}
		for _, c := range op.Plan.Causes {
			if causes[c.Cause] != c.Entries {
				t.Fatalf("the plan counts %d of %s and should count %d", c.Entries, c.Cause, causes[c.Cause])
			}
		}
		if len(op.Plan.Causes) != len(causes) {
			t.Fatalf("the plan counts %v and should count %v", op.Plan.Causes, causes)
		}
	})
}
