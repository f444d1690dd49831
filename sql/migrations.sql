-- The schema's own record: which migrations were applied. The table is yoyo's.

-- name: list_applied_migrations()
SELECT migration_id
FROM _yoyo_migration
ORDER BY migration_id;

-- name: probe_conversations()
-- No row: there is none yet. Only whether it can be asked matters.
SELECT id
FROM conversations
LIMIT 1;
