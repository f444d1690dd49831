-- transactional: false
DROP INDEX CONCURRENTLY IF EXISTS conversations_owner_id_changed_at_idx;
