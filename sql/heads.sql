-- A head is where a conversation stands; who follows it asks for no more until it has moved.

-- name: get_head(owner_id, conversation_id)
-- reply_seq and reply_char_count: of the live reply, NULL without one. No row: the conversation is
-- absent, foreign or deleted.
SELECT
    conversation.last_seq,
    conversation.revision,
    reply.seq AS reply_seq,
    reply.char_count AS reply_char_count
FROM conversations AS conversation
LEFT JOIN replies AS reply
    ON
        conversation.owner_id = reply.owner_id
        AND conversation.id = reply.conversation_id
        AND reply.ended_at IS NULL
        AND reply.owner_id = :owner_id
WHERE
    conversation.owner_id = :owner_id
    AND conversation.id = :conversation_id
    AND conversation.deleted_at IS NULL;

-- name: list_moved_heads(
--     owner_ids, conversation_ids, last_seqs, revisions, reply_char_counts
-- )
-- The heads that are not as they were, as get_head has them, by their places in the arrays, from 1.
-- NULLs: the conversation is absent, foreign or deleted. The arrays come as their texts.
SELECT
    followed.place,
    head.last_seq,
    head.revision,
    head.reply_char_count
FROM
    unnest(
        :owner_ids::text::uuid[], :conversation_ids::text::uuid[],
        :last_seqs::text::bigint[], :revisions::text::bigint[], :reply_char_counts::text::bigint[]
    ) WITH ORDINALITY
        AS followed (owner_id, conversation_id, last_seq, revision, reply_char_count, place)
LEFT JOIN LATERAL (
    SELECT
        conversation.last_seq,
        conversation.revision,
        (
            SELECT reply.char_count
            FROM replies AS reply
            WHERE
                reply.owner_id = followed.owner_id
                AND reply.conversation_id = followed.conversation_id
                AND reply.ended_at IS NULL
            ORDER BY reply.seq
            LIMIT 1
        ) AS reply_char_count
    FROM conversations AS conversation
    WHERE
        conversation.owner_id = followed.owner_id
        AND conversation.id = followed.conversation_id
        AND conversation.deleted_at IS NULL
    ORDER BY conversation.id
    LIMIT 1
) AS head ON TRUE
WHERE
    (followed.last_seq, followed.revision, followed.reply_char_count)
    IS DISTINCT FROM (head.last_seq, head.revision, head.reply_char_count);

-- name: list_changed_conversations(owner_ids, told_at, late_seconds, page_size)
-- What was changed after late_seconds before told_at (NULL: now); for each owner at most page_size
-- of each kind: used, used though archived, or changed without being used. Deleted ones too. A
-- row's told_at is the time now. The array comes as its text.
SELECT
    followed.owner_id,
    changed.id,
    changed.last_seq,
    changed.revision,
    now() AS told_at
FROM unnest(:owner_ids::text::uuid[]) AS followed (owner_id)
CROSS JOIN LATERAL (
    (
        SELECT
            conversation.id,
            conversation.last_seq,
            conversation.revision
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = followed.owner_id
            AND conversation.deleted_at IS NULL
            AND conversation.archived_at IS NULL
            AND conversation.active_at >= date_trunc(
                'minute',
                coalesce(:told_at::timestamptz, now()) - make_interval(secs => :late_seconds)
            )
            AND conversation.updated_at
            > coalesce(:told_at, now()) - make_interval(secs => :late_seconds)
        ORDER BY conversation.active_at DESC
        LIMIT :page_size
    )
    UNION ALL
    (
        SELECT
            conversation.id,
            conversation.last_seq,
            conversation.revision
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = followed.owner_id
            AND conversation.deleted_at IS NULL
            AND conversation.archived_at IS NOT NULL
            AND conversation.active_at >= date_trunc(
                'minute',
                coalesce(:told_at::timestamptz, now()) - make_interval(secs => :late_seconds)
            )
            AND conversation.updated_at
            > coalesce(:told_at, now()) - make_interval(secs => :late_seconds)
        ORDER BY conversation.active_at DESC
        LIMIT :page_size
    )
    UNION ALL
    (
        SELECT
            conversation.id,
            conversation.last_seq,
            conversation.revision
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = followed.owner_id
            AND conversation.changed_at
            > coalesce(:told_at, now()) - make_interval(secs => :late_seconds)
        ORDER BY conversation.changed_at DESC
        LIMIT :page_size
    )
) AS changed;

-- name: list_changed_revisions(
--     owner_id, conversation_id, after_revision, through_revision, page_size
-- )
-- What one call has changed and none after it, from the first of its messages to the last: all
-- edited or restored, or all deleted. In order. `revision > 0` as in restore_messages.
SELECT
    revision,
    min(seq) AS from_seq,
    max(seq) AS through_seq,
    bool_and(deleted_at IS NOT NULL) AS is_deleted
FROM messages
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND revision > :after_revision
    AND revision > 0
    AND revision <= :through_revision
GROUP BY revision
ORDER BY revision
LIMIT :page_size;

-- name: get_time()
-- By the clock that times every change.
SELECT now() AS now;
