package crashmatrix_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// play runs a scenario once, under a plan or none.
func (s *slot) play(ctx context.Context, sc scenario, plan *crashmatrix.Plan, v variant, stale bool) (got *result,
	effects []crashmatrix.Recorded, fired bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, runDeadline)
	defer cancel()
	r := &run{slot: s, scenario: sc, acted: map[string]bool{}}
	r.object = client.ObjectKey{Namespace: world.Namespace, Name: fmt.Sprintf("run-%d", s.runs.Add(1))}
	r.calls.byEntry = map[string]int{}
	if err := r.prepare(ctx); err != nil {
		return nil, nil, false, err
	}
	request := ctrl.Request{NamespacedName: r.object}
	wire := &crashmatrix.Wire{Plan: plan, Rewrite: v.rewrite}
	var overtaking sync.WaitGroup
	wire.Overtake = func() {
		if sc.overtaking != nil {
			if err := sc.overtaking(ctx, r); err != nil {
				panic(err)
			}
		}
		other, err := r.newManager(&crashmatrix.Wire{Rewrite: v.rewrite}, v, stale)
		if err != nil {
			panic(err)
		}
		meanwhile(&overtaking, func() {
			defer other.Connections.Close()
			_, _ = other.Reconcile(ctx, request) // its errors are those of a manager that came second
		})
	}
	manager, err := r.newManager(wire, v, stale)
	if err != nil {
		return nil, nil, false, err
	}
	defer func() { manager.Connections.Close() }()
	for pass := 0; ; pass++ {
		_, passErr := manager.Reconcile(ctx, request)
		overtaking.Wait()
		if wire.Dead() {
			manager.Connections.Close()
			if manager, err = r.newManager(&crashmatrix.Wire{Rewrite: v.rewrite}, v, stale); err != nil {
				return nil, nil, false, err
			}
		} else if passErr != nil && plan == nil && v.name == "" {
			return nil, nil, false, fmt.Errorf("a clean pass failed: %w", passErr)
		}
		if _, err := r.site.DispatchOnce(ctx); err != nil {
			return nil, nil, false, err
		}
		obj := &v1alpha1.DLQReplay{}
		if err := s.admin.Get(ctx, r.object, obj); apierrors.IsNotFound(err) {
			obj = nil
		} else if err != nil {
			return nil, nil, false, err
		}
		if sc.done(obj) {
			// Once more, as after a restart: a finished object runs nothing.
			if _, err := manager.Reconcile(ctx, request); err != nil && v.name == "" {
				return nil, nil, false, fmt.Errorf("a pass after the end: %w", err)
			}
			got, err = r.result(ctx, obj)
			return got, wire.Effects(), wire.Fired(), err
		}
		if obj != nil {
			if err := r.meanwhile(ctx, r, obj); err != nil {
				return nil, nil, false, err
			}
		}
		if ctx.Err() != nil {
			got, err := r.result(context.WithoutCancel(ctx), obj)
			return nil, nil, wire.Fired(), errors.Join(fmt.Errorf("the run did not end within %s and %d passes: %s",
				runDeadline, pass, describe(got)), err)
		}
	}
}

// once does something the first time it is asked to.
func (r *run) once(what string, do func() error) error {
	if r.acted[what] {
		return nil
	}
	r.acted[what] = true
	return do()
}

// delete deletes the object, once.
func (r *run) delete(ctx context.Context) error {
	return r.once("delete", func() error {
		return r.admin.Delete(ctx, &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: r.object.Namespace,
			Name: r.object.Name}})
	})
}
