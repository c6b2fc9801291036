package keycompromise

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
)

const (
	// cleanAnswers in a row are enough. A balancer has a few replicas behind it, and a stale one hardly stays hidden from
	// so many looks.
	cleanAnswers = 10
	// jwksInterval is the time between two looks.
	jwksInterval = 500 * time.Millisecond
)

// awaitPublication looks at JWKS until enough answers in a row have the successor and not the old kid.
func awaitPublication(ctx context.Context, s *compromise) (playbook.Outcome, error) {
	saw := s.watchJWKS(ctx)
	clean := *s.obj.Status.JWKS.Clean
	if clean >= cleanAnswers {
		return playbook.Done("%s in a row over fresh connections had %s and not %s",
			playbook.Count(clean, "answer", "answers"), s.successor(), s.revoked.Kid), nil
	}
	if s.overdue(v1alpha1.StepPublished, s.obj.Spec.PublishTimeoutSeconds) {
		// The last answer may be that of a good replica, where there are several.
		if clean > 0 {
			saw = fmt.Sprintf("was clean %s in a row, and %d are needed", playbook.Count(clean, "time", "times"), cleanAnswers)
			if at := s.obj.Status.JWKS.OldKidSeenAt; at != nil {
				saw += fmt.Sprintf(", but an answer at %s still had %s: a replica may be stale", at.UTC().Format(time.RFC3339),
					s.revoked.Kid)
			}
		}
		where := " in the database"
		if s.db == nil {
			where = ", by the first answer without it"
		}
		return playbook.Stall(v1alpha1.ReasonStillPublished, "after %d s %s/.well-known/jwks.json %s. The key is "+
			"revoked%s. Restart or purge what serves JWKS (replicas, CDN). Then: %s",
			s.obj.Spec.PublishTimeoutSeconds, s.platform.Spec.URL, saw, where, s.resumeCommand()), nil
	}
	return playbook.Wait(jwksInterval, v1alpha1.ReasonWatchingJWKS, "%d of %d answers in a row were clean. The last "+
		"one %s", clean, cleanAnswers, saw), nil
}

// watchJWKS looks once, and returns what it saw. It is called from the revocation on, in whatever step is under way:
// the latest answer with the old kid decides until when a relying party may believe it.
func (s *compromise) watchJWKS(ctx context.Context) string {
	status := &s.obj.Status
	if status.JWKS == nil {
		status.JWKS = &v1alpha1.JWKSObservation{Clean: new(int32)}
	}
	answer, err := platformapi.FetchJWKS(ctx, s.platform.Spec.URL, s.Connections.Transport)
	if err != nil {
		status.JWKS.Clean = new(int32)
		return "could not be used: " + playbook.Normalise(err.Error())
	}
	// Somebody may have fetched a moment before the revocation, and keeps the answer for the whole max-age.
	s.exposed(s.revoked.RevokedAt.Add(answer.MaxAge + answer.StaleFor))
	old, successor := slices.Contains(answer.Kids, s.revoked.Kid), s.hasSuccessor(answer.Kids)
	switch {
	case old:
		status.JWKS.Clean = new(int32)
		status.JWKS.OldKidSeenAt = new(metav1.NewTime(answer.At.Truncate(time.Second)))
		s.exposed(answer.At.Add(s.keptFor(answer)))
		return fmt.Sprintf("still has %s", s.revoked.Kid)
	case !successor:
		status.JWKS.Clean = new(int32)
		return fmt.Sprintf("does not have %s", s.successor())
	}
	status.JWKS.Clean = new(min(*status.JWKS.Clean+1, cleanAnswers))
	return "was clean"
}

// hasSuccessor says whether the successor's kid is among published kids. Where it is not known which of several new
// kids that is, any of them will do.
func (s *compromise) hasSuccessor(kids []string) bool {
	if s.revoked.SuccessorKid == "" {
		return len(s.notBefore(kids)) > 0
	}
	return slices.Contains(kids, s.revoked.SuccessorKid)
}

func (s *compromise) successor() string {
	if s.revoked.SuccessorKid == "" {
		return "a successor, one of several new kids"
	}
	return "the successor " + s.revoked.SuccessorKid
}

// keptFor is how long the relying party may believe an answer that it got at the same time as we.
func (s *compromise) keptFor(answer *platformapi.JWKS) time.Duration {
	_, _, cache := s.relyingParty()
	return max(answer.FreshFor+answer.StaleFor, cache)
}

// exposed moves the end of the exposure, if need be, to until. It does not end before the relying party drops JWKS.
func (s *compromise) exposed(until time.Time) {
	_, _, cache := s.relyingParty()
	if own := s.revoked.RevokedAt.Add(cache); own.After(until) {
		until = own
	}
	until = upToSeconds(until)
	if known := s.obj.Status.ExposedUntil; known == nil || until.After(known.Time) {
		s.obj.Status.ExposedUntil = new(metav1.NewTime(until))
	}
}

// upToSeconds rounds up: the API keeps seconds, and no promise may end early.
func upToSeconds(t time.Time) time.Time {
	return t.Add(time.Second - time.Nanosecond).Truncate(time.Second)
}
