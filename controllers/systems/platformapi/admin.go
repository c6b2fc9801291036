// Package platformapi is the identity platform's HTTP API.
package platformapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// RetryTimeout bounds a retry: connecting, asking and reading the answer.
const RetryTimeout = 10 * time.Second

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// Admin is the admin API, under /api/v1/admin.
type Admin struct {
	url    string
	token  string
	client *http.Client
}

// NewAdmin opens the admin API of the platform at url with an admin token. A nil transport is net/http's.
func NewAdmin(url, token string, transport http.RoundTripper) *Admin {
	return &Admin{url: strings.TrimSuffix(url, "/"), token: token, client: &http.Client{
		Transport: transport,
		Timeout:   RetryTimeout,
		// A redirected POST would reach another address with the token, or become a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Refused says that the admin API answered, and did nothing.
type Refused struct {
	Status int
	// Code is the platform's, where it gave one.
	Code string
}

func (e *Refused) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("HTTP %d", e.Status)
	}
	return fmt.Sprintf("HTTP %d (%s)", e.Status, e.Code)
}

// Unsent says that the request never left, so that it can be made again.
type Unsent struct{ Err error }

func (e *Unsent) Error() string { return "the request was not sent: " + e.Err.Error() }
func (e *Unsent) Unwrap() error { return e.Err }

// Retry asks for one entry to be requeued: POST /api/v1/admin/webhook_outbox/:id/retry, with the nonce of a step-up
// authentication, which is good once. An error that is neither Refused nor Unsent leaves open whether it happened.
func (a *Admin) Retry(ctx context.Context, id int64, nonce string) error {
	body, err := json.Marshal(map[string]string{"action_request_nonce": nonce})
	if err != nil {
		return &Unsent{Err: err}
	}
	connected := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/api/v1/admin/webhook_outbox/"+strconv.FormatInt(id, 10)+"/retry", bytes.NewReader(body))
	if err != nil {
		return &Unsent{Err: err}
	}
	// net/http would send the body again over a new connection where an idle one was closed under it.
	request.GetBody = nil
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if err != nil && !connected {
		return &Unsent{Err: err}
	}
	if err != nil {
		return fmt.Errorf("waiting for the answer: %w", err)
	}
	defer response.Body.Close()
	// What could be read of it; a code that is cut off is none.
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch response.StatusCode / 100 {
	case 2:
		// The status says that it happened, whatever became of the body.
		return nil
	case 3, 4:
		return &Refused{Status: response.StatusCode, Code: code(answer)}
	}
	return fmt.Errorf("the answer was HTTP %d", response.StatusCode)
}

var codePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// code is the error code of an answer, where it looks like one: nothing else of a far side's text goes into a status.
func code(answer []byte) string {
	var body struct {
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(answer, &body) != nil || !codePattern.MatchString(body.Error.Code) {
		return ""
	}
	return body.Error.Code
}
