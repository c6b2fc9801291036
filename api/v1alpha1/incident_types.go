package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Severity of an incident, by the playbook's table.
// +kubebuilder:validation:Enum=sev1;sev2;sev3
type Severity string

const (
	// Sev1 means that the login of every relying party is down: respond at once.
	Sev1 Severity = "sev1"
	// Sev2 means that a part fails or is slow: respond within an hour.
	Sev2 Severity = "sev2"
	// Sev3 is about a single relying party or user: respond within a day.
	Sev3 Severity = "sev3"
)

// IncidentCategory is what an incident is about.
// +kubebuilder:validation:Enum=Unclassified;Outage;WebhookDelivery;MergeInconsistency;KeyMismatch;KeyExposure
type IncidentCategory string

const (
	// CategoryUnclassified means that nobody knows yet what it is about.
	CategoryUnclassified IncidentCategory = "Unclassified"
	// CategoryOutage means that the platform does not answer, or answers slowly.
	CategoryOutage IncidentCategory = "Outage"
	// CategoryWebhookDelivery means that webhooks do not reach relying parties.
	CategoryWebhookDelivery IncidentCategory = "WebhookDelivery"
	// CategoryMergeInconsistency means that merged users can't see their data.
	CategoryMergeInconsistency IncidentCategory = "MergeInconsistency"
	// CategoryKeyMismatch means that a relying party does not find a kid.
	CategoryKeyMismatch IncidentCategory = "KeyMismatch"
	// CategoryKeyExposure means that a signing key may have leaked.
	CategoryKeyExposure IncidentCategory = "KeyExposure"
)

// RollbackPolicy says whether a suspected regression is rolled back.
// +kubebuilder:validation:Enum=Automatic;Approval;Never
type RollbackPolicy string

const (
	// RollbackAutomatic rolls back at once. If the database was migrated since the earlier commit was made, it waits for
	// an approval: older code may not work with the newer schema.
	RollbackAutomatic RollbackPolicy = "Automatic"
	// RollbackApproval waits for spec.approvals with the exact pair of deploys.
	RollbackApproval RollbackPolicy = "Approval"
	// RollbackNever leaves deploys alone.
	RollbackNever RollbackPolicy = "Never"
)

// NoticePolicy says whether the public is told.
// +kubebuilder:validation:Enum=Automatic;Publish;Withhold
type NoticePolicy string

const (
	// NoticeAutomatic tells the public of a sev1 that keeps relying parties' users out for longer than the Platform
	// allows.
	NoticeAutomatic NoticePolicy = "Automatic"
	// NoticePublish tells the public of a sev1 at once.
	NoticePublish NoticePolicy = "Publish"
	// NoticeWithhold tells the public nothing.
	NoticeWithhold NoticePolicy = "Withhold"
)

// IncidentSpec says what happened. Severity, notice, acknowledgement, resolution and approvals can be changed.
//
// +kubebuilder:validation:XValidation:rule="self.platformRef == oldSelf.platformRef",message="platformRef is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".platformRef"
// +kubebuilder:validation:XValidation:rule="self.category == oldSelf.category",message="category is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".category"
// +kubebuilder:validation:XValidation:rule="has(self.onset) == has(oldSelf.onset) && (!has(self.onset) || self.onset == oldSelf.onset)",message="onset is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".onset"
// +kubebuilder:validation:XValidation:rule="has(self.summary) == has(oldSelf.summary) && (!has(self.summary) || self.summary == oldSelf.summary)",message="summary is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".summary"
// +kubebuilder:validation:XValidation:rule="has(self.affected) == has(oldSelf.affected) && (!has(self.affected) || self.affected == oldSelf.affected)",message="affected is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".affected"
// +kubebuilder:validation:XValidation:rule="has(self.rollback) == has(oldSelf.rollback) && (!has(self.rollback) || self.rollback == oldSelf.rollback)",message="rollback is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".rollback"
// +kubebuilder:validation:XValidation:rule="has(self.outage) == has(oldSelf.outage) && (!has(self.outage) || self.outage == oldSelf.outage)",message="outage is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".outage"
// +kubebuilder:validation:XValidation:rule="!has(self.outage) || self.category == 'Outage'",message="outage is for category Outage: write that category, or leave outage out",fieldPath=".outage"
// +kubebuilder:validation:XValidation:rule="has(self.webhookDelivery) == has(oldSelf.webhookDelivery) && (!has(self.webhookDelivery) || self.webhookDelivery == oldSelf.webhookDelivery)",message="webhookDelivery is fixed once the incident exists: resolve it and apply one with a new name",fieldPath=".webhookDelivery"
// +kubebuilder:validation:XValidation:rule="!has(self.webhookDelivery) || self.category == 'WebhookDelivery'",message="webhookDelivery is for category WebhookDelivery: write that category, or leave webhookDelivery out",fieldPath=".webhookDelivery"
// +kubebuilder:validation:XValidation:rule="!has(self.outage) || !has(self.rollback)",message="rollback moved to outage.rollback: write it there, and leave rollback out",fieldPath=".rollback"
// +kubebuilder:validation:XValidation:rule="!has(self.severity) || self.severity != 'sev3' || self.category != 'KeyExposure' || (oldSelf.hasValue() && has(oldSelf.value().severity) && oldSelf.value().severity == 'sev3')",optionalOldSelf=true,message="an exposed key is sev2 at least: write sev2 or sev1, or leave severity out",fieldPath=".severity"
// +kubebuilder:validation:XValidation:rule="self.category != 'KeyExposure' || oldSelf.hasValue() || (has(self.affected) && has(self.affected.applicationIDs) && self.affected.applicationIDs.size() == 1 && has(self.affected.kid))",optionalOldSelf=true,message="a KeyExposure is about one key of one application: write exactly one of affected.applicationIDs, and affected.kid",fieldPath=".affected"
// +kubebuilder:validation:XValidation:rule="!has(self.notice) || self.notice != 'Publish' || self.category == 'Outage' || (oldSelf.hasValue() && has(oldSelf.value().notice) && oldSelf.value().notice == 'Publish')",optionalOldSelf=true,message="notice: Publish is only for an Outage: leave notice out",fieldPath=".notice"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.resolution) || has(self.resolution)",message="a resolution can't be taken back: apply an incident with a new name",fieldPath=".resolution"
type IncidentSpec struct {
	// platformRef names the Platform.
	// +required
	PlatformRef PlatformReference `json:"platformRef,omitzero"`

	// category of the incident.
	// +optional
	// +default="Unclassified"
	Category IncidentCategory `json:"category,omitempty"`

	// severity that a person decided on. It is final for this object. A worse signal is only reported here, and may open
	// another Incident. Without this field, the severity begins at sev2 for Outage and KeyExposure, and at sev3 otherwise.
	// The signals of the incident's own category raise it; for Unclassified, all signals do. Nothing lowers it.
	// +optional
	Severity Severity `json:"severity,omitempty"`

	// onset is when the trouble began. Default: the first bad sample of the signals of this category. If there is none:
	// the object's creation.
	// +optional
	Onset *metav1.Time `json:"onset,omitempty"`

	// summary in a few words, for the people who are paged. The public does not see it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Summary string `json:"summary,omitempty"`

	// affected says who is affected. A KeyExposure needs exactly one application, and the kid.
	// +optional
	Affected *IncidentAffected `json:"affected,omitempty"`

	// outage says what an Outage may do.
	// +optional
	Outage *IncidentOutage `json:"outage,omitempty"`

	// webhookDelivery says what an incident about webhooks may do.
	// +optional
	WebhookDelivery *IncidentWebhookDelivery `json:"webhookDelivery,omitempty"`

	// rollback is the old place of outage.rollback. Deprecated: write outage.rollback. If an object has this field, it
	// still holds.
	// +optional
	Rollback RollbackPolicy `json:"rollback,omitempty"`

	// notice says whether the public is told of an Outage.
	// +optional
	// +default="Automatic"
	Notice NoticePolicy `json:"notice,omitempty"`

	// acknowledgement by the person who took it on. After it nobody is paged until the severity rises.
	// +optional
	Acknowledgement *IncidentAcknowledgement `json:"acknowledgement,omitempty"`

	// resolution closes the incident by hand. An Outage that a signal confirmed also closes by itself, when the signals
	// stay good, and a KeyExposure when its KeyCompromise is Ready. Every other incident waits for a resolution.
	// +optional
	Resolution *IncidentResolution `json:"resolution,omitempty"`

	// approvals let waiting steps go ahead.
	// +optional
	// +listType=map
	// +listMapKey=step
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:MinItems=1
	Approvals []Approval `json:"approvals,omitempty"`
}

// IncidentAffected says who is affected.
// +kubebuilder:validation:MinProperties=1
type IncidentAffected struct {
	// applicationIDs of relying parties.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=19
	// +kubebuilder:validation:items:Pattern=`^[1-9][0-9]*$`
	ApplicationIDs []string `json:"applicationIDs,omitempty"`

	// userIDs of the affected users.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=19
	// +kubebuilder:validation:items:Pattern=`^[1-9][0-9]*$`
	UserIDs []string `json:"userIDs,omitempty"`

	// kid of the affected key.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Kid string `json:"kid,omitempty"`
}

// IncidentOutage says what an Outage may do.
// +kubebuilder:validation:MinProperties=1
type IncidentOutage struct {
	// rollback says whether a suspected deploy is rolled back. Automatic rolls back by itself only while a sev1 signal is
	// bad by HTTP 404, a 5xx, a time-out or a refused connection. Otherwise the exact pair of deploys waits for an
	// approval. It also waits if the database was migrated since the earlier commit.
	// +optional
	// +default="Automatic"
	Rollback RollbackPolicy `json:"rollback,omitempty"`
}

// IncidentReplayPolicy says whether an Incident makes DLQReplays.
// +kubebuilder:validation:Enum=Create;Recommend
type IncidentReplayPolicy string

const (
	// ReplayCreate makes the DLQReplays that the evidence asks for.
	ReplayCreate IncidentReplayPolicy = "Create"
	// ReplayRecommend makes none, and shows their manifests.
	ReplayRecommend IncidentReplayPolicy = "Recommend"
)

// IncidentWebhookDelivery says what an incident about webhooks may do.
// +kubebuilder:validation:MinProperties=1
type IncidentWebhookDelivery struct {
	// replay says whether DLQReplays are made. Create makes one of what the relying party has already, which settles it as
	// delivered. What must be sent again is recommended: the message has the manifest.
	// +optional
	// +default="Create"
	Replay IncidentReplayPolicy `json:"replay,omitempty"`
}

// IncidentAcknowledgement says who took an incident on.
type IncidentAcknowledgement struct {
	// by is the person who took it on.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	By string `json:"by,omitempty"`

	// severity up to which it holds. When the incident's severity rises above it, people are paged again. Default: the
	// severity that the incident has when the acknowledgement is first seen.
	// +optional
	Severity Severity `json:"severity,omitempty"`
}

// IncidentResolution says how an incident ended.
type IncidentResolution struct {
	// by is the person who resolved it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	By string `json:"by,omitempty"`

	// summary of what was wrong and what mended it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Summary string `json:"summary,omitempty"`
}

// IncidentStatus says where the response is.
// +kubebuilder:validation:MinProperties=1
type IncidentStatus struct {
	// observedGeneration is the generation that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Reconciling or Stalled, ResponseOverdue while it is True, StatusLost if the status was lost
	// once, and one per step. Every category has
	// the steps Classified, Escalated, Acknowledged, Triaged and Resolved. An Outage has Announced, RolledBack, Mitigated
	// and AutoDeployRestored too, and a KeyExposure has KeyCompromised.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=24
	// +kubebuilder:validation:MinItems=1
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// lastHandledRequestedAt is the last value of the annotation playbook.1pass.dev/requestedAt that was acted on.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:MinLength=1
	LastHandledRequestedAt string `json:"lastHandledRequestedAt,omitempty"`

	// severity that the response follows.
	// +optional
	Severity Severity `json:"severity,omitempty"`

	// respondBy is the time by which somebody must have responded: at once for sev1, within an hour for sev2, within a day
	// for sev3. When the severity rises, this time is set anew.
	// +optional
	RespondBy *metav1.Time `json:"respondBy,omitempty"`

	// onset is when the trouble began.
	// +optional
	Onset *metav1.Time `json:"onset,omitempty"`

	// detectedAt is when the object was created.
	// +optional
	DetectedAt *metav1.Time `json:"detectedAt,omitempty"`

	// confirmedAt is when a signal of the incident's own category, at least as severe as the incident, was first seen bad.
	// It is written once. Only a confirmed incident closes by itself.
	// +optional
	ConfirmedAt *metav1.Time `json:"confirmedAt,omitempty"`

	// confirmedBy is the condition of the Platform that was bad.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ConfirmedBy string `json:"confirmedBy,omitempty"`

	// signals lists the signals that this incident watches, and what it saw of them since it was opened. It closes by
	// itself only when each signal that was bad is good.
	// +optional
	// +listType=map
	// +listMapKey=condition
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:MinItems=1
	Signals []IncidentSignal `json:"signals,omitempty"`

	// pagedAt is when a channel accepted the first page at this severity.
	// +optional
	PagedAt *metav1.Time `json:"pagedAt,omitempty"`

	// acknowledgedAt is when the present acknowledgement was first seen.
	// +optional
	AcknowledgedAt *metav1.Time `json:"acknowledgedAt,omitempty"`

	// acknowledgedBy is the person who gave it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	AcknowledgedBy string `json:"acknowledgedBy,omitempty"`

	// acknowledgedSeverity is the severity up to which it holds.
	// +optional
	AcknowledgedSeverity Severity `json:"acknowledgedSeverity,omitempty"`

	// rolledBackAt is when the earlier deploy was live again.
	// +optional
	RolledBackAt *metav1.Time `json:"rolledBackAt,omitempty"`

	// mitigatedAt is since when the signals have been clear.
	// +optional
	MitigatedAt *metav1.Time `json:"mitigatedAt,omitempty"`

	// resolvedAt is when it was resolved.
	// +optional
	ResolvedAt *metav1.Time `json:"resolvedAt,omitempty"`

	// affectedSince is since when users can't log in, because /up, tokens or JWKS are down.
	// +optional
	AffectedSince *metav1.Time `json:"affectedSince,omitempty"`

	// durations from the onset to these times.
	// +optional
	Durations *IncidentDurations `json:"durations,omitempty"`

	// reached is the last tier that accepted a page at this severity, or the person who acknowledged.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Reached string `json:"reached,omitempty"`

	// escalation says who was paged.
	// +optional
	Escalation *EscalationStatus `json:"escalation,omitempty"`

	// triage is what was found when the response began.
	// +optional
	Triage *TriageStatus `json:"triage,omitempty"`

	// diagnosis says why webhooks are dead.
	// +optional
	Diagnosis *IncidentDiagnosis `json:"diagnosis,omitempty"`

	// applications lists those whose webhooks were seen dead or failing since the incident was opened, where the spec
	// names none. It has recovered when each of them has.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=19
	Applications []string `json:"applications,omitempty"`

	// keyCheck is what the platform's JWKS and its keys showed.
	// +optional
	KeyCheck *IncidentKeyCheck `json:"keyCheck,omitempty"`

	// replays lists the DLQReplays that this incident made.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:MinItems=1
	Replays []IncidentReplay `json:"replays,omitempty"`

	// rollback is the pair of deploys that was rolled back, or would be.
	// +optional
	Rollback *IncidentRollback `json:"rollback,omitempty"`

	// notice is what the public reads.
	// +optional
	Notice *IncidentNotice `json:"notice,omitempty"`

	// keyCompromise is the KeyCompromise that ends the key of a KeyExposure. The incident made it, or took it on because
	// it was there for the same key. Its own status says how far it is. It stays when the incident is deleted.
	// +optional
	KeyCompromise *IncidentKeyCompromise `json:"keyCompromise,omitempty"`

	// timeline of what happened, the newest entry last. It has at most 50 entries. The first one is always kept.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:MinItems=1
	Timeline []TimelineEntry `json:"timeline,omitempty"`
}

// KeyFault says on which side a kid that is not found is missing.
// +kubebuilder:validation:Enum=Platform;NotPlatform;Unknown
type KeyFault string

const (
	// KeyFaultPlatform means that the platform signs with a kid that its JWKS lacks for longer than caches explain.
	KeyFaultPlatform KeyFault = "Platform"
	// KeyFaultNotPlatform means that each answer had each kid that the platform signs with.
	KeyFaultNotPlatform KeyFault = "NotPlatform"
	// KeyFaultUnknown means that nobody can tell by what was seen.
	KeyFaultUnknown KeyFault = "Unknown"
)

// IncidentKeyCheck is what the platform's JWKS and its keys showed.
type IncidentKeyCheck struct {
	// at is when it was looked at.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// fault says on which side the kid is missing.
	// +required
	Fault KeyFault `json:"fault,omitempty"`
	// answers are how many times JWKS answered with keys, of ten times that it was asked.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	Answers *int32 `json:"answers,omitempty"`
	// kids that all of these answers had, at most 64 of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	Kids []string `json:"kids,omitempty"`
	// cacheSeconds is how long a relying party may use an answer, by the longest of them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	CacheSeconds *int64 `json:"cacheSeconds,omitempty"`
}

// IncidentReplay is a DLQReplay that an Incident made.
type IncidentReplay struct {
	// name of the DLQReplay.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// uid of the DLQReplay. One that was deleted is not made again.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid,omitempty"`
	// step that made it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Step string `json:"step,omitempty"`
	// applicationID that it is for.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	ApplicationID string `json:"applicationID,omitempty"`
}

// SignalSeen is what an Incident saw of a signal since it was opened.
// +kubebuilder:validation:Enum=Good;Bad;Unknown
type SignalSeen string

const (
	// SignalSeenGood was good, and never bad.
	SignalSeenGood SignalSeen = "Good"
	// SignalSeenBad was bad at least once.
	SignalSeenBad SignalSeen = "Bad"
	// SignalSeenUnknown was always unknown. The incident does not wait for it.
	SignalSeenUnknown SignalSeen = "Unknown"
)

// IncidentSignal is one of the Platform's signals, as an Incident saw it.
type IncidentSignal struct {
	// condition of the Platform that reports it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Condition string `json:"condition,omitempty"`
	// seen is the worst state that it was seen in.
	// +required
	Seen SignalSeen `json:"seen,omitempty"`
	// badAt is when it was last seen bad.
	// +optional
	BadAt *metav1.Time `json:"badAt,omitempty"`
}

// IncidentDurations has the seconds from the onset, at least 0.
// +kubebuilder:validation:MinProperties=1
type IncidentDurations struct {
	// toDetectSeconds until the incident was opened.
	// +optional
	ToDetectSeconds *int64 `json:"toDetectSeconds,omitempty"`
	// toPageSeconds until a page was accepted.
	// +optional
	ToPageSeconds *int64 `json:"toPageSeconds,omitempty"`
	// toAcknowledgeSeconds until somebody took it on.
	// +optional
	ToAcknowledgeSeconds *int64 `json:"toAcknowledgeSeconds,omitempty"`
	// toMitigateSeconds until the signals were clear.
	// +optional
	ToMitigateSeconds *int64 `json:"toMitigateSeconds,omitempty"`
	// toResolveSeconds until it was resolved.
	// +optional
	ToResolveSeconds *int64 `json:"toResolveSeconds,omitempty"`
}

// PageState is what became of a page.
// +kubebuilder:validation:Enum=Sending;Accepted;Failed;Acknowledged;Resolved
type PageState string

const (
	// PageSending has no known outcome yet.
	PageSending PageState = "Sending"
	// PageAccepted was accepted by the channel.
	PageAccepted PageState = "Accepted"
	// PageFailed was refused, or was not answered in the time that a channel has. The next channel followed.
	PageFailed PageState = "Failed"
	// PageAcknowledged was accepted, and then the channel was told that somebody acknowledged.
	PageAcknowledged PageState = "Acknowledged"
	// PageResolved was accepted, and then the channel was told that the incident is over.
	PageResolved PageState = "Resolved"
)

// EscalationStatus says who was paged.
// +kubebuilder:validation:MinProperties=1
type EscalationStatus struct {
	// severity that people are paged at now.
	// +optional
	Severity Severity `json:"severity,omitempty"`
	// since is when the incident was opened, or when its severity rose last. Tiers and respondBy count from here.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// coveredBy is another incident of the same category. People accepted its page for the signals that raised this one
	// to sev1, so that this one does not page again for them. If that incident ends while they are still bad, this one
	// pages.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	CoveredBy string `json:"coveredBy,omitempty"`
	// pages in the order in which they were sent. Only the newest 64 are kept.
	// +optional
	// +listType=map
	// +listMapKey=key
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:MinItems=1
	Pages []PageStatus `json:"pages,omitempty"`
}

// PageStatus is one tier paged by one channel.
type PageStatus struct {
	// key of the page, such as sev1-1-2-1: severity, round, tier and channel. The last three are counted from 1.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Key string `json:"key,omitempty"`
	// tier is its name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Tier string `json:"tier,omitempty"`
	// channel is the name of its Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Channel string `json:"channel,omitempty"`
	// severity that it was sent at.
	// +optional
	Severity Severity `json:"severity,omitempty"`
	// state of the page.
	// +required
	State PageState `json:"state,omitempty"`
	// begunAt is when it was first sent.
	// +required
	BegunAt *metav1.Time `json:"begunAt,omitempty"`
	// settledAt is when it was accepted or given up.
	// +optional
	SettledAt *metav1.Time `json:"settledAt,omitempty"`
	// problem is why the page failed, or the error of the last try.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Problem string `json:"problem,omitempty"`
}

// TriageStatus is what was found when the response began.
// +kubebuilder:validation:MinProperties=1
type TriageStatus struct {
	// health is what the Platform's signals said.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Health string `json:"health,omitempty"`
	// services lists the Platform's services at Render.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:MinItems=1
	Services []TriagedService `json:"services,omitempty"`
	// deploys of the service that would be rolled back, the newest first, at most 5.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MaxItems=5
	// +kubebuilder:validation:MinItems=1
	Deploys []TriagedDeploy `json:"deploys,omitempty"`
}

// TriagedService is a service as Render shows it.
type TriagedService struct {
	// name from spec.render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// state is Running, Suspended with the person who suspended it, or Unknown with the reason.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	State string `json:"state,omitempty"`
}

// TriagedDeploy is a deploy as Render shows it.
type TriagedDeploy struct {
	// id of the deploy.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ID string `json:"id,omitempty"`
	// status in Render's words.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Status string `json:"status,omitempty"`
	// commit that it runs.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Commit string `json:"commit,omitempty"`
	// createdAt is Render's time.
	// +optional
	CreatedAt *metav1.Time `json:"createdAt,omitempty"`
}

// DiagnosisSource is where a diagnosis comes from.
// +kubebuilder:validation:Enum=Database;AdminAPI
type DiagnosisSource string

const (
	// DiagnosedByDatabase was read from the outbox.
	DiagnosedByDatabase DiagnosisSource = "Database"
	// DiagnosedByAdminAPI was read from the admin API's list of dead entries.
	DiagnosedByAdminAPI DiagnosisSource = "AdminAPI"
)

// DiagnosisCount says what the numbers of a diagnosis are.
// +kubebuilder:validation:Enum=Exact;AtLeast
type DiagnosisCount string

const (
	// CountExact means that all dead entries were counted.
	CountExact DiagnosisCount = "Exact"
	// CountAtLeast means that there may be more: the list is longer than what is read of it, or changed meanwhile.
	CountAtLeast DiagnosisCount = "AtLeast"
)

// DiagnosisFinding is what a group of dead entries died of, and whose fault that is.
// +kubebuilder:validation:Enum=RelyingPartyFails;RelyingPartyLimits;AlreadyReceived;Refused;KidServed;KidNotServed;KidMissing;KidEnded;KidEndedButServed;KidUnknown;NotTold
type DiagnosisFinding string

const (
	// FindingRelyingPartyFails means that the relying party answers 5xx, in too long a time, or not at all.
	FindingRelyingPartyFails DiagnosisFinding = "RelyingPartyFails"
	// FindingRelyingPartyLimits means that the relying party wants fewer requests.
	FindingRelyingPartyLimits DiagnosisFinding = "RelyingPartyLimits"
	// FindingAlreadyReceived means that the relying party has the webhooks already, and can be taken at its word.
	FindingAlreadyReceived DiagnosisFinding = "AlreadyReceived"
	// FindingRefused means that the relying party refuses the webhooks, and would refuse them again.
	FindingRefused DiagnosisFinding = "Refused"
	// FindingKidServed means that a signature is refused whose kid is good and served: the relying party is stale or
	// wrong.
	FindingKidServed DiagnosisFinding = "KidServed"
	// FindingKidNotServed means that JWKS lacks a kid that is good: the platform's JWKS is stale or wrong.
	FindingKidNotServed DiagnosisFinding = "KidNotServed"
	// FindingKidMissing means that JWKS lacks a kid, and that nobody could read whether the kid has ended.
	FindingKidMissing DiagnosisFinding = "KidMissing"
	// FindingKidEnded means that the kid was revoked, or that its grace ended: the signatures are stale.
	FindingKidEnded DiagnosisFinding = "KidEnded"
	// FindingKidEndedButServed is that, and JWKS still has it.
	FindingKidEndedButServed DiagnosisFinding = "KidEndedButServed"
	// FindingKidUnknown means that the platform has no such kid.
	FindingKidUnknown DiagnosisFinding = "KidUnknown"
	// FindingNotTold means that nobody can tell.
	FindingNotTold DiagnosisFinding = "NotTold"
)

// IncidentDiagnosis says why webhooks are dead.
type IncidentDiagnosis struct {
	// at is when it was made.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// source is where it comes from.
	// +required
	Source DiagnosisSource `json:"source,omitempty"`
	// counted says whether the numbers are exact.
	// +required
	Counted DiagnosisCount `json:"counted,omitempty"`
	// entries are all dead entries of the applications that the incident names, or of all where it names none.
	// +required
	// +kubebuilder:validation:Minimum=0
	Entries *int64 `json:"entries,omitempty"`
	// groups by application and cause, those with the most entries first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Groups []DiagnosedGroup `json:"groups,omitempty"`
	// moreGroups is how many groups there are beyond those of the list.
	// +optional
	// +kubebuilder:validation:Minimum=1
	MoreGroups *int32 `json:"moreGroups,omitempty"`
}

// DiagnosedGroup is what died of one cause at one application.
type DiagnosedGroup struct {
	// applicationID of the relying party.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	ApplicationID string `json:"applicationID,omitempty"`
	// cause of the deaths.
	// +required
	Cause DeadLetterCause `json:"cause,omitempty"`
	// finding says what that means, and whose fault it is.
	// +required
	Finding DiagnosisFinding `json:"finding,omitempty"`
	// statusCode that the relying party answered. It is absent where there was no answer, or not the same one each time.
	// +optional
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=599
	StatusCode *int32 `json:"statusCode,omitempty"`
	// kid of the signatures that were refused.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Kid string `json:"kid,omitempty"`
	// entries are how many died of it.
	// +required
	// +kubebuilder:validation:Minimum=1
	Entries *int64 `json:"entries,omitempty"`
	// since is when the first of them died.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// newest is when the last of them died.
	// +optional
	Newest *metav1.Time `json:"newest,omitempty"`
	// entryIDs are a few of them to look at.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=19
	EntryIDs []string `json:"entryIDs,omitempty"`
}

// SchemaState says whether the platform's database was migrated since the commit that is gone back to was made.
// +kubebuilder:validation:Enum=Unchanged;Migrated;Unknown
type SchemaState string

const (
	// SchemaUnchanged means that no migration that ran is newer than the commit.
	SchemaUnchanged SchemaState = "Unchanged"
	// SchemaMigrated means that a migration ran that the commit can't know.
	SchemaMigrated SchemaState = "Migrated"
	// SchemaUnknown means that nobody could look: the database did not answer, or has no Rails migrations.
	SchemaUnknown SchemaState = "Unknown"
)

// IncidentRollback is the pair of deploys that was rolled back, or would be.
type IncidentRollback struct {
	// service is its name in spec.render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`
	// from is the suspected deploy.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	From string `json:"from,omitempty"`
	// fromCommit is its commit: the one to investigate.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	FromCommit string `json:"fromCommit,omitempty"`
	// to is the earlier deploy.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	To string `json:"to,omitempty"`
	// toCommit is its commit. What went wrong came after it: git log toCommit..fromCommit.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ToCommit string `json:"toCommit,omitempty"`
	// schema of the database, by Rails' schema_migrations.
	// +optional
	Schema SchemaState `json:"schema,omitempty"`
	// migrations is how many migrations ran that were written after toCommit was made. It is set if schema is Migrated.
	// +optional
	Migrations *int32 `json:"migrations,omitempty"`
	// newestMigration is the version of the newest one.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=14
	NewestMigration string `json:"newestMigration,omitempty"`
	// skipped says of commits that are newer than toCommit why none of them is gone back to, the newest first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Skipped []string `json:"skipped,omitempty"`
	// digest of the pair, for an approval.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Digest string `json:"digest,omitempty"`
	// deployID of the rollback.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	DeployID string `json:"deployID,omitempty"`
	// claim is a copy of the entry for this incident in the Platform's status.rollbacks. It is still here when the
	// Platform was deleted and applied again.
	// +optional
	Claim *ServiceRollback `json:"claim,omitempty"`
	// refused lists the deploys that Render refused to roll back to, because their artifacts are gone.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	Refused []string `json:"refused,omitempty"`
	// serviceID is Render's ID of the service. It is set when auto-deploy was switched off.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ServiceID string `json:"serviceID,omitempty"`
}

// IncidentKeyCompromise names a KeyCompromise of the incident's namespace.
type IncidentKeyCompromise struct {
	// name of the KeyCompromise. It is written before the object is created.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// uid of the KeyCompromise. Absent until it was seen. If that object is gone, it was deleted by hand, and the incident
	// does not make it again.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid,omitempty"`
	// askedAt is when the incident was about to create it. Absent if it was there already.
	// +optional
	AskedAt *metav1.MicroTime `json:"askedAt,omitempty"`
}

// NoticeState is what the public reads of an incident.
// +kubebuilder:validation:Enum=Investigating;Identified;Monitoring;Resolved
type NoticeState string

const (
	// NoticeInvestigating says that people are investigating.
	NoticeInvestigating NoticeState = "Investigating"
	// NoticeIdentified says that the cause is known.
	NoticeIdentified NoticeState = "Identified"
	// NoticeMonitoring says that the platform works again and is being watched.
	NoticeMonitoring NoticeState = "Monitoring"
	// NoticeResolved says that it is over.
	NoticeResolved NoticeState = "Resolved"
)

// IncidentNotice is what the public reads. Nothing else of an Incident is for the public.
type IncidentNotice struct {
	// state of the notice.
	// +required
	State NoticeState `json:"state,omitempty"`
	// title of the notice. It says what is, and of a resolved one what was.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Title string `json:"title,omitempty"`
	// startedAt is when users were first kept out.
	// +required
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// resolvedAt is when users could sign in again, as far as that is known.
	// +optional
	ResolvedAt *metav1.Time `json:"resolvedAt,omitempty"`
	// updates in the order in which they were published.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Updates []NoticeUpdate `json:"updates,omitempty"`
	// published is the state that the status page showed last.
	// +optional
	Published NoticeState `json:"published,omitempty"`
	// pageIncidentID is the notice's id at Statuspage.io.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	PageIncidentID string `json:"pageIncidentID,omitempty"`
}

// NoticeUpdate is one update of the public notice.
type NoticeUpdate struct {
	// at is when it was written.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// state of the notice from then on.
	// +required
	State NoticeState `json:"state,omitempty"`
	// text that the public reads.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Text string `json:"text,omitempty"`
}

// TimelineEntry is something that happened.
type TimelineEntry struct {
	// at is when it happened.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// text says what happened.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Text string `json:"text,omitempty"`
}

// Incident is an outage or another problem of a platform. It pages people until one of them acknowledges it, and
// follows the playbook of its category. Its conditions say where it is.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=inc,categories=playbook
// +kubebuilder:printcolumn:name="Severity",type=string,JSONPath=`.status.severity`
// +kubebuilder:printcolumn:name="Category",type=string,JSONPath=`.spec.category`
// +kubebuilder:printcolumn:name="Respond by",type=string,JSONPath=`.status.respondBy`
// +kubebuilder:printcolumn:name="Reached",type=string,JSONPath=`.status.reached`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type Incident struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the object's standard metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what happened.
	// +required
	Spec IncidentSpec `json:"spec,omitzero"`

	// status says where the response is.
	// +optional
	// +default={"observedGeneration": -1}
	Status IncidentStatus `json:"status,omitzero"`
}

// IncidentList is a list of Incidents.
// +kubebuilder:object:root=true
type IncidentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Incident `json:"items"`
}

// GetConditions returns the conditions for reading and setting.
func (i *Incident) GetConditions() *[]metav1.Condition { return &i.Status.Conditions }

// Observed returns the fields of the status that hold the observed generation and the last request that was handled,
// for reading and setting.
func (i *Incident) Observed() (generation *int64, requestedAt *string) {
	return &i.Status.ObservedGeneration, &i.Status.LastHandledRequestedAt
}

// SetStatusOf takes over the status of another object of this kind.
func (i *Incident) SetStatusOf(other runtime.Object) {
	other.(*Incident).Status.DeepCopyInto(&i.Status)
}

// PlatformName is the name of the Platform that it is about.
func (i *Incident) PlatformName() string { return i.Spec.PlatformRef.Name }
