-- The ledger: what the operator did to the platform's database, written in the transaction that did it.

-- One row per object (DLQReplay). Its counters are kept by the transactions that change them; it is also the lock that puts two
-- managers in line and, once closed, stops one that woke up late.
CREATE TABLE playbook.operations (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid              uuid NOT NULL UNIQUE,     -- of the Kubernetes object
    kind             text NOT NULL,
    namespace        text NOT NULL,
    name             text NOT NULL,
    spec_digest      text NOT NULL,            -- of the fields that can't be changed
    application_id   bigint NOT NULL,
    cutoff           timestamp(6) NOT NULL,    -- UTC, this server's clock; what dies later is not part of it
    opened_at        timestamptz(6) NOT NULL DEFAULT clock_timestamp(),
    closed_at        timestamptz(6),
    outcome          text CHECK (outcome IN ('complete', 'planned', 'deleted')),

    planned_at       timestamptz(6),
    plan             jsonb,                    -- causes and ages, as the object's status shows them
    plan_digest      text,

    total            bigint NOT NULL DEFAULT 0,
    remaining        bigint NOT NULL DEFAULT 0,
    requeued         bigint NOT NULL DEFAULT 0,
    settled          bigint NOT NULL DEFAULT 0,
    left_alone       bigint NOT NULL DEFAULT 0,
    parked           bigint NOT NULL DEFAULT 0,
    unpublished      bigint NOT NULL DEFAULT 0,
    gone             bigint NOT NULL DEFAULT 0,
    changed          bigint NOT NULL DEFAULT 0,
    resigned         bigint NOT NULL DEFAULT 0, -- of those requeued
    CHECK (total = requeued + settled + left_alone + parked + unpublished + gone + changed + remaining),

    waiting          bigint NOT NULL DEFAULT 0,
    failing          bigint NOT NULL DEFAULT 0,
    delivered        bigint NOT NULL DEFAULT 0,
    died             bigint NOT NULL DEFAULT 0,
    CHECK (requeued = waiting + failing + delivered + died),

    batches          integer NOT NULL DEFAULT 0,
    last_enqueued_at timestamp(6),             -- the newest enqueued_at that a batch gave; the next one is later
    paced_at         timestamptz(6),           -- up to when ratePerSecond is used up
    observed_batch   integer NOT NULL DEFAULT 0, -- where the next look at unsettled entries begins
    canary_entries   bigint[],                 -- of the current trial
    canary_at        timestamptz(6),
    judged_from      timestamptz(6),           -- earlier attempts don't count for the breaker
    requeued_at      timestamptz(6),           -- when nothing remained
    resumed_for      text,                     -- the last request to go on that was acted on
    CHECK ((closed_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX operations_by_name ON playbook.operations (namespace, name, spec_digest);
CREATE INDEX operations_by_application ON playbook.operations (application_id);

-- The planned entries not looked at yet, in the old order, a thousand to a page.
CREATE TABLE playbook.replay_pages (
    operation_id bigint NOT NULL REFERENCES playbook.operations ON DELETE CASCADE,
    page         integer NOT NULL,
    entry_ids    bigint[] NOT NULL CHECK (cardinality(entry_ids) > 0),
    PRIMARY KEY (operation_id, page)
);

CREATE TYPE playbook.entry_action AS ENUM ('requeued', 'settled', 'left', 'parked', 'unpublished', 'gone', 'changed');
CREATE TYPE playbook.entry_outcome AS ENUM ('waiting', 'failing', 'delivered', 'died');

-- What was done to each entry, and the row as it was: an operation acts on an entry only if it inserted this row in the same
-- transaction. The primary key begins with the entry, so that it also answers how often all replays requeued it.
CREATE TABLE playbook.replay_entries (
    entry_id     bigint NOT NULL,
    operation_id bigint NOT NULL,              -- no foreign key: its check would cost each batch a tenth of its time
    enqueued_at  timestamp(6),
    dlq_at       timestamp(6),
    acted_at     timestamp(6) NOT NULL,        -- what a requeue wrote to enqueued_at, or a settlement to delivered_at
    attempted_at timestamptz(6),               -- when an attempt after the requeue was first seen
    batch        integer NOT NULL,
    attempts     integer,
    action       playbook.entry_action NOT NULL,
    outcome      playbook.entry_outcome,
    answer       text,                         -- of the last failed attempt after the requeue: a status code or a cause
    last_error   text,
    former_kid   text,                         -- of an entry that was signed anew
    PRIMARY KEY (entry_id, operation_id),
    CHECK ((action = 'requeued') = (outcome IS NOT NULL))
);
CREATE INDEX replay_entries_unsettled ON playbook.replay_entries (operation_id, batch, entry_id) WHERE outcome IN ('waiting', 'failing');
CREATE INDEX replay_entries_attempted ON playbook.replay_entries (operation_id, attempted_at) WHERE attempted_at IS NOT NULL;

-- Signing keys that were ended, by application and kid: a key is ended once, whoever asks again.
CREATE TABLE playbook.key_revocations (
    application_id    bigint NOT NULL,
    kid               text NOT NULL,
    operation_id      bigint NOT NULL REFERENCES playbook.operations, -- whose it is; another takes over where the first was deleted
    reason            text NOT NULL,
    successor_kid     text NOT NULL,
    revoked_at        timestamp(6) NOT NULL,
    event_entry_id    bigint NOT NULL,         -- the outbox entry of webhook_key.compromised
    deferred          boolean NOT NULL,        -- too many entries to sign anew in the transaction
    resigned          bigint NOT NULL,
    claimed           bigint NOT NULL,         -- held by the dispatcher when the revocation committed
    open_transactions text[],                  -- that were open after it committed
    swept_dead        boolean NOT NULL DEFAULT false, -- where the sweep over undelivered entries goes on: first the dead, then the others
    swept_enqueued_at timestamp(6),
    swept_id          bigint,
    resigned_at       timestamptz(6),          -- when nothing was under the kid any more
    PRIMARY KEY (application_id, kid)
);
CREATE INDEX key_revocations_by_operation ON playbook.key_revocations (operation_id);

-- Each time webhook_key.compromised was given back to the dispatcher, and the row as it was.
CREATE TABLE playbook.event_requeues (
    entry_id     bigint NOT NULL,
    attempt      integer NOT NULL,
    operation_id bigint NOT NULL REFERENCES playbook.operations,
    requeued_at  timestamp(6) NOT NULL,
    dlq_at       timestamp(6) NOT NULL,
    attempts     integer NOT NULL,
    last_error   text,
    PRIMARY KEY (entry_id, attempt)
);

-- Commands that were run on the platform for an operation, each at most once, with what they printed. A row without an outcome was
-- begun, and nobody knows how it ended.
CREATE TABLE playbook.command_runs (
    operation_id bigint NOT NULL REFERENCES playbook.operations,
    started_at   timestamptz(6) NOT NULL,      -- as the object's status has it
    kid          text NOT NULL,                -- that it was to end
    target       text NOT NULL,
    command      text NOT NULL,
    ended_at     timestamptz(6),
    outcome      text CHECK (outcome IN ('succeeded', 'failed', 'lost', 'not sent')),
    exit_status  integer,
    output       text,
    PRIMARY KEY (operation_id, started_at)
);
CREATE INDEX command_runs_by_kid ON playbook.command_runs (kid);
