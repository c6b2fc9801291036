-- Least privilege, down to columns. No role can change the schema. Only playbook_signer, which revokes leaked keys, can read a
-- payload or a private key.
-- The roles are created without a password. Nobody can log in as them until the database's owner sets one.
--
-- Roles belong to the whole server, so the migration of another database may create them at the same time. If an administrator
-- created them, the owner needs no right to create roles.
DO $$
BEGIN
    IF to_regrole('playbook_operator') IS NULL THEN
        CREATE ROLE playbook_operator LOGIN;
        -- A manager that freezes inside a transaction loses its locks, so another one can go on.
        ALTER ROLE playbook_operator SET idle_in_transaction_session_timeout = '10s';
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$
BEGIN
    IF to_regrole('playbook_monitor') IS NULL THEN
        CREATE ROLE playbook_monitor LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$
BEGIN
    IF to_regrole('playbook_signer') IS NULL THEN
        CREATE ROLE playbook_signer LOGIN;
        ALTER ROLE playbook_signer SET idle_in_transaction_session_timeout = '10s';
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

GRANT USAGE ON SCHEMA playbook TO playbook_operator, playbook_signer, playbook_monitor;
GRANT SELECT ON playbook.schema_migrations TO playbook_operator;
GRANT SELECT, INSERT, UPDATE ON playbook.operations TO playbook_operator;
-- The signer runs batches, too: those of entries that it signs anew.
GRANT SELECT, INSERT, UPDATE ON playbook.replay_entries TO playbook_operator, playbook_signer;
GRANT SELECT, INSERT, UPDATE, DELETE ON playbook.replay_pages TO playbook_operator, playbook_signer;

-- The platform's tables may be in another schema than public, which everybody may use.
DO $$
DECLARE
    place text;
BEGIN
    FOR place IN SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class WHERE oid IN (to_regclass('oauth_applications'),
            to_regclass('webhook_outbox_entries'), to_regclass('webhook_signing_keys'), to_regclass('schema_migrations'))
        AND NOT (has_schema_privilege('playbook_operator', relnamespace, 'USAGE') AND has_schema_privilege('playbook_signer', relnamespace, 'USAGE')
            AND has_schema_privilege('playbook_monitor', relnamespace, 'USAGE'))
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO playbook_operator, playbook_signer, playbook_monitor', place);
    END LOOP;
END $$;

GRANT SELECT (id) ON oauth_applications TO playbook_operator;
GRANT SELECT (id, oauth_application_id, kid, status, activated_at, grace_until, revoked_at) ON webhook_signing_keys TO playbook_operator;
GRANT SELECT (id, oauth_application_id, event_type, kid, attempts, enqueued_at, delivered_at, dlq_at, last_error, updated_at),
      UPDATE (dlq_at, next_retry_at, attempts, last_error, enqueued_at, delivered_at, updated_at)
   ON webhook_outbox_entries TO playbook_operator;

GRANT SELECT, INSERT, UPDATE ON playbook.key_revocations, playbook.event_requeues, playbook.command_runs TO playbook_operator;

-- Why entries died, without the text. Whoever has no role of its own for monitoring looks as playbook_operator.
REVOKE ALL ON FUNCTION playbook.dead_letters(bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION playbook.dead_letters(bigint[]) TO playbook_operator, playbook_monitor;
GRANT SELECT (id, oauth_application_id, kid, attempts, enqueued_at, delivered_at, dlq_at, updated_at) ON webhook_outbox_entries TO playbook_monitor;
-- Which deliveries are the operator's own settlements, and prove nothing.
GRANT SELECT (entry_id, action) ON playbook.replay_entries TO playbook_monitor;
-- This shows which keys are active or in grace, for a comparison with JWKS. It does not show the keys themselves.
GRANT SELECT (id, oauth_application_id, kid, status, activated_at, grace_until, revoked_at) ON webhook_signing_keys TO playbook_monitor;

-- Rails lists the migrations that have run in schema_migrations. If that table is created later, migrate again to grant it.
DO $$
BEGIN
    IF to_regclass('schema_migrations') IS NOT NULL THEN
        GRANT SELECT (version) ON schema_migrations TO playbook_operator, playbook_monitor;
    END IF;
END $$;

GRANT SELECT, UPDATE ON playbook.operations TO playbook_signer;
GRANT SELECT, INSERT, UPDATE ON playbook.key_revocations TO playbook_signer;
GRANT SELECT (id, oauth_application_id, kid, algorithm, public_key, private_key, status, grace_until, activated_at, revoked_at),
      UPDATE (status, revoked_at, grace_until, updated_at),
      INSERT (oauth_application_id, kid, algorithm, public_key, private_key, status, activated_at, created_at, updated_at)
   ON webhook_signing_keys TO playbook_signer;
GRANT SELECT (id, oauth_application_id, event_type, payload, idempotency_key, kid, attempts, enqueued_at, delivered_at, dlq_at, last_error),
      UPDATE (kid, signature, dlq_at, next_retry_at, attempts, last_error, enqueued_at, delivered_at, updated_at),
      INSERT (oauth_application_id, event_type, payload, idempotency_key, kid, signature, attempts, enqueued_at, created_at, updated_at)
   ON webhook_outbox_entries TO playbook_signer;
-- An identity column needs no grant on its sequence. A serial column does.
DO $$
DECLARE
    ids text;
BEGIN
    FOREACH ids IN ARRAY ARRAY[pg_get_serial_sequence('webhook_outbox_entries', 'id'), pg_get_serial_sequence('webhook_signing_keys', 'id')] LOOP
        IF ids IS NOT NULL THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO playbook_signer', ids);
        END IF;
    END LOOP;
END $$;
