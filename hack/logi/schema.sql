-- The platform's tables for webhooks, as Rails writes them: ids are bigint, and timestamps have no zone and mean UTC. In
-- schema_migrations Rails lists the migrations that have run. A version is the time in UTC at which the migration was written.
CREATE TABLE schema_migrations (
    version varchar NOT NULL PRIMARY KEY
);
INSERT INTO schema_migrations VALUES ('20230114093000'), ('20240302101500');

CREATE TABLE oauth_applications (
    id bigserial PRIMARY KEY,
    name varchar NOT NULL,
    uid varchar NOT NULL,
    secret varchar NOT NULL,
    webhook_url varchar,
    created_at timestamp(6) NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamp(6) NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX index_oauth_applications_on_uid ON oauth_applications (uid);

CREATE TABLE webhook_signing_keys (
    id bigserial PRIMARY KEY,
    oauth_application_id bigint NOT NULL REFERENCES oauth_applications (id),
    kid varchar NOT NULL,
    algorithm varchar NOT NULL,
    public_key text NOT NULL,
    private_key text NOT NULL,
    status varchar NOT NULL DEFAULT 'active',
    activated_at timestamp(6),
    grace_until timestamp(6),
    revoked_at timestamp(6),
    created_at timestamp(6) NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamp(6) NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX index_webhook_signing_keys_on_kid ON webhook_signing_keys (kid);
CREATE INDEX index_webhook_signing_keys_on_oauth_application_id ON webhook_signing_keys (oauth_application_id);

CREATE TABLE webhook_outbox_entries (
    id bigserial PRIMARY KEY,
    oauth_application_id bigint NOT NULL REFERENCES oauth_applications (id),
    event_type varchar NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    idempotency_key varchar NOT NULL,
    kid varchar NOT NULL,
    signature text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    enqueued_at timestamp(6) NOT NULL,
    next_retry_at timestamp(6),
    delivered_at timestamp(6),
    dlq_at timestamp(6),
    last_error text,
    created_at timestamp(6) NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamp(6) NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX index_webhook_outbox_entries_on_idempotency_key ON webhook_outbox_entries (idempotency_key);
CREATE INDEX index_webhook_outbox_entries_on_oauth_application_id ON webhook_outbox_entries (oauth_application_id);
CREATE INDEX index_webhook_outbox_entries_due ON webhook_outbox_entries (enqueued_at, id) WHERE delivered_at IS NULL AND dlq_at IS NULL;
CREATE INDEX index_webhook_outbox_entries_dead ON webhook_outbox_entries (oauth_application_id, enqueued_at, id)
    WHERE dlq_at IS NOT NULL AND delivered_at IS NULL;
