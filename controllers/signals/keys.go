package signals

import (
	"fmt"
	"slices"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// minLag is for how long JWKS may lack a key that has become active, whatever its max-age: publishing it takes time
// too.
const minLag = 5 * time.Minute

// issuedKid is the kid of a token that was just issued.
type issuedKid struct {
	kid  string
	at   time.Time
	kept time.Duration // for which the token counts as just issued
}

// activeKids is what the database says of the keys that the platform signs with. A nil one is a Platform without a
// database.
type activeKids struct {
	kids   []platformdb.ActiveKid
	readAt time.Time
	err    error // why they could not be read
}

// lacking are the active keys that JWKS lacks, for longer than caches may lag after their activation.
func (a *activeKids) lacking(jwks *platformapi.JWKS, at time.Time) []platformdb.ActiveKid {
	if a == nil || a.err != nil || jwks == nil {
		return nil
	}
	lag := max(minLag, jwks.MaxAge+jwks.StaleFor)
	var lacking []platformdb.ActiveKid
	for _, key := range a.kids {
		if key.Age+at.Sub(a.readAt) > lag && !slices.Contains(jwks.Kids, key.Kid) {
			lacking = append(lacking, key)
		}
	}
	return lacking
}

// compare judges the content of JWKS. A look that found no keys is judged already. What can't be read from the database
// is left out of the verdict, since it says nothing about JWKS. The message says that it is.
func compare(look platformapi.Look, issued issuedKid, active *activeKids, at time.Time) platformapi.Look {
	if look.Verdict != platformapi.Good || look.Keys == nil {
		return look
	}
	lacking := active.lacking(look.Keys, at)
	switch {
	case issued.kid != "" && at.Sub(issued.at) <= issued.kept && !slices.Contains(look.Keys.Kids, issued.kid):
		look.Verdict = platformapi.Bad
		look.Message = fmt.Sprintf("JWKS lacks the key %.128q, by which a token was just signed", issued.kid)
	case len(lacking) > 0:
		look.Verdict = platformapi.Bad
		look.Message = fmt.Sprintf("JWKS lacks the active key %.128q of application %d", lacking[0].Kid,
			lacking[0].ApplicationID)
		if more := len(lacking) - 1; more > 0 {
			look.Message += fmt.Sprintf(", and %d more", more)
		}
	case active == nil:
	case active.err != nil:
		look.Message += "; which keys are active could not be read: " + playbook.Normalise(active.err.Error())
	default:
		look.Message += ", and each active one"
	}
	return look
}
