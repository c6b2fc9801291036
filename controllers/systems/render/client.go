// Package render is Render's API, as far as an incident needs it: what is deployed, back to an earlier deploy, and jobs.
// Shapes are those of render-oss/cli, pkg/client.
package render

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/time/rate"
)

const (
	// DefaultURL is where Render serves its API.
	DefaultURL = "https://api.render.com/v1"
	// Timeout bounds a call: connecting, asking and reading the answer. An outcome can be looked for after that.
	Timeout = 10 * time.Second
	// maxAnswer bounds what is read of an answer; a hundred deploys are less than 100 KiB.
	maxAnswer = 1 << 20
	// maxMessage bounds what is repeated of a refusal.
	maxMessage = 200
	// pageSize is the most that Render lists at once.
	pageSize = 100
	// maxPages bounds what is read of a list.
	maxPages = 5
)

// Render takes 400 reads and 30 writes a minute. A bucket that holds half and is refilled at half the rate never exceeds that in any minute.
const (
	readBurst  = 200
	readEvery  = time.Minute / 200
	writeBurst = 15
	writeEvery = time.Minute / 15
)

// Client calls Render's API with one key. The limits are the key's, so everyone who uses the key should share the Client; it never
// waits for them, but answers Limited.
type Client struct {
	base   string
	key    string
	client *http.Client
	reads  *rate.Limiter
	writes *rate.Limiter
}

// New makes a Client of the API at base, DefaultURL where it is empty. A nil transport is net/http's.
func New(base, apiKey string, transport http.RoundTripper) *Client {
	if base == "" {
		base = DefaultURL
	}
	return &Client{
		base: strings.TrimSuffix(base, "/"), key: apiKey,
		client: &http.Client{
			Transport: transport,
			Timeout:   Timeout,
			// A redirected call would reach another address with the key, or a POST become a GET.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		reads:  rate.NewLimiter(rate.Every(readEvery), readBurst),
		writes: rate.NewLimiter(rate.Every(writeEvery), writeBurst),
	}
}

// get reads into out.
func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.call(ctx, c.reads, http.MethodGet, path, nil, out)
}

// write asks for an effect. After an error for which NoEffect is false, it may have happened.
func (c *Client) write(ctx context.Context, method, path string, in, out any) error {
	return c.call(ctx, c.writes, method, path, in, out)
}

func (c *Client) call(ctx context.Context, budget *rate.Limiter, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		body = bytes.NewReader(text)
	}
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("%w: the API's URL can't be used", ErrNotSent)
	}
	// net/http would send the body again over a new connection where an idle one was closed under it.
	request.GetBody = nil
	request.Header.Set("Authorization", "Bearer "+c.key)
	request.Header.Set("Accept", "application/json")
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	reserved := budget.Reserve()
	if wait := reserved.Delay(); wait > 0 {
		reserved.Cancel()
		return &Limited{RetryAfter: bounded(wait)}
	}
	response, err := c.client.Do(request)
	if err != nil && !connected.Load() {
		return fmt.Errorf("%w: %w", ErrNotSent, plain(err))
	}
	if err != nil {
		return plain(err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusTooManyRequests:
		return &Limited{RetryAfter: retryAfter(response.Header)}
	case response.StatusCode/100 == 3:
		return &Refused{Status: response.StatusCode, Message: "a redirect, which is not followed"}
	case response.StatusCode/100 == 4:
		return &Refused{Status: response.StatusCode, Message: c.message(response.Body)}
	case response.StatusCode/100 != 2:
		return fmt.Errorf("the answer was HTTP %d", response.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("reading the answer: %w", plain(err))
	case len(answer) > maxAnswer:
		return errors.New("the answer is larger than 1 MiB")
	}
	if err := json.Unmarshal(answer, out); err != nil {
		kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
		return fmt.Errorf("the answer is not the JSON that was expected; its type is %.64q", kind)
	}
	return nil
}

// message is what a refusal says, in one line of bounded length. Render's errors are {id, message}; the id is another each time.
func (c *Client) message(body io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(body, maxAnswer)) // what is cut off is no JSON
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &said) != nil || c.key != "" && strings.Contains(said.Message, c.key) {
		return ""
	}
	line := strings.Join(strings.FieldsFunc(said.Message, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(line) > maxMessage {
		line = strings.ToValidUTF8(line[:maxMessage], "") + "…"
	}
	return line
}

// ErrNotSent says that a call never left, so that it can be made again.
var ErrNotSent = errors.New("the request was not sent")

// Refused says that Render answered, and did nothing.
type Refused struct {
	Status int
	// Message is Render's, where it gave one.
	Message string
}

func (e *Refused) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("HTTP %d", e.Status)
	}
	return fmt.Sprintf("HTTP %d: %s", e.Status, e.Message)
}

// Limited says that a call was one too many, by Render's count or by the Client's, and nothing was done.
type Limited struct {
	// RetryAfter is when to come back: between a second and five minutes.
	RetryAfter time.Duration
}

func (*Limited) Error() string { return "the rate limit of Render's API is reached" }

// NoEffect says of a failed write that it certainly did nothing. All else is open until the far side has been looked at.
func NoEffect(err error) bool {
	refused, limited := (*Refused)(nil), (*Limited)(nil)
	return errors.Is(err, ErrNotSent) || errors.As(err, &refused) || errors.As(err, &limited)
}

// retryAfter reads Retry-After, in seconds or as a date (RFC 9110, 10.2.3), and Ratelimit-Reset, which Render documents as an
// epoch and shows in seconds. Instants are the server's: they count from its Date.
func retryAfter(header http.Header) time.Duration {
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	after := strings.TrimSpace(header.Get("Retry-After"))
	if n, err := strconv.ParseInt(after, 10, 64); err == nil {
		return seconds(n)
	}
	if at, err := http.ParseTime(after); err == nil {
		return bounded(at.Sub(now))
	}
	n, err := strconv.ParseInt(strings.TrimSpace(header.Get("Ratelimit-Reset")), 10, 64)
	switch {
	case err != nil:
		return 30 * time.Second
	case n > 1e9: // 2001; no limit lasts for thirty years
		return seconds(n - now.Unix())
	}
	return seconds(n)
}

func seconds(n int64) time.Duration { return bounded(time.Duration(min(max(n, 0), 1e6)) * time.Second) }

// bounded keeps a clock that is wrong, or a far side that is, from stopping an incident.
func bounded(d time.Duration) time.Duration { return min(max(d, time.Second), 5*time.Minute) }

// plain takes out of an error what differs each time: net/http repeats the URL, and net both ends of the connection.
func plain(err error) error {
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		return errors.New("no answer in time")
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the answer broke off")
	}
	var asked *url.Error
	if errors.As(err, &asked) {
		return asked.Err
	}
	return err
}

// page of a list: each element is {cursor, <what>: …}.
type page []map[string]json.RawMessage

// list reads one page of path. next is empty after the last.
func list[T any](ctx context.Context, c *Client, path, what string, query url.Values, limit int, cursor string) (items []T, next string, err error) {
	query.Set("limit", strconv.Itoa(limit))
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	var answer page
	if err := c.get(ctx, path, query, &answer); err != nil {
		return nil, "", err
	}
	if answer == nil {
		return nil, "", errors.New("the answer is no list")
	}
	for _, element := range answer {
		var item T
		if err := json.Unmarshal(element[what], &item); err != nil {
			return nil, "", fmt.Errorf("the answer is no list of {cursor, %s}", what)
		}
		items = append(items, item)
	}
	if len(answer) < limit {
		return items, "", nil
	}
	if err := json.Unmarshal(answer[len(answer)-1]["cursor"], &next); err != nil || next == cursor {
		return nil, "", errors.New("the list goes on, and does not say where")
	}
	return items, next, nil
}
