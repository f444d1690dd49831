-- A message is one entry of a conversation, known by its seq.

-- name: get_message(owner_id, conversation_id, seq)
-- No row: absent, foreign or deleted, the message or its conversation.
SELECT
    message.client_id,
    message.conversation_id,
    message.seq,
    message.role,
    message.content,
    message.tool_calls,
    message.tool_call_id,
    message.name,
    message.audio_files,
    message.function_calls,
    message.model,
    message.usage,
    message.status,
    message.metadata,
    message.source,
    message.revision,
    message.created_at,
    coalesce(message.updated_at, message.created_at) AS updated_at
FROM messages AS message
INNER JOIN conversations AS conversation
    ON
        message.owner_id = conversation.owner_id
        AND message.conversation_id = conversation.id
WHERE
    message.owner_id = :owner_id
    AND message.conversation_id = :conversation_id
    AND message.seq = :seq
    AND message.deleted_at IS NULL
    AND conversation.owner_id = :owner_id
    AND conversation.deleted_at IS NULL;

-- name: find_message_seq(owner_id, conversation_id, client_id)
-- Deleted messages too. No row: no message has this client id.
SELECT seq
FROM messages
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND client_id = :client_id;

-- name: list_messages(
--     owner_id, conversation_id, after_seq, before_seq, only_finished, page_size, page_bytes
-- )
-- In order of seq, both bounds exclusive. only_finished: before what was asked together with a
-- reply that is being made. Ends before the row that crosses page_bytes, behind the
-- first at the earliest; next_seq is NULL where nothing follows. No row: the page is empty, or the
-- conversation absent, foreign or deleted.
SELECT
    page.client_id,
    page.conversation_id,
    page.seq,
    page.role,
    page.content,
    page.tool_calls,
    page.tool_call_id,
    page.name,
    page.audio_files,
    page.function_calls,
    page.model,
    page.usage,
    page.status,
    page.metadata,
    page.source,
    page.revision,
    page.created_at,
    page.updated_at,
    page.next_seq,
    page.body_bytes
FROM (
    SELECT
        message.body_bytes,
        sum(message.body_bytes)
            OVER (ORDER BY message.seq ROWS UNBOUNDED PRECEDING)
            AS page_bytes,
        lead(message.seq) OVER (ORDER BY message.seq) AS next_seq,
        message.client_id,
        message.conversation_id,
        message.seq,
        message.role,
        message.content,
        message.tool_calls,
        message.tool_call_id,
        message.name,
        message.audio_files,
        message.function_calls,
        message.model,
        message.usage,
        message.status,
        message.metadata,
        message.source,
        message.revision,
        message.created_at,
        coalesce(message.updated_at, message.created_at) AS updated_at
    FROM messages AS message
    WHERE
        message.owner_id = :owner_id
        AND message.conversation_id = :conversation_id
        AND message.seq > :after_seq
        AND message.seq < CASE
            WHEN :only_finished
                THEN least(:before_seq, (
                    SELECT reply.seq - reply.input_count
                    FROM replies AS reply
                    WHERE
                        reply.owner_id = :owner_id
                        AND reply.conversation_id = :conversation_id
                        AND reply.ended_at IS NULL
                ))
            ELSE :before_seq
        END
        AND message.deleted_at IS NULL
    ORDER BY message.seq
    LIMIT :page_size
) AS page
WHERE
    (page.page_bytes <= :page_bytes OR page.page_bytes = page.body_bytes)
    AND EXISTS (
        SELECT
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = :owner_id
            AND conversation.id = :conversation_id
            AND conversation.deleted_at IS NULL
    )
ORDER BY page.seq;

-- name: list_messages_descending(
--     owner_id, conversation_id, after_seq, before_seq, only_finished, page_size, page_bytes
-- )
-- As list_messages, newest first.
SELECT
    page.client_id,
    page.conversation_id,
    page.seq,
    page.role,
    page.content,
    page.tool_calls,
    page.tool_call_id,
    page.name,
    page.audio_files,
    page.function_calls,
    page.model,
    page.usage,
    page.status,
    page.metadata,
    page.source,
    page.revision,
    page.created_at,
    page.updated_at,
    page.next_seq,
    page.body_bytes
FROM (
    SELECT
        message.body_bytes,
        sum(message.body_bytes)
            OVER (ORDER BY message.seq DESC ROWS UNBOUNDED PRECEDING)
            AS page_bytes,
        lead(message.seq) OVER (ORDER BY message.seq DESC) AS next_seq,
        message.client_id,
        message.conversation_id,
        message.seq,
        message.role,
        message.content,
        message.tool_calls,
        message.tool_call_id,
        message.name,
        message.audio_files,
        message.function_calls,
        message.model,
        message.usage,
        message.status,
        message.metadata,
        message.source,
        message.revision,
        message.created_at,
        coalesce(message.updated_at, message.created_at) AS updated_at
    FROM messages AS message
    WHERE
        message.owner_id = :owner_id
        AND message.conversation_id = :conversation_id
        AND message.seq > :after_seq
        AND message.seq < CASE
            WHEN :only_finished
                THEN least(:before_seq, (
                    SELECT reply.seq - reply.input_count
                    FROM replies AS reply
                    WHERE
                        reply.owner_id = :owner_id
                        AND reply.conversation_id = :conversation_id
                        AND reply.ended_at IS NULL
                ))
            ELSE :before_seq
        END
        AND message.deleted_at IS NULL
    ORDER BY message.seq DESC
    LIMIT :page_size
) AS page
WHERE
    (page.page_bytes <= :page_bytes OR page.page_bytes = page.body_bytes)
    AND EXISTS (
        SELECT
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = :owner_id
            AND conversation.id = :conversation_id
            AND conversation.deleted_at IS NULL
    )
ORDER BY page.seq DESC;

-- name: list_message_pages(
--     owner_ids, conversation_ids, after_seqs, before_seqs, page_sizes,
--     known_created_ats, known_updated_ats, known_last_seqs, known_revisions, page_bytes
-- )
-- As list_messages for each of several pages at once, of which no row is given where they are as
-- they were known: at the version (created_at, updated_at, last_seq, revision), which no two states
-- of a conversation share. The rows name the pages by their places, from 1, in no order; the first
-- of a page has the version, and updated_at is NULL before the first change. A page of which no row
-- is given has one, whose seq is NULL: it is as it was known, empty, or its first message crosses
-- page_bytes. A conversation that is absent, foreign or deleted has none.
SELECT
    asked.place,
    CASE WHEN page.previous_seq IS NULL THEN head.created_at END AS version_created_at,
    CASE WHEN page.previous_seq IS NULL THEN head.updated_at END AS version_updated_at,
    CASE WHEN page.previous_seq IS NULL THEN head.last_seq END AS version_last_seq,
    CASE WHEN page.previous_seq IS NULL THEN head.revision END AS version_revision,
    page.next_seq,
    page.client_id,
    page.seq,
    page.role,
    page.content,
    page.tool_calls,
    page.tool_call_id,
    page.name,
    page.audio_files,
    page.function_calls,
    page.model,
    page.usage,
    page.status,
    page.metadata,
    page.revision,
    page.created_at,
    page.updated_at
FROM
    unnest(
        :owner_ids::uuid[],
        :conversation_ids::uuid[],
        :after_seqs::bigint[],
        :before_seqs::bigint[],
        :page_sizes::integer[],
        :known_created_ats::timestamptz[],
        :known_updated_ats::timestamptz[],
        :known_last_seqs::bigint[],
        :known_revisions::bigint[]
    ) WITH ORDINALITY
        AS asked (
            owner_id, conversation_id, after_seq, before_seq, page_size,
            known_created_at, known_updated_at, known_last_seq, known_revision, place
        )
CROSS JOIN
    LATERAL (
        SELECT
            conversation.created_at,
            conversation.updated_at,
            conversation.last_seq,
            conversation.revision
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = asked.owner_id
            AND conversation.id = asked.conversation_id
            AND conversation.deleted_at IS NULL
        ORDER BY conversation.id
        LIMIT 1
    ) AS head
LEFT JOIN LATERAL (
    SELECT
        message.body_bytes,
        sum(message.body_bytes)
            OVER (ORDER BY message.seq ROWS UNBOUNDED PRECEDING)
            AS page_bytes,
        lag(message.seq) OVER (ORDER BY message.seq) AS previous_seq,
        lead(message.seq) OVER (ORDER BY message.seq) AS next_seq,
        message.client_id,
        message.seq,
        message.role,
        message.content,
        message.tool_calls,
        message.tool_call_id,
        message.name,
        message.audio_files,
        message.function_calls,
        message.model,
        message.usage,
        message.status,
        message.metadata,
        message.revision,
        message.created_at,
        message.updated_at
    FROM messages AS message
    WHERE
        (head.created_at, head.updated_at, head.last_seq, head.revision) IS DISTINCT FROM
        (
            asked.known_created_at, asked.known_updated_at,
            asked.known_last_seq, asked.known_revision
        )
        AND message.owner_id = asked.owner_id
        AND message.conversation_id = asked.conversation_id
        AND message.seq > asked.after_seq
        AND message.seq < asked.before_seq
        AND message.deleted_at IS NULL
    ORDER BY message.seq
    LIMIT asked.page_size
) AS page ON page.page_bytes <= :page_bytes;

-- name: list_message_pages_descending(
--     owner_ids, conversation_ids, after_seqs, before_seqs, page_sizes,
--     known_created_ats, known_updated_ats, known_last_seqs, known_revisions, newest_seqs,
--     page_bytes
-- )
-- As list_message_pages, newest first. Where nothing but appends has come since the known version,
-- it reads no further than to newest_seq.
SELECT
    asked.place,
    CASE WHEN page.previous_seq IS NULL THEN head.created_at END AS version_created_at,
    CASE WHEN page.previous_seq IS NULL THEN head.updated_at END AS version_updated_at,
    CASE WHEN page.previous_seq IS NULL THEN head.last_seq END AS version_last_seq,
    CASE WHEN page.previous_seq IS NULL THEN head.revision END AS version_revision,
    page.next_seq,
    page.client_id,
    page.seq,
    page.role,
    page.content,
    page.tool_calls,
    page.tool_call_id,
    page.name,
    page.audio_files,
    page.function_calls,
    page.model,
    page.usage,
    page.status,
    page.metadata,
    page.revision,
    page.created_at,
    page.updated_at
FROM
    unnest(
        :owner_ids::uuid[],
        :conversation_ids::uuid[],
        :after_seqs::bigint[],
        :before_seqs::bigint[],
        :page_sizes::integer[],
        :known_created_ats::timestamptz[],
        :known_updated_ats::timestamptz[],
        :known_last_seqs::bigint[],
        :known_revisions::bigint[],
        :newest_seqs::bigint[]
    ) WITH ORDINALITY
        AS asked (
            owner_id, conversation_id, after_seq, before_seq, page_size,
            known_created_at, known_updated_at, known_last_seq, known_revision, newest_seq, place
        )
CROSS JOIN
    LATERAL (
        SELECT
            conversation.created_at,
            conversation.updated_at,
            conversation.last_seq,
            conversation.revision,
            CASE
                WHEN
                    conversation.created_at = asked.known_created_at
                    AND conversation.revision = asked.known_revision
                    THEN asked.newest_seq
            END AS newest_seq
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = asked.owner_id
            AND conversation.id = asked.conversation_id
            AND conversation.deleted_at IS NULL
        ORDER BY conversation.id
        LIMIT 1
    ) AS head
LEFT JOIN LATERAL (
    SELECT
        message.body_bytes,
        sum(message.body_bytes)
            OVER (ORDER BY message.seq DESC ROWS UNBOUNDED PRECEDING)
            AS page_bytes,
        lag(message.seq) OVER (ORDER BY message.seq DESC) AS previous_seq,
        lead(message.seq) OVER (ORDER BY message.seq DESC) AS next_seq,
        message.client_id,
        message.seq,
        message.role,
        message.content,
        message.tool_calls,
        message.tool_call_id,
        message.name,
        message.audio_files,
        message.function_calls,
        message.model,
        message.usage,
        message.status,
        message.metadata,
        message.revision,
        message.created_at,
        message.updated_at
    FROM messages AS message
    WHERE
        (head.created_at, head.updated_at, head.last_seq, head.revision) IS DISTINCT FROM
        (
            asked.known_created_at, asked.known_updated_at,
            asked.known_last_seq, asked.known_revision
        )
        AND message.owner_id = asked.owner_id
        AND message.conversation_id = asked.conversation_id
        AND message.seq > asked.after_seq
        AND message.seq >= coalesce(head.newest_seq, 0)
        AND message.seq < asked.before_seq
        AND message.deleted_at IS NULL
    ORDER BY message.seq DESC
    LIMIT asked.page_size
) AS page ON page.page_bytes <= :page_bytes;

-- name: update_message(
--     owner_id, conversation_id, seq, content, tool_calls, tool_call_id, function_calls,
--     metadata, source, model, usage, status, body_bytes, input_tokens, output_tokens
-- )
-- The conversation is locked. The tokens are what the change adds to the conversation's sums.
WITH bumped_conversation AS (
    UPDATE conversations
    SET
        revision = revision + 1,
        updated_at = greatest(updated_at, now()),
        active_at = greatest(active_at, date_trunc('minute', now())),
        input_tokens = greatest(0, input_tokens + :input_tokens),
        output_tokens = greatest(0, output_tokens + :output_tokens)
    WHERE
        owner_id = :owner_id
        AND id = :conversation_id
    RETURNING
        revision,
        updated_at
)

UPDATE messages AS message
SET
    content = :content,
    tool_calls = :tool_calls,
    tool_call_id = :tool_call_id,
    function_calls = :function_calls,
    metadata = :metadata,
    source = :source,
    model = coalesce(:model, model),
    usage = :usage,
    status = :status,
    body_bytes = :body_bytes,
    revision = bumped_conversation.revision,
    updated_at = bumped_conversation.updated_at
FROM bumped_conversation
WHERE
    message.owner_id = :owner_id
    AND message.conversation_id = :conversation_id
    AND message.seq = :seq;

-- name: delete_messages(owner_id, conversation_id, from_seq, through_seq, revision)
-- The conversation is locked; revision is its next one. No row: nothing was there to delete.
WITH deleted_messages AS (
    UPDATE messages
    SET
        deleted_at = now(),
        updated_at = greatest(updated_at, created_at, now()),
        revision = :revision
    WHERE
        owner_id = :owner_id
        AND conversation_id = :conversation_id
        AND seq BETWEEN :from_seq AND :through_seq
        AND deleted_at IS NULL
    RETURNING role
), counted_messages AS (
    SELECT
        count(*) FILTER (WHERE role = 'user') AS user_message_count,
        count(*) FILTER (WHERE role = 'assistant') AS assistant_message_count,
        count(*) FILTER (WHERE role = 'tool') AS tool_message_count,
        count(*) FILTER (WHERE role = 'system') AS system_message_count,
        count(*) FILTER (WHERE role = 'developer') AS developer_message_count
    FROM deleted_messages
    HAVING count(*) > 0
)

UPDATE conversations AS conversation
SET
    revision = :revision,
    updated_at = greatest(conversation.updated_at, now()),
    active_at = greatest(conversation.active_at, date_trunc('minute', now())),
    user_message_count = conversation.user_message_count - counted.user_message_count,
    assistant_message_count
    = conversation.assistant_message_count - counted.assistant_message_count,
    tool_message_count = conversation.tool_message_count - counted.tool_message_count,
    system_message_count = conversation.system_message_count - counted.system_message_count,
    developer_message_count
    = conversation.developer_message_count - counted.developer_message_count
FROM counted_messages AS counted
WHERE
    conversation.owner_id = :owner_id
    AND conversation.id = :conversation_id
RETURNING
    conversation.last_seq,
    conversation.revision;

-- name: restore_messages(owner_id, conversation_id, deleted_revision, revision, restore_days)
-- The conversation is locked; revision is its next one. Brings back what the call deleted that
-- answered deleted_revision. No row: nothing to bring back, or past the window. `revision > 0` is
-- the index's own condition, without which a generic plan cannot use it.
WITH restored_messages AS (
    UPDATE messages
    SET
        deleted_at = NULL,
        updated_at = greatest(updated_at, created_at, now()),
        revision = :revision
    WHERE
        owner_id = :owner_id
        AND conversation_id = :conversation_id
        AND messages.revision = :deleted_revision
        AND messages.revision > 0
        AND (deleted_at > now() - make_interval(days => :restore_days)) IS TRUE
    RETURNING role
), counted_messages AS (
    SELECT
        count(*) FILTER (WHERE role = 'user') AS user_message_count,
        count(*) FILTER (WHERE role = 'assistant') AS assistant_message_count,
        count(*) FILTER (WHERE role = 'tool') AS tool_message_count,
        count(*) FILTER (WHERE role = 'system') AS system_message_count,
        count(*) FILTER (WHERE role = 'developer') AS developer_message_count
    FROM restored_messages
    HAVING count(*) > 0
)

UPDATE conversations AS conversation
SET
    revision = :revision,
    updated_at = greatest(conversation.updated_at, now()),
    active_at = greatest(conversation.active_at, date_trunc('minute', now())),
    user_message_count = conversation.user_message_count + counted.user_message_count,
    assistant_message_count
    = conversation.assistant_message_count + counted.assistant_message_count,
    tool_message_count = conversation.tool_message_count + counted.tool_message_count,
    system_message_count = conversation.system_message_count + counted.system_message_count,
    developer_message_count
    = conversation.developer_message_count + counted.developer_message_count
FROM counted_messages AS counted
WHERE
    conversation.owner_id = :owner_id
    AND conversation.id = :conversation_id
RETURNING
    conversation.last_seq,
    conversation.revision;
