-- Entries whose change the platform's database refused, by a constraint, a trigger, or a value that can't be. A manager that knows
-- version 1 works with this ledger too: it refuses none.
ALTER TYPE playbook.entry_action ADD VALUE 'refused';
ALTER TABLE playbook.replay_entries ADD COLUMN sqlstate text; -- of a refused entry

ALTER TABLE playbook.operations
    ADD COLUMN refused  bigint NOT NULL DEFAULT 0,
    ADD COLUMN refusals jsonb,                 -- of each SQLSTATE how many, and which was the first
    ADD COLUMN canary_since timestamptz(6),    -- since when a canary is looked for; others may hold each entry
    DROP CONSTRAINT operations_check,
    ADD CONSTRAINT operations_total
        CHECK (total = requeued + settled + left_alone + parked + unpublished + gone + changed + refused + remaining);
