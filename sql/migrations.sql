-- The schema's own record: which migrations were applied. The table is yoyo's.

-- name: find_migration_record()
SELECT to_regclass('_yoyo_migration') IS NOT NULL AS is_there;

-- name: list_applied_migrations()
-- The record must be there.
SELECT migration_id
FROM _yoyo_migration
ORDER BY migration_id;

-- name: get_durability()
-- The settings by which a commit survives that are off in this session, and whether it can write.
SELECT
    array_remove(ARRAY[
        CASE WHEN current_setting('fsync') = 'off' THEN 'fsync' END,
        CASE WHEN current_setting('full_page_writes') = 'off' THEN 'full_page_writes' END,
        CASE WHEN current_setting('synchronous_commit') = 'off' THEN 'synchronous_commit' END
    ], NULL) AS unsafe_settings,
    current_setting('transaction_read_only')::boolean AS is_read_only;

-- name: probe_conversations()
-- No row: there is none yet. Only whether it can be asked matters.
SELECT id
FROM conversations
ORDER BY owner_id, id
LIMIT 1;
