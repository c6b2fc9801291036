package keycompromise

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// awaitCaches waits until no relying party that follows HTTP's caching rules can still believe the old key.
func awaitCaches(ctx context.Context, s *compromise) (playbook.Outcome, error) {
	until := s.obj.Status.ExposedUntil.Time
	if left := time.Until(until); left > 0 {
		return playbook.Wait(left, v1alpha1.ReasonWaitingForCaches, "caches may hold the old key until %s. Everything "+
			"else is done", until.UTC().Format(time.RFC3339)), nil
	}
	if err := s.complete(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return playbook.Done("%s", s.unbelieved()), nil
}

func (s *compromise) unbelieved() string {
	until := s.obj.Status.ExposedUntil.UTC()
	return fmt.Sprintf("%s is revoked since %s, and no cache may hold it since %s. It was exposed for %s after the "+
		"revocation",
		s.revoked.Kid,
		s.revoked.RevokedAt.Format(time.RFC3339), until.Format(time.RFC3339),
		until.Sub(s.revoked.RevokedAt).Round(time.Second))
}

// noteCaches settles the last step as soon as it may, and says whether it is settled. A relying party that does not
// cooperate may hold up the two steps before it for long.
func (s *compromise) noteCaches() bool {
	if time.Until(s.obj.Status.ExposedUntil.Time) <= 0 {
		playbook.Happened(s.obj, v1alpha1.StepCachesExpired, "%s", s.unbelieved())
	}
	return meta.IsStatusConditionTrue(s.obj.Status.Conditions, v1alpha1.StepCachesExpired)
}
