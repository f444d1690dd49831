-- The schema's own record: which migrations were applied. The table is yoyo's.

-- name: find_migration_record()
SELECT to_regclass('_yoyo_migration') IS NOT NULL AS is_there;

-- name: list_applied_migrations()
-- The record must be there.
SELECT migration_id
FROM _yoyo_migration
ORDER BY migration_id;

-- name: probe_conversations()
-- No row: there is none yet. Only whether it can be asked matters.
SELECT id
FROM conversations
ORDER BY owner_id, id
LIMIT 1;
