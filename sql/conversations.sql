-- A conversation belongs to one owner; its row's lock gives its messages their order.

-- name: create_conversation(
--     owner_id, tenant_id, user_id, id, key, title, metadata, tags, fingerprint
-- )
-- Makes the owner's row too where there is none. 23505: the id or the key is taken.
WITH created_owner AS (
    INSERT INTO owners (id, tenant_id, user_id, created_at)
    VALUES (:owner_id, :tenant_id, :user_id, now())
    ON CONFLICT (id) DO NOTHING
)

INSERT INTO conversations (
    owner_id, id, key, title, metadata, tags, fingerprint, created_at, updated_at, active_at
)
VALUES (
    :owner_id, :id, :key, :title, :metadata, :tags, :fingerprint,
    now(), now(), date_trunc('minute', now())
)
RETURNING created_at;

-- name: find_conversation_conflict(owner_id, id, key)
-- What stands in the way of creating a conversation with this id and key; the id comes first. Two
-- look-ups: with OR a generic plan can read all conversations of the owner.
SELECT
    id,
    deleted_at,
    fingerprint
FROM (
    SELECT
        id,
        deleted_at,
        fingerprint,
        1 AS place
    FROM conversations
    WHERE
        owner_id = :owner_id
        AND id = :id
    UNION ALL
    SELECT
        id,
        deleted_at,
        fingerprint,
        2 AS place
    FROM conversations
    WHERE
        owner_id = :owner_id
        AND key = :key
        AND deleted_at IS NULL
) AS conflict
ORDER BY place
LIMIT 1;

-- name: get_conversation(owner_id, id)
-- No row: absent, foreign or deleted.
SELECT
    id,
    key,
    title,
    metadata,
    tags,
    pinned_at,
    archived_at,
    forked_from,
    forked_from_seq,
    last_seq,
    revision,
    user_message_count + assistant_message_count + tool_message_count
    + system_message_count + developer_message_count AS message_count,
    created_at,
    updated_at
FROM conversations
WHERE
    owner_id = :owner_id
    AND id = :id
    AND deleted_at IS NULL;

-- name: get_version(owner_id, id)
-- No row: absent, foreign or deleted.
SELECT
    last_seq,
    revision
FROM conversations
WHERE
    owner_id = :owner_id
    AND id = :id
    AND deleted_at IS NULL;

-- name: get_conversation_by_key(owner_id, key)
-- No row: no live conversation has the key.
SELECT
    id,
    key,
    title,
    metadata,
    tags,
    pinned_at,
    archived_at,
    forked_from,
    forked_from_seq,
    last_seq,
    revision,
    user_message_count + assistant_message_count + tool_message_count
    + system_message_count + developer_message_count AS message_count,
    created_at,
    updated_at
FROM conversations
WHERE
    owner_id = :owner_id
    AND key = :key
    AND deleted_at IS NULL;

-- name: list_conversations(
--     owner_id, before_active_at, before_updated_at, before_id,
--     is_pinned, tag, examined_size, page_size
-- )
-- Last used first, behind (before_updated_at, before_id), whose minute is before_active_at: the
-- index gives the minutes, an incremental sort the order inside one. Examines at most examined_size
-- rows; the last of them is returned, match or not, so that the next page can start behind it.
WITH examined_conversations AS (
    SELECT
        id,
        key,
        title,
        metadata,
        tags,
        pinned_at,
        archived_at,
        forked_from,
        forked_from_seq,
        last_seq,
        revision,
        user_message_count + assistant_message_count + tool_message_count
        + system_message_count + developer_message_count AS message_count,
        created_at,
        updated_at,
        row_number() OVER (ORDER BY active_at DESC, updated_at DESC, id DESC) AS place,
        (:is_pinned::boolean IS NULL OR (pinned_at IS NOT NULL) = :is_pinned)
        AND (:tag::text IS NULL OR :tag = any(tags)) AS is_match
    FROM conversations
    WHERE
        owner_id = :owner_id
        AND deleted_at IS NULL
        AND archived_at IS NULL
        AND active_at <= :before_active_at
        AND (updated_at, id) < (:before_updated_at, :before_id)
    ORDER BY active_at DESC, updated_at DESC, id DESC
    LIMIT :examined_size
)

SELECT
    id,
    key,
    title,
    metadata,
    tags,
    pinned_at,
    archived_at,
    forked_from,
    forked_from_seq,
    last_seq,
    revision,
    message_count,
    created_at,
    updated_at,
    place,
    is_match
FROM examined_conversations
WHERE is_match OR place = :examined_size
ORDER BY place
LIMIT :page_size;

-- name: list_conversation_pages(
--     owner_ids, before_active_ats, before_updated_ats, before_ids, page_sizes, known_versions
-- )
-- As list_conversations for each of several pages at once, without a filter. The rows name the
-- pages by their places, from 1, in no order; of a page that is as it is known, or empty, there is
-- a row without id. What is sorted ends with the minute of the last row, which the index gives:
-- PostgreSQL 15 would sort an owner's whole list.
SELECT
    page.id,
    page.key,
    page.title,
    page.metadata,
    page.tags,
    page.pinned_at,
    page.archived_at,
    page.forked_from,
    page.forked_from_seq,
    page.last_seq,
    page.revision,
    page.message_count,
    page.created_at,
    page.updated_at,
    asked.place,
    state.version
FROM
    unnest(
        :owner_ids::uuid[], :before_active_ats::timestamptz[], :before_updated_ats::timestamptz[],
        :before_ids::uuid[], :page_sizes::integer[], :known_versions::bytea[]
    ) WITH ORDINALITY
        AS asked (
            owner_id, before_active_at, before_updated_at, before_id, page_size, known_version,
            place
        )
CROSS JOIN
    LATERAL (
        SELECT min(indexed.active_at) AS active_at
        FROM (
            SELECT conversation.active_at
            FROM conversations AS conversation
            WHERE
                conversation.owner_id = asked.owner_id
                AND conversation.deleted_at IS NULL
                AND conversation.archived_at IS NULL
                AND conversation.active_at <= asked.before_active_at
                AND (conversation.updated_at, conversation.id)
                < (asked.before_updated_at, asked.before_id)
            ORDER BY conversation.active_at DESC
            LIMIT asked.page_size
        ) AS indexed
    ) AS last_minute
CROSS JOIN
    LATERAL (
        SELECT
            sha256(
                array_send(array_agg(listed.id))
                || array_send(array_agg(listed.created_at))
                || array_send(array_agg(listed.updated_at))
                || array_send(array_agg(listed.changed_at))
                || array_send(array_agg(listed.last_seq))
                || array_send(array_agg(listed.revision))
                || array_send(array_agg(listed.message_count))
            ) AS version
        FROM (
            SELECT
                conversation.id,
                conversation.created_at,
                conversation.updated_at,
                conversation.changed_at,
                conversation.last_seq,
                conversation.revision,
                conversation.user_message_count + conversation.assistant_message_count
                + conversation.tool_message_count + conversation.system_message_count
                + conversation.developer_message_count AS message_count
            FROM conversations AS conversation
            WHERE
                conversation.owner_id = asked.owner_id
                AND conversation.deleted_at IS NULL
                AND conversation.archived_at IS NULL
                AND conversation.active_at <= asked.before_active_at
                AND (conversation.updated_at, conversation.id)
                < (asked.before_updated_at, asked.before_id)
                AND conversation.active_at >= last_minute.active_at
            ORDER BY conversation.active_at DESC, conversation.updated_at DESC, conversation.id DESC
            LIMIT asked.page_size
        ) AS listed
    ) AS state
LEFT JOIN LATERAL (
    SELECT
        conversation.id,
        conversation.key,
        conversation.title,
        conversation.metadata,
        conversation.tags,
        conversation.pinned_at,
        conversation.archived_at,
        conversation.forked_from,
        conversation.forked_from_seq,
        conversation.last_seq,
        conversation.revision,
        conversation.user_message_count + conversation.assistant_message_count
        + conversation.tool_message_count + conversation.system_message_count
        + conversation.developer_message_count AS message_count,
        conversation.created_at,
        conversation.updated_at
    FROM conversations AS conversation
    WHERE
        state.version IS DISTINCT FROM asked.known_version
        AND conversation.owner_id = asked.owner_id
        AND conversation.deleted_at IS NULL
        AND conversation.archived_at IS NULL
        AND conversation.active_at <= asked.before_active_at
        AND (conversation.updated_at, conversation.id)
        < (asked.before_updated_at, asked.before_id)
        AND conversation.active_at >= last_minute.active_at
    ORDER BY conversation.active_at DESC, conversation.updated_at DESC, conversation.id DESC
    LIMIT asked.page_size
) AS page ON TRUE;

-- name: list_archived_conversations(
--     owner_id, before_active_at, before_updated_at, before_id,
--     is_pinned, tag, examined_size, page_size
-- )
-- As list_conversations, of the archived ones: a partial index serves only the predicate it names.
WITH examined_conversations AS (
    SELECT
        id,
        key,
        title,
        metadata,
        tags,
        pinned_at,
        archived_at,
        forked_from,
        forked_from_seq,
        last_seq,
        revision,
        user_message_count + assistant_message_count + tool_message_count
        + system_message_count + developer_message_count AS message_count,
        created_at,
        updated_at,
        row_number() OVER (ORDER BY active_at DESC, updated_at DESC, id DESC) AS place,
        (:is_pinned::boolean IS NULL OR (pinned_at IS NOT NULL) = :is_pinned)
        AND (:tag::text IS NULL OR :tag = any(tags)) AS is_match
    FROM conversations
    WHERE
        owner_id = :owner_id
        AND deleted_at IS NULL
        AND archived_at IS NOT NULL
        AND active_at <= :before_active_at
        AND (updated_at, id) < (:before_updated_at, :before_id)
    ORDER BY active_at DESC, updated_at DESC, id DESC
    LIMIT :examined_size
)

SELECT
    id,
    key,
    title,
    metadata,
    tags,
    pinned_at,
    archived_at,
    forked_from,
    forked_from_seq,
    last_seq,
    revision,
    message_count,
    created_at,
    updated_at,
    place,
    is_match
FROM examined_conversations
WHERE is_match OR place = :examined_size
ORDER BY place
LIMIT :page_size;

-- name: lock_conversation(owner_id, id)
-- Appends wait for the end of the transaction. Deleted conversations too; no row: absent, foreign.
SELECT
    last_seq,
    revision,
    deleted_at
FROM conversations
WHERE
    owner_id = :owner_id
    AND id = :id
FOR NO KEY UPDATE;

-- name: update_conversation(
--     owner_id, id, sets_title, title, sets_metadata, metadata, sets_tags, tags, archived, pinned
-- )
-- The row is locked. archived and pinned: NULL leaves them; a time once set stays.
UPDATE conversations
SET
    title = CASE WHEN :sets_title THEN :title ELSE title END,
    metadata = CASE WHEN :sets_metadata THEN :metadata ELSE metadata END,
    tags = CASE WHEN :sets_tags THEN :tags ELSE tags END,
    archived_at = CASE
        WHEN :archived::boolean IS NULL THEN archived_at
        WHEN :archived THEN coalesce(archived_at, now())
    END,
    pinned_at = CASE
        WHEN :pinned::boolean IS NULL THEN pinned_at
        WHEN :pinned THEN coalesce(pinned_at, now())
    END,
    changed_at = now(),
    revision = revision + 1
WHERE
    owner_id = :owner_id
    AND id = :id
RETURNING id;

-- name: delete_conversation(owner_id, id)
-- The row is locked. Its messages are left as they are: none is read without its conversation.
UPDATE conversations
SET
    deleted_at = now(),
    changed_at = now(),
    revision = revision + 1,
    updated_at = greatest(updated_at, now()),
    active_at = greatest(active_at, date_trunc('minute', now()))
WHERE
    owner_id = :owner_id
    AND id = :id;

-- name: restore_conversation(owner_id, id, restore_days)
-- The row is locked. No row: it is past its window. 23505: its key is taken. IS TRUE, here and
-- wherever one owner's rows are meant, keeps the planner off the index over all owners' deleted_at.
UPDATE conversations
SET
    deleted_at = NULL,
    changed_at = now(),
    revision = revision + 1,
    updated_at = greatest(updated_at, now()),
    active_at = greatest(active_at, date_trunc('minute', now()))
WHERE
    owner_id = :owner_id
    AND id = :id
    AND (deleted_at > now() - make_interval(days => :restore_days)) IS TRUE
RETURNING id;

-- name: find_key_holder(owner_id, id)
-- The live conversation that has taken the key of this deleted one.
SELECT id
FROM conversations
WHERE
    owner_id = :owner_id
    AND key = (
        SELECT conversation.key
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = :owner_id
            AND conversation.id = :id
    )
    AND deleted_at IS NULL
    AND id <> :id;

-- name: fork_conversation(owner_id, id, key, source_id, through_seq, title)
-- The source is locked. Copies what is visible, renumbered from 1; title NULL takes the source's.
-- Of a reply that is being made only its place is copied: nobody makes it there. The copies are
-- tallied as counted already: they were said before. 23505: the id or the key is taken.
WITH counted_messages AS (
    SELECT
        count(*) AS last_seq,
        count(*) FILTER (WHERE role = 'user') AS user_message_count,
        count(*) FILTER (WHERE role = 'assistant') AS assistant_message_count,
        count(*) FILTER (WHERE role = 'tool') AS tool_message_count,
        count(*) FILTER (WHERE role = 'system') AS system_message_count,
        count(*) FILTER (WHERE role = 'developer') AS developer_message_count
    FROM messages
    WHERE
        owner_id = :owner_id
        AND conversation_id = :source_id
        AND seq <= :through_seq
        AND deleted_at IS NULL
), forked_conversation AS (
    INSERT INTO conversations (
        owner_id, id, key, last_seq, created_at, updated_at, active_at,
        user_message_count, assistant_message_count, tool_message_count,
        system_message_count, developer_message_count,
        forked_from, forked_from_seq, title, metadata, tags
    )
    SELECT
        source.owner_id,
        :id,
        :key,
        counted_messages.last_seq,
        now(),
        now(),
        date_trunc('minute', now()),
        counted_messages.user_message_count,
        counted_messages.assistant_message_count,
        counted_messages.tool_message_count,
        counted_messages.system_message_count,
        counted_messages.developer_message_count,
        source.id,
        :through_seq,
        coalesce(:title, source.title),
        source.metadata,
        source.tags
    FROM conversations AS source
    CROSS JOIN counted_messages
    WHERE
        source.owner_id = :owner_id
        AND source.id = :source_id
    RETURNING id
), copied_messages AS (
    INSERT INTO messages (
        owner_id, conversation_id, seq, created_at, updated_at, body_bytes, role, status, client_id,
        fingerprint, tool_call_id, name, model, content, tool_calls, audio_files, function_calls,
        usage, metadata, source
    )
    SELECT
        message.owner_id,
        :id,
        row_number() OVER (ORDER BY message.seq),
        message.created_at,
        message.updated_at,
        message.body_bytes,
        message.role,
        CASE WHEN reply.seq IS NULL THEN message.status ELSE 'incomplete' END,
        message.client_id,
        CASE WHEN message.append_key IS NULL THEN message.fingerprint END,
        message.tool_call_id,
        message.name,
        message.model,
        message.content,
        message.tool_calls,
        message.audio_files,
        message.function_calls,
        message.usage,
        message.metadata,
        message.source
    FROM messages AS message
    LEFT JOIN replies AS reply
        ON
            message.owner_id = reply.owner_id
            AND message.conversation_id = reply.conversation_id
            AND message.seq = reply.seq
            AND reply.ended_at IS NULL
            AND reply.owner_id = :owner_id
            AND reply.conversation_id = :source_id
    WHERE
        message.owner_id = :owner_id
        AND message.conversation_id = :source_id
        AND message.seq <= :through_seq
        AND message.deleted_at IS NULL
), created_tally AS (
    INSERT INTO conversation_tallies (
        owner_id, conversation_id, last_seq, revision, user_message_count,
        assistant_message_count, tool_message_count, system_message_count,
        developer_message_count, input_tokens, output_tokens, is_new
    )
    SELECT
        :owner_id,
        :id,
        counted_messages.last_seq,
        0,
        counted_messages.user_message_count,
        counted_messages.assistant_message_count,
        counted_messages.tool_message_count,
        counted_messages.system_message_count,
        counted_messages.developer_message_count,
        0,
        0,
        TRUE
    FROM counted_messages
)

SELECT id FROM forked_conversation;

-- name: expire_conversation(owner_id, id)
-- The row is locked. From here on it can only be purged.
UPDATE conversations
SET
    deleted_at = to_timestamp(0),
    changed_at = now()
WHERE
    owner_id = :owner_id
    AND id = :id;
