package uninstall_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// held lists the objects that still have our finalizer.
func (s *scene) held(ctx context.Context) (names []string) {
	s.Helper()
	for _, list := range []client.ObjectList{
		&v1alpha1.IncidentList{}, &v1alpha1.DLQReplayList{}, &v1alpha1.KeyCompromiseList{},
	} {
		if err := s.admin.List(ctx, list); err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
			s.Errorf("listing what is held: %v", err)
		}
		_ = meta.EachListItem(list, func(item runtime.Object) error { // the function never fails
			if obj := item.(client.Object); len(obj.GetFinalizers()) > 0 {
				names = append(names, obj.GetName())
			}
			return nil
		})
	}
	return names
}

// expectHeld fails where nothing is held: then there is nothing to be shown.
func (s *scene) expectHeld() {
	s.Helper()
	if len(s.held(s.Context())) == 0 {
		s.Fatal("no object is held")
	}
}

// awaitNoPlaybooks waits until nothing is held by the manager that runs. Without one it does not wait.
func (s *scene) awaitNoPlaybooks() {
	s.Helper()
	select {
	case <-s.manager.Done():
		return
	default:
	}
	eventually(s.T, ending, "the objects to go", func() (bool, string) {
		held := s.held(s.Context())
		return len(held) == 0, strings.Join(held, ", ")
	})
}

// awaitEnd waits until nothing of the install is left.
func (s *scene) awaitEnd() {
	s.Helper()
	eventually(s.T, ending, "the uninstall to end", func() (bool, string) {
		left, err := s.Kubectl(s.Context(), "get", "-k", filepath.Join(world.Root(), "config/default"),
			"--ignore-not-found", "-o", "name")
		return err == nil && strings.TrimSpace(left) == "", left
	})
}

// end installs again, and gives the cluster back.
func (s *scene) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*ending)
	defer cancel()
	var errs []error
	if s.manager != nil {
		if s.Failed() {
			s.Log(s.manager.Log())
		}
		errs = append(errs, s.manager.Stop(ctx))
	}
	// A test that failed may have left anything.
	for _, name := range s.held(ctx) {
		obj, _ := s.object(ctx, name)
		errs = append(errs, client.IgnoreNotFound(s.admin.Patch(ctx, obj,
			client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))))
	}
	install := filepath.Join(world.Root(), "config/default")
	for _, args := range [][]string{
		{"delete", "-k", install, "--ignore-not-found"},
		{"apply", "-k", install},
		{"wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"},
	} {
		_, err := s.Kubectl(ctx, args...)
		errs = append(errs, err)
	}
	s.stopNamespaces()
	if s.db != nil {
		errs = append(errs, s.db.Close(ctx))
	}
	if s.site != nil {
		errs = append(errs, s.site.Close(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		s.Errorf("installing again: %v", err)
	}
	pool <- s.cluster
}
