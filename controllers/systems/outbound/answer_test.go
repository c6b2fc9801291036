package outbound_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

func TestWhenToComeBackIsReadInEveryForm(t *testing.T) {
	t.Parallel()
	date := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC) // the server's clock, which is not ours
	in := func(d time.Duration) string { return date.Add(d).Format(http.TimeFormat) }
	epoch := func(d time.Duration) string { return strconv.FormatInt(date.Add(d).Unix(), 10) }
	for name, c := range map[string]struct {
		header map[string]string
		want   time.Duration
	}{
		"none":                        {nil, 0},
		"Retry-After in seconds":      {map[string]string{"Retry-After": " 7 "}, 7 * time.Second},
		"Retry-After as a date":       {map[string]string{"Retry-After": in(9 * time.Second)}, 9 * time.Second},
		"Ratelimit-Reset in seconds":  {map[string]string{"Ratelimit-Reset": "42"}, 42 * time.Second},
		"Ratelimit-Reset as an epoch": {map[string]string{"Ratelimit-Reset": epoch(43 * time.Second)}, 43 * time.Second},
		"both":                        {map[string]string{"Retry-After": "5", "Ratelimit-Reset": "42"}, 5 * time.Second},
		"one that can't be read":      {map[string]string{"Retry-After": "soon", "Ratelimit-Reset": "42"}, 42 * time.Second},
		"neither can be read":         {map[string]string{"Retry-After": "soon", "Ratelimit-Reset": "later"}, 0},
		"none to wait":                {map[string]string{"Retry-After": "0"}, time.Second},
		"a date gone by":              {map[string]string{"Retry-After": in(-time.Hour)}, time.Second},
		"an epoch gone by":            {map[string]string{"Ratelimit-Reset": epoch(-time.Hour)}, time.Second},
		"negative":                    {map[string]string{"Retry-After": "-3"}, time.Second},
		"five minutes":                {map[string]string{"Retry-After": "300"}, 5 * time.Minute},
		"an hour":                     {map[string]string{"Retry-After": "3600"}, 5 * time.Minute},
		"a date far away":             {map[string]string{"Retry-After": in(1000 * time.Hour)}, 5 * time.Minute},
		"too large":                   {map[string]string{"Ratelimit-Reset": "9223372036854775807"}, 5 * time.Minute},
		"larger than any number":      {map[string]string{"Retry-After": "99999999999999999999"}, 5 * time.Minute},
		"smaller than any number":     {map[string]string{"Retry-After": "-99999999999999999999"}, time.Second},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for name, value := range c.header {
				w.Header().Set(name, value)
			}
			w.Header().Set("Date", date.Format(http.TimeFormat))
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		err := post(t.Context(), nil, server.URL)
		server.Close()
		limited := (*outbound.Limited)(nil)
		if !errors.As(err, &limited) || limited.After != c.want || limited.Status != http.StatusTooManyRequests {
			t.Errorf("%s: %v %+v, want %v", name, err, limited, c.want)
		}
	}
}

// A limit at our end is one at which nothing was sent.
func TestWhatALimitSays(t *testing.T) {
	t.Parallel()
	for text, err := range map[string]error{
		"not sent: the limit of calls is reached": &outbound.Limited{After: time.Second},
		"limited with HTTP 429":                   &outbound.Limited{Status: 429},
	} {
		expect(t, text, err, "limited", text)
	}
}
