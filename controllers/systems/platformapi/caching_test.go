package platformapi_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

// RFC 9111, section 4.2, as somebody reads it who asks until when anybody may believe an answer.
func TestHowLongAnAnswerMayBeBelieved(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	at := func(d time.Duration) string { return now.Add(d).Format("Mon, 02 Jan 2006 15:04:05 GMT") }
	const week, day = 7 * 24 * 3600, 24 * 3600
	type h map[string][]string
	for name, c := range map[string]struct {
		header             h
		max, fresh, staleS int64
	}{
		"max-age":                {h{"Cache-Control": {"public, max-age=300"}}, 300, 300, 0},
		"an age":                 {h{"Cache-Control": {"max-age=300"}, "Age": {"100"}}, 300, 200, 0},
		"several ages":           {h{"Cache-Control": {"max-age=300"}, "Age": {"100", "x", "50"}}, 300, 250, 0},
		"older than its max-age": {h{"Cache-Control": {"max-age=300"}, "Age": {"400"}}, 300, 0, 0},
		"no header":              {h{}, 3600, 3600, 0},
		"nothing said":           {h{"Cache-Control": {"public"}}, 3600, 3600, 0},
		"stale while revalidating": {h{"Cache-Control": {"max-age=10, stale-while-revalidate=60, stale-if-error=30"}}, 10, 10,
			60},
		"stale if error":            {h{"Cache-Control": {"max-age=10", "stale-if-error=90"}}, 10, 10, 90},
		"capitals and a repeat":     {h{"Cache-Control": {`Max-Age="20"`, "max-age=5"}}, 20, 20, 0},
		"repeated in one header":    {h{"Cache-Control": {"max-age=5, MAX-AGE=20, max-age=7"}}, 20, 20, 0},
		"escaped in quotes":         {h{"Cache-Control": {`max-age="2\0"`}}, 20, 20, 0},
		"spaces":                    {h{"Cache-Control": {" , max-age = 20 ,,"}}, 20, 20, 0},
		"a comma in quotes":         {h{"Cache-Control": {`ext="a, max-age=9000, no-store", max-age=5`}}, 5, 5, 0},
		"not to be kept":            {h{"Cache-Control": {"no-store, max-age=300"}}, 0, 0, 0},
		"not to be kept, elsewhere": {h{"Cache-Control": {"max-age=300", "no-store"}, "Expires": {at(time.Hour)}}, 0, 0, 0},
		"to be asked for again":     {h{"Cache-Control": {"no-cache, max-age=300, stale-if-error=30"}}, 0, 0, 0},
		"a field not to be reused":  {h{"Cache-Control": {`no-cache="Set-Cookie", max-age=300`}}, 300, 300, 0},
		"kept by who understands":   {h{"Cache-Control": {"no-store, must-understand, max-age=300"}}, 300, 300, 0},
		"must-revalidate":           {h{"Cache-Control": {"max-age=300, must-revalidate"}}, 300, 300, 0},
		"private":                   {h{"Cache-Control": {"private, max-age=300"}}, 300, 300, 0},
		"too large":                 {h{"Cache-Control": {"max-age=99999999999999999999"}}, 1<<31 - 1, 1<<31 - 1, 0},
		"no number":                 {h{"Cache-Control": {"max-age=-5"}, "Age": {"-3"}}, 3600, 3600, 0},
		"zero":                      {h{"Cache-Control": {"max-age=0"}}, 0, 0, 0},

		"shared caches":                 {h{"Cache-Control": {"max-age=300, s-maxage=600"}}, 600, 600, 0},
		"shared caches, shorter":        {h{"Cache-Control": {"s-maxage=60, max-age=300"}}, 300, 300, 0},
		"shared caches alone":           {h{"Cache-Control": {`s-maxage="600"`}, "Age": {"100"}}, 600, 500, 0},
		"shared caches, no number":      {h{"Cache-Control": {"s-maxage=soon, max-age=30"}}, 30, 30, 0},
		"expires":                       {h{"Date": {at(0)}, "Expires": {at(week * time.Second)}}, week, week, 0},
		"expires by the server's clock": {h{"Date": {at(-time.Hour)}, "Expires": {at(0)}}, 3600, 3600, 0},
		"expires after max-age": {h{"Date": {at(0)}, "Expires": {at(week * time.Second)},
			"Cache-Control": {"max-age=60"}}, week, week, 0},
		"expires before max-age": {h{"Date": {at(0)}, "Expires": {at(60 * time.Second)},
			"Cache-Control": {"max-age=600"}}, 600, 600, 0},
		"expires, with an age": {h{"Date": {at(0)}, "Expires": {at(600 * time.Second)}, "Age": {"100"}}, 600, 500,
			0},
		"expired":                     {h{"Date": {at(0)}, "Expires": {at(-time.Hour)}}, 0, 0, 0},
		"expires at no time":          {h{"Date": {at(0)}, "Expires": {"0"}}, 0, 0, 0},
		"expires at no time, max-age": {h{"Date": {at(0)}, "Expires": {"-1"}, "Cache-Control": {"max-age=60"}}, 60, 60, 0},
		"expires twice":               {h{"Date": {at(0)}, "Expires": {at(time.Minute), at(time.Hour)}}, 3600, 3600, 0},
		"expires as of old": {h{"Date": {now.Format(time.ANSIC)}, "Expires": {now.Add(time.Hour).Format("Monday, " +
			"02-Jan-06 15:04:05 GMT")}},
			3600, 3600, 0},
		"expires in a thousand years": {h{"Date": {at(0)}, "Expires": {"Tue, 01 Jan 3026 00:00:00 GMT"}}, 1<<31 - 1,
			1<<31 - 1, 0},
		"expires and stale": {h{"Date": {at(0)}, "Expires": {at(time.Hour)},
			"Cache-Control": {"stale-if-error=30"}}, 3600, 3600, 30},

		"a guess":                  {h{"Date": {at(0)}, "Last-Modified": {at(-100 * time.Hour)}}, 36000, 36000, 0},
		"a guess, capped":          {h{"Date": {at(0)}, "Last-Modified": {at(-10000 * time.Hour)}}, day, day, 0},
		"a guess, just modified":   {h{"Date": {at(0)}, "Last-Modified": {at(-time.Second)}}, 3600, 3600, 0},
		"a guess, from the future": {h{"Date": {at(0)}, "Last-Modified": {at(time.Hour)}}, 3600, 3600, 0},
		"a guess, no date":         {h{"Date": {at(0)}, "Last-Modified": {"yesterday"}}, 3600, 3600, 0},
		"a guess, and it is said": {h{"Date": {at(0)}, "Last-Modified": {at(-100 * time.Hour)},
			"Cache-Control": {"max-age=5"}}, 5, 5, 0},
		"a guess, stale after": {h{"Date": {at(0)}, "Last-Modified": {at(-100 * time.Hour)},
			"Cache-Control": {"stale-if-error=9"}}, 36000, 36000, 9},
	} {
		answer, err := platformapi.FetchJWKS(t.Context(), serveJWKS(t, c.header, keys).URL, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := []int64{int64(answer.MaxAge / time.Second), int64(answer.FreshFor / time.Second),
			int64(answer.StaleFor / time.Second)}
		if want := []int64{c.max, c.fresh, c.staleS}; !reflect.DeepEqual(got, want) ||
			!reflect.DeepEqual(answer.Kids, []string{"a", "b"}) {
			t.Errorf("%s: %v, want %v; kids %v", name, got, want, answer.Kids)
		}
	}
}

// Without a Date, an answer was made when it came.
func TestAnAnswerWithoutADateExpiresAllTheSame(t *testing.T) {
	t.Parallel()
	expires := time.Now().Add(2 * time.Hour).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	server := serveJWKS(t, map[string][]string{"Date": nil, "Expires": {expires}}, keys)
	answer, err := platformapi.FetchJWKS(t.Context(), server.URL, nil)
	if err != nil || answer.MaxAge < 119*time.Minute || answer.MaxAge > 2*time.Hour {
		t.Errorf("%+v, %v", answer, err)
	}
}
