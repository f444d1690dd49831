-- transactional: false
-- depends: 0007_add_changed_at
-- list_changed_conversations reads it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversations_owner_id_changed_at_idx
ON conversations (owner_id, changed_at)
WHERE changed_at IS NOT NULL;
