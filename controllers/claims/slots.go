package claims

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

const (
	// Platformwide stands for the application of an Incident that is about none, or about several.
	Platformwide = "0"
	// settle is how long a name may be in a slot before its Incident exists. It is longer than a Create can take.
	settle = 30 * time.Second
)

// Place is a category and an application. One Incident at a time acts there.
type Place struct {
	Category      v1alpha1.IncidentCategory
	ApplicationID string
}

// PlaceOf is the place of an Incident.
func PlaceOf(i *v1alpha1.Incident) Place {
	place := Place{Category: i.Spec.Category, ApplicationID: Platformwide}
	if a := i.Spec.Affected; a != nil && len(a.ApplicationIDs) == 1 {
		place.ApplicationID = a.ApplicationIDs[0]
	}
	return place
}

// Slot is the slot of a place in the status, or nil if nobody has it.
func Slot(status *v1alpha1.PlatformStatus, place Place) *v1alpha1.IncidentSlot {
	i := slices.IndexFunc(status.Incidents, func(slot v1alpha1.IncidentSlot) bool { return placeOf(slot) == place })
	if i < 0 {
		return nil
	}
	return &status.Incidents[i]
}

func placeOf(slot v1alpha1.IncidentSlot) Place { return Place{slot.Category, slot.ApplicationID} }

// Ended says that an Incident is resolved.
func Ended(i *v1alpha1.Incident) bool {
	resolved := meta.FindStatusCondition(i.Status.Conditions, v1alpha1.StepResolved)
	return i.Status.ResolvedAt != nil || resolved != nil && (resolved.Status == metav1.ConditionTrue ||
		resolved.Status == metav1.ConditionFalse && resolved.Reason == v1alpha1.ReasonNotNeeded)
}

// endedAt is when an Incident ended. It is only for one that has.
func endedAt(i *v1alpha1.Incident) metav1.Time {
	if i.Status.ResolvedAt != nil {
		return *i.Status.ResolvedAt
	}
	return meta.FindStatusCondition(i.Status.Conditions, v1alpha1.StepResolved).LastTransitionTime
}

// Alarms are the signals that an Incident of the category is opened for, the worst first. For Unclassified these are
// the signals that people are asked about, since a signal that is bad has a category of its own.
func Alarms(s signals.Signals, category v1alpha1.IncidentCategory) []signals.Signal {
	var alarms []signals.Signal
	for _, signal := range s.Of(category).Each {
		switch {
		case category == v1alpha1.CategoryUnclassified && signal.Ask:
			signal.Severity = v1alpha1.Sev2
			alarms = append(alarms, signal)
		case category != v1alpha1.CategoryUnclassified && signal.State == metav1.ConditionFalse:
			alarms = append(alarms, signal)
		}
	}
	slices.SortStableFunc(alarms, func(a, b signals.Signal) int { return cmp.Compare(a.Severity, b.Severity) })
	return alarms
}

// isOf says whether a slot belongs to an Incident: by its UID, or by its name if the UID is not written yet.
func isOf(slot *v1alpha1.IncidentSlot, i *v1alpha1.Incident) bool {
	return slot != nil && placeOf(*slot) == PlaceOf(i) && slot.Incident == i.Name &&
		(slot.IncidentUID == "" || slot.IncidentUID == string(i.UID))
}

// holderOf is the Incident that has the slot, from a list of the Platform's Incidents. It is nil if it does not exist.
func holderOf(slot *v1alpha1.IncidentSlot, incidents []v1alpha1.Incident) *v1alpha1.Incident {
	i := slices.IndexFunc(incidents, func(i v1alpha1.Incident) bool { return isOf(slot, &i) })
	if i < 0 {
		return nil
	}
	return &incidents[i]
}

// free removes the slot of a place.
func free(status *v1alpha1.PlatformStatus, place Place) {
	status.Incidents = slices.DeleteFunc(status.Incidents,
		func(slot v1alpha1.IncidentSlot) bool { return placeOf(slot) == place })
}

// put stores a slot in its place.
func put(status *v1alpha1.PlatformStatus, slot v1alpha1.IncidentSlot) {
	if was := Slot(status, placeOf(slot)); was != nil {
		*was = slot
		return
	}
	status.Incidents = append(status.Incidents, slot)
}

// fresh are the alarms that no person knew when they decided. When the quiet is over, all alarms are fresh.
func fresh(slot v1alpha1.IncidentSlot, alarms []signals.Signal, at time.Time, repeat time.Duration) []signals.Signal {
	if slot.QuietSince != nil && !isQuiet(slot, at, repeat) {
		return alarms
	}
	return slices.DeleteFunc(slices.Clone(alarms), func(signal signals.Signal) bool {
		return slices.ContainsFunc(slot.Known, func(known v1alpha1.KnownSignal) bool {
			return known.Condition == signal.Condition && known.Severity <= signal.Severity
		})
	})
}

func isQuiet(slot v1alpha1.IncidentSlot, at time.Time, repeat time.Duration) bool {
	return slot.QuietSince != nil && len(slot.Known) > 0 && at.Before(slot.QuietSince.Add(repeat))
}

// keeps says whether a slot keeps another Incident from opening for the alarms. open says whether the slot's own
// Incident is open.
func keeps(slot v1alpha1.IncidentSlot, open bool, alarms []signals.Signal, at time.Time, repeat time.Duration) bool {
	unheard := fresh(slot, alarms, at, repeat)
	switch {
	case !open:
		// The quiet is about what was bad when a person resolved the Incident. Another signal breaks it, if it is as severe.
		return isQuiet(slot, at, repeat) && !slices.ContainsFunc(unheard,
			func(s signals.Signal) bool { return s.Severity <= slot.Severity })
	case slot.Category == v1alpha1.CategoryUnclassified:
		// What people are asked about raises no Incident that is about something else.
		return len(unheard) == 0
	}
	// Without a person's severity, the Incident rises with the signals. With one it does not, and a sev1 needs an Incident
	// of its own.
	return slot.Severity == "" || slot.Severity == v1alpha1.Sev1 ||
		!slices.ContainsFunc(unheard, func(s signals.Signal) bool { return s.Severity == v1alpha1.Sev1 })
}

// notGood are the alarms, and the signals that the Incident saw bad and that are unknown now. These were not good
// since. After a restart, all signals are unknown at first.
func notGood(i *v1alpha1.Incident, s signals.Signals) []signals.Signal {
	found := Alarms(s, i.Spec.Category)
	for _, signal := range s.Of(i.Spec.Category).Each {
		if signal.State == metav1.ConditionUnknown && slices.ContainsFunc(i.Status.Signals,
			func(seen v1alpha1.IncidentSignal) bool {
				return seen.Condition == signal.Condition && seen.Seen == v1alpha1.SignalSeenBad
			}) && !slices.ContainsFunc(found, func(f signals.Signal) bool { return f.Condition == signal.Condition }) {
			found = append(found, signal)
		}
	}
	return found
}

func known(bad []signals.Signal) []v1alpha1.KnownSignal {
	var all []v1alpha1.KnownSignal
	for _, signal := range bad {
		// The API refuses an empty severity. What is worse than the least is not known then.
		all = append(all, v1alpha1.KnownSignal{Condition: signal.Condition,
			Severity: cmp.Or(signal.Severity, v1alpha1.Sev3)})
	}
	return all
}

// slotFor is the slot of an Incident if nobody had its place before. A person who gave a severity knew the signals that
// were bad by then.
func slotFor(i *v1alpha1.Incident, s signals.Signals, at time.Time) v1alpha1.IncidentSlot {
	place := PlaceOf(i)
	slot := v1alpha1.IncidentSlot{
		Category: place.Category, ApplicationID: place.ApplicationID, Incident: i.Name, IncidentUID: string(i.UID),
		At: new(metav1.NewTime(at.Truncate(time.Second))), Severity: i.Spec.Severity,
	}
	if slot.Severity != "" {
		slot.Known = known(slices.DeleteFunc(Alarms(s, place.Category), func(signal signals.Signal) bool {
			return signal.Since.After(i.CreationTimestamp.Time)
		}))
	}
	if by := i.Annotations[v1alpha1.AnnotationSeenBy]; by != "" && slot.Category == v1alpha1.CategoryUnclassified {
		slot.Known = append(slot.Known, v1alpha1.KnownSignal{Condition: by,
			Severity: v1alpha1.Severity(i.Annotations[v1alpha1.AnnotationSeenSeverity])})
	}
	return slot
}

// hold gives an Incident its place, or brings its slot up to date.
func hold(status *v1alpha1.PlatformStatus, i *v1alpha1.Incident, s signals.Signals, at time.Time) {
	slot := Slot(status, PlaceOf(i))
	if !isOf(slot, i) {
		taken := slotFor(i, s, at)
		if slot != nil && slot.QuietSince != nil {
			// The quiet is about the signals, not about the Incident that had the place.
			taken.QuietSince, taken.Known = slot.QuietSince, slot.Known
		}
		put(status, taken)
		return
	}
	slot.IncidentUID = string(i.UID)
	if lowered := i.Spec.Severity != "" && (slot.Severity == "" || i.Spec.Severity > slot.Severity); lowered {
		slot.Known, slot.QuietSince = known(notGood(i, s)), nil
	}
	slot.Severity = i.Spec.Severity
}

// end frees the slot of an Incident that ended. If a person resolved it while a signal was bad, the slot stays while it
// is quiet.
func end(status *v1alpha1.PlatformStatus, i *v1alpha1.Incident, s signals.Signals) {
	slot, at := Slot(status, PlaceOf(i)), endedAt(i)
	switch {
	case !isOf(slot, i), slot.QuietSince != nil && !slot.QuietSince.Before(&at):
		return
	case i.Spec.Resolution == nil:
		free(status, PlaceOf(i))
		return
	}
	bad := known(notGood(i, s))
	for _, k := range slot.Known {
		if !slices.ContainsFunc(bad, func(b v1alpha1.KnownSignal) bool { return b.Condition == k.Condition }) {
			bad = append(bad, k)
		}
	}
	if len(bad) == 0 {
		free(status, PlaceOf(i))
		return
	}
	slot.IncidentUID, slot.QuietSince, slot.Known = string(i.UID), &at, bad
	slot.Severity = cmp.Or(i.Status.Severity, i.Spec.Severity, v1alpha1.Sev3)
}

// tidy removes from the slots what is over: the known signals that were good once, and the slots of Incidents that
// ended or were deleted. incidents are those that the slots name, if they exist.
func tidy(status *v1alpha1.PlatformStatus, incidents []v1alpha1.Incident, s signals.Signals, at time.Time,
	repeat time.Duration) {
	for _, was := range slices.Clone(status.Incidents) {
		place := placeOf(was)
		slot := Slot(status, place)
		holder := holderOf(slot, incidents)
		// An Incident that people are asked by stays theirs while it is open, also if what they are asked about comes and
		// goes.
		if holder == nil || Ended(holder) || place.Category != v1alpha1.CategoryUnclassified {
			slot.Known = slices.DeleteFunc(slices.Clone(slot.Known), func(k v1alpha1.KnownSignal) bool {
				return slices.ContainsFunc(s.Each, func(signal signals.Signal) bool {
					return signal.Condition == k.Condition && signal.State == metav1.ConditionTrue
				})
			})
		}
		switch {
		case holder != nil && Ended(holder):
			end(status, holder, s)
			slot = Slot(status, place)
		case holder != nil:
			slot.IncidentUID = string(holder.UID)
		case slot.IncidentUID == "" && at.Before(slot.At.Add(settle)):
			// Its Create may be under way.
			holder = &v1alpha1.Incident{}
		}
		if slot != nil && (holder == nil || Ended(holder)) && !isQuiet(*slot, at, repeat) {
			free(status, place)
		}
	}
}

// choose decides who has a place while there are alarms for it. It returns the name of the Incident to create, or none.
// all are the Incidents of the namespace.
func choose(status *v1alpha1.PlatformStatus, want Want, all []v1alpha1.Incident, at time.Time,
	repeat time.Duration) (create string) {
	incidents := slices.DeleteFunc(slices.Clone(all),
		func(i v1alpha1.Incident) bool { return i.Spec.PlatformRef.Name != want.Platform.Name })
	slot := Slot(status, want.Place)
	holder := holderOf(slot, incidents)
	switch {
	case slot == nil:
	case holder == nil && slot.IncidentUID == "":
		// The manager that wrote the name died before the Create, or is about to send it. A name can't be created twice.
		return slot.Incident
	case holder == nil && slot.QuietSince == nil:
		free(status, want.Place)
	case holder != nil && Ended(holder):
		slot.IncidentUID = string(holder.UID)
		end(status, holder, want.Signals)
	case holder != nil:
		slot.IncidentUID = string(holder.UID)
	}
	alarms := Alarms(want.Signals, want.Place.Category)
	if slot = Slot(status, want.Place); slot != nil && keeps(*slot, holder != nil && !Ended(holder), alarms, at, repeat) {
		return ""
	}
	for _, other := range incidents {
		// An Incident without a slot: the Platform was deleted and applied again, or the Incident had no pass yet.
		if PlaceOf(&other) == want.Place && !Ended(&other) && !isOf(slot, &other) &&
			keeps(slotFor(&other, want.Signals, at), true, alarms, at, repeat) {
			hold(status, &other, want.Signals, at)
			return ""
		}
	}
	name := unused(want.Name, status.Incidents, all)
	taken := v1alpha1.IncidentSlot{
		Category: want.Place.Category, ApplicationID: want.Place.ApplicationID, Incident: name,
		At: new(metav1.NewTime(at.Truncate(time.Second))),
	}
	if taken.Category == v1alpha1.CategoryUnclassified {
		taken.Known = known(alarms)
	}
	put(status, taken)
	return name
}

// unused is the name, or the first with a number after it, that no Incident has and that no slot names.
func unused(name string, slots []v1alpha1.IncidentSlot, incidents []v1alpha1.Incident) string {
	for n := 1; ; n++ {
		try := name
		if n > 1 {
			try = fmt.Sprintf("%s-%d", name, n)
		}
		if !slices.ContainsFunc(slots, func(s v1alpha1.IncidentSlot) bool { return s.Incident == try }) &&
			!slices.ContainsFunc(incidents, func(i v1alpha1.Incident) bool { return i.Name == try }) {
			return try
		}
	}
}
