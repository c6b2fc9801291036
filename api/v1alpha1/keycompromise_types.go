package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// CompromiseVia says what ends the key.
// +kubebuilder:validation:Enum=Database;Command
type CompromiseVia string

const (
	// CompromiseViaDatabase ends it by SQL, in one transaction of the operator's.
	CompromiseViaDatabase CompromiseVia = "Database"
	// CompromiseViaCommand runs the platform's own rake, at most once.
	CompromiseViaCommand CompromiseVia = "Command"
)

// KeyCompromiseSpec names the webhook signing key that leaked. Only the timeouts and approvals can be changed.
//
// +kubebuilder:validation:XValidation:rule="self.platformRef == oldSelf.platformRef",message="platformRef is fixed once the key compromise exists: delete it and apply one with a new name",fieldPath=".platformRef"
// +kubebuilder:validation:XValidation:rule="self.applicationID == oldSelf.applicationID",message="applicationID is fixed once the key compromise exists: delete it and apply one with a new name",fieldPath=".applicationID"
// +kubebuilder:validation:XValidation:rule="self.kid == oldSelf.kid",message="kid is fixed once the key compromise exists: delete it and apply one with a new name",fieldPath=".kid"
// +kubebuilder:validation:XValidation:rule="self.reason == oldSelf.reason",message="reason is fixed once the key compromise exists: delete it and apply one with a new name",fieldPath=".reason"
// +kubebuilder:validation:XValidation:rule=`self.via != 'Command' || self.kid.matches(r'^[^,\]\\\p{Cc}\p{Z}]([^,\]\\\p{Cc}]*[^,\]\\\p{Cc}\p{Z}])?$')`,message="a rake can't be given a kid with a comma, a closing bracket, a backslash or a control character, or with a blank at an end: write via: Database, or end the key by the platform's own console",fieldPath=".kid"
// +kubebuilder:validation:XValidation:rule="self.via == oldSelf.via",message="via is fixed once the key compromise exists: delete it and apply one with a new name",fieldPath=".via"
type KeyCompromiseSpec struct {
	// platformRef names the Platform.
	// +required
	PlatformRef PlatformReference `json:"platformRef,omitzero"`

	// applicationID is the id of the relying party's row in oauth_applications, as a string since it may exceed 2^53.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	// +kubebuilder:validation:Pattern=`^[1-9][0-9]*$`
	// +kubebuilder:validation:XValidation:rule="self.size() < 19 || self <= '9223372036854775807'",message="applicationID must fit a bigint: at most 9223372036854775807"
	ApplicationID string `json:"applicationID,omitempty"`

	// kid of the key that leaked, exactly as JWKS shows it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Kid string `json:"kid,omitempty"`

	// reason is what happened, for the ledger and for whoever reads it later. The relying party is not told.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`

	// via is what ends the key. Database is one transaction by the operator, which reads and writes signing keys. Command
	// runs the platform's own rake, webhooks:compromise, at most once, by the Platform's spec.commands: the way for a
	// platform that encrypts its keys. What follows is proven in the same way; where the Platform has no database, by JWKS
	// alone, and the steps that only the outbox could show are not needed.
	// +optional
	// +default="Database"
	Via CompromiseVia `json:"via,omitempty"`

	// reSignTimeoutSeconds is how long after the revocation undelivered entries may still be under the old kid, and
	// transactions that began before it still be open.
	// +optional
	// +default=900
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2592000
	ReSignTimeoutSeconds int32 `json:"reSignTimeoutSeconds,omitempty"`

	// publishTimeoutSeconds is how long JWKS may still show the old kid, or not show the successor.
	// +optional
	// +default=900
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2592000
	PublishTimeoutSeconds int32 `json:"publishTimeoutSeconds,omitempty"`

	// notifyTimeoutSeconds is how long the relying party may take to accept webhook_key.compromised. It should exceed the
	// time for which it keeps JWKS.
	// +optional
	// +default=86400
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2592000
	NotifyTimeoutSeconds int32 `json:"notifyTimeoutSeconds,omitempty"`

	// approvals let waiting steps go ahead.
	// +optional
	// +listType=map
	// +listMapKey=step
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:MinItems=1
	Approvals []Approval `json:"approvals,omitempty"`
}

// KeyCompromiseStatus is how far the key's end is.
// +kubebuilder:validation:MinProperties=1
type KeyCompromiseStatus struct {
	// observedGeneration is the generation that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready; Reconciling or Stalled; and one per step: Revoked, ReSigned, Published, RelyingPartyNotified,
	// Verified, CachesExpired.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:MinItems=1
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// lastHandledRequestedAt is the last value of the annotation playbook.1pass.dev/requestedAt that was acted on.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:MinLength=1
	LastHandledRequestedAt string `json:"lastHandledRequestedAt,omitempty"`

	// successorKid signs since the revocation. Absent where JWKS alone can't tell which key that is.
	// +optional
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:MinLength=1
	SuccessorKid string `json:"successorKid,omitempty"`

	// revokedAt is the database's time of the revocation; without a database, when JWKS first had the old key no more,
	// which is later.
	// +optional
	RevokedAt *metav1.Time `json:"revokedAt,omitempty"`

	// timeToRevokeSeconds is from the object's creation to revokedAt.
	// +optional
	TimeToRevokeSeconds *int64 `json:"timeToRevokeSeconds,omitempty"`

	// resignedEntries are undelivered webhooks that were signed anew by the successor.
	// +optional
	ResignedEntries *int64 `json:"resignedEntries,omitempty"`

	// claimedEntries were held by the dispatcher when the revocation committed: their bodies may have been in the air,
	// under the old kid.
	// +optional
	ClaimedEntries *int64 `json:"claimedEntries,omitempty"`

	// exposedUntil is until when a relying party that follows HTTP's caching rules may still believe the old key.
	// +optional
	ExposedUntil *metav1.Time `json:"exposedUntil,omitempty"`

	// eventEntryID is the id of the outbox entry that tells the relying party: webhook_key.compromised.
	// +optional
	// +kubebuilder:validation:MaxLength=19
	// +kubebuilder:validation:MinLength=1
	EventEntryID string `json:"eventEntryID,omitempty"`

	// command is the run of the platform's rake, with via: Command. It is written before the command is sent.
	// +optional
	Command *CommandRun `json:"command,omitempty"`

	// replayRef names the DLQReplay of the webhooks that died because the relying party did not know the successor yet.
	// +optional
	ReplayRef *ReplayReference `json:"replayRef,omitempty"`

	// jwks is what was seen of the published keys since the revocation, and without a database before it.
	// +optional
	JWKS *JWKSObservation `json:"jwks,omitempty"`

	// stepsBegun is when each step with a timeout began.
	// +optional
	// +listType=map
	// +listMapKey=step
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:MinItems=1
	StepsBegun []StepBegun `json:"stepsBegun,omitempty"`
}

// CommandOutcome is what is known of how a command ended.
// +kubebuilder:validation:Enum=Succeeded;Failed;Lost
type CommandOutcome string

const (
	// CommandSucceeded says that it reported success.
	CommandSucceeded CommandOutcome = "Succeeded"
	// CommandFailed says that it ended, and reported a failure.
	CommandFailed CommandOutcome = "Failed"
	// CommandLost says that the connection ended before it did.
	CommandLost CommandOutcome = "Lost"
)

// CommandRun is a command that was run on the platform, once. A pass that finds one that it did not just write only
// observes: whether it did its work is read from the key's row, and what it printed is in the ledger, in
// playbook.command_runs. Without a database the former is read from JWKS, and the latter is not kept.
type CommandRun struct {
	// startedAt is when it was about to be sent.
	// +required
	StartedAt *metav1.MicroTime `json:"startedAt,omitempty"`

	// target is where it runs.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Target string `json:"target,omitempty"`

	// jobID of the Render job.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	JobID string `json:"jobID,omitempty"`

	// outcome is how it ended; absent until that was seen.
	// +optional
	Outcome CommandOutcome `json:"outcome,omitempty"`

	// exitStatus that it ended with, where there is one.
	// +optional
	ExitStatus *int32 `json:"exitStatus,omitempty"`
}

// ReplayReference names a DLQReplay of the same namespace.
type ReplayReference struct {
	// name of the DLQReplay.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// JWKSObservation is what was seen of the published keys.
// +kubebuilder:validation:MinProperties=1
type JWKSObservation struct {
	// clean answers in a row had the successor and not the old kid.
	// +optional
	Clean *int32 `json:"clean,omitempty"`

	// oldKidSeenAt is when the latest answer with the old kid came.
	// +optional
	OldKidSeenAt *metav1.Time `json:"oldKidSeenAt,omitempty"`

	// oldKidKeptUntil is until when an answer with the old kid may be kept that was seen before the revocation was, where
	// the Platform has no database.
	// +optional
	OldKidKeptUntil *metav1.Time `json:"oldKidKeptUntil,omitempty"`

	// kidsBefore are those of the latest answer with the old kid before the command, where the Platform has no database: a
	// kid that is not among them may be the successor's.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	KidsBefore []string `json:"kidsBefore,omitempty"`
}

// StepBegun is when a step began.
type StepBegun struct {
	// step by its condition.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Step string `json:"step,omitempty"`

	// at is when it began, or was last asked to go on.
	// +required
	At *metav1.Time `json:"at,omitempty"`
}

// KeyCompromise ends a webhook signing key that leaked: it is revoked and replaced in one transaction, and the object
// proves that nobody has to believe it any more. It runs once; the proof stays.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=keyc,categories=playbook
// +kubebuilder:printcolumn:name="App",type=string,JSONPath=`.spec.applicationID`
// +kubebuilder:printcolumn:name="Kid",type=string,JSONPath=`.spec.kid`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Successor",type=string,JSONPath=`.status.successorKid`
// +kubebuilder:printcolumn:name="Re-signed",type=integer,JSONPath=`.status.resignedEntries`
// +kubebuilder:printcolumn:name="Revoked",type=date,JSONPath=`.status.revokedAt`
// +kubebuilder:printcolumn:name="Exposed until",type=string,JSONPath=`.status.exposedUntil`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type KeyCompromise struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's standard metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec names the key.
	// +required
	Spec KeyCompromiseSpec `json:"spec,omitzero"`

	// status is how far its end is.
	// +optional
	// +default={"observedGeneration": -1}
	Status KeyCompromiseStatus `json:"status,omitzero"`
}

// KeyCompromiseList is a list of KeyCompromises.
// +kubebuilder:object:root=true
type KeyCompromiseList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []KeyCompromise `json:"items"`
}

// GetConditions returns the conditions for reading and setting.
func (k *KeyCompromise) GetConditions() *[]metav1.Condition { return &k.Status.Conditions }

// Observed returns what the status says of the spec's generation and of the last request that was handled, for reading
// and setting.
func (k *KeyCompromise) Observed() (generation *int64, requestedAt *string) {
	return &k.Status.ObservedGeneration, &k.Status.LastHandledRequestedAt
}

// SetStatusOf takes over the status of another object of this kind.
func (k *KeyCompromise) SetStatusOf(other runtime.Object) {
	other.(*KeyCompromise).Status.DeepCopyInto(&k.Status)
}

// PlatformName is the name of the Platform that it is about.
func (k *KeyCompromise) PlatformName() string { return k.Spec.PlatformRef.Name }
