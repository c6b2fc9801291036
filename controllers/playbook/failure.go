package playbook

import (
	"errors"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// maxMessage keeps one message readable in kubectl describe; the API server takes up to 32 KiB.
const maxMessage = 1024

// Fail reports an error that is retried, where no step had begun.
func Fail(obj Object, err error) {
	proceed(obj, reasonOf(err), Normalise(err.Error()))
}

// FailToResume reports an error that is retried, where a stalled object was asked to go on. It stays stalled until it does, or the
// next pass would not know that it was asked.
func FailToResume(obj Object, err error) {
	Stop(obj, reasonOf(err), "asked to go on, which can't be done yet: "+Normalise(err.Error()))
}

func fail(obj Object, step, at string, err error) {
	message := Normalise(err.Error())
	set(obj, step, metav1.ConditionUnknown, reasonOf(err), message)
	proceed(obj, reasonOf(err), at+message)
}

// troubles are the reasons of what is retried.
var troubles = []string{
	v1alpha1.ReasonRetrying, v1alpha1.ReasonPlatformNotFound, v1alpha1.ReasonSecretUnusable, v1alpha1.ReasonNoDatabase,
	v1alpha1.ReasonDatabaseUnreachable, v1alpha1.ReasonLedgerNotReady,
}

func reasonOf(err error) string {
	if w := (*Waiting)(nil); errors.As(err, &w) {
		return w.Reason
	}
	return v1alpha1.ReasonRetrying
}

var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	// Go prints both ends of a broken connection, and the local one has a new port each time.
	{regexp.MustCompile(`\d{1,3}(\.\d{1,3}){3}:\d+->`), ""},
	{regexp.MustCompile(`\[[0-9a-f:]+\]:\d+->`), ""},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ns|µs|ms|m?s|h)\b`), "some time"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d{2}:?\d{2}|Z)?`), "some time"},
	{regexp.MustCompile(`\b(attempt|try) #?\d+\b`), "$1"},
	{regexp.MustCompile(`\bpid \d+\b`), "pid"},
	{regexp.MustCompile(`\s+`), " "},
}

// Normalise takes out of an error text what differs from one retry to the next: each write of a status wakes the controller,
// so a text that always differs would make it retry at once and for ever.
func Normalise(text string) string {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}
