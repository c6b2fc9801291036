package playbook_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

func TestAPassKeepsItsErrorAndALostWriteIsTriedAgain(t *testing.T) {
	resource := schema.GroupResource{Resource: "dlqreplays"}
	conflict := apierrors.NewConflict(resource, "r", errors.New("changed"))
	gone := apierrors.NewNotFound(resource, "r")
	broken, away := errors.New("broken"), errors.New("away")
	for _, test := range []struct {
		name          string
		err, writeErr error
		after         time.Duration
		says          []string
	}{
		{"all is well", nil, nil, time.Second, nil},
		{"the pass failed", broken, nil, 0, []string{"broken"}},
		{"the write failed", nil, away, 0, []string{"writing the status", "away"}},
		{"both failed", broken, away, 0, []string{"writing the status", "away", "broken"}},
		{"a terminal error, and the write failed", reconcile.TerminalError(broken), away, 0, []string{"away", "broken"}},
		{"somebody else wrote", nil, conflict, time.Millisecond, nil},
		{"the pass failed, and somebody else wrote", broken, conflict, time.Millisecond, nil},
		{"somebody else wrote what the pass changed", conflict, nil, time.Millisecond, nil},
		{"the object is gone", nil, gone, time.Second, nil},
	} {
		got, err := playbook.Result(t.Context(), time.Second, test.err, test.writeErr)
		if (err != nil) != (test.says != nil) {
			t.Errorf("%s: the error is %v", test.name, err)
			continue
		}
		if err == nil && got.RequeueAfter != test.after {
			t.Errorf("%s: it comes back after %v", test.name, got.RequeueAfter)
		}
		for _, text := range test.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error %q does not say %q", test.name, err, text)
			}
		}
		if test.writeErr != nil && errors.Is(err, reconcile.TerminalError(nil)) {
			t.Errorf("%s: the write is never tried again: %v", test.name, err)
		}
	}
}
