package platformapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	// listedPages is how many pages of the list are read: it is for people, who page through it.
	listedPages = 20
	// listTimeout bounds the reading of all of them, with the pauses that the platform asks for.
	listTimeout = time.Minute
	// limitedPause is for a platform that wants fewer requests, and does not say when.
	limitedPause = 5 * time.Second
	maxList      = 4 << 20
)

// DeadEntry is an entry of the list of those that are dead, without its text.
type DeadEntry struct {
	ID, ApplicationID int64
	Kid, Cause        string
	// Status is the HTTP status that was answered; 0 where none is known.
	Status int
	// DeadAt is zero where the list does not say.
	DeadAt time.Time
}

// DeadEntries are those that the list showed, each once.
type DeadEntries struct {
	Entries []DeadEntry
	// All says that the list had no others. Otherwise there are at least these.
	All bool
}

// listPage is the answer of a page, as far as it matters.
type listPage struct {
	Entries []struct {
		ID            int64      `json:"id"`
		ApplicationID int64      `json:"oauth_application_id"`
		Kid           string     `json:"kid"`
		Attempts      int        `json:"attempts"`
		DeadAt        *time.Time `json:"dlq_at"`
		LastError     string     `json:"last_error"`
	} `json:"entries"`
	Meta struct {
		Total *int `json:"total"`
	} `json:"meta"`
}

// DeadEntries reads the list of dead entries: GET /api/v1/admin/webhook_outbox?status=dead, at most 20 pages of it.
// classify makes a cause and a status code of each text, which goes no further. The list may change between two pages:
// then an entry is still there once, and others may be missing, which shows unless as many came as went. Where the
// platform wants fewer requests, it waits for as long as that, but no longer than a minute in all. What can't be read
// after the first page leaves at least what was.
func (a *Admin) DeadEntries(ctx context.Context,
	classify func(lastError string, attempts int) (cause string, code int)) (*DeadEntries, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	found, known, steady := &DeadEntries{}, map[int64]bool{}, true
	total := (*int)(nil)
	for number := 1; number <= listedPages; number++ {
		page, err := a.patientPage(ctx, number)
		if err != nil && number == 1 {
			return nil, err
		}
		if err != nil {
			return found, nil
		}
		steady = steady && (number == 1 || (total == nil) == (page.Meta.Total == nil) &&
			(total == nil || *total == *page.Meta.Total))
		total = page.Meta.Total
		before := len(known)
		for _, e := range page.Entries {
			if known[e.ID] {
				steady = false
				continue
			}
			known[e.ID] = true
			entry := DeadEntry{ID: e.ID, ApplicationID: e.ApplicationID, Kid: e.Kid}
			entry.Cause, entry.Status = classify(e.LastError, e.Attempts)
			if e.DeadAt != nil {
				entry.DeadAt = *e.DeadAt
			}
			found.Entries = append(found.Entries, entry)
		}
		// An empty page is the end. So is one that is all known, as where the platform knows no pages.
		ended := len(page.Entries) == 0 || total != nil && len(known) >= *total
		if ended || len(known) == before {
			found.All = ended && steady && (total == nil || len(known) == *total)
			return found, nil
		}
	}
	return found, nil
}

// patientPage is page, which it asks for again where the platform wants fewer requests and there is time for the pause.
func (a *Admin) patientPage(ctx context.Context, number int) (*listPage, error) {
	for {
		page, err := a.page(ctx, number)
		limited := (*outbound.Limited)(nil)
		if !errors.As(err, &limited) {
			return page, err
		}
		pause := cmp.Or(limited.After, limitedPause)
		if end, ok := ctx.Deadline(); ok && time.Until(end) < pause {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (a *Admin) page(ctx context.Context, number int) (*listPage, error) {
	answer, err := outbound.Do(ctx, a.transport, outbound.Call{
		Method: http.MethodGet, URL: a.url,
		Path:    "/api/v1/admin/webhook_outbox?status=dead&page=" + strconv.Itoa(number),
		Header:  map[string]string{"Authorization": "Bearer " + a.token},
		Secrets: []string{a.token}, MaxAnswer: maxList,
	})
	if err != nil {
		return nil, err
	}
	page := &listPage{}
	if answer.Status != http.StatusOK || json.Unmarshal(answer.Body, page) != nil || page.Entries == nil {
		return nil, answer.Err(code(answer.Body))
	}
	return page, nil
}
