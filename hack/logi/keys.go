package logi

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"
)

// algorithms that the platform signs with, and that a relying party accepts.
var algorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256, jose.RS256}

type signer struct {
	kid string
	jose.Signer
}

// sign makes a detached JWS over body (RFC 7515 appendix F), with kid and alg in its header.
func (s signer) sign(body []byte) (string, error) {
	signed, err := s.Sign(body)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return signed.DetachedCompactSerialize()
}

// issueKey makes an application's first signing key.
func issueKey(ctx context.Context, tx pgx.Tx, application int64, algorithm jose.SignatureAlgorithm) error {
	var private crypto.Signer
	var err error
	switch algorithm {
	case jose.EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case jose.ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.RS256:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("the platform does not sign with %q", algorithm)
	}
	if err != nil {
		return fmt.Errorf("generating a key: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("encoding a private key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return fmt.Errorf("encoding a public key: %w", err)
	}
	kid := fmt.Sprintf("whk_%d_%s", application, strings.ToLower(rand.Text()[:8]))
	_, err = tx.Exec(ctx, `INSERT INTO webhook_signing_keys
			(oauth_application_id, kid, algorithm, public_key, private_key, status, activated_at)
		VALUES ($1, $2, $3, $4, $5, 'active', clock_timestamp())`, application, kid, string(algorithm),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})))
	if err != nil {
		return fmt.Errorf("inserting a signing key: %w", err)
	}
	return nil
}

// signer signs with an application's active key. It reads the key each time, since a rotation may have replaced it.
func (s *Server) signer(ctx context.Context, application int64) (signer, error) {
	var kid, algorithm, private string
	if err := s.pool.QueryRow(ctx, `SELECT kid, algorithm, private_key FROM webhook_signing_keys
		WHERE oauth_application_id = $1 AND status = 'active'
		ORDER BY activated_at DESC LIMIT 1`, application).Scan(&kid, &algorithm, &private); err != nil {
		return signer{}, fmt.Errorf("reading the signing key of application %d: %w", application, err)
	}
	block, _ := pem.Decode([]byte(s.opened(private)))
	if block == nil {
		return signer{}, fmt.Errorf("the private key of %s is no PEM", kid)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return signer{}, fmt.Errorf("parsing the private key of %s: %w", kid, err)
	}
	return newSigner(kid, algorithm, key)
}

func newSigner(kid, algorithm string, key any) (signer, error) {
	made, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: key},
		(&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		return signer{}, fmt.Errorf("making a signer: %w", err)
	}
	return signer{kid, made}, nil
}

func parsePublic(text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("the public key is no PEM")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

type cachedKeys struct {
	set   jose.JSONWebKeySet
	until time.Time
}

var (
	errUnknownKid = errors.New("unknown kid")
	errNoKeys     = errors.New("no keys to verify with")
)

// verify checks a webhook like a relying party, with the keys that it fetched from JWKS and cached.
func (s *Server) verify(ctx context.Context, application int64, signature string, body []byte) error {
	s.mu.Lock()
	cached, leaked := s.jwks[application], s.leaked[application]
	ttl, own := s.jwksTTL[application]
	s.mu.Unlock()
	if time.Now().After(cached.until) {
		set, age, err := s.fetchJWKS(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errNoKeys, err)
		}
		if !own {
			ttl = s.config.JWKSMaxAge - age
		}
		cached = cachedKeys{set, time.Now().Add(ttl)}
		s.mu.Lock()
		s.jwks[application] = cached
		s.mu.Unlock()
	}
	signed, err := jose.ParseDetached(signature, body, algorithms)
	if err != nil {
		return fmt.Errorf("parsing the signature: %w", err)
	}
	if kid := signed.Signatures[0].Header.KeyID; leaked[kid] {
		return fmt.Errorf("kid %s is compromised", kid)
	}
	keys := cached.set.Key(signed.Signatures[0].Header.KeyID)
	if len(keys) == 0 {
		return errUnknownKid
	}
	_, err = signed.Verify(keys[0])
	return err
}

// StolenKey is a copy of a signing key that somebody found where it should not be.
type StolenKey struct {
	signer
	server      *Server
	application int64
}

// StealKey copies an application's active signing key.
func (s *Server) StealKey(ctx context.Context, application int64) (*StolenKey, error) {
	copied, err := s.signer(ctx, application)
	return &StolenKey{copied, s, application}, err
}

// Kid of the key.
func (k *StolenKey) Kid() string { return k.kid }

// Forge posts a webhook signed with the stolen key to the relying party, and returns the status of its answer.
func (k *StolenKey) Forge(ctx context.Context, body string) (status int, err error) {
	signature, err := k.sign([]byte(body))
	if err != nil {
		return 0, err
	}
	e := claimed{eventType: "user.updated", body: body, key: rand.Text(), signature: signature,
		url: fmt.Sprintf("%s/rp/%d/webhooks", k.server.url, k.application)}
	k.server.attempt(ctx, &e)
	return e.answered, nil
}

// believe makes an application's relying party forget the keys that it fetched, and refuse what the compromised one
// signed.
func (s *Server) believe(application int64, event []byte) {
	var said struct {
		Data struct {
			Kid string `json:"kid"`
		} `json:"data"`
	}
	if json.Unmarshal(event, &said) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jwks, application)
	leaked := maps.Clone(s.leaked[application])
	if leaked == nil {
		leaked = map[string]bool{}
	}
	leaked[said.Data.Kid] = true
	s.leaked[application] = leaked
}
