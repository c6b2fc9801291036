package platformapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// maxProbed bounds what is read of a probed answer.
const maxProbed = 64 << 10

// Verdict is what one look at an endpoint says.
type Verdict int

const (
	// Unknown says neither: the answer is none that the endpoint gives, good or bad.
	Unknown Verdict = iota
	// Good says that it answers as it should.
	Good
	// Bad says that it fails.
	Bad
)

// Sample is one look at an endpoint.
type Sample struct {
	Verdict Verdict
	// What was seen, in words that don't differ from one look to the next.
	What string
	// At is when the look began.
	At time.Time
	// Took is how long the answer took; zero where there was none.
	Took time.Duration
}

// Client is an OAuth client of the platform that is for probing alone. The zero Client is none.
type Client struct{ ID, Secret string }

// Probe looks at a platform from outside. No sample repeats a secret or what the platform wrote.
type Probe struct {
	// URL of the platform, without a path.
	URL string
	// Timeout of each look. What takes longer counts as a 5xx, and so do a refused connection and TLS that fails.
	Timeout time.Duration
	// Transport carries the requests; nil is net/http's.
	Transport http.RoundTripper
}

// Up looks at /up, which Rails answers with 200, or 500 where it can't start. It looks at neither the database nor Redis.
func (p Probe) Up(ctx context.Context) Sample {
	sample, status, _ := p.ask(ctx, http.MethodGet, "/up", nil, Client{})
	switch {
	case sample.Verdict == Bad:
	case status == http.StatusNotFound:
		sample.Verdict = Bad
	case status >= 200 && status < 300:
		sample.Verdict = Good
	}
	sample.What = "/up " + sample.What
	return sample
}

// Token asks for a token by client_credentials. Without a client it looks for the error that Doorkeeper gives a bad one, which proves
// that requests arrive there, and not that tokens are issued.
func (p Probe) Token(ctx context.Context, client Client) Sample {
	form := url.Values{"grant_type": {"client_credentials"}}
	asked := client
	if asked.ID == "" {
		asked = Client{"playbook-probe", "none"}
	}
	sample, status, body := p.ask(ctx, http.MethodPost, "/oauth/token", form, asked)
	var said struct {
		Token string `json:"access_token"`
		Error string `json:"error"`
	}
	parsed := json.Unmarshal(body, &said) == nil
	sample.What = "/oauth/token " + sample.What
	switch {
	case sample.Verdict == Bad:
	case status == http.StatusNotFound:
		sample.Verdict = Bad
	case client.ID != "" && status == http.StatusOK && parsed && said.Token != "":
		sample.Verdict, sample.What = Good, "/oauth/token issues tokens"
	case status == http.StatusUnauthorized && parsed && said.Error == "invalid_client" && client.ID == "":
		sample.Verdict, sample.What = Good, "/oauth/token answers; that it issues tokens is not proven without probes.tokenSecretRef"
	case status == http.StatusUnauthorized && parsed && said.Error == "invalid_client":
		sample.What = "/oauth/token does not know the client of probes.tokenSecretRef: mend the Secret"
	}
	return sample
}

// JWKS looks for an answer of /.well-known/jwks.json with keys.
func (p Probe) JWKS(ctx context.Context) Sample {
	sample := Sample{At: time.Now(), Verdict: Bad}
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	answer, err := FetchJWKS(ctx, p.URL, p.Transport)
	if err != nil {
		sample.What = "/.well-known/jwks.json: " + describe(err)
		return sample
	}
	sample.Verdict, sample.Took, sample.What = Good, answer.At.Sub(sample.At), "/.well-known/jwks.json has keys"
	return sample
}

// Path looks at any other endpoint: one that answers with less than 500 does its work.
func (p Probe) Path(ctx context.Context, path string) Sample {
	sample, _, _ := p.ask(ctx, http.MethodGet, path, nil, Client{})
	if sample.Verdict == Unknown {
		sample.Verdict = Good
	}
	sample.What = path + " " + sample.What
	return sample
}

// ask makes one request. Its sample is Bad for a 5xx and for no answer, else Unknown.
func (p Probe) ask(ctx context.Context, method, path string, form url.Values, client Client) (sample Sample, status int, body []byte) {
	sample.At = time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var content io.Reader
	if form != nil {
		content = strings.NewReader(form.Encode())
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(p.URL, "/")+path, content)
	if err != nil {
		sample.What = "can't be asked for"
		return sample, 0, nil
	}
	request.Header.Set("User-Agent", "playbook-operator")
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.SetBasicAuth(url.QueryEscape(client.ID), url.QueryEscape(client.Secret))
	}
	// A connection that the last look left idle says nothing of whether a new one would be taken.
	request.Close = true
	answers := http.Client{Transport: p.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := answers.Do(request)
	if err != nil {
		sample.Verdict, sample.What = Bad, describe(err)
		return sample, 0, nil
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxProbed))
	sample.Took = time.Since(sample.At)
	status = response.StatusCode
	sample.What = fmt.Sprintf("answers HTTP %d", status)
	if err != nil {
		sample.Verdict, sample.What = Bad, describe(err)
	}
	if status >= 500 {
		sample.Verdict = Bad
	}
	return sample, status, body
}

// describe says why there was no answer, in words that don't differ from one look to the next: no ports, addresses or times.
func describe(err error) string {
	var network net.Error
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &dns):
		return "does not answer: its name is not found"
	case errors.As(err, &certificate), errors.As(err, &record):
		return "does not answer: TLS fails"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "does not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refuses connections"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "breaks the connection"
	}
	if refused := (*url.Error)(nil); errors.As(err, &refused) {
		return "does not answer"
	}
	return err.Error() // FetchJWKS's own words
}
