-- The roll-up finds what was active lately, whoever's it is.
-- depends: 0009_create_statistics
-- transactional: false

-- list_active_conversations reads it: over all owners. active_at moves once a minute at most, so
-- that appends stay HOT; owner and id give places to go on from within a minute of many. The
-- condition always holds, but names what only that statement says: no other one can be planned
-- over all owners.
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversations_active_at_owner_id_id_idx
ON conversations (active_at, owner_id, id)
WHERE active_at > '1970-01-01 00:00:00+00';
