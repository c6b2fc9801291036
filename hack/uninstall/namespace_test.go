package uninstall_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/hack/world"
)

// endNamespace plays the namespace controller, which a bare API server does not have: once the namespace is Terminating
// it deletes everything there, the manager's pods first, and lets the namespace go when nothing is left.
func (s *scene) endNamespace(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		namespace := &corev1.Namespace{}
		err := s.admin.Get(ctx, client.ObjectKey{Name: world.Namespace}, namespace)
		if err != nil || namespace.DeletionTimestamp.IsZero() {
			continue
		}
		s.stopManager(ctx)
		if left, err := s.empty(ctx); err != nil || len(left) > 0 {
			continue
		}
		namespace.Spec.Finalizers = nil
		// If it fails, the next turn tries again.
		_, _ = s.core.CoreV1().Namespaces().Finalize(ctx, namespace, metav1.UpdateOptions{})
	}
}

// empty deletes what is in the namespace, and returns what still stays.
func (s *scene) empty(ctx context.Context) (left []string, err error) {
	lists, err := s.core.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		return nil, err // a CRD is on its way out
	}
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, resource := range list.APIResources {
			if !slices.Contains(resource.Verbs, "deletecollection") {
				continue
			}
			objects := s.objects.Resource(group.WithResource(resource.Name)).Namespace(world.Namespace)
			found, err := objects.List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("listing %s: %w", resource.Name, err)
			}
			for _, o := range found.Items {
				left = append(left, resource.Name+"/"+o.GetName())
			}
			if len(found.Items) > 0 {
				if err := objects.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
					return nil, fmt.Errorf("deleting %s: %w", resource.Name, err)
				}
			}
		}
	}
	return left, nil
}

// stopManager ends the manager as its pod's deletion does.
func (s *scene) stopManager(ctx context.Context) {
	if err := s.manager.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		s.Errorf("stopping the manager: %v", err)
	}
}
