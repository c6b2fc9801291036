package dlqreplay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// authority signs certificates.
type authority struct {
	*testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{T: t}
	a.certificate, a.key = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// sign issues a certificate; the first one signs itself.
func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return certificate, key
}

// server issues what a server on loopback serves until a time, in PEM.
func (a *authority) server(until time.Time) (certificate, key []byte) {
	a.Helper()
	issued, private := a.sign(&x509.Certificate{NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.Fatal(err)
	}
	return asPEM(issued), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func asPEM(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// A server that takes nothing but TLS, and shows a certificate of an authority of its own, as those of clouds do.
func TestADatabaseIsTrustedByItsCertificate(t *testing.T) {
	t.Parallel()
	own := ownPostgres(t, "tls")
	ours, other := newAuthority(t, "ours"), newAuthority(t, "another")
	certificate, key := ours.server(time.Now().Add(time.Hour))
	if err := own.Postgres.ServeTLS(t.Context(), certificate, key); err != nil {
		t.Fatal(err)
	}
	trusted := string(asPEM(ours.certificate))
	connect := func(sslmode string) func(*url.URL) { return func(u *url.URL) { u.RawQuery = "sslmode=" + sslmode } }
	for name, c := range map[string]struct {
		change      func(*url.URL) // of the URL
		authorities string         // in ca.crt
		reason      string
		says        string
		mend        func(*scene)
	}{
		"plain": {
			connect("disable"), "", v1alpha1.ReasonDatabaseUnreachable, "no encryption",
			func(s *scene) { s.databaseURL(s.altered(connect("require"))) },
		},
		"untrusted": {
			connect("verify-full"), "", v1alpha1.ReasonDatabaseUnreachable, "its certificate is not trusted: x509: " +
				"certificate signed by unknown authority",
			func(s *scene) { s.authorities(trusted) },
		},
		"another": {
			connect("verify-ca"), string(asPEM(other.certificate)), v1alpha1.ReasonDatabaseUnreachable, "its certificate is " +
				"not trusted: x509: certificate signed by unknown authority",
			func(s *scene) { s.authorities(string(asPEM(other.certificate)) + trusted) },
		},
		"misnamed": {
			func(u *url.URL) { u.Host, u.RawQuery = "localhost:"+u.Port(), "sslmode=verify-full" }, trusted,
			v1alpha1.ReasonDatabaseUnreachable, "its certificate is not trusted: x509: certificate is not valid for any " +
				"names, but wanted to match localhost",
			func(s *scene) { s.databaseURL(s.altered(connect("verify-full"))) },
		},
		"unverified": {
			connect("require"), trusted, v1alpha1.ReasonSecretUnusable, "ca.crt means nothing: write sslmode=verify-full",
			func(s *scene) { s.databaseURL(s.altered(connect("verify-full"))) },
		},
		"no-pem": {
			connect("verify-full"), "change me", v1alpha1.ReasonSecretUnusable, "ca.crt has no certificate in PEM",
			func(s *scene) { s.authorities(trusted) },
		},
		"no-file": {
			func(u *url.URL) { u.RawQuery = "sslmode=verify-full&sslrootcert=/nonexistent/ca.crt" }, "",
			v1alpha1.ReasonSecretUnusable,
			"names a file that is not there, such as sslrootcert's: in a Secret, the authority's certificate goes beside the " +
				"URL, as ca.crt",
			func(s *scene) {
				s.databaseURL(s.altered(connect("verify-full")))
				s.authorities(trusted)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSceneIn(t, own, "tls-"+name, quick)
			s.seed(12, "HTTP 503: down", 7)
			s.applyManifest(s.secrets())
			s.databaseURL(s.altered(c.change))
			s.authorities(c.authorities)
			s.applyManifest(strings.TrimPrefix(s.Manifest(), s.secrets()))
			name := s.apply("r", "{}")
			if r := s.AwaitReason(name, c.reason); !strings.Contains(message(r), c.says) {
				t.Errorf("the message lacks %q: %s", c.says, message(r))
			}
			c.mend(s)
			s.progress(s.AwaitReady(name), map[string]int64{"requeued": 12, "delivered": 12})
			s.eachOnce(12)
		})
	}
}

// authorities sets whose certificates the Secret says are trusted.
func (s *scene) authorities(certificates string) {
	s.Helper()
	s.Patch(&corev1.Secret{}, s.Name+"-database", fmt.Sprintf(`{"stringData":{"ca.crt":%q}}`, certificates))
}

func TestACertificateThatExpiredIsSaidOnceUntilItIsRenewed(t *testing.T) {
	t.Parallel()
	own := ownPostgres(t, "expired")
	ours := newAuthority(t, "ours")
	serve := func(until time.Time) {
		t.Helper()
		certificate, key := ours.server(until)
		if err := own.Postgres.ServeTLS(t.Context(), certificate, key); err != nil {
			t.Fatal(err)
		}
	}
	serve(time.Now().Add(-time.Minute))
	s := newSceneIn(t, own, "tls-expired", quick)
	s.seed(12, "HTTP 503: down", 7)
	s.applyManifest(s.secrets())
	s.databaseURL(s.altered(func(u *url.URL) { u.RawQuery = "sslmode=verify-full" }))
	s.authorities(string(asPEM(ours.certificate)))
	s.applyManifest(strings.TrimPrefix(s.Manifest(), s.secrets()))
	name := s.apply("r", "{}")
	r := s.AwaitReason(name, v1alpha1.ReasonDatabaseUnreachable)
	if !strings.Contains(message(r), "its certificate is not trusted: x509: certificate has expired or is not yet valid") {
		t.Errorf("the message is %q", message(r))
	}
	// What Go says of it has the time of day.
	said := func() int { return strings.Count(shared.Manager.Log(), fmt.Sprintf(`"name":%q`, name)) }
	before := said()
	stage.Eventually(t, "it was tried again and again", func() bool { return said() > before+2 })
	if again := s.Get(name); again.ResourceVersion != r.ResourceVersion {
		t.Errorf("the status was written again: %s, and then %s", message(r), message(again))
	}
	serve(time.Now().Add(time.Hour))
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 12, "delivered": 12})
	s.eachOnce(12)
}
