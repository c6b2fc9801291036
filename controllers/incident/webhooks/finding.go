package webhooks

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// maxGroups and maxIDs are v1alpha1's.
	maxGroups = 32
	maxIDs    = 3
	maxKid    = 255
)

// group counts entries of the admin API's list as the database counts its own. No application is all.
func group(entries []platformapi.DeadEntry, applications []int64) []platformdb.Dead {
	var dead []platformdb.Dead
	for _, e := range entries {
		if len(applications) == 0 || slices.Contains(applications, e.ApplicationID) {
			dead = append(dead, platformdb.Dead{
				ApplicationID: e.ApplicationID, Kid: e.Kid, Cause: e.Cause, Status: e.Status, Entries: 1,
				Since: e.DeadAt, Newest: e.DeadAt, EntryIDs: []int64{e.ID},
			})
		}
	}
	return dead
}

// merge makes one group of those that a person would mend in one way: of one application and cause, by status where the
// relying party refuses, and by kid where it refuses the signature. A status that differs is 0. The most entries come
// first.
func merge(dead []platformdb.Dead) []platformdb.Dead {
	type key struct {
		application int64
		cause       v1alpha1.DeadLetterCause
		status      int
		kid         string
	}
	at, merged := map[key]int{}, []platformdb.Dead{}
	for _, d := range dead {
		k := key{application: d.ApplicationID, cause: v1alpha1.DeadLetterCause(d.Cause)}
		switch k.cause {
		case v1alpha1.CauseClientError, v1alpha1.CauseUnknown:
			k.status = d.Status
		case v1alpha1.CauseSignatureRejected:
			k.kid = d.Kid
		}
		d.Kid = k.kid
		i, known := at[k]
		if !known {
			at[k] = len(merged)
			d.EntryIDs = slices.Clone(d.EntryIDs)
			merged = append(merged, d)
			continue
		}
		m := &merged[i]
		m.Entries += d.Entries
		m.Since, m.Newest = earlier(m.Since, d.Since), later(m.Newest, d.Newest)
		if m.Status != d.Status {
			m.Status = 0
		}
		m.EntryIDs = append(m.EntryIDs, d.EntryIDs...)
		slices.Sort(m.EntryIDs)
		m.EntryIDs = m.EntryIDs[:min(len(m.EntryIDs), maxIDs)]
	}
	slices.SortFunc(merged, func(a, b platformdb.Dead) int {
		return cmp.Or(cmp.Compare(b.Entries, a.Entries), cmp.Compare(a.ApplicationID, b.ApplicationID),
			cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Kid, b.Kid))
	})
	return merged
}

// earlier of two times; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// assemble is the diagnosis of groups, without what is the same for all. unread is how many more there are.
func assemble(groups []platformdb.Dead, known keys, unread int) *v1alpha1.IncidentDiagnosis {
	diagnosis := &v1alpha1.IncidentDiagnosis{}
	for _, d := range groups[:min(len(groups), maxGroups)] {
		diagnosed := v1alpha1.DiagnosedGroup{
			ApplicationID: strconv.FormatInt(d.ApplicationID, 10), Cause: v1alpha1.DeadLetterCause(d.Cause),
			Finding: finding(d, known), Kid: strings.ToValidUTF8(d.Kid[:min(len(d.Kid), maxKid)], ""), Entries: new(d.Entries),
			Since: when(d.Since), Newest: when(d.Newest),
		}
		if d.Status != 0 {
			diagnosed.StatusCode = new(int32(d.Status))
		}
		for _, id := range d.EntryIDs {
			diagnosed.EntryIDs = append(diagnosed.EntryIDs, strconv.FormatInt(id, 10))
		}
		diagnosis.Groups = append(diagnosis.Groups, diagnosed)
	}
	if more := max(len(groups)-maxGroups, 0) + unread; more > 0 {
		diagnosis.MoreGroups = new(int32(more))
	}
	return diagnosis
}

func when(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return journal.Seconds(t)
}

// finding says what a cause means, and of a refused signature which side is stale.
func finding(d platformdb.Dead, known keys) v1alpha1.DiagnosisFinding {
	switch v1alpha1.DeadLetterCause(d.Cause) {
	case v1alpha1.CauseServerError, v1alpha1.CauseTimeout:
		return v1alpha1.FindingRelyingPartyFails
	case v1alpha1.CauseRateLimited:
		return v1alpha1.FindingRelyingPartyLimits
	case v1alpha1.CauseIdempotencyConflict:
		return v1alpha1.FindingAlreadyReceived
	case v1alpha1.CauseClientError:
		return v1alpha1.FindingRefused
	case v1alpha1.CauseSignatureRejected:
		return stale(d, known)
	}
	return v1alpha1.FindingNotTold
}

// stale says which side is, where a signature was refused.
func stale(d platformdb.Dead, known keys) v1alpha1.DiagnosisFinding {
	published, asked := known.published[d.Kid], known.published != nil
	if known.rows == nil {
		switch {
		case published:
			return v1alpha1.FindingKidServed
		case asked:
			return v1alpha1.FindingKidMissing
		}
		return v1alpha1.FindingNotTold
	}
	row, exists := known.rows[d.Kid]
	switch {
	case !exists || row.ApplicationID != d.ApplicationID:
		return v1alpha1.FindingKidUnknown
	case !row.Served && published:
		return v1alpha1.FindingKidEndedButServed
	case !row.Served:
		return v1alpha1.FindingKidEnded
	case published:
		return v1alpha1.FindingKidServed
	case asked:
		return v1alpha1.FindingKidNotServed
	}
	return v1alpha1.FindingNotTold
}
