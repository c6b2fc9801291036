package outbound

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Answer is what came back, whatever its status. Body is nil where it broke off, or is longer than MaxAnswer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// BrokeOff says that the connection broke, or time was up, before the end of the body.
	BrokeOff bool
	call     *Call
}

// Refused says that the far side answered, did nothing, and would answer so again. It is a 4xx other than 408, 420 and
// 429. With Status 0, the call itself can't be made, and was not sent.
type Refused struct {
	Status int
	// Message is the far side's own, short and without secrets. It is empty where the far side gave none that can be
	// shown.
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

// Limited says that the far side did nothing, since it was asked too often. With Status 0, a limit at our end was
// reached, and the call was not sent.
type Limited struct {
	Status int
	// After is how long to leave the far side alone: between a second and five minutes, or 0 where it didn't say.
	After time.Duration
}

func (e *Limited) Error() string {
	if e.Status == 0 {
		return "not sent: the limit of calls is reached"
	}
	return fmt.Sprintf("limited with HTTP %d", e.Status)
}

// NoEffect says of a failed call that the far side certainly did nothing: it refused, it limited, or it was never
// reached. After any other error, nobody knows until the far side has been looked at.
func NoEffect(err error) bool {
	unsent, refused, limited := (*NotSent)(nil), (*Refused)(nil), (*Limited)(nil)
	return errors.As(err, &unsent) || errors.As(err, &refused) || errors.As(err, &limited)
}

// Err says what an answer means, where it is not the wanted one. It is *Limited, or *Refused with the message. Any
// other error leaves open whether the far side did something; a redirect does, since some servers redirect after the
// work. The message is the far side's own. It is left out where it may hold a secret.
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

// enhanceYourCalm is Statuspage's way to limit, beside 429.
const enhanceYourCalm = 420

// A far side whose clock is wrong must not stop an incident, nor be asked without a pause.
const (
	shortestAfter = time.Second
	longestAfter  = 5 * time.Minute
)

// after reads Retry-After, which has seconds or a date (RFC 9110, 10.2.3). Where that can't be read, it reads
// Ratelimit-Reset, which has seconds or, at Render, a Unix time. A point in time is compared with the answer's own
// Date, so a difference between the clocks does not count.
func (a *Answer) after() time.Duration {
	now, err := http.ParseTime(a.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	text := strings.TrimSpace(a.Header.Get("Retry-After"))
	if n, ok := number(text); ok {
		return bounded(n)
	}
	if until, err := http.ParseTime(text); err == nil {
		return bounded(until.Unix() - now.Unix())
	}
	n, ok := number(strings.TrimSpace(a.Header.Get("Ratelimit-Reset")))
	switch {
	case !ok:
		return 0
	case n > aUnixTime:
		n -= now.Unix()
	}
	return bounded(n)
}

// aUnixTime is in 2001. No limit lasts for as many seconds, which are thirty years.
const aUnixTime = 1e9

// number reads an integer; one that is too large is the largest.
func number(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

func bounded(seconds int64) time.Duration {
	// In seconds, since a far side's number of them may be too large for a Duration.
	seconds = min(max(seconds, 0), int64(longestAfter/time.Second))
	return max(time.Duration(seconds)*time.Second, shortestAfter)
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

// secrets are those that the call names, and those that its URL may hold: all of it but the host and plain words of the
// path.
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
