package platformdb

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/sync/errgroup"
)

// Unsignable says that a key of the platform can't be used or replaced by the operator: its algorithm is unknown, or
// its column does not hold a key in the clear.
type Unsignable struct{ Kid, Why string }

func (e *Unsignable) Error() string { return fmt.Sprintf("key %q %s", e.Kid, e.Why) }

// signingKey signs webhooks as the platform does. It is kept for a transaction only. wipe clears the buffers that we
// own; what pgx, the crypto packages and the runtime copied meanwhile stays in memory until it is written over.
type signingKey struct {
	kid    string
	header string // the protected header, encoded
	key    crypto.Signer
	// signing counts who uses the key beside the transaction's own goroutine.
	signing sync.WaitGroup
}

// parseKey reads a private key, PKCS#8 in PEM as the platform writes it, and clears text.
func parseKey(kid, algorithm string, text []byte) (*signingKey, error) {
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, &Unsignable{kid, "has no private key in PEM in its column private_key: the column may be encrypted"}
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, &Unsignable{kid, "has a private key that is not PKCS#8"}
	}
	fits := false
	switch key := parsed.(type) {
	case ed25519.PrivateKey:
		fits = algorithm == "EdDSA"
	case *ecdsa.PrivateKey:
		fits = algorithm == "ES256" && key.Curve == elliptic.P256()
	case *rsa.PrivateKey:
		fits = algorithm == "RS256"
	}
	if !fits {
		return nil, &Unsignable{kid, fmt.Sprintf("has the algorithm %q, and a private key that is not of it; EdDSA, ES256 "+
			"and RS256 are known", algorithm)}
	}
	return newSigningKey(kid, algorithm, parsed.(crypto.Signer))
}

func newSigningKey(kid, algorithm string, key crypto.Signer) (*signingKey, error) {
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Kid       string `json:"kid"`
	}{algorithm, kid})
	if err != nil {
		return nil, fmt.Errorf("encoding the header of signatures: %w", err)
	}
	return &signingKey{kid: kid, header: base64.RawURLEncoding.EncodeToString(header), key: key}, nil
}

func (k *signingKey) wipe() {
	k.signing.Wait()
	if key, ok := k.key.(ed25519.PrivateKey); ok {
		clear(key)
	}
}

// page is how many webhooks at most to sign at a time within a transaction: many, so that the server seldom waits for
// the next, but few where a signature takes milliseconds, since the server ends a session that is idle for
// idleInTransactionTimeout.
func (k *signingKey) page() int {
	if _, slow := k.key.(*rsa.PrivateKey); slow {
		return 256
	}
	return 2048
}

// sign makes a detached JWS over a webhook's body (RFC 7515, appendix F), as the platform stores it.
func (k *signingKey) sign(body string) (string, error) {
	input := make([]byte, 0, len(k.header)+1+base64.RawURLEncoding.EncodedLen(len(body)))
	input = append(append(input, k.header...), '.')
	input = base64.RawURLEncoding.AppendEncode(input, []byte(body))
	var signature []byte
	var err error
	switch key := k.key.(type) {
	case ed25519.PrivateKey:
		signature = ed25519.Sign(key, input)
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(input)
		signature, err = signES256(key, digest[:])
	case *rsa.PrivateKey:
		digest := sha256.Sum256(input)
		signature, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	}
	if err != nil {
		return "", fmt.Errorf("signing a webhook: %w", err)
	}
	return k.header + ".." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// signES256 signs as RFC 7518, 3.4 has it: both numbers, 32 bytes each. Without a source of randomness the signature is
// RFC 6979's, which takes a fifth less time than one with it.
func signES256(key *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	der, err := key.Sign(nil, digest, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var r, s []byte
	numbers, sequence := cryptobyte.String(nil), cryptobyte.String(der)
	if !sequence.ReadASN1(&numbers, asn1.SEQUENCE) || !numbers.ReadASN1Integer(&r) || !numbers.ReadASN1Integer(&s) {
		return nil, errors.New("the signature is not two numbers")
	}
	signature := make([]byte, 64)
	copy(signature[32-len(r):], r)
	copy(signature[64-len(s):], s)
	return signature, nil
}

// signatures of bodies, in their order, while they are being made.
type signatures struct {
	key     *signingKey
	bodies  []string
	made    []string
	next    atomic.Int64
	group   errgroup.Group
	workers sync.WaitGroup // begun with the page
}

// begin signs bodies on all cores but one, once those of an earlier page are signed that are needed sooner; nil is no
// page. The core that is left is for who reads what the server answers meanwhile, or for the server itself, where it
// has no other machine. Were each core taken by signing, the server would wait for its share, and the cores for the
// server later.
func (k *signingKey) begin(bodies []string, earlier *signatures) *signatures {
	s := &signatures{key: k, bodies: bodies, made: make([]string, len(bodies))}
	for range min(max(1, runtime.GOMAXPROCS(0)-1), len(bodies)) {
		k.signing.Add(1)
		s.workers.Add(1)
		s.group.Go(func() error {
			defer k.signing.Done()
			defer s.workers.Done()
			if earlier != nil {
				earlier.workers.Wait()
			}
			return s.work()
		})
	}
	return s
}

// signAll signs bodies on all cores.
func (k *signingKey) signAll(bodies []string) ([]string, error) { return k.begin(bodies, nil).all() }

// all lends a hand with what is left to sign, and returns the signatures.
func (s *signatures) all() ([]string, error) {
	s.group.Go(s.work)
	return s.made, s.group.Wait()
}

func (s *signatures) work() error {
	for {
		i := int(s.next.Add(1)) - 1
		if i >= len(s.bodies) {
			return nil
		}
		var err error
		if s.made[i], err = s.key.sign(s.bodies[i]); err != nil {
			return err
		}
	}
}

// issued is a new key as the platform's table has it.
type issued struct {
	*signingKey
	algorithm, public string
	private           []byte
}

func (k *issued) wipe() {
	clear(k.private)
	k.signingKey.wipe()
}

// issueKey makes a key of the same algorithm as one that leaked, and, for RSA, of its size.
func issueKey(application int64, leaked, algorithm, leakedPublic string) (*issued, error) {
	var key crypto.Signer
	var err error
	switch algorithm {
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		bits := 2048
		if block, _ := pem.Decode([]byte(leakedPublic)); block != nil {
			if public, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
				if old, ok := public.(*rsa.PublicKey); ok {
					bits = max(bits, old.N.BitLen())
				}
			}
		}
		key, err = rsa.GenerateKey(rand.Reader, bits)
	default:
		return nil, &Unsignable{leaked, fmt.Sprintf("has the algorithm %q; EdDSA, ES256 and RS256 are known", algorithm)}
	}
	if err != nil {
		return nil, fmt.Errorf("generating the successor's key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the successor's private key: %w", err)
	}
	defer clear(private)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the successor's public key: %w", err)
	}
	signing, err := newSigningKey(fmt.Sprintf("whk_%d_%s", application, strings.ToLower(rand.Text()[:10])), algorithm, key)
	if err != nil {
		return nil, err
	}
	return &issued{
		signingKey: signing, algorithm: algorithm,
		public:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		private: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}, nil
}
