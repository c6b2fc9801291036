package claims

import (
	"slices"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// maxTold is the maximum of status.told.
const maxTold = 200

// Told is what a relying party was told of a cause, or nil if it was told nothing.
func Told(p *v1alpha1.PlatformStatus, application string, cause v1alpha1.DeadLetterCause) *v1alpha1.ToldRelyingParty {
	i := slices.IndexFunc(p.Told, func(t v1alpha1.ToldRelyingParty) bool {
		return t.ApplicationID == application && t.Cause == cause
	})
	if i < 0 {
		return nil
	}
	return &p.Told[i]
}

// Tell records what a relying party is told. If there are too many, the oldest is dropped.
func Tell(p *v1alpha1.PlatformStatus, told v1alpha1.ToldRelyingParty) {
	if known := Told(p, told.ApplicationID, told.Cause); known != nil {
		*known = told
		return
	}
	p.Told = append(p.Told, told)
	p.Told = p.Told[max(len(p.Told)-maxTold, 0):]
}
