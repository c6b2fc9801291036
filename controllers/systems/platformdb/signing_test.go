package platformdb

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
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
				signed, err := jose.ParseDetached(signature, []byte(bodies[i]),
					[]jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
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

// Each number of an ES256 signature has 32 bytes, also the one in 256 that fits into fewer.
func TestAnES256SignatureIsPadded(t *testing.T) {
	t.Parallel()
	key, err := issueKey(42, "whk_leaked", "ES256", "")
	if err != nil {
		t.Fatal(err)
	}
	public := key.key.Public()
	short := map[int]bool{}
	for n := 0; len(short) < 2; n++ {
		body := fmt.Sprint(n)
		signature, err := key.sign(body)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := jose.ParseDetached(signature, []byte(body), []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signed.Verify(public); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		for _, first := range []int{0, 32} {
			if signed.Signatures[0].Signature[first] == 0 {
				short[first] = true
			}
		}
	}
}

func TestAPageOfLargeBodiesHasFewOfThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ entries, each, want int }{{0, 0, 2048}, {128, 300, 2048}, {128, 2048, 2048},
		{128, 2049, 1024}, {2048, 64 << 10, 64}, {1, 64 << 20, 1}} {
		bodies := slices.Repeat([]string{strings.Repeat("x", c.each)}, c.entries)
		if got := pageAfter(bodies, 2048); got != c.want {
			t.Errorf("after %d bodies of %d bytes: %d, want %d", c.entries, c.each, got, c.want)
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
	}{{"EdDSA", key.private}, {"HS256", key.private}, {"ES256", []byte("no PEM")}, {"ES256",
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("no key")})}} {
		_, err := parseKey("whk_leaked", c.algorithm, slices.Clone(c.text))
		if unsignable := (*Unsignable)(nil); !errors.As(err, &unsignable) {
			t.Errorf("%s: %v", c.algorithm, err)
		}
	}
	if _, err := issueKey(42, "whk_leaked", "HS256", ""); err == nil {
		t.Error("a successor of an unknown algorithm was issued")
	}
}
