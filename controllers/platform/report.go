package platform

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// ReconcileSignals writes what the probes say to a Platform's status, if that changed, and opens its Incidents.
func (r *Reconciler) ReconcileSignals(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Platform{}
	if err := r.Client.Get(ctx, req.NamespacedName, p); err != nil {
		if apierrors.IsNotFound(err) {
			r.unknowns.forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := p.DeepCopy()
	s := r.Prober.Signals(req.NamespacedName)
	switch {
	case p.Spec.Probes == nil:
		signals.Forget(p)
	case len(s.Each) > 0:
		// With no signals, the Prober has not begun, and has not yet read from the status what was bad before.
		signals.Report(p, s)
	}
	reportAutoDeploy(p)
	claimed, unclaimed := r.Opener.Claim(ctx, p, s)
	if !equality.Semantic.DeepEqual(before.Status, p.Status) {
		err := playbook.PatchStatus(ctx, r.Client, before, p)
		switch {
		case apierrors.IsConflict(err):
			return ctrl.Result{RequeueAfter: conflictInterval}, nil
		case apierrors.IsNotFound(err):
			return ctrl.Result{}, nil
		case err != nil:
			return ctrl.Result{}, fmt.Errorf("writing the signals to the status: %w", err)
		}
		r.tellSignals(before, p)
	}
	next := r.unknowns.tell(r.Recorder, p, s, time.Now())
	if unclaimed != nil {
		return ctrl.Result{}, unclaimed
	}
	result, err := r.Opener.Open(ctx, p, s, claimed)
	if next > 0 && (result.RequeueAfter == 0 || next < result.RequeueAfter) {
		result.RequeueAfter = next
	}
	return result, err
}

// reportAutoDeploy says of which services an Incident keeps auto-deploy off.
func reportAutoDeploy(p *v1alpha1.Platform) {
	var off []string
	for _, rollback := range p.Status.Rollbacks {
		if rollback.AutoDeploy == v1alpha1.AutoDeployOff {
			off = append(off, fmt.Sprintf("service %q since %s, by Incident %q, for a rollback from commit %s to %s",
				rollback.Service,
				rollback.At.UTC().Format(time.RFC3339), rollback.Incident, rollback.FromCommit, rollback.ToCommit))
		}
	}
	if len(off) == 0 {
		meta.RemoveStatusCondition(&p.Status.Conditions, v1alpha1.ConditionAutoDeployOff)
		return
	}
	set(p, v1alpha1.ConditionAutoDeployOff, metav1.ConditionTrue, v1alpha1.ReasonSwitchedOff, fmt.Sprintf(
		"auto-deploy is off: %s. To have it switched on again, deploy a commit that mends the outage, or set the Incident's "+
			"spec.resolution. If that Incident is gone, switch it on at Render: this is looked at, and then no longer said",
		strings.Join(off, "; ")))
}

// tellSignals emits an event when the severity of the signals changed.
func (r *Reconciler) tellSignals(before, p *v1alpha1.Platform) {
	var was, is v1alpha1.PlatformSignals
	if before.Status.Signals != nil {
		was = *before.Status.Signals
	}
	if p.Status.Signals != nil {
		is = *p.Status.Signals
	}
	switch {
	case is.Severity == was.Severity:
	case is.Severity != "":
		r.Recorder.Eventf(p, nil, "Warning", v1alpha1.ReasonSignalBad, "Probe", "%s", is.Summary)
	default:
		r.Recorder.Eventf(p, nil, "Normal", v1alpha1.ReasonSignalGood, "Probe", "nothing is bad any more: %s", is.Summary)
	}
}
