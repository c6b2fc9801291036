package v1alpha1

// Conditions that every kind reports. Ready is the root; Reconciling and Stalled are present only while True, as
// kstatus expects (https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus).
const (
	ConditionReady       = "Ready"
	ConditionReconciling = "Reconciling"
	ConditionStalled     = "Stalled"
)

// Steps of a DLQReplay, in their order.
const (
	StepPlanned         = "Planned"
	StepCanaryDelivered = "CanaryDelivered"
	StepRequeued        = "Requeued"
	StepDelivered       = "Delivered"
)

// Steps of a KeyCompromise, in their order.
const (
	StepRevoked              = "Revoked"
	StepReSigned             = "ReSigned"
	StepPublished            = "Published"
	StepRelyingPartyNotified = "RelyingPartyNotified"
	StepVerified             = "Verified"
	StepCachesExpired        = "CachesExpired"
)

// Steps of an Incident: its classification; then people, who are paged, acknowledge and announce, each for itself; and
// beside them the response, in its order.
const (
	StepClassified         = "Classified"
	StepEscalated          = "Escalated"
	StepAcknowledged       = "Acknowledged"
	StepAnnounced          = "Announced"
	StepTriaged            = "Triaged"
	StepDiagnosed          = "Diagnosed"
	StepConflictsSettled   = "ConflictsSettled"
	StepRelyingPartyTold   = "RelyingPartyTold"
	StepRecovered          = "Recovered"
	StepRolledBack         = "RolledBack"
	StepKeyCompromised     = "KeyCompromised"
	StepPlatformChecked    = "PlatformChecked"
	StepMitigated          = "Mitigated"
	StepResolved           = "Resolved"
	StepAutoDeployRestored = "AutoDeployRestored"
)

// ConditionResponseOverdue is present while True: nobody has responded to an Incident by status.respondBy.
const ConditionResponseOverdue = "ResponseOverdue"

// ConditionStatusLost is present on an Incident that had begun and lost its status: then nobody knows what it did.
const ConditionStatusLost = "StatusLost"

// What a Platform reports of its signals: True is good, False bad, and Unknown not known, which is not good.
const (
	ConditionUpAnswers         = "UpAnswers"
	ConditionTokensIssued      = "TokensIssued"
	ConditionJWKSServed        = "JWKSServed"
	ConditionEndpointsAnswer   = "EndpointsAnswer"
	ConditionLatencyGood       = "LatencyGood"
	ConditionWebhooksDelivered = "WebhooksDelivered"
	// ConditionAutoDeployOff is present while True: an Incident switched a service's auto-deploy off.
	ConditionAutoDeployOff = "AutoDeployOff"
)

// What a Platform reports.
const (
	ConditionDatabaseReachable = "DatabaseReachable"
	ConditionLedgerReady       = "LedgerReady"
)

// What a Platform reports of the Secrets of its far sides, each where the spec names it. True says that what the
// Secret holds has the right form. Nobody is asked whether it is accepted.
const (
	ConditionAdminAPIConfigured    = "AdminAPIConfigured"
	ConditionRenderConfigured      = "RenderConfigured"
	ConditionPagersConfigured      = "PagersConfigured"
	ConditionStatusPageConfigured  = "StatusPageConfigured"
	ConditionCommandsConfigured    = "CommandsConfigured"
	ConditionSigningConfigured     = "SigningConfigured"
	ConditionProbeClientConfigured = "ProbeClientConfigured"
)

// What a Platform reports while another one names the same Render service or the same status page. They are present
// while True.
const (
	ConditionRenderServicesShared = "RenderServicesShared"
	ConditionStatusPageShared     = "StatusPageShared"
)

// Reasons that settle a step, or say that it has not begun.
const (
	// ReasonPending says that a step has not begun.
	ReasonPending = "Pending"
	// ReasonSucceeded says that what the condition names happened.
	ReasonSucceeded = "Succeeded"
	// ReasonNotNeeded says that a step had nothing to do; with status False it counts as settled.
	ReasonNotNeeded = "NotNeeded"
)

// Reasons for which any operation waits. It goes on by itself.
const (
	// ReasonRetrying says that the last try failed and the next one follows; the message has the error.
	ReasonRetrying = "Retrying"
	// ReasonLooking says that a far side is asked which takes its time. Nothing else waits for it.
	ReasonLooking = "Looking"
	// ReasonPlatformNotFound says that no Platform of that name exists in the namespace.
	ReasonPlatformNotFound = "PlatformNotFound"
	// ReasonSecretUnusable says that a Secret is missing, unlabelled or malformed.
	ReasonSecretUnusable = "SecretUnusable"
	// ReasonNoDatabase says that the Platform has no spec.database, and that this can't be done without one.
	ReasonNoDatabase = "NoDatabase"
	// ReasonDatabaseUnreachable says that the platform's database did not answer as it should.
	ReasonDatabaseUnreachable = "DatabaseUnreachable"
	// ReasonDatabaseSessionUnfit says that sessions of the database, as a pooler gives them, can't be used.
	ReasonDatabaseSessionUnfit = "DatabaseSessionUnfit"
	// ReasonDatabaseReadOnly says that the address that was reached takes no writes, as a replica's.
	ReasonDatabaseReadOnly = "DatabaseReadOnly"
	// ReasonDatabaseRestarting says that the server stops or starts, or that an administrator ended the session.
	ReasonDatabaseRestarting = "DatabaseRestarting"
	// ReasonDatabaseDiskFull says that the server has no room to write.
	ReasonDatabaseDiskFull = "DatabaseDiskFull"
	// ReasonDatabaseNoConnection says that the server, the role or a pooler has as many connections as it may.
	ReasonDatabaseNoConnection = "DatabaseNoConnection"
	// ReasonDatabaseCanceled says that an administrator canceled a statement.
	ReasonDatabaseCanceled = "DatabaseCanceled"
	// ReasonDatabaseTooSlow says that a statement took longer than it may.
	ReasonDatabaseTooSlow = "DatabaseTooSlow"
	// ReasonSchemaUnusable says that the operator's role may not use the schema of a table, or does not look there.
	ReasonSchemaUnusable = "SchemaUnusable"
	// ReasonDatabaseRowsHidden says that row-level security keeps rows of the platform's tables from the operator's role.
	ReasonDatabaseRowsHidden = "DatabaseRowsHidden"
	// ReasonLedgerNotReady says that a table, column, grant, index or the ledger itself is missing; the message names it.
	ReasonLedgerNotReady = "LedgerNotReady"
	// ReasonWaitingForApproval says that spec.approvals needs an entry; the message has the command.
	ReasonWaitingForApproval = "WaitingForApproval"
	// ReasonSuspended says that spec.suspend is true.
	ReasonSuspended = "Suspended"
	// ReasonAutomationOff says that the Platform's automation is ObserveOnly.
	ReasonAutomationOff = "AutomationOff"
)

// What a DLQReplay is doing.
const (
	ReasonPlanning       = "Planning"
	ReasonCanaryInFlight = "CanaryInFlight"
	ReasonRequeuing      = "Requeuing"
	ReasonDelivering     = "Delivering"
)

// What a KeyCompromise is doing.
const (
	ReasonRevoking         = "Revoking"
	ReasonReSigning        = "ReSigning"
	ReasonWatchingJWKS     = "WatchingJWKS"
	ReasonNotifying        = "Notifying"
	ReasonVerifying        = "Verifying"
	ReasonWaitingForCaches = "WaitingForCaches"
	// ReasonWaitingForTwin says that another KeyCompromise is about the same key, and this one waits for its end.
	ReasonWaitingForTwin = "WaitingForTwin"
)

// What an Incident is doing, and what its signals are.
const (
	ReasonClassifying = "Classifying"
	// ReasonPaging says that people are paged, tier by tier, until one acknowledges.
	ReasonPaging = "Paging"
	// ReasonNotPaging says that nobody is paged at this severity.
	ReasonNotPaging = "NotPaging"
	// ReasonWaitingForAcknowledgement says that spec.acknowledgement is not set yet.
	ReasonWaitingForAcknowledgement = "WaitingForAcknowledgement"
	// ReasonNotAnnounced says that the public is not told, or not yet.
	ReasonNotAnnounced = "NotAnnounced"
	// ReasonPublished says that the public notice is out.
	ReasonPublished   = "Published"
	ReasonRollingBack = "RollingBack"
	// ReasonWaitingForDeploy says that a deploy is under way at Render, and what to do depends on it.
	ReasonWaitingForDeploy = "WaitingForDeploy"
	// ReasonAwaitingMitigation says that the signals are not clear yet, or not for long enough.
	ReasonAwaitingMitigation = "AwaitingMitigation"
	// ReasonNotConfirmed says that no signal of the incident's category was bad, so that only a person can close it.
	ReasonNotConfirmed = "NotConfirmed"
	// ReasonSignalsUnknown says that a signal that was known is unknown now, so that nobody can tell whether it is over.
	ReasonSignalsUnknown = "SignalsUnknown"
	// ReasonAwaitingResolution says that a person closes it: set spec.resolution.
	ReasonAwaitingResolution = "AwaitingResolution"
	// ReasonNobodyReached says that no channel of any tier accepted a page yet.
	ReasonNobodyReached = "NobodyReached"
	// ReasonAcknowledged says that somebody took the incident on, and nobody else is paged.
	ReasonAcknowledged = "Acknowledged"
	// ReasonNoSuspect says that no deploy is suspected. It is looked at again for as long as the incident is open.
	ReasonNoSuspect = "NoSuspect"
	// ReasonNoTarget says that a deploy is suspected, and that none is known that is fit to go back to.
	ReasonNoTarget = "NoTarget"
	// ReasonRollbackWithheld says that a deploy is suspected, and that spec.outage.rollback is Never.
	ReasonRollbackWithheld = "RollbackWithheld"
	// ReasonWaitingForOther says that another Incident of the same category is open, and acts.
	ReasonWaitingForOther = "WaitingForOther"
	// ReasonSettling says that a DLQReplay settles what the relying party has already.
	ReasonSettling = "Settling"
	// ReasonReplayStalled says that a DLQReplay of this Incident stalled; the message has its message.
	ReasonReplayStalled = "ReplayStalled"
	// ReasonTelling says that the on-call of a relying party is being told.
	ReasonTelling = "Telling"
	// ReasonNotTelling says that a relying party is not told, or not yet; the message says why.
	ReasonNotTelling = "NotTelling"
	// ReasonRelyingPartyDown says that a relying party received nothing fresh since webhooks for it died.
	ReasonRelyingPartyDown = "RelyingPartyDown"
	// ReasonWaitingForOutage says that an Outage is open, until whose end nothing is done that no person asked for.
	ReasonWaitingForOutage = "WaitingForOutage"
	// ReasonEndingKey says that the KeyCompromise of a KeyExposure is under way.
	ReasonEndingKey = "EndingKey"
	// ReasonKeyCompromiseStalled says that the KeyCompromise of a KeyExposure is stalled; the message has its message.
	ReasonKeyCompromiseStalled = "KeyCompromiseStalled"
	// ReasonCachesClear says that no cache may hold the key any more, and that only a relying party holds the Incident up.
	ReasonCachesClear = "CachesClear"
	// ReasonChildDeleted says that somebody deleted what the Incident made. It is not made again.
	ReasonChildDeleted = "ChildDeleted"
	// ReasonHolder says that this Platform is the oldest of those that name the same service or page, and holds it.
	ReasonHolder = "Holder"
	// ReasonHeldByOther says that an older Platform names the same service or page, so that this one changes nothing
	// there.
	ReasonHeldByOther = "HeldByOther"
	// ReasonAwaitingFix says that auto-deploy stays off until the bad commit was followed by another one.
	ReasonAwaitingFix = "AwaitingFix"
	// ReasonStatusLost says that the Incident had begun, and its status was wiped. It pages again, and acts only where a
	// person says so.
	ReasonStatusLost = "StatusLost"
	// ReasonStillRings says that a channel could not be told that somebody took it on, or that it is over.
	ReasonStillRings = "StillRings"
	// ReasonOverdue says that nobody has responded in time.
	ReasonOverdue = "Overdue"
	// ReasonSignalGood, ReasonSignalBad and ReasonSignalUnknown are what a signal is.
	ReasonSignalGood    = "Good"
	ReasonSignalBad     = "Bad"
	ReasonSignalUnknown = "Unknown"
	// ReasonSignalFlaky is a signal that is bad since too large a share of the looks fails, though not each.
	ReasonSignalFlaky = "Flaky"
	// ReasonSwitchedOff says that an Incident switched auto-deploy off.
	ReasonSwitchedOff = "SwitchedOff"
)

// How an operation ended well.
const (
	// ReasonPlanOnly says that mode Plan is complete: nothing was changed.
	ReasonPlanOnly = "PlanOnly"
	// ReasonAlreadyDone says that the same operation was finished under an object of this namespace, name and digest.
	ReasonAlreadyDone = "AlreadyDone"
)

// Why an operation stalled: a person is needed, and the message says what to do.
const (
	// ReasonPlanTooLarge says that the plan has more entries than spec.maxEntries.
	ReasonPlanTooLarge = "PlanTooLarge"
	// ReasonCanaryFailed says that more canary entries failed than spec.canary.maxFailures allows.
	ReasonCanaryFailed = "CanaryFailed"
	// ReasonCanaryTimedOut says that canary entries were not attempted in time.
	ReasonCanaryTimedOut = "CanaryTimedOut"
	// ReasonBreakerOpen says that too many of the last attempts failed.
	ReasonBreakerOpen = "BreakerOpen"
	// ReasonDeliveryTimedOut says that requeued entries were neither delivered nor dead by the deadline.
	ReasonDeliveryTimedOut = "DeliveryTimedOut"
	// ReasonLedgerBehind says that the ledger knows less than the object: a database restored from a backup.
	ReasonLedgerBehind = "LedgerBehind"
	// ReasonOutcomeUnknown says that an effect that must not be repeated may or may not have happened.
	ReasonOutcomeUnknown = "OutcomeUnknown"
	// ReasonRefused says that the far side refused the call, and would refuse it again.
	ReasonRefused = "Refused"
	// ReasonUnknownKid says that the application has no key of that kid; the message lists those that it has.
	ReasonUnknownKid = "UnknownKid"
	// ReasonStillSigning says that undelivered entries are still, or again, under the old kid, or that a transaction that
	// began before the revocation is still open.
	ReasonStillSigning = "StillSigning"
	// ReasonStillPublished says that JWKS still shows the old kid, or not the successor.
	ReasonStillPublished = "StillPublished"
	// ReasonNotNotified says that the relying party did not accept webhook_key.compromised in time.
	ReasonNotNotified = "NotNotified"
	// ReasonRollbackFailed says that the deploy of a rollback did not become live.
	ReasonRollbackFailed = "RollbackFailed"
	// ReasonHostKeyRefused says that the host of spec.commands showed a key that is not pinned; the message has its
	// fingerprint.
	ReasonHostKeyRefused = "HostKeyRefused"
	// ReasonCommandFailed says that the platform's own command ended with a failure, and did nothing.
	ReasonCommandFailed = "CommandFailed"
	// ReasonNotConfigured says that the Platform names nothing that could do it; the message says what to add.
	ReasonNotConfigured = "NotConfigured"
	// ReasonSpecInvalid says that the spec can't be carried out on this Platform.
	ReasonSpecInvalid = "SpecInvalid"
)

// AnnotationRequestedAt asks a stalled operation to go on, once per value: any text that differs from
// status.lastHandledRequestedAt, by custom the time.
const AnnotationRequestedAt = "playbook.1pass.dev/requestedAt"

// AnnotationSeenSeverity and AnnotationSeenBy stand on an Incident that opened by itself: the severity that the signals
// had then, and the condition of the worst of them. They are written with the object, so that a signal that is good a
// second later changes nothing. A person writes spec.severity instead.
const (
	AnnotationSeenSeverity = "playbook.1pass.dev/seen-severity"
	AnnotationSeenBy       = "playbook.1pass.dev/seen-by"
)

// AnnotationBegun stands on an object that has begun, with the UID that it began with, where no ledger remembers what
// it did: on an Incident, and on a KeyCompromise of a Platform without a database. It outlasts the status: an object
// that has it, and has no conditions, has lost them.
const AnnotationBegun = "playbook.1pass.dev/begun"

// LabelPlatform must stand on a Secret with the Platform's name, or no controller reads it.
const LabelPlatform = "playbook.1pass.dev/platform"

// LabelIncident stands on what an Incident made that outlives it, with the Incident's UID: a name may be longer than
// the value of a label.
const LabelIncident = "playbook.1pass.dev/incident"

// Finalizer keeps an object until its operation is closed in the ledger.
const Finalizer = "playbook.1pass.dev/operation"
