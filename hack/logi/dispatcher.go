package logi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	due = `e.delivered_at IS NULL AND e.dlq_at IS NULL
		AND (e.next_retry_at IS NULL OR e.next_retry_at <= clock_timestamp())`
	taking = `SELECT e.id, e.oauth_application_id, e.event_type, e.payload::text, e.idempotency_key, e.signature,
		e.attempts, coalesce(a.webhook_url, '')
	FROM webhook_outbox_entries e JOIN oauth_applications a ON a.id = e.oauth_application_id WHERE ` + due

	// ClaimQuery takes the entry that is due first. Its row lock is held during the HTTP call, until the attempt has been
	// recorded.
	ClaimQuery = taking + ` ORDER BY e.enqueued_at, e.id LIMIT 1 FOR UPDATE OF e SKIP LOCKED`
	claimOne   = taking + ` AND e.id = $1 FOR UPDATE OF e SKIP LOCKED`
)

// idle is how long a worker waits after it found nothing.
const idle = 20 * time.Millisecond

func (s *Server) work(ctx context.Context) {
	for ctx.Err() == nil {
		// An error comes from the database, which tests stop. The platform's own dispatcher is restarted, too, until the
		// database is back.
		if delivered, err := s.deliverOne(ctx, ClaimQuery); err == nil && delivered {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(idle):
		}
	}
}

// DispatchOnce attempts each entry that is due once, and returns how many. An entry that becomes due during the call
// waits for the next call. Otherwise a replay, which adds entries as others are sent, would keep it going to its end.
func (s *Server) DispatchOnce(ctx context.Context) (int, error) {
	rows, err := s.pool.Query(ctx, `SELECT e.id FROM webhook_outbox_entries e WHERE `+due+` ORDER BY e.enqueued_at, e.id`)
	if err != nil {
		return 0, fmt.Errorf("looking for entries that are due: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return 0, fmt.Errorf("looking for entries that are due: %w", err)
	}
	n := 0
	for _, id := range ids {
		delivered, err := s.deliverOne(ctx, claimOne, id)
		if err != nil {
			return n, err
		}
		if delivered {
			n++
		}
	}
	return n, nil
}

type claimed struct {
	id, application int64
	eventType       string
	body            string
	key, signature  string
	attempts        int
	url             string
	answered        int    // HTTP status, 0 without an answer
	problem         string // for last_error
}

// deliverOne attempts the entry that a query claims. It returns false if the query claims none.
func (s *Server) deliverOne(ctx context.Context, claim string, args ...any) (delivered bool, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var e claimed
		err := tx.QueryRow(ctx, claim, args...).Scan(&e.id, &e.application, &e.eventType, &e.body, &e.key, &e.signature,
			&e.attempts, &e.url)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claiming an entry: %w", err)
		}
		delivered = true
		s.attempt(ctx, &e)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.writeDown(ctx, tx, &e)
	})
	return delivered && err == nil, err
}

// attempt posts the webhook.
func (s *Server) attempt(ctx context.Context, e *claimed) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, strings.NewReader(e.body))
	if err != nil {
		e.problem = "URI::InvalidURIError: " + err.Error()
		return
	}
	// net/http may send a request with an Idempotency-Key again by itself. Then one attempt would become two.
	request.GetBody = nil
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", e.key)
	request.Header.Set("Webhook-Event", e.eventType)
	request.Header.Set("Webhook-Signature", e.signature)
	response, err := s.client.Do(request)
	if err != nil {
		e.problem = rubyError(err)
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 200))
	if err != nil {
		e.problem = rubyError(err)
		return
	}
	e.answered = response.StatusCode
	if e.answered >= 300 {
		e.problem = fmt.Sprintf("HTTP %d: %s", e.answered, bytes.TrimSpace(body))
	}
}

// rubyError names a network error as the platform's Net::HTTP does.
func rubyError(err error) string {
	var network net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Errno::ECONNREFUSED: Failed to open TCP connection"
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "Net::ReadTimeout: Net::ReadTimeout"
	case errors.Is(err, syscall.ECONNRESET):
		return "Errno::ECONNRESET: Connection reset by peer"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "EOFError: end of file reached"
	}
	return "SocketError: " + err.Error()
}

// writeDown records an attempt by the platform's rule. A 2xx is delivered. A 5xx, 408, 429 or no answer is retried with
// backoff. Any other answer makes the entry dead at once.
func (s *Server) writeDown(ctx context.Context, tx pgx.Tx, e *claimed) error {
	attempts := e.attempts + 1
	retried := e.answered == 0 || e.answered >= 500 || e.answered == http.StatusRequestTimeout ||
		e.answered == http.StatusTooManyRequests
	var sql string
	args := []any{e.id, attempts}
	switch {
	case e.problem == "", s.config.Settle409 && e.answered == http.StatusConflict && attempts > 1:
		sql = `delivered_at = clock_timestamp(), next_retry_at = NULL, last_error = NULL`
	case retried && attempts <= len(s.config.Backoff):
		sql = `next_retry_at = clock_timestamp() + $4::bigint * interval '1 microsecond', last_error = $3`
		args = append(args, e.problem, s.config.Backoff[attempts-1].Microseconds())
	default:
		sql = `dlq_at = clock_timestamp(), next_retry_at = NULL, last_error = $3`
		args = append(args, e.problem)
	}
	if _, err := tx.Exec(ctx, `UPDATE webhook_outbox_entries SET attempts = $2, updated_at = clock_timestamp(), `+sql+
		` WHERE id = $1`, args...); err != nil {
		return fmt.Errorf("writing down an attempt: %w", err)
	}
	return nil
}
