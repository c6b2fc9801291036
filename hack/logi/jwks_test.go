package logi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// rotate gives acme another key under the kid, and revokes those that it had.
func (p *platform) rotate(kid string) {
	p.t.Helper()
	p.exec(`UPDATE webhook_signing_keys SET status = 'revoked'`)
	if err := p.CreateApplication(p.t.Context(), 43, "initech"); err != nil {
		p.t.Fatal(err)
	}
	p.exec(`UPDATE webhook_signing_keys SET kid = $1, oauth_application_id = $2 WHERE oauth_application_id = 43`, kid,
		acme)
}

// jwks asks once, and returns the kids and the Age.
func (p *platform) jwks() (kids []string, age string) {
	p.t.Helper()
	response, err := http.Get(p.URL() + "/.well-known/jwks.json")
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(response.Body).Decode(&set); err != nil || response.StatusCode != http.StatusOK {
		p.t.Fatal(response.Status, err)
	}
	for _, key := range set.Keys {
		kids = append(kids, key.KeyID)
	}
	return kids, response.Header.Get("Age")
}

func TestARelyingPartyVerifiesEachAlgorithmOfThePlatformAndNoOther(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	for id, algorithm := range map[int64]jose.SignatureAlgorithm{43: jose.EdDSA, 44: jose.ES256, 45: jose.RS256} {
		if err := p.CreateApplicationWithKey(t.Context(), id, string(algorithm), algorithm); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Enqueue(t.Context(), id, 2); err != nil {
			t.Fatal(err)
		}
		p.dispatch()
		if got := p.Counts()[id].Received; got != 2 {
			t.Errorf("%s: %d of 2 were accepted", algorithm, got)
		}
		var said string
		if err := p.db.QueryRow(t.Context(), `SELECT algorithm FROM webhook_signing_keys WHERE oauth_application_id = $1`,
			id).Scan(&said); err != nil || said != string(algorithm) {
			t.Errorf("%s: the key's row says %q, %v", algorithm, said, err)
		}
		p.exec(`UPDATE webhook_outbox_entries
			SET payload = payload || '{"data": {"sub": "somebody else"}}', delivered_at = NULL
			WHERE oauth_application_id = $1`, id)
		p.dispatch()
		if got := p.Counts()[id]; got.Received != 2 || got.Attempts[401] != 2 {
			t.Errorf("%s: what was changed: %+v", algorithm, got)
		}
	}
	for _, algorithm := range []jose.SignatureAlgorithm{jose.HS256, "none", ""} {
		if err := p.CreateApplicationWithKey(t.Context(), 46, "odd", algorithm); err == nil {
			t.Errorf("the platform made a key of %q", algorithm)
		}
	}
}

func TestAReplicaKeepsWhatItReadForItsTimeAndSaysHowOldItIs(t *testing.T) {
	t.Parallel()
	config := manual()
	config.JWKSReplicas = []time.Duration{0, time.Hour}
	p := start(t, config)
	old, _ := p.jwks()
	if kids, age := p.jwks(); !slices.Equal(kids, old) || age != "" {
		t.Errorf("the second replica read %v, Age %q", kids, age)
	}
	p.rotate("whk_new")
	for range 2 {
		if kids, age := p.jwks(); !slices.Equal(kids, []string{"whk_new"}) || age != "" {
			t.Errorf("the replica that keeps nothing has %v, Age %q", kids, age)
		}
		if kids, age := p.jwks(); !slices.Equal(kids, old) || age == "" {
			t.Errorf("the replica that keeps keys for an hour has %v, Age %q", kids, age)
		}
	}
}

func TestAStaleReplicaStaysSoUntilItIsMended(t *testing.T) {
	t.Parallel()
	config := manual()
	config.JWKSReplicas = []time.Duration{0, 0, 0}
	p := start(t, config)
	old, _ := p.jwks()
	if err := p.StaleReplica(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	p.rotate("whk_new")
	for turn := 1; turn < 7; turn++ {
		want := []string{"whk_new"}
		if turn%3 == 1 {
			want = old
		}
		if kids, age := p.jwks(); !slices.Equal(kids, want) || (age != "") != (turn%3 == 1) {
			t.Errorf("turn %d: %v, Age %q", turn, kids, age)
		}
	}
	p.MendReplica(1)
	for range 3 {
		if kids, _ := p.jwks(); !slices.Equal(kids, []string{"whk_new"}) {
			t.Errorf("after it was mended: %v", kids)
		}
	}
}

func TestARelyingPartyKeepsKeysForATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	config := manual()
	config.JWKSMaxAge = time.Nanosecond
	p := start(t, config)
	p.SetJWKSTTL(acme, time.Hour)
	p.enqueue(1)
	p.dispatch()
	p.rotate("whk_new")
	p.enqueue(1)
	p.dispatch()
	if got := p.Counts()[acme]; got.Received != 1 || got.Attempts[401] != 1 {
		t.Errorf("keys that it keeps for an hour: %+v", got)
	}
	p.Forget()
	p.enqueue(1)
	p.dispatch()
	if got := p.Counts()[acme].Received; got != 1 {
		t.Errorf("keys that it keeps for no time: %d accepted", got)
	}
}

func TestJWKSFailsAsToldAndIsWellAgain(t *testing.T) {
	t.Parallel()
	p := start(t, manual(time.Hour))
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(ctx context.Context, path string) (*http.Response, string, error) {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			return nil, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response, string(body), err
	}
	const path = "/.well-known/jwks.json"
	kids, _ := p.jwks()

	for fault, answers := range map[logi.JWKSFault]bool{logi.JWKSHangs: false, logi.JWKSHangsMidBody: true} {
		p.SetJWKSFault(fault)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		response, body, err := get(ctx, path)
		cancel()
		if err == nil || (response != nil) != answers || (body != "") != answers ||
			strings.HasSuffix(strings.TrimSpace(body), "}") {
			t.Errorf("%s: %v, %q, %v", fault, response, body, err)
		}
	}
	for fault, want := range map[logi.JWKSFault]string{
		logi.JWKSHTML: "200 text/html <!DOCTYPE html", logi.JWKSError: "503 text/plain; charset=utf-8 Service Unavailable",
		logi.JWKSRedirect: "302 text/html; charset=utf-8 <a href=", logi.JWKSHuge: `200 application/json {"comment":"xxx`,
		"": `200 application/json {"keys":[{`,
	} {
		p.SetJWKSFault(fault)
		response, body, err := get(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d %s %s", response.StatusCode, response.Header.Get("Content-Type"),
			body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %.100s, want %s", fault, got, want)
		}
		switch fault {
		case logi.JWKSHuge:
			if len(body) <= 10_000_000 || !strings.Contains(body, kids[0]) {
				t.Errorf("huge is only %d bytes", len(body))
			}
		case logi.JWKSRedirect:
			if _, body, err := get(t.Context(), response.Header.Get("Location")); err != nil ||
				!strings.Contains(body, kids[0]) {
				t.Errorf("where it redirects to there is %q, %v", body, err)
			}
		}
	}

	p.SetJWKSFault(logi.JWKSError)
	id := p.enqueue(1)[0]
	p.dispatch()
	if e := p.entry(id); e.LastError != "HTTP 503: no keys" {
		t.Errorf("the relying party got keys all the same: %+v", e)
	}
}

func TestJWKSIsControlledFromATerminal(t *testing.T) {
	t.Parallel()
	config := manual()
	config.JWKSReplicas = []time.Duration{0, 0}
	config.JWKSMaxAge = time.Nanosecond
	p := start(t, config)
	post := func(body string, want int) {
		t.Helper()
		if status := p.request(http.MethodPost, "/_control/jwks", "", body, nil); status != want {
			t.Errorf("%s: %d, want %d", body, status, want)
		}
	}
	old, _ := p.jwks() // the next turn is the second replica's
	post(`{"fault": "Error"}`, 200)
	if status := p.get("/.well-known/jwks.json", nil); status != 503 {
		t.Errorf("the fault is not on: %d", status)
	}
	post(`{"applicationID": "42", "ttlSeconds": 3600, "replica": 1, "stale": true}`, 200)
	if status := p.get("/.well-known/jwks.json", nil); status != 503 {
		t.Errorf("what was not named was changed: %d", status)
	}
	post(`{"fault": ""}`, 200)
	p.enqueue(1)
	p.dispatch() // takes a turn
	p.rotate("whk_new")
	p.enqueue(1)
	p.dispatch()
	if got := p.Counts()[acme]; got.Received != 1 || got.Attempts[401] != 1 {
		t.Errorf("keys that it keeps for an hour: %+v", got)
	}
	first, _ := p.jwks()
	second, _ := p.jwks()
	if slices.Equal(first, old) == slices.Equal(second, old) {
		t.Errorf("one of two is stale, and they have %v and %v", first, second)
	}
	post(`{"replica": 1, "stale": false}`, 200)
	for range 2 {
		if kids, _ := p.jwks(); !slices.Equal(kids, []string{"whk_new"}) {
			t.Errorf("after it was mended: %v", kids)
		}
	}
	post(`{"fault": "Tired"}`, 500)
	post(`{"replica": 2, "stale": true}`, 500)
	post(`{"replicas": 1}`, 400)
}
