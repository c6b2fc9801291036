package logi

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jackc/pgx/v5"
)

// TokenKid names the key that signs tokens which are JWTs. JWKS shows it while there are such tokens.
const TokenKid = "tok_1"

// TokenFault is how /oauth/token answers. The zero one is a platform that is well and issues opaque tokens, as
// Doorkeeper does.
type TokenFault struct {
	// Every client, known or not, gets Status and Error: 401 and invalid_client, or another 4xx.
	Status int    `json:"status"`
	Error  string `json:"error"`
	// JWT makes tokens JWTs that TokenKid signs.
	JWT bool `json:"jwt"`
	// Unpublished keeps TokenKid out of JWKS.
	Unpublished bool `json:"unpublished"`
}

// SetTokenFault changes how /oauth/token answers.
func (s *Server) SetTokenFault(fault TokenFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = fault
	if s.tokenKey == nil {
		// crypto/rand returns no error.
		_, s.tokenKey, _ = ed25519.GenerateKey(nil)
	}
}

func (s *Server) tokenFault() TokenFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens
}

// token issues a token.
func (s *Server) token(client string) (string, error) {
	if !s.tokenFault().JWT {
		return rand.Text(), nil
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: s.tokenKey},
		(&jose.SignerOptions{}).WithHeader("kid", TokenKid))
	if err != nil {
		return "", fmt.Errorf("preparing to sign a token: %w", err)
	}
	return jwt.Signed(signer).Claims(jwt.Claims{Issuer: s.url, Subject: client, ID: rand.Text(),
		Expiry: jwt.NewNumericDate(time.Now().Add(2 * time.Hour))}).Serialize()
}

// shown is the set of keys that JWKS answers: it has the key of tokens, and lacks what a fault takes away.
func (s *Server) shown(ctx context.Context, set jose.JSONWebKeySet, fault JWKSFault) (jose.JSONWebKeySet, error) {
	keys := slices.Clone(set.Keys)
	if fault == JWKSLacksActive {
		rows, err := s.pool.Query(ctx, `SELECT kid FROM webhook_signing_keys WHERE status = 'active'`)
		if err != nil {
			return set, fmt.Errorf("reading the active keys: %w", err)
		}
		active, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return set, fmt.Errorf("reading the active keys: %w", err)
		}
		keys = slices.DeleteFunc(keys, func(k jose.JSONWebKey) bool { return slices.Contains(active, k.KeyID) })
	}
	if tokens := s.tokenFault(); tokens.JWT && !tokens.Unpublished {
		keys = append(keys, jose.JSONWebKey{Key: s.tokenKey.Public(), KeyID: TokenKid, Algorithm: "EdDSA", Use: "sig"})
	}
	return jose.JSONWebKeySet{Keys: keys}, nil
}

// controlTokens changes how /oauth/token answers.
func (s *Server) controlTokens(_ context.Context, fault TokenFault) (any, error) {
	if fault.Status != 0 && (fault.Status < http.StatusBadRequest || fault.Status > 599) {
		return nil, fmt.Errorf("status is %d: write one from 400 to 599, or 0 for none", fault.Status)
	}
	s.SetTokenFault(fault)
	return fault, nil
}
