package playbook

import (
	"errors"
	"regexp"
	"strings"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// maxMessage keeps one message readable in kubectl describe. The API server accepts up to 32 KiB.
const maxMessage = 1024

// troubles are the reasons of failures that are retried.
var troubles = []string{
	v1alpha1.ReasonRetrying, v1alpha1.ReasonPlatformNotFound, v1alpha1.ReasonSecretUnusable, v1alpha1.ReasonNoDatabase,
	v1alpha1.ReasonDatabaseUnreachable, v1alpha1.ReasonDatabaseSessionUnfit, v1alpha1.ReasonDatabaseRowsHidden,
	v1alpha1.ReasonDatabaseReadOnly, v1alpha1.ReasonDatabaseRestarting, v1alpha1.ReasonDatabaseDiskFull,
	v1alpha1.ReasonDatabaseNoConnection, v1alpha1.ReasonDatabaseCanceled, v1alpha1.ReasonDatabaseTooSlow,
	v1alpha1.ReasonSchemaUnusable, v1alpha1.ReasonLedgerNotReady, v1alpha1.ReasonNobodyReached,
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

// Normalise removes from an error text what differs from one retry to the next. Then the same failure again changes
// nothing, and costs no write.
func Normalise(text string) string {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}
