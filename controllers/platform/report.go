package platform

import (
	"context"
	"fmt"
	"slices"
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
)

const (
	// openInterval is how often a Platform in trouble is asked whether its Incident is still open.
	openInterval = 5 * time.Second
	// maxPlatformInName leaves room for the onset in an Incident's name, whose limit is 253.
	maxPlatformInName = 200
)

// ReconcileSignals writes what the probes say to a Platform's status, where that changed, and opens its Incident.
func (r *Reconciler) ReconcileSignals(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Platform{}
	if err := r.Client.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := p.DeepCopy()
	s := r.Prober.Signals(req.NamespacedName)
	switch {
	case p.Spec.Probes == nil:
		for condition := range class {
			meta.RemoveStatusCondition(&p.Status.Conditions, condition)
		}
		p.Status.Signals = nil
	case len(s.Each) > 0:
		// Else the Prober has not begun, and has yet to read what was bad before it did.
		reportSignals(p, s)
	}
	reportAutoDeploy(p)
	if !equality.Semantic.DeepEqual(before.Status, p.Status) {
		if err := playbook.PatchStatus(ctx, r.Client, before, p); apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: conflictInterval}, nil
		} else if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("writing what the signals are: %w", err)
		}
		r.tellSignals(before, p)
	}
	return r.open(ctx, p, s)
}

// reportSignals brings the conditions and the summary up to date.
func reportSignals(p *v1alpha1.Platform, s Signals) {
	reasons := map[metav1.ConditionStatus]string{
		metav1.ConditionTrue: v1alpha1.ReasonSignalGood, metav1.ConditionFalse: v1alpha1.ReasonSignalBad, metav1.ConditionUnknown: v1alpha1.ReasonSignalUnknown,
	}
	asked := map[string]bool{}
	for _, signal := range s.Each {
		asked[signal.Condition] = true
		reason := reasons[signal.State]
		if signal.Partly && signal.State == metav1.ConditionFalse {
			reason = v1alpha1.ReasonSignalFlaky
		}
		meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{
			Type: signal.Condition, Status: signal.State, Reason: reason, Message: signal.Message, ObservedGeneration: p.Generation,
			// What a Prober that starts in the middle of an outage reads.
			LastTransitionTime: metav1.NewTime(signal.Since.Truncate(time.Second)),
		})
	}
	for condition := range class {
		if !asked[condition] {
			meta.RemoveStatusCondition(&p.Status.Conditions, condition)
		}
	}
	signals := &v1alpha1.PlatformSignals{Summary: s.Summary(), Severity: s.Severity}
	switch {
	case s.Severity != "":
		signals.BadSince = new(metav1.NewTime(s.BadSince.Truncate(time.Second)))
	case s.lingering && p.Status.Signals != nil:
		signals.BadSince = p.Status.Signals.BadSince
	}
	p.Status.Signals = signals
}

// reportAutoDeploy says which services don't deploy what is pushed to them, since an Incident saw to that.
func reportAutoDeploy(p *v1alpha1.Platform) {
	var off []string
	for _, rollback := range p.Status.Rollbacks {
		if rollback.AutoDeploy == v1alpha1.AutoDeployOff {
			off = append(off, fmt.Sprintf("service %q since %s, by Incident %q, which left commit %s for %s", rollback.Service,
				rollback.At.UTC().Format(time.RFC3339), rollback.Incident, rollback.FromCommit, rollback.ToCommit))
		}
	}
	if len(off) == 0 {
		meta.RemoveStatusCondition(&p.Status.Conditions, v1alpha1.ConditionAutoDeployOff)
		return
	}
	set(p, v1alpha1.ConditionAutoDeployOff, metav1.ConditionTrue, v1alpha1.ReasonSwitchedOff, fmt.Sprintf(
		"auto-deploy is off: %s. Deploy a commit that mends it, or set the Incident's spec.resolution, and it is switched on again; where that Incident is gone, switch it on at Render",
		strings.Join(off, "; ")))
}

// tellSignals emits an event when the severity changed, or auto-deploy.
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

// open opens an Incident where the Platform wants that, one at a time. BadSince is in the status by now, and so the name, which is
// made of the onset, stays the same over a restart: creating it twice is impossible.
func (r *Reconciler) open(ctx context.Context, p *v1alpha1.Platform, s Signals) (ctrl.Result, error) {
	var category v1alpha1.IncidentCategory
	var onset time.Time
	// An outage is worse than webhooks that don't arrive, and is often why.
	for _, c := range []v1alpha1.IncidentCategory{v1alpha1.CategoryOutage, v1alpha1.CategoryWebhookDelivery} {
		if onset = s.onset(c); !onset.IsZero() && slices.Contains(p.Spec.AutoOpen, c) {
			category = c
			break
		}
	}
	if category == "" || !p.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	began := metav1.NewTime(onset.UTC().Truncate(time.Second))
	incident := &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace,
			Name:      strings.TrimRight(p.Name[:min(len(p.Name), maxPlatformInName)], "-.") + "-" + began.Format("20060102t150405z"),
		},
		// The severity follows the signals.
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: p.Name}, Category: category, Onset: &began, Summary: summaryOf(s)},
	}
	var list v1alpha1.IncidentList
	if err := r.APIReader.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
		return ctrl.Result{}, fmt.Errorf("looking for an open Incident: %w", err)
	}
	for _, other := range list.Items {
		if other.Name == incident.Name || other.Spec.PlatformRef.Name == p.Name && isOpen(&other) {
			// While it is open, no other one is opened; afterwards, one for what is bad then.
			return ctrl.Result{RequeueAfter: openInterval}, nil
		}
	}
	if err := r.Client.Create(ctx, incident); apierrors.IsAlreadyExists(err) {
		return ctrl.Result{RequeueAfter: openInterval}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("opening an Incident: %w", err)
	}
	r.Recorder.Eventf(p, incident, "Warning", "IncidentOpened", "Open", "%s: opened Incident %s", s.Summary(), incident.Name)
	return ctrl.Result{RequeueAfter: openInterval}, nil
}

// summaryOf fits into spec.summary.
func summaryOf(s Signals) string {
	const most = 255
	text := s.Because
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most-len("…")], "") + "…"
	}
	return text
}

func isOpen(i *v1alpha1.Incident) bool {
	resolved := meta.FindStatusCondition(i.Status.Conditions, v1alpha1.StepResolved)
	if resolved == nil {
		return true
	}
	return resolved.Status != metav1.ConditionTrue && (resolved.Status != metav1.ConditionFalse || resolved.Reason != v1alpha1.ReasonNotNeeded)
}
