package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// Find reads the Platform that an object of the namespace names.
func Find(ctx context.Context, c client.Client, namespace, name string) (*v1alpha1.Platform, error) {
	p := &v1alpha1.Platform{}
	err := c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, p)
	if apierrors.IsNotFound(err) {
		return nil, &playbook.Waiting{Reason: v1alpha1.ReasonPlatformNotFound,
			Err: fmt.Errorf("there is no Platform %q in namespace %q: apply it, or delete this object and name another. %s",
				name, namespace, others(ctx, c, namespace))}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Platform: %w", err)
	}
	return p, nil
}

// maxOthers is how many Platforms a message names.
const maxOthers = 10

// others says which Platforms a namespace has, for who mistyped a name.
func others(ctx context.Context, c client.Client, namespace string) string {
	all := &v1alpha1.PlatformList{}
	if err := c.List(ctx, all, client.InNamespace(namespace)); err != nil {
		return "Which there are could not be read"
	}
	if len(all.Items) == 0 {
		return "There is none"
	}
	var names []string
	for _, p := range all.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	text := "There are: " + strings.Join(names[:min(len(names), maxOthers)], ", ")
	if more := len(names) - maxOthers; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// databaseReasons are what a person looks for, by what the database's errors are; the first that fits.
var databaseReasons = []struct {
	is     error
	reason string
}{
	{platformdb.ErrUnfitSession, v1alpha1.ReasonDatabaseSessionUnfit},
	{platformdb.ErrReadOnly, v1alpha1.ReasonDatabaseReadOnly},
	{platformdb.ErrRowsHidden, v1alpha1.ReasonDatabaseRowsHidden},
	{platformdb.ErrSchema, v1alpha1.ReasonSchemaUnusable},
	{platformdb.ErrNotReady, v1alpha1.ReasonLedgerNotReady},
	{platformdb.ErrRestarting, v1alpha1.ReasonDatabaseRestarting},
	{platformdb.ErrDiskFull, v1alpha1.ReasonDatabaseDiskFull},
	{platformdb.ErrNoConnection, v1alpha1.ReasonDatabaseNoConnection},
	{platformdb.ErrCanceled, v1alpha1.ReasonDatabaseCanceled},
	{platformdb.ErrTooSlow, v1alpha1.ReasonDatabaseTooSlow},
	{platformdb.ErrUnreachable, v1alpha1.ReasonDatabaseUnreachable},
}

// DatabaseError gives an error of the database the reason that a person looks for.
func DatabaseError(err error) error {
	for _, known := range databaseReasons {
		if errors.Is(err, known.is) {
			return &playbook.Waiting{Reason: known.reason, Err: err}
		}
	}
	return err
}
