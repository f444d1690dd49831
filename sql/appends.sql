-- An append adds messages to a conversation: atomically, in order, exactly once.

-- name: append_message(
--     owner_id, conversation_id, append_key, client_ids, expected_seq, expected_revision,
--     role, status, client_id, tool_call_id, name, model, content, tool_calls, audio_files,
--     function_calls, usage, metadata, source, fingerprint, body_bytes, input_tokens,
--     output_tokens
-- )
-- As append_messages, of one message: a third faster than an array of one. Client ids are looked up
-- one by one, in a LATERAL with a LIMIT: for any(:client_ids) or a join a generic plan reads the
-- whole conversation (100,000 messages: 50 ms, not 0.5).
WITH bumped_conversation AS (
    UPDATE conversations AS conversation
    SET
        last_seq = conversation.last_seq + 1,
        updated_at = greatest(conversation.updated_at, now()),
        active_at = greatest(conversation.active_at, date_trunc('minute', now())),
        user_message_count
        = conversation.user_message_count + (:role::text = 'user')::integer,
        assistant_message_count
        = conversation.assistant_message_count + (:role = 'assistant')::integer,
        tool_message_count
        = conversation.tool_message_count + (:role = 'tool')::integer,
        system_message_count
        = conversation.system_message_count + (:role = 'system')::integer,
        developer_message_count
        = conversation.developer_message_count + (:role = 'developer')::integer,
        input_tokens = conversation.input_tokens + :input_tokens,
        output_tokens = conversation.output_tokens + :output_tokens
    WHERE
        conversation.owner_id = :owner_id
        AND conversation.id = :conversation_id
        AND conversation.deleted_at IS NULL
        AND (:expected_seq::bigint IS NULL OR conversation.last_seq = :expected_seq)
        AND (:expected_revision::bigint IS NULL OR conversation.revision = :expected_revision)
        AND NOT EXISTS (
            SELECT
            FROM messages AS replayed_message
            WHERE
                replayed_message.owner_id = :owner_id
                AND replayed_message.conversation_id = :conversation_id
                AND replayed_message.append_key = :append_key
        )
        AND NOT EXISTS (
            SELECT
            FROM unnest(:client_ids::text[]) AS input_id (client_id)
            CROSS JOIN LATERAL (
                SELECT
                FROM messages AS message
                WHERE
                    message.owner_id = :owner_id
                    AND message.conversation_id = :conversation_id
                    AND message.client_id = input_id.client_id
                ORDER BY message.client_id
                LIMIT 1
            ) AS replayed_message
        )
    RETURNING
        conversation.last_seq,
        conversation.revision,
        conversation.updated_at
), inserted_message AS (
    INSERT INTO messages (
        owner_id, conversation_id, seq, created_at, body_bytes, append_count, role, status,
        client_id, append_key, fingerprint, tool_call_id, name, model, content, tool_calls,
        audio_files, function_calls, usage, metadata, source
    )
    SELECT
        :owner_id,
        :conversation_id,
        bumped_conversation.last_seq,
        bumped_conversation.updated_at,
        :body_bytes,
        CASE WHEN :append_key::text IS NOT NULL THEN 1 END,
        :role,
        :status,
        :client_id,
        :append_key,
        :fingerprint,
        :tool_call_id,
        :name,
        :model,
        :content,
        :tool_calls,
        :audio_files,
        :function_calls,
        :usage,
        :metadata,
        :source
    FROM bumped_conversation
)

SELECT
    last_seq AS seq,
    updated_at AS created_at,
    last_seq,
    revision
FROM bumped_conversation;

-- name: append_messages(
--     owner_id, conversation_id, append_key, client_ids, expected_seq, expected_revision,
--     roles, statuses, message_client_ids, tool_call_ids, names, models, contents, tool_calls,
--     audio_files, function_calls, usages, metadata, sources, fingerprints, body_bytes,
--     input_tokens, output_tokens
-- )
-- With append_key only the key decides, and client_ids is NULL; else the client_ids decide. Answers
-- the place of the first message: the others follow it without a gap. No row means nothing by
-- itself, list_stored decides: a replay, an absent, foreign or deleted conversation, or another
-- version. 23505: a key or client id came in between, or stands there under another key. Locks the
-- conversation.
WITH input_messages AS MATERIALIZED (
    SELECT
        input.role,
        input.status,
        input.client_id,
        input.tool_call_id,
        input.name,
        input.model,
        input.content,
        input.tool_calls,
        input.audio_files,
        input.function_calls,
        input.usage,
        input.metadata,
        input.source,
        input.fingerprint,
        input.body_bytes,
        input.place
    FROM unnest(
        :roles::text[], :statuses::text[], :message_client_ids::text[], :tool_call_ids::text[],
        :names::text[], :models::text[], :contents::json[], :tool_calls::json[],
        :audio_files::json[], :function_calls::json[], :usages::json[], :metadata::json[],
        :sources::json[], :fingerprints::bytea[], :body_bytes::integer[]
    ) WITH ORDINALITY AS input (
        role, status, client_id, tool_call_id, name, model, content, tool_calls,
        audio_files, function_calls, usage, metadata, source, fingerprint, body_bytes, place
    )
), counted_messages AS (
    SELECT
        count(*) AS message_count,
        count(*) FILTER (WHERE role = 'user') AS user_message_count,
        count(*) FILTER (WHERE role = 'assistant') AS assistant_message_count,
        count(*) FILTER (WHERE role = 'tool') AS tool_message_count,
        count(*) FILTER (WHERE role = 'system') AS system_message_count,
        count(*) FILTER (WHERE role = 'developer') AS developer_message_count
    FROM input_messages
), bumped_conversation AS (
    UPDATE conversations AS conversation
    SET
        last_seq = conversation.last_seq + counted.message_count,
        updated_at = greatest(conversation.updated_at, now()),
        active_at = greatest(conversation.active_at, date_trunc('minute', now())),
        user_message_count = conversation.user_message_count + counted.user_message_count,
        assistant_message_count
        = conversation.assistant_message_count + counted.assistant_message_count,
        tool_message_count = conversation.tool_message_count + counted.tool_message_count,
        system_message_count = conversation.system_message_count + counted.system_message_count,
        developer_message_count
        = conversation.developer_message_count + counted.developer_message_count,
        input_tokens = conversation.input_tokens + :input_tokens,
        output_tokens = conversation.output_tokens + :output_tokens
    FROM counted_messages AS counted
    WHERE
        conversation.owner_id = :owner_id
        AND conversation.id = :conversation_id
        AND conversation.deleted_at IS NULL
        AND (:expected_seq::bigint IS NULL OR conversation.last_seq = :expected_seq)
        AND (:expected_revision::bigint IS NULL OR conversation.revision = :expected_revision)
        AND NOT EXISTS (
            SELECT
            FROM messages AS replayed_message
            WHERE
                replayed_message.owner_id = :owner_id
                AND replayed_message.conversation_id = :conversation_id
                AND replayed_message.append_key = :append_key
        )
        AND NOT EXISTS (
            SELECT
            FROM unnest(:client_ids::text[]) AS input_id (client_id)
            CROSS JOIN LATERAL (
                SELECT
                FROM messages AS message
                WHERE
                    message.owner_id = :owner_id
                    AND message.conversation_id = :conversation_id
                    AND message.client_id = input_id.client_id
                ORDER BY message.client_id
                LIMIT 1
            ) AS replayed_message
        )
    RETURNING
        conversation.last_seq,
        conversation.last_seq - counted.message_count AS previous_seq,
        conversation.revision,
        conversation.updated_at
), inserted_messages AS (
    INSERT INTO messages (
        owner_id, conversation_id, seq, created_at, body_bytes, append_count, role, status,
        client_id, append_key, fingerprint, tool_call_id, name, model, content, tool_calls,
        audio_files, function_calls, usage, metadata, source
    )
    SELECT
        :owner_id,
        :conversation_id,
        bumped_conversation.previous_seq + input_message.place,
        bumped_conversation.updated_at,
        input_message.body_bytes,
        CASE
            WHEN input_message.place = 1 AND :append_key::text IS NOT NULL
                THEN cardinality(:roles)
        END,
        input_message.role,
        input_message.status,
        input_message.client_id,
        CASE WHEN input_message.place = 1 THEN :append_key END,
        input_message.fingerprint,
        input_message.tool_call_id,
        input_message.name,
        input_message.model,
        input_message.content,
        input_message.tool_calls,
        input_message.audio_files,
        input_message.function_calls,
        input_message.usage,
        input_message.metadata,
        input_message.source
    FROM bumped_conversation
    CROSS JOIN input_messages AS input_message
)

SELECT
    previous_seq + 1 AS seq,
    updated_at AS created_at,
    last_seq,
    revision
FROM bumped_conversation;

-- name: append_shared(
--     owner_ids, conversation_ids, append_keys, client_ids, roles, statuses, tool_call_ids, names,
--     models, contents, tool_calls, audio_files, function_calls, usages, metadata, sources,
--     fingerprints, body_bytes, input_tokens, output_tokens
-- )
-- As append_message for each of several requests, no two of which have the same key or client id:
-- one statement, one commit. The rows name the requests by their places, from 1. One without a row
-- is left to append_message: its conversation is absent, foreign, deleted or locked by another, or
-- its key or client id is known. Waits for no lock, so it can neither be held up nor deadlock. A
-- column of NULLs may be NULL. Keys and client ids are looked up as in append_message.
WITH input_messages AS MATERIALIZED (
    SELECT
        input.owner_id,
        input.conversation_id,
        input.append_key,
        input.client_id,
        input.role,
        input.status,
        input.tool_call_id,
        input.name,
        input.model,
        input.content,
        input.tool_calls,
        input.audio_files,
        input.function_calls,
        input.usage,
        input.metadata,
        input.source,
        input.fingerprint,
        input.body_bytes,
        input.input_tokens,
        input.output_tokens,
        input.place
    FROM unnest(
        :owner_ids::uuid[], :conversation_ids::uuid[], :append_keys::text[], :client_ids::text[],
        :roles::text[], :statuses::text[], :tool_call_ids::text[], :names::text[], :models::text[],
        :contents::json[], :tool_calls::json[], :audio_files::json[], :function_calls::json[],
        :usages::json[], :metadata::json[], :sources::json[], :fingerprints::bytea[],
        :body_bytes::integer[], :input_tokens::bigint[], :output_tokens::bigint[]
    ) WITH ORDINALITY AS input (
        owner_id, conversation_id, append_key, client_id, role, status, tool_call_id, name, model,
        content, tool_calls, audio_files, function_calls, usage, metadata, source, fingerprint,
        body_bytes, input_tokens, output_tokens, place
    )
), wanted_conversations AS (
    SELECT DISTINCT
        owner_id,
        conversation_id
    FROM input_messages
), locked_conversations AS MATERIALIZED (
    SELECT
        wanted.owner_id,
        wanted.conversation_id,
        free_conversation.last_seq,
        free_conversation.revision,
        greatest(free_conversation.updated_at, now()) AS updated_at
    FROM wanted_conversations AS wanted
    CROSS JOIN LATERAL (
        SELECT
            conversation.last_seq,
            conversation.revision,
            conversation.updated_at
        FROM conversations AS conversation
        WHERE
            conversation.owner_id = wanted.owner_id
            AND conversation.id = wanted.conversation_id
            AND conversation.deleted_at IS NULL
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS free_conversation
), new_messages AS MATERIALIZED (
    SELECT
        input.owner_id,
        input.conversation_id,
        locked.last_seq + row_number() OVER (
            PARTITION BY input.owner_id, input.conversation_id ORDER BY input.place
        ) AS seq,
        locked.revision,
        locked.updated_at,
        input.append_key,
        input.client_id,
        input.role,
        input.status,
        input.tool_call_id,
        input.name,
        input.model,
        input.content,
        input.tool_calls,
        input.audio_files,
        input.function_calls,
        input.usage,
        input.metadata,
        input.source,
        input.fingerprint,
        input.body_bytes,
        input.input_tokens,
        input.output_tokens,
        input.place
    FROM input_messages AS input
    INNER JOIN locked_conversations AS locked
        ON
            input.owner_id = locked.owner_id
            AND input.conversation_id = locked.conversation_id
    WHERE
        (
            SELECT replayed_message.seq
            FROM messages AS replayed_message
            WHERE
                replayed_message.owner_id = input.owner_id
                AND replayed_message.conversation_id = input.conversation_id
                AND replayed_message.append_key = input.append_key
            ORDER BY replayed_message.append_key
            LIMIT 1
        ) IS NULL
        AND (
            SELECT replayed_message.seq
            FROM messages AS replayed_message
            WHERE
                replayed_message.owner_id = input.owner_id
                AND replayed_message.conversation_id = input.conversation_id
                AND replayed_message.client_id = input.client_id
            ORDER BY replayed_message.client_id
            LIMIT 1
        ) IS NULL
), counted_messages AS (
    SELECT
        owner_id,
        conversation_id,
        updated_at,
        max(seq) AS last_seq,
        count(*) FILTER (WHERE role = 'user') AS user_message_count,
        count(*) FILTER (WHERE role = 'assistant') AS assistant_message_count,
        count(*) FILTER (WHERE role = 'tool') AS tool_message_count,
        count(*) FILTER (WHERE role = 'system') AS system_message_count,
        count(*) FILTER (WHERE role = 'developer') AS developer_message_count,
        coalesce(sum(input_tokens), 0) AS input_tokens,
        coalesce(sum(output_tokens), 0) AS output_tokens
    FROM new_messages
    GROUP BY owner_id, conversation_id, updated_at
), bumped_conversations AS (
    UPDATE conversations AS conversation
    SET
        last_seq = counted.last_seq,
        updated_at = counted.updated_at,
        active_at = greatest(conversation.active_at, date_trunc('minute', now())),
        user_message_count = conversation.user_message_count + counted.user_message_count,
        assistant_message_count
        = conversation.assistant_message_count + counted.assistant_message_count,
        tool_message_count = conversation.tool_message_count + counted.tool_message_count,
        system_message_count = conversation.system_message_count + counted.system_message_count,
        developer_message_count
        = conversation.developer_message_count + counted.developer_message_count,
        input_tokens = conversation.input_tokens + counted.input_tokens,
        output_tokens = conversation.output_tokens + counted.output_tokens
    FROM counted_messages AS counted
    WHERE
        conversation.owner_id = counted.owner_id
        AND conversation.id = counted.conversation_id
), inserted_messages AS (
    INSERT INTO messages (
        owner_id, conversation_id, seq, created_at, body_bytes, append_count, role, status,
        client_id, append_key, fingerprint, tool_call_id, name, model, content, tool_calls,
        audio_files, function_calls, usage, metadata, source
    )
    SELECT
        new_message.owner_id,
        new_message.conversation_id,
        new_message.seq,
        new_message.updated_at,
        new_message.body_bytes,
        CASE WHEN new_message.append_key IS NOT NULL THEN 1 END,
        new_message.role,
        new_message.status,
        new_message.client_id,
        new_message.append_key,
        new_message.fingerprint,
        new_message.tool_call_id,
        new_message.name,
        new_message.model,
        new_message.content,
        new_message.tool_calls,
        new_message.audio_files,
        new_message.function_calls,
        new_message.usage,
        new_message.metadata,
        new_message.source
    FROM new_messages AS new_message
)

SELECT
    place,
    seq,
    updated_at AS created_at,
    revision
FROM new_messages;

-- name: list_stored(owner_id, conversation_id, append_key, client_ids)
-- The messages that an append's key or its client ids name; deleted messages too. One that both
-- name comes twice. Looked up as in append_message.
SELECT
    seq,
    client_id,
    append_key,
    append_count,
    fingerprint,
    created_at
FROM messages
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND append_key = :append_key
UNION ALL
SELECT
    stored_message.seq,
    stored_message.client_id,
    stored_message.append_key,
    stored_message.append_count,
    stored_message.fingerprint,
    stored_message.created_at
FROM unnest(:client_ids::text[]) AS input_id (client_id)
CROSS JOIN LATERAL (
    SELECT
        message.seq,
        message.client_id,
        message.append_key,
        message.append_count,
        message.fingerprint,
        message.created_at
    FROM messages AS message
    WHERE
        message.owner_id = :owner_id
        AND message.conversation_id = :conversation_id
        AND message.client_id = input_id.client_id
    ORDER BY message.client_id
    LIMIT 1
) AS stored_message;

-- name: list_fingerprints(owner_id, conversation_id, from_seq, through_seq)
-- In order of seq; deleted messages too.
SELECT
    seq,
    fingerprint
FROM messages
WHERE
    owner_id = :owner_id
    AND conversation_id = :conversation_id
    AND seq BETWEEN :from_seq AND :through_seq
ORDER BY seq;
