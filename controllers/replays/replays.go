// Package replays makes the DLQReplays that playbooks of other kinds need: one at a time for an application, whoever
// wants it.
package replays

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
)

// ErrDeleted says that a DLQReplay was made and is gone. It is not made again: somebody deleted it.
var ErrDeleted = errors.New("the DLQReplay was deleted")

// Taken is the error of a DLQReplay that can't be made yet: another one has its application.
type Taken struct{ Claim v1alpha1.ReplayClaim }

func (t *Taken) Error() string {
	return fmt.Sprintf("DLQReplay %s of %s runs for application %s", t.Claim.Replay, t.Claim.By, t.Claim.ApplicationID)
}

// Replays makes DLQReplays.
type Replays struct{ Claims claims.Claims }

// Want is a DLQReplay that a step of a playbook needs.
type Want struct {
	// Owner is the object whose playbook needs it, and Kind is its kind. The DLQReplay goes with its owner.
	Owner client.Object
	Kind  string
	// Step that needs it. A step needs one for an application.
	Step string
	Spec v1alpha1.DLQReplaySpec
	// Made is the UID of the one that was made before, as the owner's status has it; empty where none was.
	Made string
}

// Name is the same in each try, and is no other object's: it is derived from the owner's UID.
func (w Want) Name() string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s/%s/%s", w.Owner.GetUID(), w.Step, w.Spec.ApplicationID)))
	return fmt.Sprintf("%s-%s-%s", strings.TrimRight(fmt.Sprintf("%.200s", w.Owner.GetName()), "-."),
		w.Spec.ApplicationID, hex.EncodeToString(sum[:4]))
}

// +kubebuilder:rbac:groups=playbook.1pass.dev,namespace=playbook-system,resources=dlqreplays,verbs=create;get;list;watch

// Make creates the DLQReplay, or returns the one that it created before. The error is *Taken while another one has the
// application, and ErrDeleted where the one that it made is gone. If a manager dies after the Create, the next Make
// finds the name taken, and adopts what it finds.
func (r Replays) Make(ctx context.Context, want Want) (*v1alpha1.DLQReplay, error) {
	key := client.ObjectKey{Namespace: want.Owner.GetNamespace(), Name: want.Name()}
	if want.Made != "" {
		return r.made(ctx, key, types.UID(want.Made))
	}
	platform := client.ObjectKey{Namespace: key.Namespace, Name: want.Spec.PlatformRef.Name}
	by := want.Kind + "/" + want.Owner.GetName()
	other, err := r.Claims.HoldReplay(ctx, platform, want.Spec.ApplicationID, key.Name, by)
	if err != nil {
		return nil, fmt.Errorf("claiming application %s for a DLQReplay: %w", want.Spec.ApplicationID, err)
	}
	if other != nil {
		return nil, &Taken{*other}
	}
	replay := &v1alpha1.DLQReplay{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: key.Namespace, Name: key.Name,
			// Without blockOwnerDeletion: some clusters let only those set it who may change the owner's finalizers.
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: want.Kind, Name: want.Owner.GetName(),
				UID: want.Owner.GetUID(), Controller: new(true),
			}},
		},
		Spec: want.Spec,
	}
	err = r.Claims.Client.Create(ctx, replay)
	if apierrors.IsAlreadyExists(err) {
		return r.adopt(ctx, key, want)
	}
	if err != nil {
		return nil, fmt.Errorf("creating DLQReplay %s: %w", key.Name, err)
	}
	return replay, nil
}

// made reads one that was made before. The cache may not have it yet, so the API server has the last word.
func (r Replays) made(ctx context.Context, key client.ObjectKey, uid types.UID) (*v1alpha1.DLQReplay, error) {
	replay := &v1alpha1.DLQReplay{}
	for _, reader := range []client.Reader{r.Claims.Client, r.Claims.APIReader} {
		err := reader.Get(ctx, key, replay)
		if err == nil && replay.UID == uid {
			return replay, nil
		}
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading DLQReplay %s: %w", key.Name, err)
		}
	}
	return nil, fmt.Errorf("%s: %w", key.Name, ErrDeleted)
}

func (r Replays) adopt(ctx context.Context, key client.ObjectKey, want Want) (*v1alpha1.DLQReplay, error) {
	replay := &v1alpha1.DLQReplay{}
	if err := r.Claims.APIReader.Get(ctx, key, replay); err != nil {
		return nil, fmt.Errorf("reading the DLQReplay that has the name %s: %w", key.Name, err)
	}
	if !metav1.IsControlledBy(replay, want.Owner) {
		return nil, fmt.Errorf("DLQReplay %s exists, and is not of %s %s: delete it, or give it another name", key.Name,
			want.Kind, want.Owner.GetName())
	}
	return replay, nil
}
