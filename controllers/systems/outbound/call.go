package outbound

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Timeout is the longest that a call takes: to connect, to ask, and to read the answer.
const Timeout = 10 * time.Second

// Call is one request, and what must not be told of it.
type Call struct {
	Method string
	// URL of the API, as its Secret or Platform has it. It counts as a secret, but for its host and plain words of its
	// path.
	URL string
	// Path follows the URL, with its query. It is the caller's own, and no secret.
	Path   string
	Header map[string]string
	// Body is sent as JSON. A []byte is sent as it is, and nil sends none.
	Body any
	// Secrets that the far side may repeat in its answer.
	Secrets []string
	// MaxAnswer is how many bytes of the answer are read.
	MaxAnswer int64
	// Timeout of this call. 0 means the package's Timeout.
	Timeout time.Duration
}

// Do makes the call once. It follows no redirect: a redirected POST would take its secrets elsewhere, or become a GET.
// A nil transport is one that NewTransport made. The error is *Refused where the call itself can't be made, and
// *NotSent where there was no connection. After any other error, nobody knows whether the far side did what it was
// asked. No error repeats the URL, a header, the body, or what the far side wrote.
func Do(ctx context.Context, transport http.RoundTripper, call Call) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(call.Timeout, Timeout))
	defer cancel()
	if transport == nil {
		transport = shared
	}
	// The far side can have read the request only over a connection. An idle connection that closes under the request was
	// one.
	var connected atomic.Bool
	request, err := call.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}))
	if err != nil {
		return nil, err
	}
	// A bare transport follows no redirect, and puts no URL into its errors, as an http.Client would.
	response, err := transport.RoundTrip(request)
	if err != nil && !connected.Load() {
		return nil, &NotSent{safe(ctx, err, false)}
	}
	if err != nil {
		return nil, safe(ctx, err, true)
	}
	defer response.Body.Close()
	answer := &Answer{Status: response.StatusCode, Header: response.Header, call: &call}
	read, err := io.ReadAll(io.LimitReader(response.Body, call.MaxAnswer+1))
	answer.BrokeOff = err != nil
	if err == nil && int64(len(read)) <= call.MaxAnswer {
		answer.Body = read
		if read == nil {
			answer.Body = []byte{}
		}
	}
	return answer, nil
}

var shared = NewTransport()

// CheckURL returns the *Refused that a call to the URL would come to by its form alone.
func CheckURL(text string) error {
	_, err := parse(text)
	return err
}

func parse(text string) (*url.URL, error) {
	target, err := url.Parse(text)
	if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Hostname() == "" {
		return nil, &Refused{Message: "the URL does not have the form https://host/path"}
	}
	return target, nil
}

// request makes the call's request. Its errors are *Refused, in words of ours: those of url.Parse and net/http repeat
// pieces of what they were given.
func (c *Call) request(ctx context.Context) (*http.Request, error) {
	full := c.URL
	if c.Path != "" {
		full = strings.TrimSuffix(c.URL, "/") + c.Path
	}
	target, err := parse(full)
	if err != nil {
		return nil, err
	}
	body, raw := c.Body.([]byte)
	if c.Body != nil && !raw {
		if body, err = json.Marshal(c.Body); err != nil {
			return nil, &Refused{Message: "the request can't be encoded as JSON"}
		}
	}
	request, err := http.NewRequestWithContext(ctx, c.Method, full, bytes.NewReader(body))
	if err != nil {
		return nil, &Refused{Message: "the request can't be made"}
	}
	// Where an idle connection closes under a request, net/http would send the body again over a new one. That is for the
	// caller to decide.
	request.GetBody = nil
	request.Header.Set("User-Agent", "playbook-operator")
	if c.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	// An http.Client would do this.
	if target.User != nil {
		password, _ := target.User.Password()
		request.SetBasicAuth(target.User.Username(), password)
	}
	for name, value := range c.Header {
		// net/http refuses these too, but late, and in words that look like a connection's.
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return nil, &Refused{Message: "the header " + name + " has a control character in it"}
		}
		request.Header.Set(name, value)
	}
	return request, nil
}

// NotSent says that there was no connection for the call, so the far side did nothing. The call can be made again.
type NotSent struct{ Err error }

func (e *NotSent) Error() string { return e.Err.Error() }
func (e *NotSent) Unwrap() error { return e.Err }

// ErrLookup says that the resolver failed, which says nothing about the host.
var ErrLookup = errors.New("the host's name could not be looked up")

// failure is an error with a text of ours, and the cause for errors.Is.
type failure struct {
	text  string
	cause error
}

func (e *failure) Error() string { return e.text }
func (e *failure) Unwrap() error { return e.cause }

// safe says in words of ours why there was no answer. net/http's own words may repeat what the far side sent, such as a
// broken header line, and a far side may send back what it was sent. Only a cause that carries no text is kept.
func safe(ctx context.Context, err error, connected bool) error {
	var (
		address *RefusedAddress
		lookup  *net.DNSError
		errno   syscall.Errno
		network net.Error
		dialing *net.OpError
	)
	secure := untrusted(err)
	switch {
	case errors.As(err, &address):
		return address
	case errors.Is(err, context.Canceled) && ctx.Err() != nil && !connected:
		return &failure{"given up before it was sent", context.Canceled}
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return &failure{"given up while waiting for the answer", context.Canceled}
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return &failure{text: "the host's name does not exist"}
	case errors.As(err, &lookup):
		return ErrLookup
	case (ctx.Err() != nil || errors.As(err, &network) && network.Timeout()) && !connected:
		return &failure{"no connection in time", context.DeadlineExceeded}
	case ctx.Err() != nil, errors.As(err, &network) && network.Timeout():
		return &failure{"no answer in time", context.DeadlineExceeded}
	case secure != "":
		return &failure{text: secure}
	case errors.As(err, &errno) && errors.As(err, &dialing) && dialing.Op == "dial":
		return &failure{"connecting: " + errno.Error(), errno}
	case errors.As(err, &errno):
		return &failure{"the connection broke: " + errno.Error(), errno}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &failure{"the connection was closed without an answer", io.ErrUnexpectedEOF}
	case !connected:
		// A proxy, for one, that opens no way to the host.
		return &failure{text: "no connection could be made"}
	}
	return &failure{text: "the answer was not HTTP"}
}

// untrusted says what is wrong with the far side's TLS; it is empty where the error is about something else.
func untrusted(err error) string {
	var (
		certificate *tls.CertificateVerificationError
		wrongName   x509.HostnameError
		outOfDate   x509.CertificateInvalidError
		noTLS       tls.RecordHeaderError
		alert       *net.OpError
	)
	switch {
	case errors.As(err, &wrongName):
		return "the TLS certificate is for another host"
	case errors.As(err, &outOfDate) && outOfDate.Reason == x509.Expired:
		return "the TLS certificate has expired or is not valid yet"
	case errors.As(err, &certificate):
		return "the TLS certificate is not trusted"
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return "the far side does not speak TLS"
	case errors.As(err, &alert) && alert.Op == "remote error":
		return "the far side refused the TLS handshake"
	}
	return ""
}
