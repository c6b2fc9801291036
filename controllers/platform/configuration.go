package platform

import (
	"cmp"
	"context"
	"errors"
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
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

const (
	// configurationInterval is the time between two looks at the Secrets of a Platform.
	configurationInterval = time.Minute
	// configured is what status.configuration says where all of it can be used.
	configured = "ok"
)

// A farSide is one that a Platform has a Secret for. During an outage it is too late to find out that it is missing.
type farSide struct {
	condition string
	// named says whether the spec names it.
	named func(*v1alpha1.PlatformSpec) bool
	// check reads the Secret as whoever uses it does. It asks nobody: a page wakes people, and other calls are counted.
	check func(context.Context, *access.Connections, *v1alpha1.Platform) error
}

var farSides = []farSide{
	{v1alpha1.ConditionAdminAPIConfigured, func(spec *v1alpha1.PlatformSpec) bool { return spec.AdminAPI != nil },
		func(ctx context.Context, c *access.Connections, p *v1alpha1.Platform) error {
			_, err := c.AdminAPI(ctx, p)
			return err
		}},
	{v1alpha1.ConditionRenderConfigured, func(spec *v1alpha1.PlatformSpec) bool { return spec.Render != nil },
		func(ctx context.Context, c *access.Connections, p *v1alpha1.Platform) error {
			_, err := c.Render(ctx, p)
			return err
		}},
	{v1alpha1.ConditionPagersConfigured, func(spec *v1alpha1.PlatformSpec) bool {
		return spec.Oncall != nil || slices.ContainsFunc(spec.RelyingParties,
			func(r v1alpha1.RelyingParty) bool { return len(r.Notify) > 0 })
	}, pagers},
	{v1alpha1.ConditionStatusPageConfigured, func(spec *v1alpha1.PlatformSpec) bool {
		return spec.StatusPage != nil && spec.StatusPage.SecretRef != nil
	}, func(ctx context.Context, c *access.Connections, p *v1alpha1.Platform) error {
		_, err := c.StatusPage(ctx, p)
		return err
	}},
	{v1alpha1.ConditionCommandsConfigured, func(spec *v1alpha1.PlatformSpec) bool { return spec.Commands != nil },
		commands},
	{v1alpha1.ConditionSigningConfigured, func(spec *v1alpha1.PlatformSpec) bool {
		return spec.Database != nil && spec.Database.SigningSecretRef != nil
	}, func(ctx context.Context, c *access.Connections, p *v1alpha1.Platform) error {
		return c.CheckSigning(ctx, p)
	}},
	{v1alpha1.ConditionProbeClientConfigured, func(spec *v1alpha1.PlatformSpec) bool {
		return spec.Probes != nil && spec.Probes.TokenSecretRef != nil
	}, func(ctx context.Context, c *access.Connections, p *v1alpha1.Platform) error {
		_, err := c.TokenClient(ctx, p)
		return err
	}},
}

// ReconcileConfiguration looks whether a Platform's far sides can be used as configured, and writes it to the
// Platform's status, if that changed.
func (r *Reconciler) ReconcileConfiguration(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.Platform{}
	if err := r.Client.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := p.DeepCopy()
	if err := r.configuration(ctx, p); err != nil {
		return ctrl.Result{}, err
	}
	if !equality.Semantic.DeepEqual(before.Status, p.Status) {
		if err := playbook.PatchStatus(ctx, r.Client, before, p); apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: conflictInterval}, nil
		} else if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("writing what is configured to the status: %w", err)
		}
		r.tellConfiguration(before, p)
	}
	if strings.HasPrefix(p.Status.Configuration, "unusable") {
		// Whoever mends it waits for the row to say so.
		return ctrl.Result{RequeueAfter: access.SecretInterval}, nil
	}
	return ctrl.Result{RequeueAfter: configurationInterval}, nil
}

// configuration brings the conditions of the far sides up to date. Its error is that of a Secret that could not be
// read: then nothing is known of it, and nothing is written.
func (r *Reconciler) configuration(ctx context.Context, p *v1alpha1.Platform) error {
	var unusable []string
	for _, side := range farSides {
		if !side.named(&p.Spec) {
			meta.RemoveStatusCondition(&p.Status.Conditions, side.condition)
			continue
		}
		err := side.check(ctx, r.Connections, p)
		if unread := (*access.Unread)(nil); errors.As(err, &unread) {
			return fmt.Errorf("looking at %s: %w", side.condition, err)
		}
		if err != nil {
			unusable = append(unusable, strings.TrimSuffix(side.condition, "Configured"))
			set(p, side.condition, metav1.ConditionFalse, v1alpha1.ReasonSecretUnusable, playbook.Normalise(err.Error()))
			continue
		}
		set(p, side.condition, metav1.ConditionTrue, v1alpha1.ReasonSucceeded,
			"what it needs is there and has the right form. Whether the far side accepts it was not asked")
	}
	shared, err := r.shared(ctx, p)
	if err != nil {
		return err
	}
	p.Status.Configuration = summary(unusable, shared)
	return nil
}

func summary(unusable, shared []string) string {
	var parts []string
	if len(unusable) > 0 {
		parts = append(parts, "unusable: "+strings.Join(unusable, ", "))
	}
	if len(shared) > 0 {
		parts = append(parts, "shared: "+strings.Join(shared, ", "))
	}
	return cmp.Or(strings.Join(parts, "; "), configured)
}

// pagers looks at the channels of each tier and of each relying party. One that can't be used is a page that comes
// late, or not at all.
func pagers(ctx context.Context, c *access.Connections, p *v1alpha1.Platform) error {
	var problems []string
	usable := 0
	look := func(who string, channels []v1alpha1.Channel) error {
		for _, channel := range channels {
			_, err := c.Channel(ctx, p, channel)
			if unread := (*access.Unread)(nil); errors.As(err, &unread) {
				return err
			}
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s by %s: %v", who, channel.Type, err))
				continue
			}
			usable++
		}
		return nil
	}
	nobody := false
	if p.Spec.Oncall != nil {
		for _, tier := range p.Spec.Oncall.Tiers {
			if err := look(tier.Name, tier.Notify); err != nil {
				return err
			}
		}
		nobody = usable == 0
	}
	for _, party := range p.Spec.RelyingParties {
		if err := look(party.Name, party.Notify); err != nil {
			return err
		}
	}
	switch {
	case nobody:
		return fmt.Errorf("NOBODY CAN BE PAGED: %s", strings.Join(problems, "; "))
	case len(problems) > 0:
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}

// commands looks at what an SSH connection needs, or at the account that runs jobs.
func commands(ctx context.Context, c *access.Connections, p *v1alpha1.Platform) error {
	if p.Spec.Commands.Type == v1alpha1.CommandTypeRenderJob {
		_, err := c.Render(ctx, p)
		return err
	}
	target, err := c.SSHTarget(ctx, p)
	if err != nil {
		return err
	}
	if err := target.Check(); err != nil {
		return fmt.Errorf("in Secret %q, %w", p.Spec.Commands.SSH.SecretRef.Name, err)
	}
	return nil
}

// tellConfiguration emits an event for each trouble that began, changed or ended.
func (r *Reconciler) tellConfiguration(before, p *v1alpha1.Platform) {
	names := []string{v1alpha1.ConditionRenderServicesShared, v1alpha1.ConditionStatusPageShared}
	for _, side := range farSides {
		names = append(names, side.condition)
	}
	for _, name := range names {
		was := meta.FindStatusCondition(before.Status.Conditions, name)
		is := meta.FindStatusCondition(p.Status.Conditions, name)
		switch {
		case isTrouble(is) && (!isTrouble(was) || was.Message != is.Message):
			r.Recorder.Eventf(p, nil, "Warning", is.Reason, "Look", "%s: %.900s", name, is.Message)
		case isTrouble(was) && !isTrouble(is):
			r.Recorder.Eventf(p, nil, "Normal", v1alpha1.ReasonSucceeded, "Look", "%s: that is over", name)
		}
	}
}

// isTrouble says whether a condition reports something to be mended. Those of what is shared are present while True.
func isTrouble(c *metav1.Condition) bool {
	return c != nil && (c.Status == metav1.ConditionTrue) == strings.HasSuffix(c.Type, "Shared")
}
