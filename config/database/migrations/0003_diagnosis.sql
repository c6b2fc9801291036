-- Why dead letters died, for a role that may read neither last_error nor payload: it gets the cause and the status code, and never
-- the text.

-- What is recognised at the beginning of last_error. The first row that matches decides. `manager migrate` fills this table in each
-- run with what the manager itself goes by, so that there is one list.
CREATE TABLE playbook.causes (
    position integer PRIMARY KEY,
    cause    text NOT NULL,
    pattern  text NOT NULL,
    answered boolean NOT NULL,                 -- what matched is a status line, with the code in it
    retried  boolean NOT NULL                  -- it is this cause only on a retry
);

-- playbook.dead_letters counts undelivered dead entries by application, kid, cause and status code; of these applications, or of all
-- where it is given none. It reads as the owner, so a caller needs no right on the table. The table is named with its schema, since
-- whoever calls chooses the search_path.
--
-- It classifies groups and not rows, since a million patterns take seconds. What comes before the first colon with a blank after it
-- is the dispatcher's, and has few variants; no pattern looks further.
DO $do$
BEGIN
    EXECUTE format($create$
CREATE FUNCTION playbook.dead_letters(applications bigint[])
RETURNS TABLE (application_id bigint, kid text, cause text, status integer, entries bigint, since timestamp, newest timestamp,
    entry_ids bigint[])
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp
-- The ledger's sessions read by indexes. This reads each dead entry, so that reading the whole table may be faster. It takes one core.
SET enable_seqscan = on
SET max_parallel_workers_per_gather = 0
-- There are few groups. The planner guesses as many as rows, and would sort them.
SET enable_sort = off
SET enable_incremental_sort = off
-- Whether there are applications decides which index is used.
SET plan_cache_mode = force_custom_plan
AS $body$
BEGIN
    RETURN QUERY WITH alike AS MATERIALIZED (
        SELECT o.oauth_application_id AS application, o.kid::text AS kid, split_part(o.last_error, ': ', 1) AS head,
            -- 0 is never attempted: the text is left over from another life. 2 is a retry, by the dispatcher or after a replay. The
            -- difference between 1 and 2 decides only about a 409, and costs a look at the ledger.
            CASE WHEN o.attempts > 1 THEN 2 WHEN o.attempts = 0 THEN 0 WHEN o.last_error NOT LIKE '%%409%%' THEN 2
                WHEN EXISTS (SELECT FROM playbook.replay_entries e WHERE e.entry_id = o.id AND e.action = 'requeued'
                    OFFSET 0) THEN 2
                ELSE 1 END AS tries,
            count(*) AS n, min(o.dlq_at) AS oldest, max(o.dlq_at) AS newest, min(o.id) AS first, max(o.id) AS last
        FROM %s o
        WHERE o.dlq_at IS NOT NULL AND o.delivered_at IS NULL
            AND (applications IS NULL OR o.oauth_application_id = ANY (applications))
        GROUP BY 1, 2, 3, 4
    ), told AS (
        SELECT a.*, coalesce(c.cause, 'Unknown') AS cause,
            CASE WHEN c.answered THEN substring(a.head from '[1-5][0-9][0-9]')::integer END AS status
        FROM alike a LEFT JOIN LATERAL (
            SELECT k.cause, k.answered FROM playbook.causes k
            WHERE a.tries > 0 AND a.head ~ k.pattern AND (a.tries > 1 OR NOT k.retried)
            ORDER BY k.position LIMIT 1) c ON true
    )
    SELECT t.application, t.kid, t.cause, t.status, sum(t.n)::bigint, min(t.oldest), max(t.newest),
        ARRAY(SELECT DISTINCT id FROM unnest(array_agg(t.first) || array_agg(t.last)) id ORDER BY id LIMIT 3)
    FROM told t GROUP BY 1, 2, 3, 4;
END $body$
    $create$, (SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE c.oid = 'webhook_outbox_entries'::regclass));
END $do$;
