package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Severity of an incident, by the playbook's table.
// +kubebuilder:validation:Enum=sev1;sev2;sev3
type Severity string

const (
	// Sev1 is every relying party's login being down: respond at once.
	Sev1 Severity = "sev1"
	// Sev2 is a part that fails or is slow: respond within an hour.
	Sev2 Severity = "sev2"
	// Sev3 is about a single relying party or user: respond within a day.
	Sev3 Severity = "sev3"
)

// IncidentCategory is what an incident is about.
// +kubebuilder:validation:Enum=Unclassified;Outage;WebhookDelivery;MergeInconsistency;KeyMismatch;KeyExposure
type IncidentCategory string

const (
	// CategoryUnclassified is not known yet.
	CategoryUnclassified IncidentCategory = "Unclassified"
	// CategoryOutage is the platform failing to answer, or answering slowly.
	CategoryOutage IncidentCategory = "Outage"
	// CategoryWebhookDelivery is webhooks not reaching relying parties.
	CategoryWebhookDelivery IncidentCategory = "WebhookDelivery"
	// CategoryMergeInconsistency is merged users who can't see their data.
	CategoryMergeInconsistency IncidentCategory = "MergeInconsistency"
	// CategoryKeyMismatch is a relying party that does not find a kid.
	CategoryKeyMismatch IncidentCategory = "KeyMismatch"
	// CategoryKeyExposure is a signing key that may have leaked.
	CategoryKeyExposure IncidentCategory = "KeyExposure"
)

// RollbackPolicy says whether a suspected regression is rolled back.
// +kubebuilder:validation:Enum=Automatic;Approval;Never
type RollbackPolicy string

const (
	// RollbackAutomatic rolls back at once. Where the database is seen to have been migrated since the earlier commit was
	// made, it waits as RollbackApproval does: older code may not work with the newer schema.
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
	// NoticePublish tells it of a sev1 at once.
	NoticePublish NoticePolicy = "Publish"
	// NoticeWithhold tells nothing.
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
// +kubebuilder:validation:XValidation:rule="!has(self.outage) || !has(self.rollback)",message="rollback moved to outage.rollback: write it there, and leave rollback out",fieldPath=".rollback"
// +kubebuilder:validation:XValidation:rule="!has(self.severity) || self.severity != 'sev3' || self.category != 'KeyExposure' || (oldSelf.hasValue() && has(oldSelf.value().severity) && oldSelf.value().severity == 'sev3')",optionalOldSelf=true,message="an exposed key is sev2 at least: write sev2 or sev1, or leave severity out",fieldPath=".severity"
// +kubebuilder:validation:XValidation:rule="!has(self.notice) || self.notice != 'Publish' || self.category == 'Outage' || (oldSelf.hasValue() && has(oldSelf.value().notice) && oldSelf.value().notice == 'Publish')",optionalOldSelf=true,message="the public is told of an Outage only: leave notice out",fieldPath=".notice"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.resolution) || has(self.resolution)",message="a resolution can't be taken back: apply an incident with a new name",fieldPath=".resolution"
type IncidentSpec struct {
	// platformRef names the Platform.
	// +required
	PlatformRef PlatformReference `json:"platformRef,omitzero"`

	// category of the incident.
	// +optional
	// +default="Unclassified"
	Category IncidentCategory `json:"category,omitempty"`

	// severity that a person decided on. It is final for this object: a worse signal is only reported here, and may open
	// an Incident of its own. Without it the severity begins at sev2 for Outage and KeyExposure, and at sev3 otherwise.
	// The signals of the incident's own category raise it, for Unclassified all signals. Nothing lowers it.
	// +optional
	Severity Severity `json:"severity,omitempty"`

	// onset is when it began. Default: the first bad sample of the signals of this category, else the object's creation.
	// +optional
	Onset *metav1.Time `json:"onset,omitempty"`

	// summary in a few words, for the people who are paged. The public does not see it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Summary string `json:"summary,omitempty"`

	// affected says who is.
	// +optional
	Affected *IncidentAffected `json:"affected,omitempty"`

	// outage says what an Outage may do.
	// +optional
	Outage *IncidentOutage `json:"outage,omitempty"`

	// rollback is where outage.rollback was before. Deprecated: write outage.rollback. Where it is set, it holds.
	// +optional
	Rollback RollbackPolicy `json:"rollback,omitempty"`

	// notice to the public, of an Outage.
	// +optional
	// +default="Automatic"
	Notice NoticePolicy `json:"notice,omitempty"`

	// acknowledgement by the person who took it on. Nobody else is paged, until the severity rises.
	// +optional
	Acknowledgement *IncidentAcknowledgement `json:"acknowledgement,omitempty"`

	// resolution closes the incident by hand. Without one an Outage that the signals confirmed closes when they stay good.
	// All else waits for a resolution.
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

	// userIDs of users.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=19
	// +kubebuilder:validation:items:Pattern=`^[1-9][0-9]*$`
	UserIDs []string `json:"userIDs,omitempty"`

	// kid of a key.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Kid string `json:"kid,omitempty"`
}

// IncidentOutage says what an Outage may do.
// +kubebuilder:validation:MinProperties=1
type IncidentOutage struct {
	// rollback of a suspected regression. Automatic rolls back by itself only while a sev1 signal is bad by HTTP 404, a
	// 5xx, a time-out or a refused connection. Otherwise, and where the database was migrated since the earlier commit,
	// the exact pair of deploys waits for an approval.
	// +optional
	// +default="Automatic"
	Rollback RollbackPolicy `json:"rollback,omitempty"`
}

// IncidentAcknowledgement says who took an incident on.
type IncidentAcknowledgement struct {
	// by whom.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	By string `json:"by,omitempty"`

	// severity up to which it holds: when the severity rises above it, people are paged again. Default: the severity that
	// the incident has when the acknowledgement is first seen.
	// +optional
	Severity Severity `json:"severity,omitempty"`
}

// IncidentResolution says how an incident ended.
type IncidentResolution struct {
	// by whom it was resolved.
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

// IncidentStatus is how far the response is.
// +kubebuilder:validation:MinProperties=1
type IncidentStatus struct {
	// observedGeneration is the generation that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready; Reconciling or Stalled; ResponseOverdue, while True; and one per step. Each category has
	// Classified, Escalated, Acknowledged, Triaged and Resolved. An Outage has Announced, RolledBack, Mitigated and
	// AutoDeployRestored too.
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

	// respondBy is when somebody must have responded: at once, within an hour or within a day of its opening. A rise of
	// the severity begins it anew.
	// +optional
	RespondBy *metav1.Time `json:"respondBy,omitempty"`

	// onset is when it began.
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

	// signals that this incident watches, as they were seen since it was opened. It closes by itself only when each that
	// was bad is good.
	// +optional
	// +listType=map
	// +listMapKey=condition
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:MinItems=1
	Signals []IncidentSignal `json:"signals,omitempty"`

	// pagedAt is when a channel accepted the first page at this severity.
	// +optional
	PagedAt *metav1.Time `json:"pagedAt,omitempty"`

	// acknowledgedAt is when the acknowledgement was seen that holds now.
	// +optional
	AcknowledgedAt *metav1.Time `json:"acknowledgedAt,omitempty"`

	// acknowledgedBy is who gave it.
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

	// mitigatedAt is since when the signals are clear.
	// +optional
	MitigatedAt *metav1.Time `json:"mitigatedAt,omitempty"`

	// resolvedAt is when it was resolved.
	// +optional
	ResolvedAt *metav1.Time `json:"resolvedAt,omitempty"`

	// affectedSince is when the signals first said that relying parties' users are kept out: /up, tokens or JWKS down.
	// +optional
	AffectedSince *metav1.Time `json:"affectedSince,omitempty"`

	// durations between these moments.
	// +optional
	Durations *IncidentDurations `json:"durations,omitempty"`

	// reached is the newest tier that accepted a page at this severity, or who acknowledged.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Reached string `json:"reached,omitempty"`

	// escalation is who was paged.
	// +optional
	Escalation *EscalationStatus `json:"escalation,omitempty"`

	// triage is what was found when the response began.
	// +optional
	Triage *TriageStatus `json:"triage,omitempty"`

	// rollback is what was or would be rolled back.
	// +optional
	Rollback *IncidentRollback `json:"rollback,omitempty"`

	// notice is what the public reads.
	// +optional
	Notice *IncidentNotice `json:"notice,omitempty"`

	// timeline of what happened, the newest last; at most 50 entries, the first of which is kept.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:MinItems=1
	Timeline []TimelineEntry `json:"timeline,omitempty"`
}

// SignalSeen is what an Incident saw of a signal since it was opened.
// +kubebuilder:validation:Enum=Good;Bad;Unknown
type SignalSeen string

const (
	// SignalSeenGood was good, and never bad.
	SignalSeenGood SignalSeen = "Good"
	// SignalSeenBad was bad.
	SignalSeenBad SignalSeen = "Bad"
	// SignalSeenUnknown was never anything but unknown. It holds nothing up.
	SignalSeenUnknown SignalSeen = "Unknown"
)

// IncidentSignal is one of the Platform's signals, as an Incident saw it.
type IncidentSignal struct {
	// condition of the Platform that reports it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Condition string `json:"condition,omitempty"`
	// seen is the worst that was seen of it.
	// +required
	Seen SignalSeen `json:"seen,omitempty"`
	// badAt is when it was last seen bad.
	// +optional
	BadAt *metav1.Time `json:"badAt,omitempty"`
}

// IncidentDurations are in seconds from the onset, at least 0.
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
	// PageAccepted was taken by the channel.
	PageAccepted PageState = "Accepted"
	// PageFailed was refused, or had no answer for as long as the channel has; the next channel followed.
	PageFailed PageState = "Failed"
	// PageAcknowledged was taken, and the channel was told that somebody is on it.
	PageAcknowledged PageState = "Acknowledged"
	// PageResolved was taken, and the channel was told that it is over.
	PageResolved PageState = "Resolved"
)

// EscalationStatus is who was paged.
// +kubebuilder:validation:MinProperties=1
type EscalationStatus struct {
	// severity that people are paged at now.
	// +optional
	Severity Severity `json:"severity,omitempty"`
	// since is when the incident was opened, or when its severity rose last. Tiers and respondBy count from here.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// pages in their order; at most 64, the newest.
	// +optional
	// +listType=map
	// +listMapKey=key
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:MinItems=1
	Pages []PageStatus `json:"pages,omitempty"`
}

// PageStatus is one tier paged by one channel.
type PageStatus struct {
	// key of the page: severity, and round, tier and channel, each counted from 1, such as sev1-1-2-1.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Key string `json:"key,omitempty"`
	// tier by its name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Tier string `json:"tier,omitempty"`
	// channel by the name of its Secret.
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
	// problem is why it failed, or what the last try came to.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Problem string `json:"problem,omitempty"`
}

// TriageStatus is what was found when the response began.
// +kubebuilder:validation:MinProperties=1
type TriageStatus struct {
	// health by the Platform's signals.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Health string `json:"health,omitempty"`
	// services of the Platform at Render.
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
	// state is Running, Suspended with who did it, or Unknown with why.
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

// SchemaState says whether the platform's database was migrated since the commit that is gone back to was made.
// +kubebuilder:validation:Enum=Unchanged;Migrated;Unknown
type SchemaState string

const (
	// SchemaUnchanged has run no migration that is newer than the commit.
	SchemaUnchanged SchemaState = "Unchanged"
	// SchemaMigrated has run one that the commit can't know.
	SchemaMigrated SchemaState = "Migrated"
	// SchemaUnknown could not be looked at: the database did not answer, or keeps no Rails migrations.
	SchemaUnknown SchemaState = "Unknown"
)

// IncidentRollback is what was or would be rolled back.
type IncidentRollback struct {
	// service by its name in spec.render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`
	// from is the suspected deploy, and fromCommit its commit: the one to investigate.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	From string `json:"from,omitempty"`
	// fromCommit is the suspected commit.
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
	// migrations that have run and were written after toCommit was made, where schema is Migrated.
	// +optional
	Migrations *int32 `json:"migrations,omitempty"`
	// newestMigration is the version of the newest of them.
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
	// claim is what the Platform's status.rollbacks says of this incident's rollback. It is repeated here, so that nothing
	// is lost when the Platform is deleted and applied again.
	// +optional
	Claim *ServiceRollback `json:"claim,omitempty"`
	// refused lists the deploys that Render refused to go back to, since their artifacts are gone.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	Refused []string `json:"refused,omitempty"`
	// serviceID is Render's ID of the service, where auto-deploy was switched off.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ServiceID string `json:"serviceID,omitempty"`
}

// NoticeState is what the public reads of an incident.
// +kubebuilder:validation:Enum=Investigating;Identified;Monitoring;Resolved
type NoticeState string

const (
	// NoticeInvestigating says that it is looked into.
	NoticeInvestigating NoticeState = "Investigating"
	// NoticeIdentified says that the cause is known.
	NoticeIdentified NoticeState = "Identified"
	// NoticeMonitoring says that it works again and is watched.
	NoticeMonitoring NoticeState = "Monitoring"
	// NoticeResolved says that it is over.
	NoticeResolved NoticeState = "Resolved"
)

// IncidentNotice is what the public reads: nothing else of an Incident is meant for it.
type IncidentNotice struct {
	// state of the notice.
	// +required
	State NoticeState `json:"state,omitempty"`
	// title of the notice.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Title string `json:"title,omitempty"`
	// startedAt is when users were first kept out.
	// +required
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// resolvedAt is when it was over.
	// +optional
	ResolvedAt *metav1.Time `json:"resolvedAt,omitempty"`
	// updates in their order.
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

// NoticeUpdate is one thing that the public was told.
type NoticeUpdate struct {
	// at is when.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// state that it told.
	// +required
	State NoticeState `json:"state,omitempty"`
	// text that it told.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Text string `json:"text,omitempty"`
}

// TimelineEntry is something that happened.
type TimelineEntry struct {
	// at is when.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// text says what.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Text string `json:"text,omitempty"`
}

// Incident is an outage or another trouble of a platform: it is classified, people are paged until one takes it on, a
// suspected regression is rolled back, and the public is told. Its conditions say how far that is.
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

	// status is how far the response is.
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

// Observed returns what the status says of the spec's generation and of the last request that was handled, for reading
// and setting.
func (i *Incident) Observed() (generation *int64, requestedAt *string) {
	return &i.Status.ObservedGeneration, &i.Status.LastHandledRequestedAt
}

// SetStatusOf takes over the status of another object of this kind.
func (i *Incident) SetStatusOf(other runtime.Object) {
	other.(*Incident).Status.DeepCopyInto(&i.Status)
}

// PlatformName is the name of the Platform that it is about.
func (i *Incident) PlatformName() string { return i.Spec.PlatformRef.Name }
