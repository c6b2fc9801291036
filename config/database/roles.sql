-- Least privilege, down to columns: no role can read a payload, a signature or a private key, and none can change the schema.
-- The roles are created without a password, so that nobody can log in as them until the database's owner sets one.
--
-- Roles belong to the whole server, so another database's migration may make them meanwhile. Where an administrator made them,
-- the owner needs no right to create roles.
DO $$
BEGIN
    IF to_regrole('playbook_operator') IS NULL THEN
        CREATE ROLE playbook_operator LOGIN;
        -- A manager that froze inside a transaction lets go of its locks; another one goes on.
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

GRANT USAGE ON SCHEMA playbook TO playbook_operator;
GRANT SELECT ON playbook.schema_migrations TO playbook_operator;
GRANT SELECT, INSERT, UPDATE ON playbook.operations, playbook.replay_entries TO playbook_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON playbook.replay_pages TO playbook_operator;

GRANT SELECT (id) ON oauth_applications TO playbook_operator;
GRANT SELECT (oauth_application_id, kid, status, grace_until) ON webhook_signing_keys TO playbook_operator;
GRANT SELECT (id, oauth_application_id, event_type, kid, attempts, enqueued_at, delivered_at, dlq_at, last_error),
      UPDATE (dlq_at, next_retry_at, attempts, last_error, enqueued_at, delivered_at, updated_at)
   ON webhook_outbox_entries TO playbook_operator;

GRANT SELECT (oauth_application_id, delivered_at, dlq_at) ON webhook_outbox_entries TO playbook_monitor;
