-- Tests trust this trigger. It records each requeue, by anybody: of a dead entry, or of one that was requeued before. Only a requeue
-- sets enqueued_at. The trigger does not belong to the platform, and the operator's role has no access to its table.
CREATE SCHEMA logi_test;
CREATE TABLE logi_test.requeues (
    id bigserial PRIMARY KEY,
    entry_id bigint NOT NULL,
    enqueued_at timestamp(6) NOT NULL,
    requeued_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION logi_test.count_requeue() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = logi_test, pg_temp AS $$
BEGIN
    INSERT INTO requeues (entry_id, enqueued_at) VALUES (NEW.id, NEW.enqueued_at);
    RETURN NULL;
END $$;
CREATE TRIGGER count_requeue AFTER UPDATE ON webhook_outbox_entries FOR EACH ROW
    WHEN (NEW.enqueued_at <> OLD.enqueued_at OR OLD.dlq_at IS NOT NULL AND NEW.dlq_at IS NULL AND NEW.delivered_at IS NULL) EXECUTE FUNCTION logi_test.count_requeue();
