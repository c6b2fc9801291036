// Package claims keeps what belongs to a Platform and not to one object: the rollback of a service, the public notice,
// the slots of open Incidents. All of it is in the Platform's status, and changes under the optimistic lock.
package claims

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// insistFor bounds how long Insist tries. A manager that is being stopped has that long to record what it did.
const insistFor = 30 * time.Second

// Claims reads and writes the status of Platforms.
type Claims struct {
	Client client.Client
	// APIReader reads from the API server, not from the cache: a claim is decided on the present status.
	APIReader client.Reader
	Now       func() time.Time
	// Namespaces in which Platforms may name the same target; none stands for the namespace of the one that asks.
	Namespaces []string
}

// Decide reads the Platform's present status. decide may change it, and returns whether the change is to be written.
// Decide returns the Platform as it is afterwards. If another writer was faster, the error is a conflict, and nothing
// is claimed.
func (c Claims) Decide(ctx context.Context, key client.ObjectKey,
	decide func(*v1alpha1.PlatformStatus) bool) (*v1alpha1.Platform, error) {
	fresh := &v1alpha1.Platform{}
	if err := c.APIReader.Get(ctx, key, fresh); err != nil {
		return nil, fmt.Errorf("reading the Platform: %w", err)
	}
	return c.DecideOn(ctx, fresh, decide)
}

// DecideOn is Decide on a Platform that was just read from the API server, or just written. It saves a read.
func (c Claims) DecideOn(ctx context.Context, base *v1alpha1.Platform,
	decide func(*v1alpha1.PlatformStatus) bool) (*v1alpha1.Platform, error) {
	changed := base.DeepCopy()
	if !decide(&changed.Status) || equality.Semantic.DeepEqual(base.Status, changed.Status) {
		return base, nil
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := c.Client.Status().Patch(ctx, changed, patch); err != nil {
		return nil, fmt.Errorf("writing the Platform's status: %w", err)
	}
	return changed, nil
}

// Read returns the Platform as it is now.
func (c Claims) Read(ctx context.Context, key client.ObjectKey) (*v1alpha1.Platform, error) {
	return c.Decide(ctx, key, func(*v1alpha1.PlatformStatus) bool { return false })
}

// Insist is Decide for what has already happened. It must be written, so Insist tries again after a conflict, and goes
// on while the manager is being stopped.
func (c Claims) Insist(ctx context.Context, key client.ObjectKey,
	change func(*v1alpha1.PlatformStatus)) (*v1alpha1.Platform, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), insistFor)
	defer cancel()
	for {
		p, err := c.Decide(ctx, key, func(status *v1alpha1.PlatformStatus) bool { change(status); return true })
		if !apierrors.IsConflict(err) {
			return p, err
		}
	}
}
