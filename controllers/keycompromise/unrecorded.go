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
	"github.com/1pass-dev/playbook-operator/controllers/command"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// A KeyCompromise via: Command is unrecorded where its Platform has no database. There is no key's row, no outbox and
// no ledger. Only JWKS tells what the rake did, and only the namespace's objects remember that it was run.

const (
	// maxKidsBefore and maxKid are v1alpha1's limits of jwks.kidsBefore.
	maxKidsBefore, maxKid = 1000, 255
	// maxKidsNamed is how many kids a message names.
	maxKidsNamed = 10
	// onlyTheOutbox is why nobody looked.
	onlyTheOutbox = "only the outbox shows that, and this object was begun on a Platform without spec.database"
)

// unrecorded says whether the object does without a ledger. Once it looked at JWKS that stays so: a ledger that comes
// later knows nothing of the command.
func unrecorded(obj *v1alpha1.KeyCompromise, p *v1alpha1.Platform) bool {
	return lookedAtJWKS(obj) || obj.Spec.Via == v1alpha1.CompromiseViaCommand && p.Spec.Database == nil &&
		obj.Status.Command == nil && obj.Status.RevokedAt == nil
}

func lookedAtJWKS(obj *v1alpha1.KeyCompromise) bool {
	return obj.Status.JWKS != nil && len(obj.Status.JWKS.KidsBefore) > 0
}

// recall takes the revocation from the status, where there is no ledger to read it from.
func (s *compromise) recall() {
	if at := s.obj.Status.RevokedAt; at != nil {
		s.revoked = &platformdb.Revocation{Kid: s.obj.Spec.Kid, SuccessorKid: s.obj.Status.SuccessorKid, RevokedAt: at.UTC()}
	}
}

// siblings are the namespace's KeyCompromises. They are read past the cache.
func (s *compromise) siblings(ctx context.Context) ([]v1alpha1.KeyCompromise, error) {
	var list v1alpha1.KeyCompromiseList
	if err := s.APIReader.List(ctx, &list, client.InNamespace(s.obj.Namespace)); err != nil {
		return nil, fmt.Errorf("looking for other KeyCompromises of this key: %w", err)
	}
	return list.Items, nil
}

// first says which rake must end before this object's is run. One is another object's rake for the same key. The other
// is a rake for another key, until JWKS shows what it did: a new kid in JWKS could be either's. Where both objects have
// a ledger, the ledger puts them in line.
func (s *compromise) first(siblings []v1alpha1.KeyCompromise) playbook.Outcome {
	// Two objects that stepped back for each other must not come back at the same time.
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
			return playbook.Moot(v1alpha1.ReasonAlreadyDone, "KeyCompromise %s/%s, uid %s, ended this key. It finished at %s",
				other.Namespace, other.Name, other.UID, state.LastTransitionTime.UTC().Format(time.RFC3339))
		case same:
			return playbook.Wait(after, v1alpha1.ReasonWaitingForTwin, "KeyCompromise %s/%s ran the platform's rake for this "+
				"key, and is %s. Waiting until it is Ready, or deleted",
				other.Namespace, other.Name, state.Reason)
		case other.Status.RevokedAt == nil && !playbook.Stalled(other):
			return playbook.Wait(after, v1alpha1.ReasonRevoking, "KeyCompromise %s/%s runs the platform's rake for another "+
				"key. One runs at a time, or nobody could tell to which key a new kid in JWKS belongs",
				other.Namespace, other.Name)
		}
	}
	return playbook.Outcome{}
}

// noLedger is where an object without a ledger keeps its runs: in its own status, which its siblings read.
type noLedger struct{ *compromise }

// Begin is the last door after the intent was written. Of two objects that wrote theirs at the same time, at least one
// sees the other's. The one that sees it steps back, and has sent nothing.
func (s noLedger) Begin(ctx context.Context, run command.Run) (playbook.Outcome, error) {
	all, err := s.siblings(ctx)
	if err != nil {
		return playbook.Outcome{}, err
	}
	if outcome := s.first(all); outcome.Stops() {
		return outcome, nil
	}
	// This manager may have slept since it wrote the intent.
	if !slices.ContainsFunc(all, func(k v1alpha1.KeyCompromise) bool {
		return k.UID == s.obj.UID && k.DeletionTimestamp.IsZero() && !playbook.Stalled(&k) &&
			k.Status.Command != nil && k.Status.Command.StartedAt.Time.Equal(run.StartedAt)
	}) {
		return playbook.Outcome{}, platformdb.ErrGivenUp
	}
	return playbook.Outcome{}, nil
}

// End has no place to write to. The Runner remembers the end until the status has it.
func (noLedger) End(context.Context, time.Time, platformdb.CommandEnd, string) error { return nil }

// Read knows no end: the status is all there is.
func (noLedger) Read(context.Context, command.Run) (end platformdb.CommandEnd, err error) {
	return end, nil
}

// Evidence says that there is none.
func (noLedger) Evidence() string { return "What it printed was not kept, since there is no ledger" }

// lookAtJWKS reads from JWKS whether the key was ended.
func (s *compromise) lookAtJWKS(ctx context.Context) (command.Finding, error) {
	if s.obj.Status.Command == nil {
		return s.rememberJWKS(ctx)
	}
	// An answer that can't be used is no reason to give up: the command was sent.
	kids, saw, _ := s.lookForEnd(ctx)
	return command.Finding{
		Done: s.revoked != nil, Untouched: slices.Contains(kids, s.obj.Spec.Kid), Saw: "JWKS " + saw,
		Beware: "make sure that JWKS is not just late",
	}, nil
}

// rememberJWKS looks at JWKS before the rake is run. Where the key is still published, it remembers with which others:
// only that tells later what the rake did.
func (s *compromise) rememberJWKS(ctx context.Context) (command.Finding, error) {
	kids, _, err := s.lookForEnd(ctx)
	held := playbook.Outcome{}
	switch {
	case err != nil:
		return command.Finding{}, fmt.Errorf("looking at JWKS, without which nobody could tell what the platform's rake "+
			"did: %w", err)
	case s.revoked != nil:
		return command.Finding{Done: true}, nil
	case !slices.Contains(kids, s.obj.Spec.Kid):
		held = playbook.Stall(v1alpha1.ReasonUnknownKid, "JWKS has no kid %q, but %s. Perhaps it never had that kid, or the "+
			"key was ended before this object looked. Nobody can tell without spec.database. The platform's rake was not "+
			"run. If the kid is wrong, delete this object, and apply one with the right kid", s.obj.Spec.Kid, named(kids))
	case s.visit.Wiped:
		held = playbook.Stall(v1alpha1.ReasonOutcomeUnknown, "this object had begun, and its status was lost. So nobody "+
			"knows whether the platform's rake was run for %s, or still runs. JWKS still has that kid. It is not run by "+
			"itself. When you are sure that none runs: %s", s.obj.Spec.Kid, s.resumeCommand())
	case len(kids) > maxKidsBefore:
		held = playbook.Stall(v1alpha1.ReasonSpecInvalid, "JWKS has %s, and this object can remember %d. What the "+
			"platform's rake does could not be told. Nothing was sent. Give Platform %q a spec.database. Then: %s",
			playbook.Count(len(kids), "key", "keys"), maxKidsBefore, s.platform.Name, s.resumeCommand())
	default:
		s.obj.Status.JWKS.KidsBefore = kids
	}
	return command.Finding{Untouched: true, Saw: "JWKS has " + s.obj.Spec.Kid, Held: held}, nil
}

// lookForEnd looks at JWKS once. The key is ended where an answer does not have it, and has a kid that was not there
// before. It sets s.revoked then. Otherwise it returns the kids, and in words what was seen.
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
		return kids, fmt.Sprintf("has neither %s nor a new kid", s.obj.Spec.Kid), nil
	}
	// The key may have been revoked earlier. It is certain only that it is revoked now, so the exposure is counted from
	// now.
	s.revoked = &platformdb.Revocation{Kid: s.obj.Spec.Kid, RevokedAt: upToSeconds(answer.At.UTC())}
	if len(fresh) == 1 {
		s.revoked.SuccessorKid = fresh[0]
	}
	if until := status.JWKS.OldKidKeptUntil; until != nil {
		s.exposed(until.Time)
	}
	return kids, "", nil
}

// notBefore are the kids that JWKS did not have together with the old one. There are none where nobody looked then.
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
		text += " and " + playbook.Count(len(kids)-maxKidsNamed, "other", "others")
	}
	return text
}
