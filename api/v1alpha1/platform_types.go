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
// +kubebuilder:validation:XValidation:rule="!has(self.autoOpen) || !('WebhookDelivery' in self.autoOpen) || has(self.database)",message="autoOpen: [WebhookDelivery] needs database: only the database shows whether webhooks are delivered",fieldPath=".autoOpen"
// +kubebuilder:validation:XValidation:rule="!has(self.commands) || !has(self.commands.service) || has(self.render) && self.render.services.exists(s, s.name == self.commands.service)",message="commands.service is not in render.services: add it there with its serviceID, or name one that is",fieldPath=".commands.service"
type PlatformSpec struct {
	// url of the platform's public API, without a path.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' && url(self).getEscapedPath() in ['', '/'] && url(self).getQuery().size() == 0 && !self.contains('@')",message="url must be http(s)://host[:port], without path, query or credentials, such as https://api.1pass.dev"
	URL string `json:"url,omitempty"`

	// automation is the red button. ObserveOnly reads, pages and reports, and changes nothing. It is read before every
	// effect.
	// +optional
	// +default="Enabled"
	Automation Automation `json:"automation,omitempty"`

	// database is the platform's Postgres. Without it nothing is replayed, and a KeyCompromise needs via: Command. The
	// outcome of that command is then read from JWKS.
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

	// rollback says what an Incident rolls back. Without it no Incident rolls back.
	// +optional
	Rollback *PlatformRollback `json:"rollback,omitempty"`

	// probes check from outside whether the platform works. Without them its signals are unknown.
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

	// escalation says who is paged for sev2 and sev3. The playbook decides for sev1: it pages all tiers.
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

// PlatformDatabase is the platform's Postgres. There is a Secret for each role that `manager migrate` creates.
type PlatformDatabase struct {
	// secretRef names the Secret for the role playbook_operator. Its key "url" has the connection URL. If the server's
	// certificate is not signed by a public authority, its key "ca.crt" has the certificate of the authority that signed
	// it. The other two Secrets have the same keys.
	// +required
	SecretRef SecretReference `json:"secretRef,omitzero"`

	// readOnlySecretRef names the Secret for the role playbook_monitor, which monitors. Its URL may point to a replica. If
	// it is absent, monitoring uses secretRef.
	// +optional
	ReadOnlySecretRef *SecretReference `json:"readOnlySecretRef,omitempty"`

	// signingSecretRef names the Secret for the role playbook_signer, the only role that can read and write signing keys.
	// Without it no KeyCompromise with via: Database runs, and a DLQReplay leaves entries that are signed under a kid that
	// is no longer published.
	// +optional
	SigningSecretRef *SecretReference `json:"signingSecretRef,omitempty"`
}

// PlatformSigningKeys says how webhook signing keys are replaced.
// +kubebuilder:validation:MinProperties=1
type PlatformSigningKeys struct {
	// resignLimit is how many undelivered entries a revocation signs anew in its own transaction. Readers then see all or
	// nothing. If there are more entries, the revocation commits first, and the entries are signed anew in batches after
	// it: volume never delays a revocation. Default 100000.
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
	// name that the rest of the spec uses for it.
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
// +kubebuilder:validation:XValidation:rule="!has(self.ssh) || has(self.ssh.user) || has(self.service)",message="the user to log in as is not known: write ssh.user, or write service, and its ID is the user",fieldPath=".ssh"
type PlatformCommands struct {
	// type says how they are run.
	// +required
	Type CommandType `json:"type,omitempty"`

	// service is a name in render.services. A Render job runs beside it. With SSH, its ID is the user, as at Render.
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

	// bundle is the path of the program bundle.
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

	// timeoutSeconds is how long a command may take. Rails has to start, and to sign all undelivered webhooks anew.
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
	// host is its name or address.
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

	// secretRef names the Secret of the SSH connection. Its key "privateKey" has the user's private key, without a
	// passphrase. Its key "knownHosts" has the host's keys, as lines of known_hosts. A host with another key is not
	// trusted.
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

	// name that people use for it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// jwksCacheSeconds is how long it caches JWKS. Set it if that is longer than HTTP's caching rules allow.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	JWKSCacheSeconds *int32 `json:"jwksCacheSeconds,omitempty"`

	// oncall says in words whom to call there.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Oncall string `json:"oncall,omitempty"`

	// notify lists how to tell its on-call that its webhooks die. The channels are tried in this order until one accepts.
	// The text is about this application only: the cause, how many, and since when.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Notify []Channel `json:"notify,omitempty"`
}

// PlatformRollback says what an Incident rolls back.
type PlatformRollback struct {
	// service is its name in render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`

	// windowSeconds is how long before the onset a deploy may have gone live and still be suspected.
	// +optional
	// +default=3600
	// +kubebuilder:validation:Minimum=60
	// +kubebuilder:validation:Maximum=604800
	WindowSeconds int32 `json:"windowSeconds,omitempty"`
}

// PlatformProbes says how the platform is checked from outside. Each look asks /up, /oauth/token,
// /.well-known/jwks.json, and the paths.
// +kubebuilder:validation:MinProperties=1
type PlatformProbes struct {
	// intervalSeconds between two looks.
	// +optional
	// +default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	IntervalSeconds int32 `json:"intervalSeconds,omitempty"`

	// timeoutSeconds of each request. A request that takes longer counts as a 5xx.
	// +optional
	// +default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`

	// failures is how many bad looks in a row make a signal bad, and how many good looks in a row make it good again. A
	// signal is also bad, and called Flaky, if more than 20 % of the looks in each half of the window fail. Flaky is sev2,
	// since the other looks are good. A signal that was Flaky, or bad twice within a window, is good again when at most
	// 10 % of the looks in the newer half fail.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Failures int32 `json:"failures,omitempty"`

	// windowSeconds is the time over which latency, webhooks and the share of failures are judged. If fewer than 22 looks
	// fit into it, the share of failures is judged over 22 looks.
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

	// clearSeconds is how long the signals that were bad must stay good before an Incident counts as mitigated.
	// +optional
	// +default=300
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	ClearSeconds int32 `json:"clearSeconds,omitempty"`

	// paths of other endpoints. Each is asked with GET, and a 5xx is bad.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:Pattern=`^/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*$`
	Paths []string `json:"paths,omitempty"`

	// tokenSecretRef names the Secret of a client that only the probes use. Its keys are "clientID" and "clientSecret".
	// The client gets a token in each look. Without it, the probes check the error that an unknown client gets. That
	// proves that requests arrive, but not that tokens are issued.
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

	// repeatSeconds is how long after the page of the last tier the first tier is paged again, if nobody acknowledged.
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

	// afterSeconds is how long after the first page of the first tier this tier is paged, if nobody acknowledged. It is
	// paged earlier if no channel of the tier before it accepted the page. Default: 900. The first tier is paged at once.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	AfterSeconds *int32 `json:"afterSeconds,omitempty"`

	// notify lists the tier's channels. If a channel does not accept the page within 60 s, the next one is used.
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

	// secretRef names the channel's Secret. The keys for PagerDuty are "routingKey", and "url" for another region than the
	// default. The key for Slack is "url". The keys for Webhook are "url" and "secret", in the form of Standard Webhooks
	// (whsec_…).
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

// PlatformEscalation says who is paged for sev2 and sev3.
// +kubebuilder:validation:MinProperties=1
type PlatformEscalation struct {
	// sev2 says who is paged for a sev2.
	// +optional
	// +default="FirstTier"
	Sev2 EscalationPolicy `json:"sev2,omitempty"`

	// sev3 says who is paged for a sev3.
	// +optional
	// +default="None"
	Sev3 EscalationPolicy `json:"sev3,omitempty"`
}

// PlatformStatusPage is where the public is told. An Incident's status.notice has the same text, for the page that
// cmd/statuspage serves.
// +kubebuilder:validation:XValidation:rule="has(self.pageID) == has(self.secretRef)",message="pageID and secretRef belong together: Statuspage.io needs both, and cmd/statuspage neither"
// +kubebuilder:validation:MinProperties=1
type PlatformStatusPage struct {
	// afterSeconds is how long /up, tokens or JWKS must have been down before the public is told.
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

	// secretRef names the Secret for Statuspage.io. Its key "apiKey" has an API key. Its key "url" has the API's URL, if
	// that is not the default one.
	// +optional
	SecretRef *SecretReference `json:"secretRef,omitempty"`
}

// ApprovalRule makes a step wait for a person.
// +kubebuilder:validation:XValidation:rule="self.kind != 'DLQReplay' || self.step in ['CanaryDelivered', 'Requeued']",message="a DLQReplay's steps that change something are CanaryDelivered and Requeued: write one of them",fieldPath=".step"
// +kubebuilder:validation:XValidation:rule="self.kind != 'KeyCompromise' || self.step == 'Revoked'",message="a KeyCompromise waits at the step Revoked: write that one",fieldPath=".step"
// +kubebuilder:validation:XValidation:rule="self.kind != 'Incident' || self.step in ['RolledBack', 'KeyCompromised']",message="an Incident waits at the steps RolledBack and KeyCompromised: write one of them",fieldPath=".step"
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

	// aboveEntries is how many entries a plan may have without an approval. Default 0: each plan waits.
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

	// conditions are Ready, and Reconciling while it is not Ready. With a database there are also DatabaseReachable and
	// LedgerReady. With probes there are UpAnswers, TokensIssued, JWKSServed, EndpointsAnswer and LatencyGood, and with
	// both WebhooksDelivered. AutoDeployOff is there while an Incident keeps auto-deploy off. For each far side with a
	// Secret there is one that says whether its Secret can be used, such as PagersConfigured. RenderServicesShared and
	// StatusPageShared are there while another Platform names the same.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:MinItems=1
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// configuration is "ok", or names the far sides whose Secrets can't be used, and what another Platform names as well.
	// Their conditions say why.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Configuration string `json:"configuration,omitempty"`

	// deadLetters counts webhooks that died undelivered.
	// +optional
	DeadLetters *DeadLetters `json:"deadLetters,omitempty"`

	// signals sums up what the probes say.
	// +optional
	Signals *PlatformSignals `json:"signals,omitempty"`

	// rollbacks is the last rollback of each service. It belongs to the Platform, so that two Incidents don't do it twice.
	// +optional
	// +listType=map
	// +listMapKey=service
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:MinItems=1
	Rollbacks []ServiceRollback `json:"rollbacks,omitempty"`

	// notice says which Incident has the public notice. There is one notice at a time.
	// +optional
	Notice *NoticeClaim `json:"notice,omitempty"`

	// incidents lists the slots of open Incidents: one per category and application. Whoever opens an Incident takes its
	// slot first.
	// +optional
	// +listType=map
	// +listMapKey=category
	// +listMapKey=applicationID
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:MinItems=1
	Incidents []IncidentSlot `json:"incidents,omitempty"`

	// suspects are commits that a confirmed Outage suspected. No rollback goes back to one of them, unless the signals
	// stayed good with that commit live since.
	// +optional
	// +listType=map
	// +listMapKey=service
	// +listMapKey=commit
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:MinItems=1
	Suspects []SuspectCommit `json:"suspects,omitempty"`

	// replays lists which DLQReplay that a playbook made has an application. While it runs, no other playbook makes one
	// for that application.
	// +optional
	// +listType=map
	// +listMapKey=applicationID
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:MinItems=1
	Replays []ReplayClaim `json:"replays,omitempty"`

	// told lists what the on-call of relying parties was told. It outlives the Incident: nobody is told the same twice
	// within a day.
	// +optional
	// +listType=map
	// +listMapKey=applicationID
	// +listMapKey=cause
	// +kubebuilder:validation:MaxItems=200
	// +kubebuilder:validation:MinItems=1
	Told []ToldRelyingParty `json:"told,omitempty"`

	// endpoints lists the endpoints that were good once. Any other endpoint counts as unknown: a mistyped URL is no
	// outage.
	// +optional
	// +listType=map
	// +listMapKey=url
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:MinItems=1
	Endpoints []ProbedEndpoint `json:"endpoints,omitempty"`
}

// ReplayClaim says which DLQReplay that a playbook made has an application.
type ReplayClaim struct {
	// applicationID of the relying party.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	ApplicationID string `json:"applicationID,omitempty"`
	// replay is the name of the DLQReplay. It is written before the DLQReplay is created.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Replay string `json:"replay,omitempty"`
	// by is the object whose playbook made it, such as Incident/acme-dead.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	By string `json:"by,omitempty"`
	// at is when it was claimed.
	// +required
	At *metav1.Time `json:"at,omitempty"`
}

// ToldState says how far telling a relying party is.
// +kubebuilder:validation:Enum=Telling;Accepted;Over
type ToldState string

const (
	// ToldTelling means that no channel has accepted it yet, as far as is known.
	ToldTelling ToldState = "Telling"
	// ToldAccepted means that a channel accepted it.
	ToldAccepted ToldState = "Accepted"
	// ToldOver means that they were told that it is over, or that no channel accepted that in time.
	ToldOver ToldState = "Over"
)

// ToldRelyingParty is what the on-call of a relying party was told about one cause.
type ToldRelyingParty struct {
	// applicationID of the relying party.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	ApplicationID string `json:"applicationID,omitempty"`
	// cause that they were told.
	// +required
	Cause DeadLetterCause `json:"cause,omitempty"`
	// incident that told them.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Incident string `json:"incident,omitempty"`
	// incidentUID is the Incident's UID.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	IncidentUID string `json:"incidentUID,omitempty"`
	// state says how far it is.
	// +required
	State ToldState `json:"state,omitempty"`
	// since when webhooks die of the cause. It is the same in each message.
	// +required
	Since *metav1.Time `json:"since,omitempty"`
	// begunAt is when telling them began.
	// +required
	BegunAt *metav1.Time `json:"begunAt,omitempty"`
	// acceptedAt is when a channel accepted it.
	// +optional
	AcceptedAt *metav1.Time `json:"acceptedAt,omitempty"`
	// channel is the name of the Secret of the channel that accepted it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Channel string `json:"channel,omitempty"`
}

// IncidentSlot is the slot of one open Incident. While it is taken, no other Incident of that category and application
// acts.
type IncidentSlot struct {
	// category of the incident.
	// +required
	Category IncidentCategory `json:"category,omitempty"`
	// applicationID that it is about, or "0" if it is about the platform.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=19
	// +kubebuilder:validation:Pattern=`^[0-9]+$`
	ApplicationID string `json:"applicationID,omitempty"`
	// incident is the Incident's name. It is written before the Incident is created.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Incident string `json:"incident,omitempty"`
	// incidentUID is the Incident's UID. It is written after the Incident was created.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	IncidentUID string `json:"incidentUID,omitempty"`
	// at is when the slot was taken.
	// +required
	At *metav1.Time `json:"at,omitempty"`
	// severity is the incident's spec.severity when it was last read: the severity that a person decided on. It is empty
	// if the severity follows the signals. From quietSince on, it is the severity that the incident ended with.
	// +optional
	Severity Severity `json:"severity,omitempty"`
	// quietSince is when a person resolved the incident. No other one opens until the signals were good once, or until
	// repeatSeconds of spec.oncall have passed. A higher severity ends the quiet.
	// +optional
	QuietSince *metav1.Time `json:"quietSince,omitempty"`
	// known lists the signals that were bad when a person lowered the severity, or resolved the incident. They open no
	// other incident. A signal that is good once is taken off the list.
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
	// severity that it had then. If the signal gets worse, it may open another incident.
	// +required
	Severity Severity `json:"severity,omitempty"`
}

// SuspectCommit is a commit that a confirmed Outage suspected.
type SuspectCommit struct {
	// service is its name in spec.render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`
	// commit that was suspected.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Commit string `json:"commit,omitempty"`
	// incident is the name of the Incident that suspected it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Incident string `json:"incident,omitempty"`
	// at is when that was.
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

// PlatformSignals sums up what the probes say.
type PlatformSignals struct {
	// summary is "ok", what is bad, or what is unknown.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Summary string `json:"summary,omitempty"`

	// severity is the worst severity of the bad signals. It is empty if none is bad.
	// +optional
	Severity Severity `json:"severity,omitempty"`

	// badSince is the time of the first bad sample, while a signal is bad. An Incident that opens by itself is named after
	// it.
	// +optional
	BadSince *metav1.Time `json:"badSince,omitempty"`
}

// RollbackState is how far a rollback is.
// +kubebuilder:validation:Enum=Preparing;Requested;Refused;Deploying;Live;Failed
type RollbackState string

const (
	// RollbackPreparing switches auto-deploy off.
	RollbackPreparing RollbackState = "Preparing"
	// RollbackRequested is written before Render is asked. Render is asked once. The outcome is read from its deploys.
	RollbackRequested RollbackState = "Requested"
	// RollbackRefused means that Render was asked, and certainly did nothing.
	RollbackRefused RollbackState = "Refused"
	// RollbackDeploying has a deploy that is not live yet.
	RollbackDeploying RollbackState = "Deploying"
	// RollbackLive has a deploy that became live.
	RollbackLive RollbackState = "Live"
	// RollbackFailed has a deploy that did not become live.
	RollbackFailed RollbackState = "Failed"
)

// AutoDeployState is what an Incident did to a service's auto-deploy.
// +kubebuilder:validation:Enum=WasOff;Off;Restored
type AutoDeployState string

const (
	// AutoDeployWasOff means that it was off before, and stays off.
	AutoDeployWasOff AutoDeployState = "WasOff"
	// AutoDeployOff means that the Incident switched it off, or is about to.
	AutoDeployOff AutoDeployState = "Off"
	// AutoDeployRestored means that it is on again.
	AutoDeployRestored AutoDeployState = "Restored"
)

// ServiceRollback is the last rollback of a service.
type ServiceRollback struct {
	// service is its name in spec.render.services.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service,omitempty"`
	// incident is the name of the Incident that rolled back.
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
	// from is the deploy that the rollback leaves.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	From string `json:"from,omitempty"`
	// fromCommit is the commit of that deploy.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	FromCommit string `json:"fromCommit,omitempty"`
	// to is the deploy that the rollback goes back to.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	To string `json:"to,omitempty"`
	// toCommit is the commit of that deploy.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ToCommit string `json:"toCommit,omitempty"`
	// state of the rollback.
	// +required
	State RollbackState `json:"state,omitempty"`
	// autoDeploy is what the incident did to the service's auto-deploy.
	// +required
	AutoDeploy AutoDeployState `json:"autoDeploy,omitempty"`
	// sawDeploy is the newest deploy before Render was asked. A newer deploy by a rollback is this incident's.
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

// NoticeClaim says which Incident has the public notice.
type NoticeClaim struct {
	// incident is the Incident's name.
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

	// applications lists at most 50 applications with dead entries. Those with the most come first.
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

	// name from spec.relyingParties, if it is listed there.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name,omitempty"`

	// dead is the number of its dead entries.
	// +required
	Dead *int64 `json:"dead,omitempty"`
}

// Platform says where an identity platform is and how to reach it. There is one per environment. DLQReplays,
// KeyCompromises and Incidents of its namespace use it by name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=playbook
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="the labels of its Secrets have a Platform's name as their value, which may have 63 characters: write a shorter name"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Automation",type=string,JSONPath=`.spec.automation`
// +kubebuilder:printcolumn:name="Configuration",type=string,JSONPath=`.status.configuration`
// +kubebuilder:printcolumn:name="Signals",type=string,JSONPath=`.status.signals.summary`
// +kubebuilder:printcolumn:name="Dead letters",type=integer,JSONPath=`.status.deadLetters.total`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
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
