-- What changed without being used is found by its owner and its time.
-- depends: 0007_add_changed_at
-- transactional: false

-- list_changed_conversations reads it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversations_owner_id_changed_at_idx
ON conversations (owner_id, changed_at)
WHERE changed_at IS NOT NULL;
