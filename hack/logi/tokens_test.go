package logi_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

func TestTokensFailAsTheyAreToldTo(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	p.RegisterClient("probe", "s")
	control := func(path, body string) {
		t.Helper()
		if status := p.request(http.MethodPost, "/_control/"+path, "", body, nil); status != 200 {
			t.Errorf("%s %s: %d", path, body, status)
		}
	}
	ask := func() (int, string) {
		t.Helper()
		response, err := http.PostForm(p.URL()+"/oauth/token", url.Values{"grant_type": {"client_credentials"},
			"client_id": {"probe"}, "client_secret": {"s"}})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var said struct {
			AccessToken string `json:"access_token"`
			Error       string
		}
		if err := json.NewDecoder(response.Body).Decode(&said); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, said.Error + said.AccessToken
	}
	shows := func(kid string) bool {
		t.Helper()
		var set struct{ Keys []struct{ Kid string } }
		if status := p.get("/.well-known/jwks.json", &set); status != 200 {
			t.Errorf("JWKS answers %d", status)
		}
		return slices.ContainsFunc(set.Keys, func(k struct{ Kid string }) bool { return k.Kid == kid })
	}
	control("tokens", `{"status":403,"error":"access_denied"}`)
	if status, said := ask(); status != 403 || said != "access_denied" {
		t.Errorf("%d %s", status, said)
	}
	control("tokens", `{"jwt":true}`)
	_, token := ask()
	if parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA}); err != nil ||
		parsed.Signatures[0].Header.KeyID != logi.TokenKid || !shows(logi.TokenKid) {
		t.Errorf("%s: %v", token, err)
	}
	control("tokens", `{"jwt":true,"unpublished":true}`)
	if shows(logi.TokenKid) {
		t.Error("JWKS shows the key of tokens")
	}
	control("jwks", `{"fault":"LacksActive"}`)
	var set struct{ Keys []struct{ Kid string } }
	if status := p.get("/.well-known/jwks.json", &set); status != 200 || len(set.Keys) != 0 {
		t.Errorf("%d %+v", status, set)
	}
	control("tokens", `{}`)
	if status, token := ask(); status != 200 || strings.Contains(token, ".") {
		t.Errorf("%d %s", status, token)
	}
}
