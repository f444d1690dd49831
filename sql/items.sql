-- An item is how OpenAI's clients call a message; it is known by its own id, if it brought one.

-- name: find_item(owner_id, conversation_id, client_id)
-- Deleted ones too. No row: no item has brought this id.
SELECT
    seq,
    deleted_at IS NOT NULL AS is_deleted
FROM messages
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND client_id = :client_id;

-- name: release_item_id(owner_id, conversation_id, seq)
-- The conversation is locked, the item deleted: another one may bring the id. IS TRUE keeps the
-- planner off the index over all owners' deleted_at.
UPDATE messages
SET client_id = NULL
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq = :seq
    AND (deleted_at > '-infinity') IS TRUE;
