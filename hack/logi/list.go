package logi

import (
	"context"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// ListFault is what happens to the list of dead entries while somebody reads it. The zero ListFault is no fault.
type ListFault struct {
	// AfterPage is the page after whose answer it happens; 0 is before the first one.
	AfterPage int `json:"afterPage,omitempty"`
	// Limited is to how many requests 429 is answered, with RetryAfterSeconds where that is not 0.
	Limited           int `json:"limited,omitempty"`
	RetryAfterSeconds int `json:"retryAfterSeconds,omitempty"`
	// Leave is how many of the oldest dead entries somebody requeues, and Enter how many of the oldest that wait die.
	Leave int `json:"leave,omitempty"`
	Enter int `json:"enter,omitempty"`
}

// SetListFault says what happens to the list of dead entries.
func (s *Server) SetListFault(fault ListFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = fault
}

// ListReads are how often each page of the list was asked for, refusals included.
func (s *Server) ListReads() map[int]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.listReads)
}

// limited answers 429 where the fault says so.
func (s *Server) limited(w http.ResponseWriter, page int) bool {
	s.mu.Lock()
	s.listReads[page]++
	fault := s.list
	hit := fault.Limited > 0 && page > fault.AfterPage
	if hit {
		s.list.Limited--
	}
	s.mu.Unlock()
	if !hit {
		return false
	}
	if fault.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfterSeconds))
	}
	fail(w, http.StatusTooManyRequests, "rate_limited", "too many requests")
	return true
}

// changeList lets entries leave and enter the list, once.
func (s *Server) changeList(ctx context.Context, page int) error {
	s.mu.Lock()
	fault := s.list
	if page == fault.AfterPage {
		s.list.Leave, s.list.Enter = 0, 0
	}
	s.mu.Unlock()
	if page != fault.AfterPage || fault.Leave+fault.Enter == 0 {
		return nil
	}
	_, err := s.pool.Exec(ctx, `WITH leaving AS (
			UPDATE webhook_outbox_entries SET dlq_at = NULL, next_retry_at = NULL, attempts = 0,
				enqueued_at = clock_timestamp(), updated_at = clock_timestamp()
			WHERE id IN (SELECT id FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL AND delivered_at IS NULL
				ORDER BY id LIMIT $1)
		)
		UPDATE webhook_outbox_entries SET dlq_at = clock_timestamp(), attempts = 7,
			last_error = 'HTTP 503: Service Unavailable', updated_at = clock_timestamp()
		WHERE id IN (SELECT id FROM webhook_outbox_entries WHERE dlq_at IS NULL AND delivered_at IS NULL
			ORDER BY id LIMIT $2)`, fault.Leave, fault.Enter)
	return err
}

const perPage = 50

type outboxEntry struct {
	ID                 int64      `json:"id" db:"id"`
	OAuthApplicationID int64      `json:"oauth_application_id" db:"oauth_application_id"`
	EventType          string     `json:"event_type" db:"event_type"`
	IdempotencyKey     string     `json:"idempotency_key" db:"idempotency_key"`
	Kid                string     `json:"kid" db:"kid"`
	Attempts           int        `json:"attempts" db:"attempts"`
	EnqueuedAt         time.Time  `json:"enqueued_at" db:"enqueued_at"`
	DLQAt              *time.Time `json:"dlq_at" db:"dlq_at"`
	LastError          *string    `json:"last_error" db:"last_error"`
}

// listOutbox answers GET /api/v1/admin/webhook_outbox?status=dead&page=1.
func (s *Server) listOutbox(w http.ResponseWriter, r *http.Request) {
	if status := r.URL.Query().Get("status"); status != "dead" {
		fail(w, http.StatusUnprocessableEntity, "invalid_status", "status must be dead")
		return
	}
	page := 1
	if text := r.URL.Query().Get("page"); text != "" {
		var err error
		if page, err = strconv.Atoi(text); err != nil || page < 1 {
			fail(w, http.StatusUnprocessableEntity, "invalid_page", "page must be a number from 1 on")
			return
		}
	}
	if s.limited(w, page) {
		return
	}
	var total int
	err := s.pool.QueryRow(r.Context(),
		`SELECT count(*) FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL AND delivered_at IS NULL`).Scan(&total)
	var rows pgx.Rows
	if err == nil {
		rows, err = s.pool.Query(r.Context(), `SELECT id, oauth_application_id, event_type, idempotency_key, kid,
				attempts, enqueued_at, dlq_at, last_error
			FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL AND delivered_at IS NULL
			ORDER BY id LIMIT $1 OFFSET $2`, perPage, (page-1)*perPage)
	}
	var entries []outboxEntry
	if err == nil {
		entries, err = pgx.CollectRows(rows, pgx.RowToStructByName[outboxEntry])
	}
	if err == nil {
		err = s.changeList(r.Context(), page)
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, "internal", err.Error())
		return
	}
	respond(w, http.StatusOK,
		map[string]any{"entries": entries, "meta": map[string]int{"page": page, "per_page": perPage, "total": total}})
}
