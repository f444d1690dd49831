-- Statistics are read from sums that are there already: a conversation's own, or a tenant's by day.

-- name: get_conversation_stats(owner_id, id)
-- No row: absent, foreign or deleted.
SELECT
    id,
    user_message_count,
    assistant_message_count,
    tool_message_count,
    system_message_count,
    developer_message_count,
    input_tokens,
    output_tokens,
    last_seq,
    revision,
    archived_at,
    created_at,
    updated_at
FROM conversations
WHERE
    owner_id = :owner_id
    AND id = :id
    AND deleted_at IS NULL;

-- name: list_tenant_days(tenant_id, from_day, through_day)
-- In order of the day, both bounds inclusive; days on which nothing happened are not there.
SELECT
    day,
    conversation_count,
    new_conversation_count,
    active_user_count,
    user_message_count,
    assistant_message_count,
    tool_message_count,
    system_message_count,
    developer_message_count,
    input_tokens,
    output_tokens,
    median_turns,
    median_duration_seconds
FROM tenant_days
WHERE
    tenant_id = :tenant_id
    AND day BETWEEN :from_day AND :through_day
ORDER BY day;

-- name: count_active_users(tenant_id, days)
-- Over all owners of the tenant, each counted once. Day by day, which the LIMIT, larger than any
-- count, sees to: as a range or a join, the index would be read through the days of all tenants.
SELECT count(DISTINCT owner_day.owner_id) AS active_user_count
FROM unnest(:days::date[]) AS wanted_day (day)
CROSS JOIN LATERAL (
    SELECT owner_days.owner_id
    FROM owner_days
    WHERE
        owner_days.tenant_id = :tenant_id
        AND owner_days.day = wanted_day.day
    ORDER BY owner_days.owner_id
    LIMIT 2147483647
) AS owner_day;

-- name: get_rolled_up_at()
-- NULL: nothing was counted yet.
SELECT rolled_up_at
FROM rollups
WHERE name = 'activity';
