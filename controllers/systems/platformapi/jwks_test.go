package platformapi_test

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

func serveJWKS(t *testing.T, header map[string][]string, body string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/jwks.json" {
			t.Errorf("asked for %s", r.URL)
		}
		for name, values := range header {
			for _, value := range values {
				w.Header().Add(name, value)
			}
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return server
}

const keys = `{"keys": [{"kid": "a", "kty": "OKP"}, {"kid": "b"}]}`

func TestHowLongAnAnswerMayBeBelieved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cacheControl       []string
		age                string
		max, fresh, staleS int64
	}{
		"max-age":                {[]string{"public, max-age=300"}, "", 300, 300, 0},
		"an age":                 {[]string{"max-age=300"}, "100", 300, 200, 0},
		"older than its max-age": {[]string{"max-age=300"}, "400", 300, 0, 0},
		"no header":              {nil, "", 3600, 3600, 0},
		"nothing said":           {[]string{"public"}, "", 3600, 3600, 0},
		"stale while revalidating": {[]string{"max-age=10, stale-while-revalidate=60, stale-if-error=30"}, "", 10, 10,
			60},
		"stale if error":                {[]string{"max-age=10", "stale-if-error=90"}, "", 10, 10, 90},
		"capitals, quotes and a repeat": {[]string{`Max-Age="20"`, "max-age=5"}, "", 20, 20, 0},
		"not to be kept":                {[]string{"no-store, max-age=300"}, "", 0, 0, 0},
		"too large":                     {[]string{"max-age=99999999999999999999"}, "", 1<<31 - 1, 1<<31 - 1, 0},
		"no number":                     {[]string{"max-age=-5"}, "-3", 3600, 3600, 0},
	} {
		header := map[string][]string{"Cache-Control": c.cacheControl}
		if c.age != "" {
			header["Age"] = []string{c.age}
		}
		answer, err := platformapi.FetchJWKS(t.Context(), serveJWKS(t, header, keys).URL, nil)
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

func TestAnAnswerThatIsNoKeySetIsSaidToBeNone(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"<html>secret words</html>": "no JSON", `{"keys": []}`: "no keys", `{}`: "no keys", `[]`: "no JSON", "": "no JSON",
		`{"keys": 7}`: "no JSON",
		`{"keys": [{"kid": "a"}]}` + strings.Repeat(" ", 4<<20): "longer than 4194304 bytes",
	} {
		_, err := platformapi.FetchJWKS(t.Context(), serveJWKS(t, nil, body).URL, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret words") {
			t.Errorf("%.50q: %v", body, err)
		}
	}
	status := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "secret words", http.StatusBadGateway)
	}))
	t.Cleanup(status.Close)
	if _, err := platformapi.FetchJWKS(t.Context(), status.URL, nil); err == nil ||
		err.Error() != "the answer was HTTP 502" {
		t.Error(err)
	}
}

func TestEachLookAtJWKSHasAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if seen[r.RemoteAddr] {
			t.Error("a connection was used twice")
		}
		seen[r.RemoteAddr] = true
		_, _ = w.Write([]byte(keys))
	}))
	t.Cleanup(server.Close)
	shared := &http.Transport{}
	t.Cleanup(shared.CloseIdleConnections)
	for _, transport := range []http.RoundTripper{nil, nil, shared, shared} {
		if _, err := platformapi.FetchJWKS(t.Context(), server.URL, transport); err != nil {
			t.Error(err)
		}
	}
}
