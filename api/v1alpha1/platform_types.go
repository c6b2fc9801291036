package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Automation says whether the controllers may change the platform.
// +kubebuilder:validation:Enum=Enabled;ObserveOnly
type Automation string

const (
	// AutomationEnabled lets the controllers act.
	AutomationEnabled Automation = "Enabled"
	// AutomationObserveOnly lets them read and report, and change nothing.
	AutomationObserveOnly Automation = "ObserveOnly"
)

// PlatformSpec says where an identity platform is and how to reach it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.rollback) || has(self.render) && self.render.services.exists(s, s.name == self.rollback.service)",message="rollback.service must be a name in render.services",fieldPath=".rollback"
// +kubebuilder:validation:XValidation:rule="!has(self.autoOpen) || has(self.probes)",message="autoOpen needs probes: their signals open Incidents. Write probes: {}",fieldPath=".autoOpen"
// +kubebuilder:validation:XValidation:rule="!has(self.autoOpen) || !('WebhookDelivery' in self.autoOpen) || has(self.database)",message="autoOpen: [WebhookDelivery] needs database, which alone shows whether webhooks are delivered",fieldPath=".autoOpen"
// +kubebuilder:validation:XValidation:rule="!has(self.commands) || !has(self.commands.service) || has(self.render) && self.render.services.exists(s, s.name == self.commands.service)",message="commands.service is not in render.services: add it there with its serviceID, or name one that is",fieldPath=".commands.service"
type PlatformSpec struct {
	// url of the platform's public API, without a path.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' && url(self).getEscapedPath() in ['', '/'] && url(self).getQuery().size() == 0 && !self.contains('@')",message="url must be http(s)://host[:port], without path, query or credentials, such as https://api.1pass.dev"
	URL string `json:"url,omitempty"`

	// automation is the red button: ObserveOnly reads and reports, and changes nothing. It is read before every effect.
	// +optional
	// +default="Enabled"
	Automation Automation `json:"automation,omitempty"`

	// database is the platform's Postgres. Without it nothing is replayed, and a KeyCompromise needs via: Command, whose
	// outcome is then read from JWKS.
	// +optional
	Database *PlatformDatabase `json:"database,omitempty"`

	// adminAPI is the platform's admin API, under url.
	// +optional
	AdminAPI *PlatformAdminAPI `json:"adminAPI,omitempty"`

	// signingKeys says how webhook signing keys are replaced.
	// +optional
	SigningKeys *PlatformSigningKeys `json:"signingKeys,omitempty"`

	// render is where the platform runs.
	// +optional
	Render *PlatformRender `json:"render,omitempty"`

	// rollback says what an Incident rolls back. Without it none does.
	// +optional
	Rollback *PlatformRollback `json:"rollback,omitempty"`

	// probes ask the platform how it is, from outside. Without them its signals are unknown.
	// +optional
	Probes *PlatformProbes `json:"probes,omitempty"`

	// autoOpen lists the categories whose Incidents open by themselves, when the signals say sev1 or sev2. Default: none.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=Outage;WebhookDelivery
	AutoOpen []IncidentCategory `json:"autoOpen,omitempty"`

	// oncall is who is paged for an Incident, tier by tier.
	// +optional
	Oncall *PlatformOncall `json:"oncall,omitempty"`

	// escalation says who is paged for what is not sev1: that is the playbook's.
	// +optional
	Escalation *PlatformEscalation `json:"escalation,omitempty"`

	// statusPage is where the public is told.
	// +optional
	StatusPage *PlatformStatusPage `json:"statusPage,omitempty"`

	// commands says how commands are run on the platform's host: the rake of a KeyCompromise with via: Command.
	// +optional
	Commands *PlatformCommands `json:"commands,omitempty"`

	// relyingParties names the applications that receive webhooks.
	// +optional
	// +listType=map
	// +listMapKey=applicationID
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	RelyingParties []RelyingParty `json:"relyingParties,omitempty"`

	// requireApproval lists the steps that wait for spec.approvals of the object that runs them.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +listMapKey=step
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	RequireApproval []ApprovalRule `json:"requireApproval,omitempty"`
}

// PlatformDatabase is the platform's Postgres, by the roles that `manager migrate` grants.
type PlatformDatabase struct {
	// secretRef names the Secret whose key "url" is the connection URL of the role playbook_operator. Where the server's
	// certificate is not signed by a public authority, the key "ca.crt" has the certificate of the one that signed it,
	// here and in the other two.
	// +required
	SecretRef SecretReference `json:"secretRef,omitzero"`

	// readOnlySecretRef names the Secret whose key "url" is the connection URL of the role playbook_monitor, for
	// monitoring; it may point to a replica. Monitoring uses secretRef when it is absent.
	// +optional
	ReadOnlySecretRef *SecretReference `json:"readOnlySecretRef,omitempty"`

	// signingSecretRef names the Secret whose key "url" is the connection URL of the role playbook_signer, the only one
	// that can read and write signing keys. Without it no KeyCompromise runs, and a DLQReplay leaves what is signed under
	// a kid that is no longer published.
	// +optional
	SigningSecretRef *SecretReference `json:"signingSecretRef,omitempty"`
}

// PlatformSigningKeys says how webhook signing keys are replaced.
// +kubebuilder:validation:MinProperties=1
type PlatformSigningKeys struct {
	// resignLimit is how many undelivered entries a revocation signs anew in its own transaction, so that readers see all
	// or nothing. Where there are more, it commits without them, and they follow in batches: volume never delays it.
	// Default 100000.
	// +optional
	// +default=100000
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	ResignLimit *int64 `json:"resignLimit,omitempty"`
}

// PlatformAdminAPI is the platform's admin API.
type PlatformAdminAPI struct {
	// secretRef names the Secret whose key "token" is the admin token.
	// +required
	SecretRef SecretReference `json:"secretRef,omitzero"`
}

// PlatformRender is the platform's account at Render.
type PlatformRender struct {
	// secretRef names the Secret whose key "apiKey" is an API key of the account.
	// +required
	SecretRef SecretReference `json:"secretRef,omitzero"`

	// url of Render's API.
	// +optional
	// +default="https://api.render.com/v1"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' && url(self).getQuery().size() == 0 && !self.contains('@')",message="url must be http(s)://host[:port]/path, without query or credentials, such as https://api.render.com/v1"
	URL string `json:"url,omitempty"`

	// services of the platform.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Services []RenderService `json:"services,omitempty"`
}

// RenderService is a service at Render.
type RenderService struct {
	// name by which the rest of the spec knows it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// serviceID is Render's, such as srv-abc.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z]+-[A-Za-z0-9-]+$`
	ServiceID string `json:"serviceID,omitempty"`
}

// CommandType says how commands are run.
// +kubebuilder:validation:Enum=RenderJob;SSH
type CommandType string

const (
	// CommandTypeRenderJob runs each as a one-off job at Render.
	CommandTypeRenderJob CommandType = "RenderJob"
	// CommandTypeSSH runs each in a shell on the host.
	CommandTypeSSH CommandType = "SSH"
)

// PlatformCommands says how commands are run on the platform's host, and where its Rails application is there.
//
// +kubebuilder:validation:XValidation:rule="self.type != 'RenderJob' || has(self.service)",message="a Render job runs beside a service: write service, the name of one of render.services",fieldPath=".service"
// +kubebuilder:validation:XValidation:rule="self.type != 'RenderJob' || !has(self.ssh)",message="ssh is for type SSH: write that type, or leave ssh out",fieldPath=".ssh"
// +kubebuilder:validation:XValidation:rule="self.type != 'SSH' || has(self.ssh)",message="type SSH needs ssh: write its host and secretRef",fieldPath=".ssh"
// +kubebuilder:validation:XValidation:rule="!has(self.ssh) || has(self.ssh.user) || has(self.service)",message="whom to log in as is not known: write ssh.user, or service, whose ID is then the user",fieldPath=".ssh"
type PlatformCommands struct {
	// type says how they are run.
	// +required
	Type CommandType `json:"type,omitempty"`

	// service of render.services: a Render job runs beside it, and with SSH its ID is the user, as Render has it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`

	// directory of the Rails application.
	// +optional
	// +default="/opt/render/project/src/server"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[^[:cntrl:]]*$`
	Directory string `json:"directory,omitempty"`

	// bundle is the program bundle, by its path.
	// +optional
	// +default="/opt/render/project/.gems/bin/bundle"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[^[:cntrl:]]*$`
	Bundle string `json:"bundle,omitempty"`

	// environment is RAILS_ENV.
	// +optional
	// +default="production"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z][a-z0-9_]*$`
	Environment string `json:"environment,omitempty"`

	// timeoutSeconds is how long a command may take: Rails has to start, and to sign what is undelivered anew.
	// +optional
	// +default=600
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`

	// ssh is the host, for type SSH.
	// +optional
	SSH *PlatformSSH `json:"ssh,omitempty"`
}

// PlatformSSH is a host that commands are run on.
type PlatformSSH struct {
	// host by its name or address.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9:][A-Za-z0-9.:-]*$`
	Host string `json:"host,omitempty"`

	// port of its sshd.
	// +optional
	// +default=22
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// user to log in as. Default: the ID of commands.service.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`
	User string `json:"user,omitempty"`

	// secretRef names the Secret whose key "privateKey" lets the user in, without a passphrase, and whose key "knownHosts"
	// has the host's keys, as lines of known_hosts. A host that shows another key is not trusted.
	// +required
	SecretRef SecretReference `json:"secretRef,omitzero"`
}

// RelyingParty is an application that receives webhooks.
type RelyingParty struct {
	// applicationID is the id of its row in oauth_applications.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	// +kubebuilder:validation:Pattern=`^[1-9][0-9]*$`
	ApplicationID string `json:"applicationID,omitempty"`

	// name by which people know it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// jwksCacheSeconds is for how long it keeps JWKS, where that is longer than HTTP's caching rules allow.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	JWKSCacheSeconds *int32 `json:"jwksCacheSeconds,omitempty"`

	// oncall is whom to call there, in words.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Oncall string `json:"oncall,omitempty"`
}

// PlatformRollback says what an Incident rolls back.
type PlatformRollback struct {
	// service by its name in render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`

	// windowSeconds before the onset in which a new commit is suspected.
	// +optional
	// +default=3600
	// +kubebuilder:validation:Minimum=60
	// +kubebuilder:validation:Maximum=604800
	WindowSeconds int32 `json:"windowSeconds,omitempty"`
}

// PlatformProbes ask the platform how it is. Each asks /up, /oauth/token and /.well-known/jwks.json, and the paths.
// +kubebuilder:validation:MinProperties=1
type PlatformProbes struct {
	// intervalSeconds between two looks.
	// +optional
	// +default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	IntervalSeconds int32 `json:"intervalSeconds,omitempty"`

	// timeoutSeconds of each request. One that takes longer counts as a 5xx.
	// +optional
	// +default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`

	// failures in a row that make a signal bad, and good answers in a row that make it good again: one blip is nothing. So
	// do as many that are not in a row, where more than 20 % of the looks in each half of the window fail; such a signal
	// is sev2, since the rest gets through. It, and one that was bad twice within a window, is good again when at most 10
	// % of the newer half fail.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Failures int32 `json:"failures,omitempty"`

	// windowSeconds over which latency, webhooks and the share of failures are judged: what is slow for less is not
	// sustained. Where fewer than 22 looks fit into it, that share is judged over 22 looks.
	// +optional
	// +default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=3600
	WindowSeconds int32 `json:"windowSeconds,omitempty"`

	// latencyMilliseconds is what the 95th percentile may be.
	// +optional
	// +default=2000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60000
	LatencyMilliseconds int32 `json:"latencyMilliseconds,omitempty"`

	// clearSeconds for which all signals must be good before an Incident counts as mitigated.
	// +optional
	// +default=300
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	ClearSeconds int32 `json:"clearSeconds,omitempty"`

	// paths of other endpoints to ask with GET. A 5xx is bad.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:Pattern=`^/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*$`
	Paths []string `json:"paths,omitempty"`

	// tokenSecretRef names the Secret whose keys "clientID" and "clientSecret" are a client of its own, that gets a token
	// in each look. Without it the error that a bad client gets is looked for, which proves that requests arrive, and not
	// that tokens are issued.
	// +optional
	TokenSecretRef *SecretReference `json:"tokenSecretRef,omitempty"`
}

// PlatformOncall is who is paged.
type PlatformOncall struct {
	// tiers in the order in which they are paged.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Tiers []OncallTier `json:"tiers,omitempty"`

	// repeatSeconds after the last tier was paged, where nobody acknowledges, the first one is paged again.
	// +optional
	// +default=1800
	// +kubebuilder:validation:Minimum=60
	// +kubebuilder:validation:Maximum=86400
	RepeatSeconds int32 `json:"repeatSeconds,omitempty"`
}

// OncallTier is a group of people who are paged together.
type OncallTier struct {
	// name of the tier, such as oncall-engineer.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// afterSeconds is how long after the first page of the first tier this one is paged, where nobody acknowledged. It is
	// paged earlier where no channel of the tier before accepted the page. Default 900 for each but the first.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	AfterSeconds *int32 `json:"afterSeconds,omitempty"`

	// notify lists the tier's channels. The next one is used where one did not accept the page within 60 s.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Notify []Channel `json:"notify,omitempty"`
}

// Channel is a way to reach people.
type Channel struct {
	// type of the channel.
	// +required
	// +kubebuilder:validation:Enum=PagerDuty;Slack;Webhook
	Type string `json:"type,omitempty"`

	// secretRef names the Secret that it needs. PagerDuty: "routingKey", and "url" where it isn't the world-wide service.
	// Slack: "url". Webhook: "url" and "secret", as Standard Webhooks has it (whsec_…).
	// +required
	SecretRef SecretReference `json:"secretRef,omitzero"`
}

// EscalationPolicy says who is paged.
// +kubebuilder:validation:Enum=AllTiers;FirstTier;None
type EscalationPolicy string

const (
	// EscalateAllTiers pages tier after tier until somebody acknowledges, as for sev1.
	EscalateAllTiers EscalationPolicy = "AllTiers"
	// EscalateFirstTier pages the first tier, once.
	EscalateFirstTier EscalationPolicy = "FirstTier"
	// EscalateNone pages nobody.
	EscalateNone EscalationPolicy = "None"
)

// PlatformEscalation says who is paged for what is not sev1.
// +kubebuilder:validation:MinProperties=1
type PlatformEscalation struct {
	// sev2 pages so.
	// +optional
	// +default="FirstTier"
	Sev2 EscalationPolicy `json:"sev2,omitempty"`

	// sev3 pages so.
	// +optional
	// +default="None"
	Sev3 EscalationPolicy `json:"sev3,omitempty"`
}

// PlatformStatusPage is where the public is told. An Incident's status.notice has the same, for the page that
// cmd/statuspage serves.
// +kubebuilder:validation:XValidation:rule="has(self.pageID) == has(self.secretRef)",message="pageID and secretRef belong together: Statuspage.io needs both, and cmd/statuspage neither"
// +kubebuilder:validation:MinProperties=1
type PlatformStatusPage struct {
	// afterSeconds for which the platform, tokens or JWKS must have been down before the public is told.
	// +optional
	// +default=1800
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	AfterSeconds *int32 `json:"afterSeconds,omitempty"`

	// pageID of the page at Statuspage.io.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	PageID string `json:"pageID,omitempty"`

	// secretRef names the Secret whose key "apiKey" is an API key of Statuspage.io, and "url" where it is served
	// elsewhere.
	// +optional
	SecretRef *SecretReference `json:"secretRef,omitempty"`
}

// ApprovalRule makes a step wait for a person.
// +kubebuilder:validation:XValidation:rule="self.kind != 'DLQReplay' || self.step in ['CanaryDelivered', 'Requeued']",message="a DLQReplay's steps that change something are CanaryDelivered and Requeued: write one of them",fieldPath=".step"
// +kubebuilder:validation:XValidation:rule="self.kind != 'KeyCompromise' || self.step == 'Revoked'",message="a KeyCompromise waits at the step Revoked: write that one",fieldPath=".step"
// +kubebuilder:validation:XValidation:rule="self.kind != 'Incident' || self.step == 'RolledBack'",message="an Incident waits at the step RolledBack: write that one",fieldPath=".step"
// +kubebuilder:validation:XValidation:rule="self.kind == 'DLQReplay' || !has(self.aboveEntries)",message="aboveEntries is for DLQReplay: leave it out",fieldPath=".aboveEntries"
type ApprovalRule struct {
	// kind of the object that waits.
	// +required
	// +kubebuilder:validation:Enum=DLQReplay;Incident;KeyCompromise
	Kind string `json:"kind,omitempty"`

	// step that waits.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Step string `json:"step,omitempty"`

	// aboveEntries lets a plan of up to so many entries go ahead unasked. Default 0: each waits.
	// +optional
	// +kubebuilder:validation:Minimum=0
	AboveEntries *int64 `json:"aboveEntries,omitempty"`
}

// PlatformStatus is what the Platform controller sees.
// +kubebuilder:validation:MinProperties=1
type PlatformStatus struct {
	// observedGeneration is the generation that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, and Reconciling while not Ready; where it has a database, DatabaseReachable and LedgerReady;
	// where it is probed, UpAnswers, TokensIssued, JWKSServed, EndpointsAnswer, LatencyGood, and with a database
	// WebhooksDelivered; and AutoDeployOff, while an Incident has it off.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=24
	// +kubebuilder:validation:MinItems=1
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// deadLetters counts webhooks that died undelivered.
	// +optional
	DeadLetters *DeadLetters `json:"deadLetters,omitempty"`

	// signals is what the probes say, all together.
	// +optional
	Signals *PlatformSignals `json:"signals,omitempty"`

	// rollbacks is the last rollback of each service. It belongs to the Platform, so that two Incidents don't do it twice.
	// +optional
	// +listType=map
	// +listMapKey=service
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:MinItems=1
	Rollbacks []ServiceRollback `json:"rollbacks,omitempty"`

	// notice is whose public notice it is. There is one at a time.
	// +optional
	Notice *NoticeClaim `json:"notice,omitempty"`

	// incidents that are open: one per category and application. Whoever opens one takes its place here first.
	// +optional
	// +listType=map
	// +listMapKey=category
	// +listMapKey=applicationID
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:MinItems=1
	Incidents []IncidentSlot `json:"incidents,omitempty"`

	// suspects are commits that a confirmed Outage suspected. None of them is gone back to, until the signals stayed good
	// with it.
	// +optional
	// +listType=map
	// +listMapKey=service
	// +listMapKey=commit
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:MinItems=1
	Suspects []SuspectCommit `json:"suspects,omitempty"`

	// endpoints that were good once. One that never was counts as unknown: a mistyped URL is no outage.
	// +optional
	// +listType=map
	// +listMapKey=url
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:MinItems=1
	Endpoints []ProbedEndpoint `json:"endpoints,omitempty"`
}

// IncidentSlot is the place of one open Incident. While it is taken, no second one of its kind acts or is opened.
type IncidentSlot struct {
	// category of the incident.
	// +required
	Category IncidentCategory `json:"category,omitempty"`
	// applicationID that it is about; "0" where it is about the platform.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	// +kubebuilder:validation:Pattern=`^[0-9]+$`
	ApplicationID string `json:"applicationID,omitempty"`
	// incident by its name, which is written before it is created.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Incident string `json:"incident,omitempty"`
	// incidentUID is its UID, which is written after it was created.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	IncidentUID string `json:"incidentUID,omitempty"`
	// at is when it was taken.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// severity that a person decided on, as it was last looked at: the incident's spec.severity. Empty where the severity
	// follows the signals. From quietSince on, the severity that the incident ended with.
	// +optional
	Severity Severity `json:"severity,omitempty"`
	// quietSince is when a person resolved it. Nothing opens in its place until the signals were good once, or
	// repeatSeconds of spec.oncall later; a higher severity ends that.
	// +optional
	QuietSince *metav1.Time `json:"quietSince,omitempty"`
	// known signals were bad when a person lowered the severity, or resolved the incident. They open no other incident. A
	// signal that is good once is taken off the list.
	// +optional
	// +listType=map
	// +listMapKey=condition
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Known []KnownSignal `json:"known,omitempty"`
}

// KnownSignal is a signal that was bad when a person decided about an Incident.
type KnownSignal struct {
	// condition of the Platform that reports it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Condition string `json:"condition,omitempty"`
	// severity that it had then. A worse one is not known.
	// +required
	Severity Severity `json:"severity,omitempty"`
}

// SuspectCommit is a commit that a confirmed Outage suspected.
type SuspectCommit struct {
	// service by its name in spec.render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`
	// commit that was suspected.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Commit string `json:"commit,omitempty"`
	// incident that suspected it, by its name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Incident string `json:"incident,omitempty"`
	// at is when.
	// +required
	At *metav1.Time `json:"at,omitempty"`
}

// ProbedEndpoint is an endpoint that the probes ask.
type ProbedEndpoint struct {
	// url that was asked, without its query.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2560
	URL string `json:"url,omitempty"`
	// goodAt is when it was good for the first time.
	// +required
	GoodAt *metav1.Time `json:"goodAt,omitempty"`
}

// PlatformSignals is what the probes say, all together.
type PlatformSignals struct {
	// summary is "ok", what is bad, or what is unknown.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Summary string `json:"summary,omitempty"`

	// severity that the signals amount to, while they are bad.
	// +optional
	Severity Severity `json:"severity,omitempty"`

	// badSince is the first bad sample, while they are bad. An Incident that opens by itself is named after it.
	// +optional
	BadSince *metav1.Time `json:"badSince,omitempty"`
}

// RollbackState is how far a rollback is.
// +kubebuilder:validation:Enum=Preparing;Requested;Refused;Deploying;Live;Failed
type RollbackState string

const (
	// RollbackPreparing switches auto-deploy off.
	RollbackPreparing RollbackState = "Preparing"
	// RollbackRequested was written before Render was asked, once. What came of it is read from Render, and it is never
	// asked again.
	RollbackRequested RollbackState = "Requested"
	// RollbackRefused was asked for, and Render certainly did nothing.
	RollbackRefused RollbackState = "Refused"
	// RollbackDeploying has a deploy that is not live yet.
	RollbackDeploying RollbackState = "Deploying"
	// RollbackLive has a deploy that became live.
	RollbackLive RollbackState = "Live"
	// RollbackFailed has a deploy that ended otherwise.
	RollbackFailed RollbackState = "Failed"
)

// AutoDeployState is what an Incident did to a service's auto-deploy.
// +kubebuilder:validation:Enum=WasOff;Off;Restored
type AutoDeployState string

const (
	// AutoDeployWasOff was found off, and stays so.
	AutoDeployWasOff AutoDeployState = "WasOff"
	// AutoDeployOff was switched off, or is about to be.
	AutoDeployOff AutoDeployState = "Off"
	// AutoDeployRestored is on again.
	AutoDeployRestored AutoDeployState = "Restored"
)

// ServiceRollback is the last rollback of a service.
type ServiceRollback struct {
	// service by its name in spec.render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`
	// incident that rolled back, by its name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Incident string `json:"incident,omitempty"`
	// incidentUID is its UID.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	IncidentUID string `json:"incidentUID,omitempty"`
	// at is when it was decided.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// from is the deploy that was left, and fromCommit its commit.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	From string `json:"from,omitempty"`
	// fromCommit is the commit that was left.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	FromCommit string `json:"fromCommit,omitempty"`
	// to is the deploy that was gone back to, and toCommit its commit.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	To string `json:"to,omitempty"`
	// toCommit is the commit that was gone back to.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ToCommit string `json:"toCommit,omitempty"`
	// state of the rollback.
	// +required
	State RollbackState `json:"state,omitempty"`
	// autoDeploy of the service.
	// +required
	AutoDeploy AutoDeployState `json:"autoDeploy,omitempty"`
	// sawDeploy is the newest deploy before Render was asked: a rollback that is newer is ours.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	SawDeploy string `json:"sawDeploy,omitempty"`
	// requestedAt is when Render was asked.
	// +optional
	RequestedAt *metav1.Time `json:"requestedAt,omitempty"`
	// deployID of the rollback.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	DeployID string `json:"deployID,omitempty"`
	// liveAt is when it became live.
	// +optional
	LiveAt *metav1.Time `json:"liveAt,omitempty"`
}

// NoticeClaim is whose public notice it is.
type NoticeClaim struct {
	// incident by its name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Incident string `json:"incident,omitempty"`
	// incidentUID is its UID.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	IncidentUID string `json:"incidentUID,omitempty"`
	// at is when it was published.
	// +required
	At *metav1.Time `json:"at,omitempty"`
}

// DeadLetters counts the entries of the outbox that died undelivered.
// +kubebuilder:validation:MinProperties=1
type DeadLetters struct {
	// total over all applications.
	// +optional
	Total *int64 `json:"total,omitempty"`

	// applications with dead entries, the most first, at most 50.
	// +optional
	// +listType=map
	// +listMapKey=applicationID
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:MinItems=1
	Applications []ApplicationDeadLetters `json:"applications,omitempty"`
}

// ApplicationDeadLetters counts the dead entries of one application.
type ApplicationDeadLetters struct {
	// applicationID is the id of its row in oauth_applications.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	ApplicationID string `json:"applicationID,omitempty"`

	// name from spec.relyingParties, where it is listed there.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name,omitempty"`

	// dead is the number of its dead entries.
	// +required
	Dead *int64 `json:"dead,omitempty"`
}

// Platform says where an identity platform is and how to reach it, once per environment. DLQReplays, KeyCompromises
// and Incidents of its namespace use it by name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=playbook
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Automation",type=string,JSONPath=`.spec.automation`
// +kubebuilder:printcolumn:name="Signals",type=string,JSONPath=`.status.signals.summary`
// +kubebuilder:printcolumn:name="Dead letters",type=integer,JSONPath=`.status.deadLetters.total`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Platform struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the object's standard metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says where the platform is.
	// +required
	Spec PlatformSpec `json:"spec,omitzero"`

	// status is what the controller sees.
	// +optional
	// +default={"observedGeneration": -1}
	Status PlatformStatus `json:"status,omitzero"`
}

// PlatformList is a list of Platforms.
// +kubebuilder:object:root=true
type PlatformList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Platform `json:"items"`
}

// GetConditions returns the conditions for reading and setting.
func (p *Platform) GetConditions() *[]metav1.Condition { return &p.Status.Conditions }
