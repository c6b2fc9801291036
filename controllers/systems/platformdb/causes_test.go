package platformdb_test

import (
	"fmt"
	"testing"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// Dispatchers write what their HTTP library says. What is recognised is a closed list, and the relying party's own
// words never decide.
func TestWhatOtherDispatchersWriteIsRecognised(t *testing.T) {
	postgres := startPostgres(t, nil)
	db, err := platformdb.Open(postgres.URL("postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn := connect(t, postgres)
	if _, err := conn.Exec(t.Context(),
		`INSERT INTO oauth_applications (id, name, uid, secret) VALUES (1, 'one', '1', '')`); err != nil {
		t.Fatal(err)
	}
	id := int64(0)
	for lastError, cause := range map[string]string{
		"422: order 503 unknown":                                        "ClientError",
		"HTTP 422 Unprocessable Entity: order 503 unknown":              "ClientError",
		"422 Unprocessable Content":                                     "ClientError",
		"HTTP/1.1 503 Service Unavailable":                              "ServerError",
		"HTTP/2 503":                                                    "ServerError",
		"503 Service Temporarily Unavailable":                           "ServerError",
		"504 Gateway Time-out":                                          "ServerError",
		"502 Server Error: Bad Gateway for url: https://acme.example/h": "ServerError",
		"500":                                 "ServerError",
		"599: network connect timeout":        "ServerError",
		"409 Conflict":                        "IdempotencyConflict",
		"409":                                 "IdempotencyConflict",
		"HTTP/1.1 409 Conflict: seen already": "IdempotencyConflict",
		"409 Client Error: Conflict for url: https://acme.example/h":            "IdempotencyConflict",
		"the server responded with status 409":                                  "IdempotencyConflict",
		"the server responded with status 503":                                  "ServerError",
		"401 Unauthorized":                                                      "SignatureRejected",
		"HTTP/1.1 429 Too Many Requests":                                        "RateLimited",
		"408 Request Timeout":                                                   "RateLimited",
		"execution expired":                                                     "Timeout",
		"Net::OpenTimeout: execution expired":                                   "Timeout",
		"Net::ReadTimeout with #<TCPSocket:(closed)>":                           "Timeout",
		"Connection timed out - connect(2) for 192.0.2.1:443":                   "Timeout",
		"Failed to open TCP connection to acme.example:443 (execution expired)": "Timeout",
		"Connection reset by peer":                                              "ServerError",
		"Connection refused - connect(2) for 192.0.2.1:443":                     "ServerError",
		"end of file reached":                                                   "ServerError",
		"getaddrinfo: Name or service not known":                                "ServerError",
		"Failed to open TCP connection to a:443 (Connection refused - connect)": "ServerError",
		"Failed to open TCP connection to a:443 (getaddrinfo: Name not known)":  "ServerError",
		"expected 200, got 502":                                                 "Unknown",
		"got 409 Conflict":                                                      "Unknown",
		"409 orders are in conflict":                                            "Unknown",
		"503 orders are unknown: try again":                                     "Unknown",
		"HTTP 503 was expected, and 200 came":                                   "Unknown",
		"HTTP 409 Service Unavailable":                                          "Unknown",
		"4090: ticket":                                                          "Unknown",
		"409.5: price":                                                          "Unknown",
		"409-1: part":                                                           "Unknown",
		" 409 Conflict":                                                         "Unknown",
		"\n409 Conflict":                                                        "Unknown",
		"409 Conflict\nof interests":                                            "Unknown",
		"HTTP/1.1 200 OK":                                                       "Unknown",
		"200: HTTP 503":                                                         "Unknown",
		"HTTPS 503":                                                             "Unknown",
		"HTTP/1.1.1 503":                                                        "Unknown",
		"the server responded with status 5031":                                 "Unknown",
		"the server responded with statuses 503":                                "Unknown",
		"execution expired yesterday":                                           "Unknown",
		"Connection refused by our lawyers":                                     "Unknown",
		"My 500: fiat":                                                          "Unknown",
		"":                                                                      "Unknown",
	} {
		id++
		if _, err := conn.Exec(t.Context(), `TRUNCATE webhook_outbox_entries`); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), `INSERT INTO webhook_outbox_entries
			(id, oauth_application_id, event_type, idempotency_key, kid, signature, attempts, enqueued_at, dlq_at, last_error)
			VALUES ($1, 1, 'a', $1::bigint::text, 'kid', '', 2, now(), now() AT TIME ZONE 'UTC', $2)`,
			id, lastError); err != nil {
			t.Fatal(err)
		}
		uid := fmt.Sprintf("00000000-0000-0000-0000-%012d", id)
		_, err := db.OpenOperation(t.Context(), platformdb.Identity{UID: uid, Kind: "DLQReplay", ApplicationID: 1})
		if err != nil {
			t.Fatal(err)
		}
		op, err := db.Plan(t.Context(), uid, platformdb.Selection{ApplicationID: 1, Conflicts: "Settle", MaxReplays: 3}, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(op.Plan.Causes) != 1 || op.Plan.Causes[0].Cause != cause {
			t.Errorf("%q: %v, want %s", lastError, op.Plan.Causes, cause)
		}
	}
}
