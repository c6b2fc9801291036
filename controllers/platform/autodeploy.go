package platform

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

const (
	// switchTakes is longer than a call that switches auto-deploy off may still take effect after it was written down.
	switchTakes = 2 * time.Minute
	// serviceTimeout bounds a look at a service at Render.
	serviceTimeout = 10 * time.Second
)

// lookAtAutoDeploy looks whether somebody switched auto-deploy on at Render, where an Incident switched it off and does
// not follow it any more, since it is gone or finished. While the Incident is open, it looks itself.
func (r *Reconciler) lookAtAutoDeploy(ctx context.Context, p *v1alpha1.Platform) error {
	for i := range p.Status.Rollbacks {
		rollback := &p.Status.Rollbacks[i]
		if rollback.AutoDeploy != v1alpha1.AutoDeployOff || time.Since(rollback.At.Time) < switchTakes {
			continue
		}
		followed, err := r.followed(ctx, p, rollback)
		if err != nil {
			return err
		}
		if followed || !r.isOn(ctx, p, rollback.Service) {
			continue
		}
		written := claims.Claims{Client: r.Client, APIReader: r.APIReader}
		if _, err := written.Insist(ctx, client.ObjectKeyFromObject(p), func(status *v1alpha1.PlatformStatus) {
			now := claims.RollbackOf(status, rollback.Service)
			if now != nil && now.IncidentUID == rollback.IncidentUID && now.AutoDeploy == v1alpha1.AutoDeployOff {
				now.AutoDeploy = v1alpha1.AutoDeployRestored
			}
		}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("writing down that auto-deploy of %s is on: %w", rollback.Service, err)
		}
		r.Recorder.Eventf(p, nil, "Normal", v1alpha1.StepAutoDeployRestored, "Look",
			"auto-deploy of %s is on again: somebody switched it on at Render", rollback.Service)
	}
	return nil
}

// followed says that the Incident of a rollback is there, and not finished.
func (r *Reconciler) followed(ctx context.Context, p *v1alpha1.Platform, rollback *v1alpha1.ServiceRollback) (bool,
	error) {
	incident := &v1alpha1.Incident{}
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: rollback.Incident}, incident)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("reading the Incident that switched auto-deploy of %s off: %w", rollback.Service, err)
	}
	return string(incident.UID) == rollback.IncidentUID && !playbook.Finished(incident), nil
}

// isOn says that Render shows auto-deploy of a service as on. What can't be read changes nothing.
func (r *Reconciler) isOn(ctx context.Context, p *v1alpha1.Platform, service string) bool {
	id := access.RenderServiceID(p, service)
	if id == "" {
		return false
	}
	api, err := r.Connections.Render(ctx, p)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	is, err := api.Service(ctx, id)
	return err == nil && is.AutoDeploy
}
