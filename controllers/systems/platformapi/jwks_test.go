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
			w.Header()[name] = nil // also Date, which is not set then
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

func TestAnAnswerThatIsNoKeySetIsSaidToBeNone(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"<html>secret words</html>": "no JSON", `{"keys": []}`: "no keys", `{}`: "no keys", `[]`: "no JSON", "": "no JSON",
		`{"keys": 7}`: "no JSON", `{"keys": null}`: "no keys", `{"Keys": [{"kid": "a"}]}`: "no keys",
		`{"keys": [{"kid": 7}, 7, null]}`:                       "no key that can be read, of 3",
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

// One key of a set that is not as it should be spoils no other.
func TestAKeyThatCanNotBeReadSpoilsOnlyItself(t *testing.T) {
	t.Parallel()
	for bad, kids := range map[string][]string{
		`{"kid": 7}`:              {"a", "b"},
		`{"kid": ["a"]}`:          {"a", "b"},
		`{"kid": {"kid": "c"}}`:   {"a", "b"},
		`{"kid": true}`:           {"a", "b"},
		`7`:                       {"a", "b"},
		`"c"`:                     {"a", "b"},
		`null`:                    {"a", "b"},
		`[]`:                      {"a", "b"},
		`{"kid": null}`:           {"a", "", "b"},
		`{"kty": "OKP"}`:          {"a", "", "b"},
		`{"KID": "c"}`:            {"a", "", "b"},
		`{}`:                      {"a", "", "b"},
		`{"kid": "a"}`:            {"a", "a", "b"},
		`{"kid": "c", "kty": 7}`:  {"a", "c", "b"},
		`{"kid": "c", "x5c": {}}`: {"a", "c", "b"},
	} {
		url := serveJWKS(t, nil, `{"keys": [{"kid": "a"}, `+bad+`, {"kid": "b"}]}`).URL
		answer, err := platformapi.FetchJWKS(t.Context(), url, nil)
		if err != nil || !reflect.DeepEqual(answer.Kids, kids) {
			t.Errorf("%s: %+v, %v", bad, answer, err)
		}
		probe := &platformapi.Probe{URL: url, Timeout: time.Minute}
		look := probe.JWKS(t.Context())
		if look.Verdict != platformapi.Good || look.Keys == nil || !reflect.DeepEqual(look.Keys.Kids, kids) ||
			strings.Contains(look.Message, "1 that can't be read") != (len(kids) == 2) {
			t.Errorf("%s: %+v", bad, look)
		}
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
