package outbound

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Timeout bounds a call: connecting, asking and reading the answer.
const Timeout = 10 * time.Second

// Call is one request and what must not be told of it.
type Call struct {
	Method string
	URL    string
	Header map[string]string
	// Body is encoded as JSON; a []byte is sent as it is, and nil sends none.
	Body any
	// Secrets that the far side may repeat in what it answers. The URL is always one.
	Secrets []string
	// MaxAnswer is how many bytes of the answer are read.
	MaxAnswer int64
	// Timeout of this call; 0 is the package's.
	Timeout time.Duration
}

// Answer is what came back, whatever its status. Body is nil where it broke off or is longer than MaxAnswer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// BrokeOff says that the connection broke, or time was up, before the end of the body.
	BrokeOff bool
	call     *Call
}

// Refused says that the far side answered, did nothing, and would answer so again: a 4xx other than 408, 420 and 429. With Status 0,
// nothing was sent, since nothing useful could have come of it.
type Refused struct {
	Status int
	// Message is the far side's own, short and without secrets; empty where it gave none that can be shown.
	Message string
}

func (e *Refused) Error() string {
	switch {
	case e.Status == 0:
		return "not sent: " + e.Message
	case e.Message == "":
		return fmt.Sprintf("refused with HTTP %d", e.Status)
	}
	return fmt.Sprintf("refused with HTTP %d: %s", e.Status, e.Message)
}

// Limited says that the far side did nothing yet, since it was asked too often.
type Limited struct {
	Status int
	// After is how long it wants to be left alone, by its own clock; 0 where it didn't say.
	After time.Duration
}

func (e *Limited) Error() string { return fmt.Sprintf("limited with HTTP %d", e.Status) }

// Do makes the call once, following no redirect: a redirected POST would take its secrets elsewhere, or become a GET. A nil
// transport is one that NewTransport made. A *Refused is about the call itself, as for a URL that is none, and with a *RefusedAddress
// nothing was sent either; any other error leaves open whether the far side did what it was asked. No error repeats the URL, a header, the body or what the far side wrote.
func Do(ctx context.Context, transport http.RoundTripper, call Call) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(call.Timeout, Timeout))
	defer cancel()
	if transport == nil {
		transport = shared
	}
	// url.Parse's errors repeat pieces of what it was given.
	target, err := url.Parse(call.URL)
	if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Hostname() == "" {
		return nil, &Refused{Message: "the URL is none of the form https://host/path"}
	}
	body, raw := call.Body.([]byte)
	if call.Body != nil && !raw {
		if body, err = json.Marshal(call.Body); err != nil {
			return nil, &Refused{Message: "the request can't be encoded as JSON"}
		}
	}
	request, err := http.NewRequestWithContext(ctx, call.Method, call.URL, bytes.NewReader(body))
	if err != nil {
		return nil, &Refused{Message: "the request can't be made"}
	}
	// net/http would send the body again over a new connection where an idle one was closed under it: that is for callers to decide.
	request.GetBody = nil
	request.Header.Set("User-Agent", "playbook-operator")
	if call.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	// An http.Client would do this.
	if target.User != nil {
		password, _ := target.User.Password()
		request.SetBasicAuth(target.User.Username(), password)
	}
	for name, value := range call.Header {
		request.Header.Set(name, value)
	}
	// The transport, without an http.Client around it, follows nothing and wraps no URL around errors.
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, safe(ctx, err)
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

// ErrLookup says that the resolver failed, which says nothing about the host.
var ErrLookup = errors.New("the host's name could not be looked up")

// failure is an error with a text of ours and the cause for errors.Is.
type failure struct {
	text  string
	cause error
}

func (e *failure) Error() string { return e.text }
func (e *failure) Unwrap() error { return e.cause }

// safe says in words of ours why there was no answer. net/http's own may hold what the far side sent, such as a header line that
// is none, and a far side may send back what it was sent. Nothing but what carries no text is kept as the cause.
func safe(ctx context.Context, err error) error {
	var (
		address    *RefusedAddress
		lookup     *net.DNSError
		untrusted  *tls.CertificateVerificationError
		wrongName  x509.HostnameError
		outOfDate  x509.CertificateInvalidError
		noTLS      tls.RecordHeaderError
		errno      syscall.Errno
		network    net.Error
		connecting *net.OpError
	)
	switch {
	case errors.As(err, &address):
		return address
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return &failure{"given up while waiting for the answer", context.Canceled}
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return &failure{text: "the host's name does not exist"}
	case errors.As(err, &lookup):
		return ErrLookup
	case ctx.Err() != nil, errors.As(err, &network) && network.Timeout():
		return &failure{"no answer in time", context.DeadlineExceeded}
	case errors.As(err, &wrongName):
		return &failure{text: "the TLS certificate is for another host"}
	case errors.As(err, &outOfDate) && outOfDate.Reason == x509.Expired:
		return &failure{text: "the TLS certificate has expired or is not valid yet"}
	case errors.As(err, &untrusted):
		return &failure{text: "the TLS certificate is not trusted"}
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return &failure{text: "the far side does not speak TLS"}
	case errors.As(err, &connecting) && connecting.Op == "remote error":
		return &failure{text: "the far side refused the TLS handshake"}
	case errors.As(err, &errno) && errors.As(err, &connecting) && connecting.Op == "dial":
		return &failure{"connecting: " + errno.Error(), errno}
	case errors.As(err, &errno):
		return &failure{"the connection broke: " + errno.Error(), errno}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &failure{"the connection was closed without an answer", io.ErrUnexpectedEOF}
	}
	return &failure{text: "the answer was no HTTP"}
}

// Err is what an answer that isn't the wanted one means: *Limited, *Refused with message, or an error after which the call may be
// made again. The message is what the far side says of it, and is left out where it might hold a secret.
func (a *Answer) Err(message string) error {
	switch {
	case a.Status == http.StatusTooManyRequests, a.Status == enhanceYourCalm:
		return &Limited{Status: a.Status, After: a.after()}
	case a.Status/100 == 4 && a.Status != http.StatusRequestTimeout:
		return &Refused{Status: a.Status, Message: a.presentable(message)}
	case a.Status/100 == 3:
		return fmt.Errorf("the answer was HTTP %d, a redirect, which is not followed", a.Status)
	case a.Status/100 == 2 && a.Body == nil:
		return fmt.Errorf("the answer, HTTP %d, broke off or is too long", a.Status)
	case a.Status/100 == 2:
		return fmt.Errorf("the answer, HTTP %d, is not this API's", a.Status)
	}
	return fmt.Errorf("the answer was HTTP %d", a.Status)
}

// enhanceYourCalm is how Statuspage limits, beside 429.
const enhanceYourCalm = 420

// after reads Retry-After (RFC 9110, 10.2.3), seconds or a date. A date is compared with the answer's own Date, so that a
// difference between the clocks doesn't count.
func (a *Answer) after() time.Duration {
	text := strings.TrimSpace(a.Header.Get("Retry-After"))
	if n, err := strconv.ParseUint(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, math.MaxInt32)) * time.Second
	}
	until, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(a.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, until.Sub(now))
}

const (
	maxMessage = 300
	// telling is how many characters of a secret in a row give it away.
	telling = 8
)

var blanks = regexp.MustCompile(`\s+`)

// presentable is the message on one line, or nothing where a piece of a secret is in it.
func (a *Answer) presentable(message string) string {
	message = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(message, ""))
	message = strings.TrimSpace(blanks.ReplaceAllString(message, " "))
	folded := strings.ToLower(message)
	for _, secret := range a.call.secrets() {
		secret = strings.ToLower(secret)
		for at := range max(1, len(secret)-telling+1) {
			if piece := secret[at:min(len(secret), at+telling)]; piece != "" && strings.Contains(folded, piece) {
				return ""
			}
		}
	}
	if runes := []rune(message); len(runes) > maxMessage {
		message = string(runes[:maxMessage]) + "…"
	}
	return message
}

var guessable = regexp.MustCompile(`^[a-z]{0,16}$`)

// secrets are those named and what of the URL may be one: all but its host and plain words of its path.
func (c *Call) secrets() []string {
	all := slices.Clone(c.Secrets)
	target, err := url.Parse(c.URL)
	if err != nil {
		return all
	}
	password, _ := target.User.Password()
	all = append(all, password, target.User.Username(), target.RawQuery)
	for _, values := range target.Query() {
		all = append(all, values...)
	}
	for _, segment := range strings.Split(target.Path, "/") {
		if len(segment) >= telling && !guessable.MatchString(segment) {
			all = append(all, segment)
		}
	}
	return all
}
