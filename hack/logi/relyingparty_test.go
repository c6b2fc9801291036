package logi_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestAWebhookIsADetachedSignatureThatJWKSVerifies(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	var header http.Header
	var body []byte
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body) // an incomplete one does not verify
	}))
	defer endpoint.Close()
	p.exec(`UPDATE oauth_applications SET webhook_url = $1`, endpoint.URL)
	id := p.enqueue(1)[0]
	p.dispatch()
	e := p.entry(id)
	if header.Get("Idempotency-Key") != e.IdempotencyKey {
		t.Errorf("the idempotency key is %q, want %q", header.Get("Idempotency-Key"), e.IdempotencyKey)
	}
	if parts := strings.Split(header.Get("Webhook-Signature"), "."); len(parts) != 3 || parts[1] != "" {
		t.Errorf("not detached: %q", header.Get("Webhook-Signature"))
	}
	var keys jose.JSONWebKeySet
	if status := p.get("/.well-known/jwks.json", &keys); status != 200 {
		t.Fatalf("JWKS answered %d", status)
	}
	signed, err := jose.ParseDetached(header.Get("Webhook-Signature"), body, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	key := keys.Key(signed.Signatures[0].Header.KeyID)
	if len(key) != 1 || key[0].KeyID != e.Kid {
		t.Fatalf("the kid is %q, the entry's is %q, JWKS has %v", signed.Signatures[0].Header.KeyID, e.Kid, keys)
	}
	if _, err := signed.Verify(key[0]); err != nil {
		t.Error(err)
	}
}

func TestARelyingPartyRefusesWhatItCanNotVerify(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, want string }{
		"a changed payload": {`UPDATE webhook_outbox_entries SET payload = payload || '{"data": {"sub": "somebody else"}}'`,
			"HTTP 401: signature rejected"},
		"no signature":   {`UPDATE webhook_outbox_entries SET signature = ''`, "HTTP 401: signature rejected"},
		"an unknown kid": {`UPDATE webhook_signing_keys SET kid = 'whk_another'`, "HTTP 401: unknown kid"},
		"a revoked key":  {`UPDATE webhook_signing_keys SET status = 'revoked'`, "HTTP 401: unknown kid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, manual())
			id := p.enqueue(1)[0]
			p.exec(c.sql)
			p.dispatch()
			if e := p.entry(id); !e.Dead || e.LastError != c.want {
				t.Errorf("%+v, want %q", e, c.want)
			}
			if got := p.Counts()[acme]; got.Received != 0 || got.Attempts[401] != 1 {
				t.Errorf("the relying party counted %+v", got)
			}
		})
	}
}

func TestAKeyInGraceStaysPublishedAndARevokedOneDoesNot(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	for state, published := range map[string]bool{
		"status = 'active'":                    true,
		"status = 'grace', grace_until = NULL": true,
		"status = 'grace', grace_until = clock_timestamp() + interval '1 hour'": true,
		"status = 'grace', grace_until = clock_timestamp() - interval '1 hour'": false,
		"status = 'revoked', grace_until = NULL":                                false,
	} {
		p.exec(`UPDATE webhook_signing_keys SET ` + state)
		var keys jose.JSONWebKeySet
		p.get("/.well-known/jwks.json", &keys)
		if got := len(keys.Keys) == 1; got != published {
			t.Errorf("%s: published %v, want %v", state, got, published)
		}
	}
}

func TestWhatIsEnqueuedAfterARotationIsSignedWithTheNewKey(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	before := p.entry(p.enqueue(1)[0]).Kid
	p.exec(`UPDATE webhook_signing_keys SET status = 'grace'`)
	// The keys of another application serve as a new pair.
	if err := p.CreateApplication(t.Context(), 43, "initech"); err != nil {
		t.Fatal(err)
	}
	p.exec(`UPDATE webhook_signing_keys SET oauth_application_id = $1`, acme)
	second := p.enqueue(1)[0]
	if after := p.entry(second).Kid; after == before {
		t.Errorf("still signed with %s", after)
	}
	p.dispatch()
	if got := p.Counts()[acme].Received; got != 2 {
		t.Errorf("%d of the webhooks under both keys were accepted", got)
	}
}

func TestARelyingPartyThatCanNotFetchKeysAsksForARetry(t *testing.T) {
	t.Parallel()
	p := start(t, manual(time.Hour))
	id := p.enqueue(1)[0]
	p.exec(`UPDATE webhook_signing_keys SET public_key = 'garbage'`)
	p.dispatch()
	if e := p.entry(id); !e.Waiting || e.LastError != "HTTP 503: no keys" {
		t.Errorf("%+v", e)
	}
}

func TestFillerBesideRealApplicationsLeavesTheirKeysPublished(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	if err := logi.SeedFiller(t.Context(), p.db, 7, 20, 30); err != nil {
		t.Fatal(err)
	}
	var delivered, dead int
	if err := p.db.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE delivered_at IS NOT NULL),
			count(*) FILTER (WHERE dlq_at IS NOT NULL)
		FROM webhook_outbox_entries
		WHERE oauth_application_id = 7`).Scan(&delivered, &dead); err != nil || delivered != 20 || dead != 30 {
		t.Errorf("%d delivered and %d dead, %v", delivered, dead, err)
	}
	p.enqueue(3)
	p.dispatch()
	if got := p.Counts()[acme].Received; got != 3 {
		t.Errorf("%d of 3 were accepted", got)
	}
}
