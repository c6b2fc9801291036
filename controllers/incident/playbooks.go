package incident

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
)

// A playbook is read top to bottom. Its lanes don't wait for each other. People come first, each thing for itself: a
// pager never waits behind a slow API.
var (
	people = playbook.Lanes[*response]{
		{{Condition: v1alpha1.StepClassified, Run: classify}},
		{{Condition: v1alpha1.StepEscalated, Run: escalate}},
		{{Condition: v1alpha1.StepAcknowledged, Run: awaitAcknowledgement}},
	}
	outage = slices.Concat(people, playbook.Lanes[*response]{
		{{Condition: v1alpha1.StepAnnounced, Run: announce}},
		{
			{Condition: v1alpha1.StepTriaged, Run: triage},
			{Condition: v1alpha1.StepRolledBack, Run: rollBack},
		},
		// Whether it is over does not wait for what is or is not rolled back: a rollback that needs a person must not keep a
		// platform that works again from being called so.
		{
			{Condition: v1alpha1.StepMitigated, Run: awaitMitigation},
			{Condition: v1alpha1.StepResolved, Run: resolve, Ends: true},
			{Condition: v1alpha1.StepAutoDeployRestored, Run: restoreAutoDeploy},
		},
	})
	webhookDelivery = slices.Concat(people, playbook.Lanes[*response]{
		{
			{Condition: v1alpha1.StepTriaged, Run: triage},
			{Condition: v1alpha1.StepDiagnosed, Run: diagnose},
			{Condition: v1alpha1.StepConflictsSettled, Run: settleConflicts},
		},
		// Whoever has to mend it learns of it, whatever becomes of the dead letters.
		{{Condition: v1alpha1.StepRelyingPartyTold, Run: tellRelyingParty}},
		{{Condition: v1alpha1.StepRecovered, Run: awaitRecovery}},
		{{Condition: v1alpha1.StepResolved, Run: resolve, Ends: true}},
	})
	// keyExposure is about one key. Its KeyCompromise ends it and proves that, and no signal says anything about it.
	keyExposure = slices.Concat(people, playbook.Lanes[*response]{
		{
			{Condition: v1alpha1.StepTriaged, Run: triage},
			{Condition: v1alpha1.StepKeyCompromised, Run: endKey},
		},
		{{Condition: v1alpha1.StepResolved, Run: resolve, Ends: true}},
	})
	// keyMismatch says on which side a kid is missing. What a relying party's cache holds, nobody sees from here.
	keyMismatch = slices.Concat(people, playbook.Lanes[*response]{
		{
			{Condition: v1alpha1.StepTriaged, Run: triage},
			{Condition: v1alpha1.StepPlatformChecked, Run: checkPlatform},
		},
		{{Condition: v1alpha1.StepResolved, Run: resolve, Ends: true}},
	})
	// byHand is for what the probes can't see, or what is not known yet: people are paged, and a person says when it is
	// over.
	byHand = slices.Concat(people, playbook.Lanes[*response]{
		{{Condition: v1alpha1.StepTriaged, Run: triage}},
		{{Condition: v1alpha1.StepResolved, Run: resolve, Ends: true}},
	})
)

var playbooks = map[v1alpha1.IncidentCategory]playbook.Lanes[*response]{
	v1alpha1.CategoryUnclassified:       byHand,
	v1alpha1.CategoryOutage:             outage,
	v1alpha1.CategoryWebhookDelivery:    webhookDelivery,
	v1alpha1.CategoryMergeInconsistency: byHand,
	v1alpha1.CategoryKeyMismatch:        keyMismatch,
	v1alpha1.CategoryKeyExposure:        keyExposure,
}

// lanesOf an Incident. The release before this one ran the outage's playbook for every category. What it began is
// followed to its end, and its steps begin nothing for another category.
func lanesOf(obj *v1alpha1.Incident) playbook.Lanes[*response] {
	if meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.StepRolledBack) != nil {
		return outage
	}
	return playbooks[obj.Spec.Category]
}
