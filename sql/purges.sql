-- A purge erases for good what is past its window; the lists are the only reads over all owners.

-- name: list_expired_conversations(restore_days, batch_size)
-- Over all owners: those deleted longer ago than they can be restored, and purges in progress.
SELECT
    owner_id,
    id
FROM conversations
WHERE deleted_at <= now() - make_interval(days => :restore_days)
ORDER BY deleted_at
LIMIT :batch_size;

-- name: purge_conversation_messages(owner_id, conversation_id, restore_days, batch_size)
-- One batch, lowest seq first; nothing happens unless the conversation is past its window now.
-- A range of seq: a generic
-- plan of a join with the batch reads the conversation again for each of its rows, and without the
-- lower bound the planner expects a third of the conversation and reads the table.
DELETE FROM messages
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq BETWEEN 1 AND (
        SELECT max(expired_message.seq)
        FROM (
            SELECT message.seq
            FROM messages AS message
            WHERE
                message.owner_id = :owner_id
                AND message.conversation_id = :conversation_id
            ORDER BY message.seq
            LIMIT :batch_size
        ) AS expired_message
    )
    AND EXISTS (
        SELECT
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = :owner_id
            AND conversation.id = :conversation_id
            AND (conversation.deleted_at <= now() - make_interval(days => :restore_days)) IS TRUE
    );

-- name: purge_conversation(owner_id, id, restore_days)
-- Nothing happens unless it is past its window. Messages that are left go with it.
DELETE FROM conversations
WHERE
    owner_id = :owner_id
    AND id = :id
    AND (deleted_at <= now() - make_interval(days => :restore_days)) IS TRUE;

-- name: list_expired_messages(restore_days, batch_size)
-- Over all owners: messages deleted longer ago than they can be restored.
SELECT
    owner_id,
    conversation_id,
    seq
FROM messages
WHERE deleted_at <= now() - make_interval(days => :restore_days)
ORDER BY deleted_at
LIMIT :batch_size;

-- name: purge_messages(owner_id, conversation_id, from_seq, through_seq, restore_days)
-- A run of one conversation; what is not past its window stays. A range of seq: for any(:seqs)
-- PostgreSQL before 17 reads the whole conversation.
DELETE FROM messages
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq BETWEEN :from_seq AND :through_seq
    AND (deleted_at <= now() - make_interval(days => :restore_days)) IS TRUE;
