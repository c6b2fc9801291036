// Package render is Render's API, as far as an incident needs it: what is deployed, the way back to an earlier deploy,
// and jobs. The shapes are those of render-oss/cli, pkg/client.
package render

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

const (
	// DefaultURL is where Render serves its API.
	DefaultURL = "https://api.render.com/v1"
	// maxAnswer bounds what is read of an answer. A hundred deploys are less than 100 KiB.
	maxAnswer = 1 << 20
	// pageSize is the most that Render lists at once.
	pageSize = 100
	// maxPages bounds what is read of a list.
	maxPages = 5
	// pause is how long Render is left alone where it says that there were too many calls, and not for how long.
	pause = 30 * time.Second
)

// Render takes 400 reads and 30 writes a minute. A bucket that holds half of that, and is refilled at half the rate,
// never exceeds it in any minute.
const (
	readBurst  = 200
	readEvery  = time.Minute / 200
	writeBurst = 15
	writeEvery = time.Minute / 15
)

// Client calls Render's API with one key. Render's limits are per key, so all who use a key should share its Client. It
// never waits for the limits: it answers *outbound.Limited, whose After is always set. Errors are outbound's; after one
// for which outbound.NoEffect is false, a write may have happened. None holds the key.
type Client struct {
	base      string
	key       string
	transport http.RoundTripper
	reads     *rate.Limiter
	writes    *rate.Limiter
}

// New makes a Client of the API at base. An empty base is DefaultURL, and a nil transport is outbound's.
func New(base, apiKey string, transport http.RoundTripper) *Client {
	return &Client{
		base: cmp.Or(base, DefaultURL), key: apiKey, transport: transport,
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

// write asks for an effect.
func (c *Client) write(ctx context.Context, method, path string, in, out any) error {
	return c.call(ctx, c.writes, method, path, in, out)
}

func (c *Client) call(ctx context.Context, budget *rate.Limiter, method, path string, in, out any) error {
	reserved := budget.Reserve()
	if wait := reserved.Delay(); wait > 0 {
		reserved.Cancel()
		return &outbound.Limited{After: max(wait, time.Second)}
	}
	answer, err := outbound.Do(ctx, c.transport, outbound.Call{
		Method: method, URL: c.base, Path: path, Body: in, MaxAnswer: maxAnswer, Secrets: []string{c.key},
		Header: map[string]string{"Authorization": "Bearer " + c.key, "Accept": "application/json"},
	})
	if err != nil {
		return err
	}
	if answer.Status/100 == 2 && json.Unmarshal(answer.Body, out) == nil {
		return nil
	}
	// A refusal is {id, message}; the id is a new one each time. What is no such JSON has no message.
	var said struct {
		Message string `json:"message"`
	}
	_ = json.Unmarshal(answer.Body, &said)
	err = answer.Err(said.Message)
	if limited := (*outbound.Limited)(nil); errors.As(err, &limited) {
		limited.After = cmp.Or(limited.After, pause)
	}
	return err
}

// page of a list. Each element is {cursor, <what>: …}.
type page []map[string]json.RawMessage

// list reads one page of path. next is empty after the last page.
func list[T any](
	ctx context.Context, c *Client, path, what string, query url.Values, limit int, cursor string,
) (items []T, next string, err error) {
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
