package platform

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
)

// maxNamers is how many other Platforms a message names.
const maxNamers = 5

// shared says which targets of the Platform others name as well, and who holds each. It returns the conditions that
// are present.
func (r *Reconciler) shared(ctx context.Context, p *v1alpha1.Platform) (present []string, err error) {
	var services []claims.Target
	if p.Spec.Render != nil {
		for _, service := range p.Spec.Render.Services {
			services = append(services, claims.Service(p, service.Name))
		}
	}
	for _, each := range []struct {
		condition, effects string
		targets            []claims.Target
	}{
		{v1alpha1.ConditionRenderServicesShared, "roll it back and switch its auto-deploy", services},
		{v1alpha1.ConditionStatusPageShared, "tell the public there", []claims.Target{claims.Page(p)}},
	} {
		var texts []string
		reason := v1alpha1.ReasonHolder
		for _, target := range each.targets {
			text, holds, err := r.sharedTarget(ctx, p, target, each.effects)
			if err != nil {
				return nil, err
			}
			if text != "" {
				texts = append(texts, text)
			}
			if !holds {
				reason = v1alpha1.ReasonHeldByOther
			}
		}
		if len(texts) == 0 {
			meta.RemoveStatusCondition(&p.Status.Conditions, each.condition)
			continue
		}
		present = append(present, strings.TrimSuffix(each.condition, "Shared"))
		set(p, each.condition, metav1.ConditionTrue, reason, strings.Join(texts, "; ")+
			". Take each out of the spec of all but one Platform")
	}
	return present, nil
}

// sharedTarget says who else names a target; empty where nobody does. holds says whether the Platform holds it.
func (r *Reconciler) sharedTarget(ctx context.Context, p *v1alpha1.Platform, target claims.Target, effects string) (
	text string, holds bool, err error) {
	namers, err := claims.Claims{Namespaces: r.Namespaces}.Namers(ctx, r.Client, p, target)
	if err != nil || len(namers) < 2 {
		return "", true, err
	}
	var others []string
	for i := range namers {
		if key := client.ObjectKeyFromObject(&namers[i]); key != client.ObjectKeyFromObject(p) {
			others = append(others, key.String())
		}
	}
	names := strings.Join(others[:min(len(others), maxNamers)], ", ")
	if more := len(others) - maxNamers; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	holder := client.ObjectKeyFromObject(&namers[0])
	if holder == client.ObjectKeyFromObject(p) {
		return fmt.Sprintf("%s is also named by %s. This Platform is the oldest: only its Incidents %s", target.What, names,
			effects), true, nil
	}
	return fmt.Sprintf("%s is also named by %s. The oldest is %s: only its Incidents %s", target.What, names, holder,
		effects), false, nil
}
