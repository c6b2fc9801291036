package webhooks

import (
	"fmt"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// named is how many groups a message names; the status has more.
const named = 4

// Text says in a few sentences what is dead, and whose fault that is.
func Text(d *v1alpha1.IncidentDiagnosis) string {
	if *d.Entries == 0 {
		return "no webhook is dead. One that fails is retried first, which may take hours"
	}
	atLeast := ""
	if d.Counted == v1alpha1.CountAtLeast {
		atLeast = "at least "
	}
	texts := []string{atLeast + playbook.Count(*d.Entries, "webhook is dead", "webhooks are dead")}
	for _, g := range d.Groups[:min(len(d.Groups), named)] {
		texts = append(texts, groupText(g))
	}
	more := int32(max(len(d.Groups)-named, 0))
	if d.MoreGroups != nil {
		more += *d.MoreGroups
	}
	switch {
	case more == 1:
		texts = append(texts, "and 1 more group, see status.diagnosis")
	case more > 1:
		texts = append(texts, "and "+playbook.Count(more, "more group", "more groups")+", see status.diagnosis")
	}
	return strings.Join(texts, "; ")
}

// groupText says what died of one cause at one application.
func groupText(g v1alpha1.DiagnosedGroup) string {
	text := fmt.Sprintf("application %s, %d", g.ApplicationID, *g.Entries)
	if g.Since != nil {
		text += " since " + g.Since.UTC().Format(time.RFC3339)
	}
	text += ": " + meaning(g)
	if len(g.EntryIDs) > 0 {
		text += " (see " + strings.Join(g.EntryIDs, ", ") + ")"
	}
	return text
}

// meaning of a finding, in words.
func meaning(g v1alpha1.DiagnosedGroup) string {
	kid := fmt.Sprintf("it refuses the signature under kid %q", g.Kid)
	switch g.Finding {
	case v1alpha1.FindingRelyingPartyFails:
		switch {
		case g.Cause == v1alpha1.CauseTimeout:
			return "it does not answer in time, which it has to mend"
		case g.StatusCode != nil:
			return fmt.Sprintf("it answers HTTP %d, which it has to mend", *g.StatusCode)
		}
		return "it answers HTTP 5xx or can't be reached, which it has to mend"
	case v1alpha1.FindingRelyingPartyLimits:
		return "it wants fewer requests" + code(g)
	case v1alpha1.FindingAlreadyReceived:
		return "it has them already, since it answers HTTP 409 to a retry: they can be settled as delivered"
	case v1alpha1.FindingRefused:
		return "it refuses them" + code(g) + ", and would again"
	case v1alpha1.FindingKidServed:
		return kid + ", which the platform serves: its cache of JWKS is stale, or its check is wrong"
	case v1alpha1.FindingKidNotServed:
		return kid + ", which is good, and JWKS lacks it: the platform has to mend that"
	case v1alpha1.FindingKidMissing:
		return kid + ", which JWKS lacks: either it has ended, or the platform has to mend that"
	case v1alpha1.FindingKidEnded:
		return kid + ", which was revoked or whose grace is over: they must be signed anew"
	case v1alpha1.FindingKidEndedButServed:
		return kid + ", which was revoked or whose grace is over, and JWKS still has it: the platform has to mend that"
	case v1alpha1.FindingKidUnknown:
		return kid + ", and the platform has no such key of this application"
	}
	if g.Cause == v1alpha1.CauseSignatureRejected {
		return kid + ", and JWKS could not be read"
	}
	return "why is not known" + code(g)
}

func code(g v1alpha1.DiagnosedGroup) string {
	if g.StatusCode == nil {
		return ""
	}
	return fmt.Sprintf(" (HTTP %d)", *g.StatusCode)
}

// advice is what a person does where the database was not read.
func (w *Webhooks) advice(d *v1alpha1.IncidentDiagnosis, instead error) string {
	switch {
	case d.Source == v1alpha1.DiagnosedByDatabase:
		return ""
	case instead != nil:
		return fmt.Sprintf(". By the admin API, since the database could not be read: %s", instead)
	case *d.Entries == 0:
		return ". The admin API says so"
	}
	return fmt.Sprintf(". By the admin API, since Platform %q has no spec.database: nothing is settled or replayed by "+
		"itself. Retry single entries in the admin UI, or apply a DLQReplay with via: AdminAPI, which takes up to ten; "+
		"for more, write spec.database", w.Platform.Name)
}
