package keycompromise

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// A KeyCompromise via: Command whose Platform has no database is unrecorded: without the key's row, the outbox and the
// ledger, JWKS alone tells what the rake did, and the objects of the namespace are all that remembers that it was run.

const (
	// maxKidsBefore and maxKid are v1alpha1's limits of jwks.kidsBefore.
	maxKidsBefore, maxKid = 1000, 255
	// maxKidsNamed is how many kids a message names.
	maxKidsNamed = 10
	// onlyTheOutbox is why nobody looked.
	onlyTheOutbox = "only the outbox shows that, and this object was begun on a Platform without spec.database"
)

// unrecorded stays as it was when the object first looked at JWKS: a ledger that comes later knows nothing of the
// command.
func unrecorded(obj *v1alpha1.KeyCompromise, p *v1alpha1.Platform) bool {
	return lookedAtJWKS(obj) || obj.Spec.Via == v1alpha1.CompromiseViaCommand && p.Spec.Database == nil &&
		obj.Status.Command == nil && obj.Status.RevokedAt == nil
}

func lookedAtJWKS(obj *v1alpha1.KeyCompromise) bool {
	return obj.Status.JWKS != nil && len(obj.Status.JWKS.KidsBefore) > 0
}

// recall takes from the status what the ledger would know.
func (s *compromise) recall() {
	if at := s.obj.Status.RevokedAt; at != nil {
		s.revoked = &platformdb.Revocation{Kid: s.obj.Spec.Kid, SuccessorKid: s.obj.Status.SuccessorKid, RevokedAt: at.UTC()}
	}
}

// siblings are the namespace's KeyCompromises, past the cache.
func (s *compromise) siblings(ctx context.Context) ([]v1alpha1.KeyCompromise, error) {
	var list v1alpha1.KeyCompromiseList
	if err := s.APIReader.List(ctx, &list, client.InNamespace(s.obj.Namespace)); err != nil {
		return nil, fmt.Errorf("looking for other KeyCompromises of this key: %w", err)
	}
	return list.Items, nil
}

// first says what must end before this object's rake is run: that of another object for the same key; and that for
// another key whose outcome JWKS has yet to show, since a kid that is new could be either's. Where both have a ledger,
// that knows.
func (s *compromise) first(siblings []v1alpha1.KeyCompromise) playbook.Outcome {
	// Two that stepped back for each other must not come back together.
	after := twinInterval/2 + rand.N(twinInterval)
	for i := range siblings {
		other := &siblings[i]
		if other.UID == s.obj.UID || other.Spec.PlatformRef != s.obj.Spec.PlatformRef || other.Status.Command == nil &&
			other.Status.RevokedAt == nil ||
			s.db != nil && !lookedAtJWKS(other) {
			continue
		}
		state := meta.FindStatusCondition(other.Status.Conditions, v1alpha1.ConditionReady)
		switch same := other.Spec.ApplicationID == s.obj.Spec.ApplicationID && other.Spec.Kid == s.obj.Spec.Kid; {
		case same && playbook.Finished(other):
			return playbook.Moot(v1alpha1.ReasonAlreadyDone, "KeyCompromise %s/%s, uid %s, ended this key; it finished at %s",
				other.Namespace, other.Name, other.UID, state.LastTransitionTime.UTC().Format(time.RFC3339))
		case same:
			return playbook.Wait(after, v1alpha1.ReasonWaitingForTwin, "KeyCompromise %s/%s ran the platform's rake for this "+
				"key, and is %s: waiting until it is Ready, or deleted",
				other.Namespace, other.Name, state.Reason)
		case other.Status.RevokedAt == nil && !playbook.Stalled(other):
			return playbook.Wait(after, v1alpha1.ReasonRevoking, "KeyCompromise %s/%s runs the platform's rake for another "+
				"key: one at a time, or nobody could tell whose a new kid in JWKS is",
				other.Namespace, other.Name)
		}
	}
	return playbook.Outcome{}
}

// intendAlone is the last door after the intent was written. Of two that wrote theirs at the same time at least one
// sees the other's, and one that sees it steps back; it has sent nothing.
func (s *compromise) intendAlone(ctx context.Context) (playbook.Outcome, error) {
	siblings, err := s.siblings(ctx)
	if err != nil {
		s.obj.Status.Command = nil
		return playbook.Outcome{}, err
	}
	if outcome := s.first(siblings); outcome.Stops() {
		s.obj.Status.Command = nil
		return outcome, nil
	}
	// This manager may have slept since it wrote the intent.
	if !slices.ContainsFunc(siblings, func(k v1alpha1.KeyCompromise) bool {
		return k.UID == s.obj.UID && k.DeletionTimestamp.IsZero() && !playbook.Stalled(&k) &&
			k.Status.Command != nil && k.Status.Command.StartedAt.Equal(s.obj.Status.Command.StartedAt)
	}) {
		s.obj.Status.Command = nil
		return playbook.Wait(time.Millisecond, v1alpha1.ReasonRevoking, "the platform's rake was about to be run, and "+
			"certainly was not"), nil
	}
	return playbook.Outcome{}, nil
}

// adoptPublished is adopt by JWKS alone. Where the key is published still, it remembers with which others.
func (s *compromise) adoptPublished(ctx context.Context) (playbook.Outcome, error) {
	kids, _, err := s.lookForEnd(ctx)
	switch {
	case err != nil:
		return playbook.Outcome{}, fmt.Errorf("looking at JWKS, without which nobody could tell what the platform's rake "+
			"did: %w", err)
	case s.revoked != nil:
		return playbook.Outcome{}, nil
	case !slices.Contains(kids, s.obj.Spec.Kid):
		return playbook.Stall(v1alpha1.ReasonUnknownKid, "JWKS has no kid %q, but %s: it never had it, or the key was "+
			"ended before this object looked, which nobody can tell without spec.database. "+
			"The platform's rake was not run. Delete this object, and apply one with the right kid if it was "+
			"wrong", s.obj.Spec.Kid, named(kids)), nil
	case len(kids) > maxKidsBefore:
		return playbook.Stall(v1alpha1.ReasonSpecInvalid, "JWKS has %d keys, and this object can remember %d: what the "+
			"platform's rake does could not be told. Nothing was sent. "+
			"Give Platform %q a spec.database. Then: %s", len(kids), maxKidsBefore, s.platform.Name, s.resumeCommand()), nil
	}
	s.obj.Status.JWKS.KidsBefore = kids
	return playbook.Outcome{}, platformdb.ErrNotRevoked
}

// lookForEnd looks at JWKS once. The key is ended where an answer does not have it, and has a kid that was not there
// before: s.revoked says so then. Otherwise it returns the kids, and in words what was seen.
func (s *compromise) lookForEnd(ctx context.Context) (kids []string, saw string, err error) {
	status := &s.obj.Status
	if status.JWKS == nil {
		status.JWKS = &v1alpha1.JWKSObservation{Clean: new(int32)}
	}
	answer, err := platformapi.FetchJWKS(ctx, s.platform.Spec.URL, s.Connections.Transport)
	if err != nil {
		return nil, "could not be used: " + playbook.Normalise(err.Error()), err
	}
	kids = storable(answer.Kids)
	fresh := s.notBefore(kids)
	switch {
	case slices.Contains(kids, s.obj.Spec.Kid):
		status.JWKS.OldKidSeenAt = new(metav1.NewTime(answer.At.Truncate(time.Second)))
		if until := upToSeconds(answer.At.Add(s.keptFor(answer))); status.JWKS.OldKidKeptUntil == nil ||
			until.After(status.JWKS.OldKidKeptUntil.Time) {
			status.JWKS.OldKidKeptUntil = new(metav1.NewTime(until))
		}
		return kids, "still has " + s.obj.Spec.Kid, nil
	case len(fresh) == 0:
		return kids, fmt.Sprintf("has neither %s nor a kid that was not there before", s.obj.Spec.Kid), nil
	}
	// It may have been revoked before. What is certain, and what the end of the exposure must reckon from, is that it is
	// by now.
	s.revoked = &platformdb.Revocation{Kid: s.obj.Spec.Kid, RevokedAt: upToSeconds(answer.At.UTC())}
	if len(fresh) == 1 {
		s.revoked.SuccessorKid = fresh[0]
	}
	if until := status.JWKS.OldKidKeptUntil; until != nil {
		s.exposed(until.Time)
	}
	return kids, "", nil
}

// notBefore are the kids that JWKS did not have with the old one; none where it was never looked at so.
func (s *compromise) notBefore(kids []string) []string {
	before := s.obj.Status.JWKS.KidsBefore
	if len(before) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(kids), func(kid string) bool { return slices.Contains(before, kid) })
}

// storable are the kids, each once, that a status can hold.
func storable(kids []string) []string {
	kids = slices.DeleteFunc(slices.Clone(kids), func(kid string) bool {
		return kid == "" ||
			utf8.RuneCountInString(kid) > maxKid
	})
	slices.Sort(kids)
	return slices.Compact(kids)
}

func named(kids []string) string {
	text := strings.Join(kids[:min(len(kids), maxKidsNamed)], ", ")
	if len(kids) > maxKidsNamed {
		text += fmt.Sprintf(" and %d others", len(kids)-maxKidsNamed)
	}
	return text
}

// observePublished reads from JWKS whether the command did its work. It never sends one.
func (s *compromise) observePublished(ctx context.Context) (playbook.Outcome, error) {
	run := s.obj.Status.Command
	var jobErr error
	if run.Outcome == "" {
		// Before JWKS, which must not show what was there before the job failed.
		var end platformdb.CommandEnd
		end, jobErr = s.observeJob(ctx)
		run.Outcome = outcomes[end.Outcome]
	}
	kids, saw, _ := s.lookForEnd(ctx)
	switch {
	case s.revoked != nil:
		return playbook.Outcome{}, nil
	case jobErr != nil && !s.late():
		return playbook.Outcome{}, jobErr
	case run.Outcome == v1alpha1.CommandFailed && slices.Contains(kids, s.obj.Spec.Kid):
		return playbook.Stall(v1alpha1.ReasonCommandFailed, "the platform's rake ended with%s on %s, and JWKS %s. %s. "+
			"When the cause is mended, and it is not just that JWKS is late, this runs it again: %s",
			exitStatus(run), run.Target, saw, s.evidence(), s.resumeCommand()), nil
	case (run.Outcome == "" || run.Outcome == v1alpha1.CommandLost) && !s.late(),
		// What it did shows in JWKS as late as its caches let it.
		!s.overdue(v1alpha1.StepRevoked, s.obj.Spec.PublishTimeoutSeconds):
		return playbook.Wait(jwksInterval, v1alpha1.ReasonRevoking, "the platform's rake %s on %s: JWKS %s", did(run),
			run.Target, saw), nil
	}
	return s.unknown(fmt.Sprintf("the platform's rake %s on %s, begun at %s, and JWKS %s", did(run), run.Target,
		run.StartedAt.UTC().Format(time.RFC3339), saw)), nil
}
