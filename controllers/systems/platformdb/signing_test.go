package platformdb

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func TestASuccessorSignsAsTheLeakedKeyDid(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"EdDSA", "ES256", "RS256"} {
		key, err := issueKey(42, "whk_leaked", algorithm, "")
		if err != nil {
			t.Fatal(err)
		}
		// As the platform reads it from its table.
		text := slices.Clone(key.private)
		read, err := parseKey(key.kid, algorithm, text)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Trim(string(text), "\x00") != "" {
			t.Errorf("%s: the buffer was not cleared", algorithm)
		}
		block, _ := pem.Decode([]byte(key.public))
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		bodies := []string{`{"id": "evt_1"}`, "", strings.Repeat("é", 10_000)}
		for _, signer := range []*signingKey{key.signingKey, read} {
			signatures, err := signer.signAll(bodies)
			if err != nil {
				t.Fatal(err)
			}
			for i, signature := range signatures {
				signed, err := jose.ParseDetached(signature, []byte(bodies[i]), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
				if err != nil {
					t.Fatalf("%s: %v", algorithm, err)
				}
				if _, err := signed.Verify(public); err != nil || signed.Signatures[0].Header.KeyID != key.kid {
					t.Errorf("%s: %v, kid %q", algorithm, err, signed.Signatures[0].Header.KeyID)
				}
			}
		}
		key.wipe()
		if strings.Trim(string(key.private), "\x00") != "" {
			t.Errorf("%s: the successor's private key was not cleared", algorithm)
		}
	}
}

func TestAKeyOfAnotherAlgorithmThanItsRowSaysIsRefused(t *testing.T) {
	t.Parallel()
	key, err := issueKey(42, "whk_leaked", "ES256", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		algorithm string
		text      []byte
	}{{"EdDSA", key.private}, {"HS256", key.private}, {"ES256", []byte("no PEM")}, {"ES256", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("no key")})}} {
		_, err := parseKey("whk_leaked", c.algorithm, slices.Clone(c.text))
		if unsignable := (*Unsignable)(nil); !errors.As(err, &unsignable) {
			t.Errorf("%s: %v", c.algorithm, err)
		}
	}
	if _, err := issueKey(42, "whk_leaked", "HS256", ""); err == nil {
		t.Error("a successor of an unknown algorithm was issued")
	}
}
