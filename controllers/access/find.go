package access

import (
	"context"
	"errors"
	"fmt"

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
			Err: fmt.Errorf("there is no Platform %q in namespace %q: apply it, or delete this object and name another", name,
				namespace)}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Platform: %w", err)
	}
	return p, nil
}

// DatabaseError gives an error of the database the reason that a person looks for.
func DatabaseError(err error) error {
	switch {
	case errors.Is(err, platformdb.ErrNotReady):
		return &playbook.Waiting{Reason: v1alpha1.ReasonLedgerNotReady, Err: err}
	case errors.Is(err, platformdb.ErrUnreachable):
		return &playbook.Waiting{Reason: v1alpha1.ReasonDatabaseUnreachable, Err: err}
	}
	return err
}
