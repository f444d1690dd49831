-- The roll-up adds what conversations have gained to the sums of their days: over all owners.

-- name: claim_rollup(fresh_seconds)
-- Locks it to the end of the transaction. No row: another is at it, or it was done just now.
SELECT
    after_active_at,
    after_owner,
    after_conversation,
    now() AS claimed_at
FROM rollups
WHERE
    name = 'activity'
    AND (rolled_up_at <= now() - make_interval(secs => :fresh_seconds)) IS NOT FALSE
FOR UPDATE SKIP LOCKED;

-- name: advance_rollup(active_at, owner, conversation)
-- The row is locked. Never goes back.
UPDATE rollups
SET
    after_active_at = :active_at,
    after_owner = :owner,
    after_conversation = :conversation
WHERE
    name = 'activity'
    AND (after_active_at, after_owner, after_conversation) < (:active_at, :owner, :conversation);

-- name: finish_rollup(rolled_up_at)
UPDATE rollups
SET rolled_up_at = greatest(rolled_up_at, :rolled_up_at)
WHERE name = 'activity';

-- name: list_active_conversations(active_at, owner, conversation, batch_size)
-- In order of (active_at, owner_id, id), behind a place; deleted ones too. With what was counted of
-- each before, 0 where nothing was. The condition on 1970 is the index's own. Look-ups are LATERAL
-- with a LIMIT: for a join a generic plan reads all tallies.
SELECT
    conversation.owner_id,
    conversation.id,
    conversation.active_at,
    owner.tenant_id,
    conversation.created_at,
    conversation.updated_at,
    conversation.last_seq,
    conversation.revision,
    conversation.user_message_count,
    conversation.assistant_message_count,
    conversation.tool_message_count,
    conversation.system_message_count,
    conversation.developer_message_count,
    conversation.input_tokens,
    conversation.output_tokens,
    coalesce(tally.last_seq, 0) AS counted_last_seq,
    coalesce(tally.revision, 0) AS counted_revision,
    coalesce(tally.user_message_count, 0) AS counted_user_message_count,
    coalesce(tally.assistant_message_count, 0) AS counted_assistant_message_count,
    coalesce(tally.tool_message_count, 0) AS counted_tool_message_count,
    coalesce(tally.system_message_count, 0) AS counted_system_message_count,
    coalesce(tally.developer_message_count, 0) AS counted_developer_message_count,
    coalesce(tally.input_tokens, 0) AS counted_input_tokens,
    coalesce(tally.output_tokens, 0) AS counted_output_tokens,
    coalesce(tally.is_new, TRUE) AS is_new,
    tally.active_day
FROM (
    SELECT
        owner_id,
        id,
        active_at,
        created_at,
        updated_at,
        last_seq,
        revision,
        user_message_count,
        assistant_message_count,
        tool_message_count,
        system_message_count,
        developer_message_count,
        input_tokens,
        output_tokens
    FROM conversations
    WHERE
        active_at > '1970-01-01 00:00:00+00'
        AND (active_at, owner_id, id) > (:active_at, :owner, :conversation)
    ORDER BY active_at, owner_id, id
    LIMIT :batch_size
) AS conversation
INNER JOIN LATERAL (
    SELECT known.tenant_id
    FROM owners AS known
    WHERE known.id = conversation.owner_id
    ORDER BY known.id
    LIMIT 1
) AS owner ON TRUE
LEFT JOIN LATERAL (
    SELECT
        counted.last_seq,
        counted.revision,
        counted.user_message_count,
        counted.assistant_message_count,
        counted.tool_message_count,
        counted.system_message_count,
        counted.developer_message_count,
        counted.input_tokens,
        counted.output_tokens,
        counted.is_new,
        counted.active_day
    FROM conversation_tallies AS counted
    WHERE
        counted.owner_id = conversation.owner_id
        AND counted.conversation_id = conversation.id
    ORDER BY counted.conversation_id
    LIMIT 1
) AS tally ON TRUE
ORDER BY conversation.active_at, conversation.owner_id, conversation.id;

-- name: update_tallies(
--     owner_ids, conversation_ids, last_seqs, revisions, user_message_counts,
--     assistant_message_counts, tool_message_counts, system_message_counts,
--     developer_message_counts, input_tokens, output_tokens, active_days
-- )
-- What is counted from now on. 23503: one of the conversations was purged meanwhile.
INSERT INTO conversation_tallies (
    owner_id, conversation_id, last_seq, revision, user_message_count, assistant_message_count,
    tool_message_count, system_message_count, developer_message_count, input_tokens, output_tokens,
    active_day, is_new
)
SELECT
    counted.owner_id,
    counted.conversation_id,
    counted.last_seq,
    counted.revision,
    counted.user_message_count,
    counted.assistant_message_count,
    counted.tool_message_count,
    counted.system_message_count,
    counted.developer_message_count,
    counted.input_tokens,
    counted.output_tokens,
    counted.active_day,
    FALSE
FROM
    unnest(
        :owner_ids::uuid[], :conversation_ids::uuid[], :last_seqs::bigint[], :revisions::bigint[],
        :user_message_counts::bigint[], :assistant_message_counts::bigint[],
        :tool_message_counts::bigint[], :system_message_counts::bigint[],
        :developer_message_counts::bigint[], :input_tokens::bigint[], :output_tokens::bigint[],
        :active_days::date[]
    )
        AS counted (
            owner_id,
            conversation_id,
            last_seq,
            revision,
            user_message_count,
            assistant_message_count,
            tool_message_count,
            system_message_count,
            developer_message_count,
            input_tokens,
            output_tokens,
            active_day
        )
ON CONFLICT (owner_id, conversation_id) DO UPDATE
    SET
        last_seq = excluded.last_seq,
        revision = excluded.revision,
        user_message_count = excluded.user_message_count,
        assistant_message_count = excluded.assistant_message_count,
        tool_message_count = excluded.tool_message_count,
        system_message_count = excluded.system_message_count,
        developer_message_count = excluded.developer_message_count,
        input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens,
        active_day = excluded.active_day,
        is_new = excluded.is_new;

-- name: update_conversation_days(
--     owner_ids, conversation_ids, days, tenant_ids, turn_counts, duration_seconds
-- )
INSERT INTO conversation_days (
    owner_id, conversation_id, day, tenant_id, turn_count, duration_seconds
)
SELECT
    active_day.owner_id,
    active_day.conversation_id,
    active_day.day,
    active_day.tenant_id,
    active_day.turn_count,
    active_day.duration_seconds
FROM
    unnest(
        :owner_ids::uuid[], :conversation_ids::uuid[], :days::date[], :tenant_ids::text[],
        :turn_counts::bigint[], :duration_seconds::double precision[]
    ) AS active_day (owner_id, conversation_id, day, tenant_id, turn_count, duration_seconds)
ON CONFLICT (owner_id, conversation_id, day) DO UPDATE
    SET
        turn_count = excluded.turn_count,
        duration_seconds = excluded.duration_seconds;

-- name: create_owner_days(owner_ids, days, tenant_ids)
-- Those that were not there yet.
INSERT INTO owner_days (owner_id, day, tenant_id)
SELECT
    active_day.owner_id,
    active_day.day,
    active_day.tenant_id
FROM
    unnest(:owner_ids::uuid[], :days::date[], :tenant_ids::text[])
        AS active_day (owner_id, day, tenant_id)
ON CONFLICT (owner_id, day) DO NOTHING
RETURNING
    tenant_id,
    day;

-- name: update_tenant_days(
--     tenant_ids, days, conversation_counts, new_conversation_counts, active_user_counts,
--     user_message_counts, assistant_message_counts, tool_message_counts, system_message_counts,
--     developer_message_counts, input_tokens, output_tokens
-- )
-- Adds to the sums.
INSERT INTO tenant_days AS tenant_day (
    tenant_id, day, conversation_count, new_conversation_count, active_user_count,
    user_message_count, assistant_message_count, tool_message_count, system_message_count,
    developer_message_count, input_tokens, output_tokens, is_stale
)
SELECT
    gained.tenant_id,
    gained.day,
    gained.conversation_count,
    gained.new_conversation_count,
    gained.active_user_count,
    gained.user_message_count,
    gained.assistant_message_count,
    gained.tool_message_count,
    gained.system_message_count,
    gained.developer_message_count,
    gained.input_tokens,
    gained.output_tokens,
    TRUE
FROM
    unnest(
        :tenant_ids::text[], :days::date[], :conversation_counts::bigint[],
        :new_conversation_counts::bigint[], :active_user_counts::bigint[],
        :user_message_counts::bigint[], :assistant_message_counts::bigint[],
        :tool_message_counts::bigint[], :system_message_counts::bigint[],
        :developer_message_counts::bigint[], :input_tokens::bigint[], :output_tokens::bigint[]
    )
        AS gained (
            tenant_id, day, conversation_count, new_conversation_count, active_user_count,
            user_message_count, assistant_message_count, tool_message_count, system_message_count,
            developer_message_count, input_tokens, output_tokens
        )
ON CONFLICT (tenant_id, day) DO UPDATE
    SET
        conversation_count = tenant_day.conversation_count + excluded.conversation_count,
        new_conversation_count
        = tenant_day.new_conversation_count + excluded.new_conversation_count,
        active_user_count = tenant_day.active_user_count + excluded.active_user_count,
        user_message_count = tenant_day.user_message_count + excluded.user_message_count,
        assistant_message_count
        = tenant_day.assistant_message_count + excluded.assistant_message_count,
        tool_message_count = tenant_day.tool_message_count + excluded.tool_message_count,
        system_message_count = tenant_day.system_message_count + excluded.system_message_count,
        developer_message_count
        = tenant_day.developer_message_count + excluded.developer_message_count,
        input_tokens = tenant_day.input_tokens + excluded.input_tokens,
        output_tokens = tenant_day.output_tokens + excluded.output_tokens,
        is_stale = excluded.is_stale;

-- name: list_stale_days(batch_size)
SELECT
    tenant_id,
    day
FROM tenant_days
WHERE is_stale
ORDER BY tenant_id, day
LIMIT :batch_size;

-- name: measure_tenant_days(tenant_ids, days)
-- Over all owners of the tenants. Medians are NULL where no conversation was active.
SELECT
    measured_day.tenant_id,
    measured_day.day,
    median.turns,
    median.duration_seconds
FROM unnest(:tenant_ids::text[], :days::date[]) AS measured_day (tenant_id, day)
CROSS JOIN LATERAL (
    SELECT
        percentile_cont(0.5) WITHIN GROUP (ORDER BY conversation_days.turn_count) AS turns,
        percentile_cont(0.5)
        WITHIN GROUP (ORDER BY conversation_days.duration_seconds)
            AS duration_seconds
    FROM conversation_days
    WHERE
        conversation_days.tenant_id = measured_day.tenant_id
        AND conversation_days.day = measured_day.day
) AS median;

-- name: update_medians(tenant_ids, days, median_turns, median_duration_seconds)
UPDATE tenant_days AS tenant_day
SET
    median_turns = measured_day.median_turns,
    median_duration_seconds = measured_day.median_duration_seconds,
    is_stale = FALSE
FROM
    unnest(
        :tenant_ids::text[], :days::date[], :median_turns::double precision[],
        :median_duration_seconds::double precision[]
    ) AS measured_day (tenant_id, day, median_turns, median_duration_seconds)
WHERE
    tenant_day.tenant_id = measured_day.tenant_id
    AND tenant_day.day = measured_day.day;

-- name: list_expired_conversation_days(before_day, batch_size)
-- Oldest first.
SELECT
    owner_id,
    conversation_id,
    day
FROM conversation_days
WHERE day < :before_day
ORDER BY day
LIMIT :batch_size;

-- name: purge_conversation_days(owner_ids, conversation_ids, days)
DELETE FROM conversation_days
USING
    unnest(:owner_ids::uuid[], :conversation_ids::uuid[], :days::date[])
        AS expired_day (owner_id, conversation_id, day)
WHERE
    conversation_days.owner_id = expired_day.owner_id
    AND conversation_days.conversation_id = expired_day.conversation_id
    AND conversation_days.day = expired_day.day;

-- name: list_expired_owner_days(before_day, batch_size)
-- Oldest first.
SELECT
    owner_id,
    day
FROM owner_days
WHERE day < :before_day
ORDER BY day
LIMIT :batch_size;

-- name: purge_owner_days(owner_ids, days)
DELETE FROM owner_days
USING unnest(:owner_ids::uuid[], :days::date[]) AS expired_day (owner_id, day)
WHERE
    owner_days.owner_id = expired_day.owner_id
    AND owner_days.day = expired_day.day;
