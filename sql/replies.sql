-- A reply is an assistant message while a model makes it, and how that ended.

-- name: create_reply(owner_id, conversation_id, seq, input_count, writer_id)
-- The conversation is locked, and has no live reply. The message is there; input_count messages
-- before it came with it.
INSERT INTO replies (
    owner_id, conversation_id, seq, input_count, writer_id, created_at, renewed_at
)
VALUES (:owner_id, :conversation_id, :seq, :input_count, :writer_id, now(), now());

-- name: get_reply(owner_id, conversation_id, seq)
-- No row: the message is no reply. Also of a deleted message.
SELECT
    seq,
    ended_at,
    reason
FROM replies
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq = :seq;

-- name: find_live_reply(owner_id, conversation_id, seq)
-- No row: the message is no reply, or it has ended.
SELECT ended_at IS NULL AS is_live
FROM replies
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq = :seq
    AND ended_at IS NULL;

-- name: get_live_reply(owner_id, conversation_id, lease_seconds)
-- No row: no reply is being made. is_lapsed: nobody has renewed it within the lease.
SELECT
    seq,
    writer_id,
    renewed_at < now() - make_interval(secs => :lease_seconds) AS is_lapsed
FROM replies
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND ended_at IS NULL;

-- name: list_reply_chunks(owner_id, conversation_id, seq, from_char)
-- In order; the first one may have begun before from_char. No row: nothing behind it is kept, or
-- the reply has ended.
SELECT
    chunk.from_char,
    chunk.text
FROM reply_chunks AS chunk
WHERE
    chunk.owner_id = :owner_id
    AND chunk.conversation_id = :conversation_id
    AND chunk.seq = :seq
    AND chunk.from_char >= coalesce((
        SELECT earlier_chunk.from_char
        FROM reply_chunks AS earlier_chunk
        WHERE
            earlier_chunk.owner_id = :owner_id
            AND earlier_chunk.conversation_id = :conversation_id
            AND earlier_chunk.seq = :seq
            AND earlier_chunk.from_char <= :from_char
        ORDER BY earlier_chunk.from_char DESC
        LIMIT 1
    ), 0)
ORDER BY chunk.from_char;

-- name: renew_reply(owner_id, conversation_id, seq)
-- No row: the reply has ended, or there is no message any more for which to go on.
UPDATE replies AS reply
SET renewed_at = now()
FROM messages AS message
INNER JOIN conversations AS conversation
    ON
        message.owner_id = conversation.owner_id
        AND message.conversation_id = conversation.id
WHERE
    reply.owner_id = :owner_id
    AND reply.conversation_id = :conversation_id
    AND reply.seq = :seq
    AND reply.ended_at IS NULL
    AND message.owner_id = :owner_id
    AND message.conversation_id = :conversation_id
    AND message.seq = :seq
    AND message.deleted_at IS NULL
    AND conversation.owner_id = :owner_id
    AND conversation.deleted_at IS NULL
RETURNING reply.seq;

-- name: append_reply_chunk(owner_id, conversation_id, seq, from_char, through_char, text)
-- Renews too; no row as in renew_reply. The same chunk again changes nothing.
WITH renewed_reply AS (
    UPDATE replies AS reply
    SET
        renewed_at = now(),
        char_count = :through_char
    FROM messages AS message
    INNER JOIN conversations AS conversation
        ON
            message.owner_id = conversation.owner_id
            AND message.conversation_id = conversation.id
    WHERE
        reply.owner_id = :owner_id
        AND reply.conversation_id = :conversation_id
        AND reply.seq = :seq
        AND reply.ended_at IS NULL
        AND message.owner_id = :owner_id
        AND message.conversation_id = :conversation_id
        AND message.seq = :seq
        AND message.deleted_at IS NULL
        AND conversation.owner_id = :owner_id
        AND conversation.deleted_at IS NULL
    RETURNING reply.seq
), inserted_chunk AS (
    INSERT INTO reply_chunks (owner_id, conversation_id, seq, from_char, text)
    SELECT
        :owner_id,
        :conversation_id,
        renewed_reply.seq,
        :from_char,
        :text
    FROM renewed_reply
    ON CONFLICT (owner_id, conversation_id, seq, from_char) DO NOTHING
)

SELECT seq FROM renewed_reply;

-- name: end_reply(owner_id, conversation_id, seq, reason, lease_seconds)
-- The conversation is locked. With lease_seconds only one whose lease has run out. No row: it has
-- ended before, or is renewed.
UPDATE replies
SET
    ended_at = now(),
    reason = :reason
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq = :seq
    AND ended_at IS NULL
    AND (
        :lease_seconds::float8 IS NULL
        OR renewed_at < now() - make_interval(secs => :lease_seconds)
    )
RETURNING seq;

-- name: delete_reply_chunks(owner_id, conversation_id, seq)
-- The conversation is locked: the text is in the message.
DELETE FROM reply_chunks
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq = :seq;

-- name: list_lapsed_replies(lease_seconds, batch_size)
-- Over all owners: live replies that nobody has renewed within the lease, oldest first. The
-- condition on 1970 is the index's own.
SELECT
    owner_id,
    conversation_id,
    seq
FROM replies
WHERE
    ended_at IS NULL
    AND created_at > '1970-01-01 00:00:00+00'
    AND renewed_at < now() - make_interval(secs => :lease_seconds)
ORDER BY created_at
LIMIT :batch_size;
