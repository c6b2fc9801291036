package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// leaseInterval is how often the lease is looked at. A manager renews it every 2 s.
const leaseInterval = time.Second

// cleanup lets objects go that no manager lets go any more. It knows only what their status says: it needs no Secret,
// and reaches no far side.
func cleanup(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("manager cleanup", flag.ContinueOnError)
	config.RegisterFlags(flags)
	var namespaces []string
	flags.Func("namespaces", "comma-separated `names` of the namespaces that the manager watched; required",
		func(names string) (err error) {
			namespaces, err = splitNames(names)
			return err
		})
	electionNamespace := flags.String("leader-election-namespace", "",
		"`namespace` of the lease, if it is not one of --namespaces")
	force := flags.Bool("force", false, "do not look whether a manager holds the lease")
	if err := parse(flags, args); err != nil {
		return err
	}
	if len(namespaces) == 0 {
		return errors.New("--namespaces is required: name the namespaces that the manager watched, such as " +
			"--namespaces=playbook-system")
	}
	kube, err := cleanupClient()
	if err != nil {
		return err
	}
	if !*force {
		leases := namespaces
		if *electionNamespace != "" {
			leases = append([]string{*electionNamespace}, namespaces...)
		}
		if err := refuseWhileAManagerRuns(ctx, kube, leases); err != nil {
			return err
		}
	}
	return free(ctx, kube, namespaces)
}

func cleanupClient() (client.Client, error) {
	ctrl.SetLogger(klog.Background())
	rest, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the API server: %w", err)
	}
	kube, err := client.New(rest, client.Options{Scheme: newScheme(), FieldOwner: "playbook-cleanup"})
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	return kube, nil
}

// refuseWhileAManagerRuns returns an error if a manager renews its lease. A manager without --leader-elect has none.
func refuseWhileAManagerRuns(ctx context.Context, kube client.Client, namespaces []string) error {
	for _, namespace := range namespaces {
		holder, err := leader(ctx, kube, client.ObjectKey{Namespace: namespace, Name: leaseName})
		if err != nil {
			return fmt.Errorf("looking whether a manager runs in %s: %w", namespace, err)
		}
		if holder != "" {
			return fmt.Errorf("a manager runs (%s in %s). Nothing was changed. It lets deleted objects go by itself, within a "+
				"minute or so, and takes back what they began. Stop it first: kubectl -n %s scale deployment playbook-manager "+
				"--replicas=0. Or go on beside it: --force", holder, namespace, namespace)
		}
	}
	return nil
}

// leader returns who holds a lease, or "" where nobody does. It waits for as long as the lease lasts, rather than
// compare the clocks of two machines: a manager that was killed leaves the lease as it is, one that runs renews it.
func leader(ctx context.Context, kube client.Client, key client.ObjectKey) (string, error) {
	first, err := lease(ctx, kube, key)
	if err != nil || first == nil {
		return "", err
	}
	lasts := 15 * time.Second
	if first.LeaseDurationSeconds != nil {
		lasts = time.Duration(*first.LeaseDurationSeconds) * time.Second
	}
	fmt.Printf("a manager held the lease in %s: waiting up to %s to see whether it still runs\n", key.Namespace, lasts)
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(leaseInterval):
		}
		now, err := lease(ctx, kube, key)
		if err != nil || now == nil {
			return "", err
		}
		if !now.RenewTime.Equal(first.RenewTime) {
			return *now.HolderIdentity, nil
		}
	}
	return "", nil
}

// lease reads a lease. It returns nil where there is none, or where its holder gave it up.
func lease(ctx context.Context, kube client.Client, key client.ObjectKey) (*coordinationv1.LeaseSpec, error) {
	found := &coordinationv1.Lease{}
	err := kube.Get(ctx, key, found)
	if apierrors.IsNotFound(err) || err == nil && (found.Spec.HolderIdentity == nil || *found.Spec.HolderIdentity == "") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the lease %s: %w", key.Name, err)
	}
	return &found.Spec, nil
}

// free takes the finalizer off each object that has it. Before that it says what the object leaves undone: afterwards
// the object may be gone.
func free(ctx context.Context, kube client.Client, namespaces []string) error {
	var failures []error
	freed := 0
	said := map[string]bool{}
	for _, namespace := range namespaces {
		objects, err := held(ctx, kube, namespace)
		platforms := &v1alpha1.PlatformList{}
		if err == nil {
			err = list(ctx, kube, namespace, platforms)
		}
		if err != nil {
			return errors.Join(append(failures, err)...)
		}
		for _, obj := range objects {
			name := nameOf(obj)
			say(name, undone(obj))
			said[string(obj.GetUID())] = true
			if err := letGo(ctx, kube, obj); err != nil {
				failures = append(failures, fmt.Errorf("freeing %s: %w", name, err))
				continue
			}
			freed++
		}
		for i := range platforms.Items {
			if left := undoneAt(&platforms.Items[i], said); len(left) > 0 {
				say(nameOf(&platforms.Items[i]), left)
			}
		}
	}
	fmt.Printf("%s freed in %s\n", playbook.Count(freed, "object was", "objects were"), strings.Join(namespaces, ", "))
	return errors.Join(failures...)
}

// held lists the objects of a namespace that have our finalizer.
func held(ctx context.Context, kube client.Client, namespace string) ([]playbook.Object, error) {
	var found []playbook.Object
	for _, kind := range []client.ObjectList{
		&v1alpha1.IncidentList{}, &v1alpha1.DLQReplayList{}, &v1alpha1.KeyCompromiseList{},
	} {
		if err := list(ctx, kube, namespace, kind); err != nil {
			return nil, err
		}
		_ = meta.EachListItem(kind, func(item runtime.Object) error { // the function never fails
			if obj := item.(playbook.Object); controllerutil.ContainsFinalizer(obj, v1alpha1.Finalizer) {
				found = append(found, obj)
			}
			return nil
		})
	}
	return found, nil
}

// list lists a namespace's objects of a kind. A kind whose CRD is gone has none.
func list(ctx context.Context, kube client.Client, namespace string, kind client.ObjectList) error {
	err := kube.List(ctx, kind, client.InNamespace(namespace))
	if err == nil || meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("listing the objects in %s: %w", namespace, err)
}

// letGo takes the finalizer off. Others' finalizers stay.
func letGo(ctx context.Context, kube client.Client, obj playbook.Object) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		err := playbook.PatchFinalizer(ctx, kube, obj, controllerutil.RemoveFinalizer)
		if !apierrors.IsConflict(err) {
			return err
		}
		return errors.Join(err, kube.Get(ctx, client.ObjectKeyFromObject(obj), obj))
	})
	return client.IgnoreNotFound(err)
}

func nameOf(obj client.Object) string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", obj), "*v1alpha1.")
	return fmt.Sprintf("%s %s/%s", strings.ToLower(kind), obj.GetNamespace(), obj.GetName())
}

func say(name string, undone []string) {
	fmt.Println(name)
	for _, text := range undone {
		fmt.Println("  left undone:", text)
	}
}
