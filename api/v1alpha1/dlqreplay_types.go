package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DeadLetterCause is why an entry died, as its last_error and attempts tell.
// +kubebuilder:validation:Enum=ServerError;Timeout;RateLimited;SignatureRejected;IdempotencyConflict;ClientError;Unknown
type DeadLetterCause string

// The causes. Anything that no pattern matches is Unknown.
const (
	// CauseServerError is a 5xx answer, or no connection at all.
	CauseServerError DeadLetterCause = "ServerError"
	// CauseTimeout is no answer in time.
	CauseTimeout DeadLetterCause = "Timeout"
	// CauseRateLimited is a 408 or 429 answer, which the dispatcher retries.
	CauseRateLimited DeadLetterCause = "RateLimited"
	// CauseSignatureRejected is a 401 answer: the relying party does not know the kid, or the signature does not verify.
	CauseSignatureRejected DeadLetterCause = "SignatureRejected"
	// CauseIdempotencyConflict is a 409 answer to a retry: the relying party has the webhook already.
	CauseIdempotencyConflict DeadLetterCause = "IdempotencyConflict"
	// CauseClientError is any other 4xx answer, a 409 to a first attempt among them.
	CauseClientError DeadLetterCause = "ClientError"
	// CauseUnknown is everything else.
	CauseUnknown DeadLetterCause = "Unknown"
)

// ReplayMode says how far a DLQReplay goes.
// +kubebuilder:validation:Enum=Replay;Plan
type ReplayMode string

const (
	// ReplayModeReplay plans and replays.
	ReplayModeReplay ReplayMode = "Replay"
	// ReplayModePlan counts, breaks down and stops.
	ReplayModePlan ReplayMode = "Plan"
)

// ReplayVia says what requeues the entries.
// +kubebuilder:validation:Enum=Database;AdminAPI
type ReplayVia string

const (
	// ReplayViaDatabase requeues by SQL, exactly once.
	ReplayViaDatabase ReplayVia = "Database"
	// ReplayViaAdminAPI asks the admin API once per entry, with a step-up nonce for each.
	ReplayViaAdminAPI ReplayVia = "AdminAPI"
)

// ConflictPolicy says what becomes of entries that died of an idempotency conflict.
// +kubebuilder:validation:Enum=Settle;Replay;Leave
type ConflictPolicy string

const (
	// ConflictSettle marks them delivered, since the relying party has them.
	ConflictSettle ConflictPolicy = "Settle"
	// ConflictReplay requeues them like any other.
	ConflictReplay ConflictPolicy = "Replay"
	// ConflictLeave leaves them dead and counts them.
	ConflictLeave ConflictPolicy = "Leave"
)

// DLQReplaySpec says which dead webhooks of one application are brought to delivery, and how fast. Only ratePerSecond,
// maxInFlight, canary, breaker, deliveryTimeoutSeconds, suspend and approvals can be changed.
//
// +kubebuilder:validation:XValidation:rule="self.platformRef == oldSelf.platformRef",message="platformRef is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".platformRef"
// +kubebuilder:validation:XValidation:rule="self.applicationID == oldSelf.applicationID",message="applicationID is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".applicationID"
// +kubebuilder:validation:XValidation:rule="has(self.selector) == has(oldSelf.selector) && (!has(self.selector) || self.selector == oldSelf.selector)",message="selector is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="has(self.mode) == has(oldSelf.mode) && (!has(self.mode) || self.mode == oldSelf.mode)",message="mode is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".mode"
// +kubebuilder:validation:XValidation:rule="has(self.via) == has(oldSelf.via) && (!has(self.via) || self.via == oldSelf.via)",message="via is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".via"
// +kubebuilder:validation:XValidation:rule="has(self.adminAPI) == has(oldSelf.adminAPI) && (!has(self.adminAPI) || self.adminAPI == oldSelf.adminAPI)",message="adminAPI is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".adminAPI"
// +kubebuilder:validation:XValidation:rule="has(self.maxEntries) == has(oldSelf.maxEntries) && (!has(self.maxEntries) || self.maxEntries == oldSelf.maxEntries)",message="maxEntries is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".maxEntries"
// +kubebuilder:validation:XValidation:rule="has(self.idempotencyConflicts) == has(oldSelf.idempotencyConflicts) && (!has(self.idempotencyConflicts) || self.idempotencyConflicts == oldSelf.idempotencyConflicts)",message="idempotencyConflicts is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".idempotencyConflicts"
// +kubebuilder:validation:XValidation:rule="has(self.maxReplaysPerEntry) == has(oldSelf.maxReplaysPerEntry) && (!has(self.maxReplaysPerEntry) || self.maxReplaysPerEntry == oldSelf.maxReplaysPerEntry)",message="maxReplaysPerEntry is fixed once the replay exists: delete it and apply one with a new name",fieldPath=".maxReplaysPerEntry"
// +kubebuilder:validation:XValidation:rule="!has(self.via) || self.via != 'AdminAPI' || (has(self.selector) && has(self.selector.entryIDs) && self.selector.entryIDs.size() <= 10)",message="via AdminAPI retries up to 10 named entries: list them in selector.entryIDs, or use via Database",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="(has(self.via) && self.via == 'AdminAPI') == has(self.adminAPI)",message="adminAPI goes with via AdminAPI: set adminAPI.nonceSecretRef and via together, or neither",fieldPath=".adminAPI"
type DLQReplaySpec struct {
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

	// selector narrows the dead entries. Absent: all of the application's.
	// +optional
	Selector *ReplaySelector `json:"selector,omitempty"`

	// mode is Replay, or Plan to count, break down and stop.
	// +optional
	// +default="Replay"
	Mode ReplayMode `json:"mode,omitempty"`

	// via says what requeues the entries.
	// +optional
	// +default="Database"
	Via ReplayVia `json:"via,omitempty"`

	// adminAPI holds what via AdminAPI needs.
	// +optional
	AdminAPI *ReplayAdminAPI `json:"adminAPI,omitempty"`

	// maxEntries is the most that a plan may have. A larger one stalls; it is never truncated.
	// +optional
	// +default=50000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	MaxEntries int64 `json:"maxEntries,omitempty"`

	// ratePerSecond is how many entries are requeued a second. After a pause up to a second's worth go at once, which
	// makes up for no more of it. Absent: only maxInFlight limits.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	RatePerSecond *int32 `json:"ratePerSecond,omitempty"`

	// maxInFlight is the most entries requeued and not yet attempted, so that the relying party sets the pace and fresh
	// webhooks are not starved.
	// +optional
	// +default=500
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxInFlight int32 `json:"maxInFlight,omitempty"`

	// canary is the trial that goes first.
	// +optional
	// +default={"entries": 10, "maxFailures": 0, "timeoutSeconds": 300}
	Canary ReplayCanary `json:"canary,omitzero"`

	// breaker stops the replay when the relying party fails again.
	// +optional
	// +default={"maxFailurePercent": 20}
	Breaker ReplayBreaker `json:"breaker,omitzero"`

	// idempotencyConflicts says what becomes of entries that died of a 409 to a retry.
	// +optional
	// +default="Settle"
	IdempotencyConflicts ConflictPolicy `json:"idempotencyConflicts,omitempty"`

	// maxReplaysPerEntry is how often all replays together may requeue an entry; one that died again after that is parked
	// as poison and reported.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxReplaysPerEntry int32 `json:"maxReplaysPerEntry,omitempty"`

	// deliveryTimeoutSeconds is how long after the last requeue every entry must be delivered or dead again. The default
	// of two days is longer than the dispatcher's whole retry schedule.
	// +optional
	// +default=172800
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2592000
	DeliveryTimeoutSeconds int32 `json:"deliveryTimeoutSeconds,omitempty"`

	// suspend pauses the replay between two batches.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`

	// approvals let waiting steps go ahead.
	// +optional
	// +listType=map
	// +listMapKey=step
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:MinItems=1
	Approvals []Approval `json:"approvals,omitempty"`
}

// ReplaySelector narrows the dead entries; an entry must match each field that is set.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.deadAfter) || !has(self.deadBefore) || self.deadAfter < self.deadBefore",message="deadAfter must be before deadBefore",fieldPath=".deadAfter"
type ReplaySelector struct {
	// eventTypes the entry's event_type must be among.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	// +kubebuilder:validation:items:Pattern=`^[^\x00]+$`
	EventTypes []string `json:"eventTypes,omitempty"`

	// deadAfter is the earliest time of death, inclusive.
	// +optional
	DeadAfter *metav1.Time `json:"deadAfter,omitempty"`

	// deadBefore is the end of the times of death, exclusive.
	// +optional
	DeadBefore *metav1.Time `json:"deadBefore,omitempty"`

	// causes the entry must have died of.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=7
	Causes []DeadLetterCause `json:"causes,omitempty"`

	// entryIDs the entry's id must be among.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=19
	// +kubebuilder:validation:items:Pattern=`^[1-9][0-9]*$`
	// +kubebuilder:validation:items:XValidation:rule="self.size() < 19 || self <= '9223372036854775807'",message="an entry id must fit a bigint: at most 9223372036854775807"
	EntryIDs []string `json:"entryIDs,omitempty"`

	// excludeEntryIDs the entry's id must not be among.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=19
	// +kubebuilder:validation:items:Pattern=`^[1-9][0-9]*$`
	// +kubebuilder:validation:items:XValidation:rule="self.size() < 19 || self <= '9223372036854775807'",message="an entry id must fit a bigint: at most 9223372036854775807"
	ExcludeEntryIDs []string `json:"excludeEntryIDs,omitempty"`
}

// ReplayAdminAPI holds what via AdminAPI needs.
type ReplayAdminAPI struct {
	// nonceSecretRef names the Secret that maps each entry id to its step-up nonce (action_request_nonce).
	// +required
	NonceSecretRef SecretReference `json:"nonceSecretRef,omitzero"`
}

// ReplayCanary is the trial that goes first: a few entries, spread over causes and age. A failure is an attempt without
// delivery, whether the entry died of it or will be tried again.
// +kubebuilder:validation:MinProperties=1
type ReplayCanary struct {
	// entries of the trial; 0 leaves it out.
	// +optional
	// +default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Entries *int32 `json:"entries,omitempty"`

	// maxFailures is how many of them may fail.
	// +optional
	// +default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	MaxFailures *int32 `json:"maxFailures,omitempty"`

	// timeoutSeconds is how long all of them may take to be attempted.
	// +optional
	// +default=300
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
}

// ReplayBreaker stops the replay when the relying party fails again.
// +kubebuilder:validation:MinProperties=1
type ReplayBreaker struct {
	// maxFailurePercent of the last 100 attempted entries, once at least 20 were attempted. 100 never opens.
	// +optional
	// +default=20
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	MaxFailurePercent *int32 `json:"maxFailurePercent,omitempty"`
}

// DLQReplayStatus is how far the replay is. Its counts are a projection of the ledger in the platform's database.
// +kubebuilder:validation:MinProperties=1
type DLQReplayStatus struct {
	// observedGeneration is the generation that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready; Reconciling or Stalled; and one per step: Planned, CanaryDelivered, Requeued, Delivered.
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

	// cutoff is the database's time at which the replay was opened: an entry that dies later is not part of it.
	// +optional
	Cutoff *metav1.MicroTime `json:"cutoff,omitempty"`

	// plan is what the replay would do.
	// +optional
	Plan *ReplayPlan `json:"plan,omitempty"`

	// progress is what it did.
	// +optional
	Progress *ReplayProgress `json:"progress,omitempty"`

	// failures is what the relying party answered to attempts without delivery, the most frequent first.
	// +optional
	// +listType=map
	// +listMapKey=answer
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:MinItems=1
	Failures []AnswerCount `json:"failures,omitempty"`

	// refusals is by which SQLSTATE the platform's database refused entries, in the order in which they came.
	// +optional
	// +listType=map
	// +listMapKey=sqlState
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:MinItems=1
	Refusals []Refusal `json:"refusals,omitempty"`

	// adminRetries are the calls to the admin API, one per entry, at most once each.
	// +optional
	// +listType=map
	// +listMapKey=entryID
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:MinItems=1
	AdminRetries []AdminRetry `json:"adminRetries,omitempty"`
}

// ReplayPlan is what a replay would do, fixed when it was planned.
// +kubebuilder:validation:MinProperties=1
type ReplayPlan struct {
	// digest of the immutable spec, the cutoff and the planned entries: what an approval approves.
	// +optional
	// +kubebuilder:validation:MaxLength=71
	// +kubebuilder:validation:MinLength=1
	Digest string `json:"digest,omitempty"`

	// total is the number of planned entries.
	// +optional
	Total *int64 `json:"total,omitempty"`

	// causes of death, the most frequent first.
	// +optional
	// +listType=map
	// +listMapKey=cause
	// +kubebuilder:validation:MaxItems=7
	// +kubebuilder:validation:MinItems=1
	Causes []CauseCount `json:"causes,omitempty"`

	// oldestEnqueued and newestEnqueued span the times at which the entries were last enqueued: events this old arrive
	// after newer ones.
	// +optional
	OldestEnqueued *metav1.Time `json:"oldestEnqueued,omitempty"`

	// newestEnqueued is the other end of that span.
	// +optional
	NewestEnqueued *metav1.Time `json:"newestEnqueued,omitempty"`
}

// CauseCount counts the entries of one cause.
type CauseCount struct {
	// cause of death.
	// +required
	Cause DeadLetterCause `json:"cause,omitempty"`

	// entries that died of it.
	// +required
	Entries *int64 `json:"entries,omitempty"`
}

// ReplayProgress counts entries. total = requeued + settled + left + parked + unpublished + gone + changed + refused +
// remaining, and requeued = delivered + failing + diedAgain + waiting.
// +kubebuilder:validation:MinProperties=1
type ReplayProgress struct {
	// observedAt is when these counts were read.
	// +optional
	ObservedAt *metav1.Time `json:"observedAt,omitempty"`

	// remaining entries were planned and not yet looked at.
	// +optional
	Remaining *int64 `json:"remaining,omitempty"`
	// requeued entries were given back to the dispatcher, each exactly once.
	// +optional
	Requeued *int64 `json:"requeued,omitempty"`
	// settled entries were marked delivered, since the relying party had them already.
	// +optional
	Settled *int64 `json:"settled,omitempty"`
	// left entries are idempotency conflicts that the spec says to leave.
	// +optional
	Left *int64 `json:"left,omitempty"`
	// parked entries were already replayed maxReplaysPerEntry times.
	// +optional
	Parked *int64 `json:"parked,omitempty"`
	// resigned entries are requeued ones that were under a kid that is no longer published, and were signed anew. That
	// takes the Platform's database.signingSecretRef.
	// +optional
	Resigned *int64 `json:"resigned,omitempty"`
	// unpublished entries are signed under a kid that is no longer published, and were left.
	// +optional
	Unpublished *int64 `json:"unpublished,omitempty"`
	// gone entries were deleted by somebody else.
	// +optional
	Gone *int64 `json:"gone,omitempty"`
	// changed entries were revived, delivered or killed again by somebody else.
	// +optional
	Changed *int64 `json:"changed,omitempty"`
	// refused entries were left dead, since the platform's database refused to have them changed, by a constraint or a
	// trigger. status.refusals has the codes.
	// +optional
	Refused *int64 `json:"refused,omitempty"`

	// delivered entries were requeued and reached the relying party.
	// +optional
	Delivered *int64 `json:"delivered,omitempty"`
	// failing entries were requeued and attempted, and the dispatcher will try again.
	// +optional
	Failing *int64 `json:"failing,omitempty"`
	// diedAgain entries were requeued and are dead letters again.
	// +optional
	DiedAgain *int64 `json:"diedAgain,omitempty"`
	// waiting entries were requeued and not attempted yet.
	// +optional
	Waiting *int64 `json:"waiting,omitempty"`
}

// Refusal counts entries whose change the platform's database refused.
type Refusal struct {
	// sqlState is the code that the database gave, such as 23514 for a check constraint and P0001 for a trigger.
	// +required
	// +kubebuilder:validation:MinLength=5
	// +kubebuilder:validation:MaxLength=5
	SQLState string `json:"sqlState,omitempty"`

	// entries that were refused so.
	// +required
	Entries *int64 `json:"entries,omitempty"`

	// entryID of the first of them.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	EntryID string `json:"entryID,omitempty"`
}

// AnswerCount counts failed attempts by what the relying party answered.
type AnswerCount struct {
	// answer is the HTTP status code, or the cause where there was none. A canary entry that the database refused has
	// SQLSTATE and the code.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Answer string `json:"answer,omitempty"`

	// entries whose last attempt was answered so.
	// +required
	Entries *int64 `json:"entries,omitempty"`
}

// AdminRetryState is what is known of a call to the admin API.
// +kubebuilder:validation:Enum=Intended;Landed;Refused;Unknown
type AdminRetryState string

const (
	// AdminRetryIntended is written before the call; a pass that finds it and did not just write it only observes.
	AdminRetryIntended AdminRetryState = "Intended"
	// AdminRetryLanded says that the entry was seen requeued.
	AdminRetryLanded AdminRetryState = "Landed"
	// AdminRetryRefused says that the admin API refused: nothing happened.
	AdminRetryRefused AdminRetryState = "Refused"
	// AdminRetryUnknown says that the call may or may not have happened; it is not repeated.
	AdminRetryUnknown AdminRetryState = "Unknown"
)

// AdminRetry is one call to the admin API.
type AdminRetry struct {
	// entryID of the outbox entry.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	EntryID string `json:"entryID,omitempty"`

	// state of the call.
	// +required
	State AdminRetryState `json:"state,omitempty"`

	// at is when the call was intended.
	// +required
	At metav1.MicroTime `json:"at,omitzero"`

	// sawEnqueuedAt is the entry's enqueued_at before the call; another one afterwards proves that it landed.
	// +required
	SawEnqueuedAt metav1.MicroTime `json:"sawEnqueuedAt,omitzero"`
}

// DLQReplay brings the dead webhooks of one application to delivery. It runs once; a new name runs again.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dlqr,categories=playbook
// +kubebuilder:printcolumn:name="App",type=string,JSONPath=`.spec.applicationID`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Replayed",type=integer,JSONPath=`.status.progress.requeued`
// +kubebuilder:printcolumn:name="Delivered",type=integer,JSONPath=`.status.progress.delivered`
// +kubebuilder:printcolumn:name="Failing",type=integer,JSONPath=`.status.progress.failing`
// +kubebuilder:printcolumn:name="Died again",type=integer,JSONPath=`.status.progress.diedAgain`
// +kubebuilder:printcolumn:name="Refused",type=integer,priority=1,JSONPath=`.status.progress.refused`
// +kubebuilder:printcolumn:name="Total",type=integer,JSONPath=`.status.plan.total`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type DLQReplay struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the object's standard metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what to replay.
	// +required
	Spec DLQReplaySpec `json:"spec,omitzero"`

	// status is how far it is.
	// +optional
	// +default={"observedGeneration": -1}
	Status DLQReplayStatus `json:"status,omitzero"`
}

// DLQReplayList is a list of DLQReplays.
// +kubebuilder:object:root=true
type DLQReplayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DLQReplay `json:"items"`
}

// GetConditions returns the conditions for reading and setting.
func (r *DLQReplay) GetConditions() *[]metav1.Condition { return &r.Status.Conditions }

// Observed returns what the status says of the spec's generation and of the last request that was handled, for reading
// and setting.
func (r *DLQReplay) Observed() (generation *int64, requestedAt *string) {
	return &r.Status.ObservedGeneration, &r.Status.LastHandledRequestedAt
}

// SetStatusOf takes over the status of another object of this kind.
func (r *DLQReplay) SetStatusOf(other runtime.Object) {
	other.(*DLQReplay).Status.DeepCopyInto(&r.Status)
}

// PlatformName is the name of the Platform that it is about.
func (r *DLQReplay) PlatformName() string { return r.Spec.PlatformRef.Name }
