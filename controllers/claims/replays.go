package claims

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// maxReplays is the maximum of status.replays.
const maxReplays = 100

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays,verbs=get;list;watch

// HoldReplay claims an application for a DLQReplay that a playbook is about to create. It returns nil if the DLQReplay
// of that name has the application now. Otherwise it returns who has it: a DLQReplay that has not ended. Nobody gives a
// claim up: it ends with its DLQReplay.
func (c Claims) HoldReplay(ctx context.Context, platform client.ObjectKey, application, name, by string) (
	other *v1alpha1.ReplayClaim, err error) {
	p, err := c.Read(ctx, platform)
	if err != nil {
		return nil, err
	}
	known := replayOf(&p.Status, application)
	if known != nil && known.Replay != name {
		if runs, err := c.runs(ctx, p.Namespace, known); err != nil || runs {
			return known, err
		}
	}
	_, err = c.DecideOn(ctx, p, func(status *v1alpha1.PlatformStatus) bool {
		if known != nil && known.Replay == name {
			return false
		}
		claim := v1alpha1.ReplayClaim{ApplicationID: application, Replay: name, By: by, At: new(metav1.NewTime(c.Now()))}
		if mine := replayOf(status, application); mine != nil {
			*mine = claim
			return true
		}
		status.Replays = append(status.Replays, claim)
		// The oldest has probably ended. If it has not, another one may be made for its application: they share the ledger.
		status.Replays = status.Replays[max(len(status.Replays)-maxReplays, 0):]
		return true
	})
	return nil, err
}

// runs says whether the DLQReplay of a claim has not ended, or may be created soon.
func (c Claims) runs(ctx context.Context, namespace string, claim *v1alpha1.ReplayClaim) (bool, error) {
	replay := &v1alpha1.DLQReplay{}
	err := c.APIReader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: claim.Replay}, replay)
	switch {
	case apierrors.IsNotFound(err):
		return c.Now().Before(claim.At.Add(settle)), nil
	case err != nil:
		return false, fmt.Errorf("reading DLQReplay %s: %w", claim.Replay, err)
	}
	return !playbook.Finished(replay), nil
}

func replayOf(status *v1alpha1.PlatformStatus, application string) *v1alpha1.ReplayClaim {
	i := slices.IndexFunc(status.Replays,
		func(claim v1alpha1.ReplayClaim) bool { return claim.ApplicationID == application })
	if i < 0 {
		return nil
	}
	return &status.Replays[i]
}
