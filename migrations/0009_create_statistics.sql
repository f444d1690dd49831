-- Statistics are added up beside the conversations, so that no append waits for a sum.
-- depends: 0002_create_conversations

-- How far a roll-up has come: everything up to the place (a minute of activity, in it an owner and
-- a conversation) is counted for good, all that was committed before `rolled_up_at` is in the
-- sums. Its row's lock is the right to work on it. A local table on Citus.
CREATE TABLE rollups (
    name text NOT NULL,
    after_active_at timestamptz NOT NULL,
    after_owner uuid NOT NULL,
    after_conversation uuid NOT NULL,
    rolled_up_at timestamptz,
    CONSTRAINT rollups_name_pkey PRIMARY KEY (name)
);

INSERT INTO rollups (name, after_active_at, after_owner, after_conversation)
VALUES (
    'activity',
    '1970-01-01 00:00:00+00',
    '00000000-0000-0000-0000-000000000000',
    '00000000-0000-0000-0000-000000000000'
);

-- A conversation's counters as they were counted last: what is more by now is still to be counted.
-- A fork begins with what it copied, as nobody said that again. `is_new`: it is not counted among
-- the new ones yet; `active_day`: the last day on which it is counted as active.
CREATE TABLE conversation_tallies (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    last_seq bigint NOT NULL,
    revision bigint NOT NULL,
    user_message_count bigint NOT NULL,
    assistant_message_count bigint NOT NULL,
    tool_message_count bigint NOT NULL,
    system_message_count bigint NOT NULL,
    developer_message_count bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    is_new boolean NOT NULL,
    active_day date,
    CONSTRAINT conversation_tallies_owner_id_conversation_id_pkey
    PRIMARY KEY (owner_id, conversation_id),
    CONSTRAINT conversation_tallies_owner_id_conversation_id_fkey
    FOREIGN KEY (owner_id, conversation_id)
    REFERENCES conversations (owner_id, id) ON DELETE CASCADE
) WITH (fillfactor = 80);

-- A conversation on a day on which something was said in it: its size and its age as that day left
-- it, for the day's medians.
CREATE TABLE conversation_days (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    day date NOT NULL,
    tenant_id text NOT NULL,
    turn_count bigint NOT NULL,
    duration_seconds double precision NOT NULL,
    CONSTRAINT conversation_days_owner_id_conversation_id_day_pkey
    PRIMARY KEY (owner_id, conversation_id, day),
    CONSTRAINT conversation_days_owner_id_conversation_id_fkey
    FOREIGN KEY (owner_id, conversation_id)
    REFERENCES conversation_tallies (owner_id, conversation_id) ON DELETE CASCADE
) WITH (fillfactor = 80);

-- measure_tenant_days and list_expired_conversation_days read it: over all owners.
CREATE INDEX conversation_days_day_tenant_id_idx
ON conversation_days (day, tenant_id);

-- An owner on a day on which they were active. Not tied to a conversation, so that a purge and a
-- new beginning make nobody two.
CREATE TABLE owner_days (
    owner_id uuid NOT NULL,
    day date NOT NULL,
    tenant_id text NOT NULL,
    CONSTRAINT owner_days_owner_id_day_pkey PRIMARY KEY (owner_id, day),
    CONSTRAINT owner_days_owner_id_fkey
    FOREIGN KEY (owner_id) REFERENCES owners (id) ON DELETE CASCADE
);

-- count_active_users and list_expired_owner_days read it: over all owners.
CREATE INDEX owner_days_day_tenant_id_owner_id_idx
ON owner_days (day, tenant_id, owner_id);

-- What happened in a tenant on a day. Sums only grow, whatever is deleted or purged later; they
-- hold no one's id. `is_stale`: the medians are to be measured again. A local table on Citus.
CREATE TABLE tenant_days (
    tenant_id text NOT NULL,
    day date NOT NULL,
    conversation_count bigint NOT NULL,
    new_conversation_count bigint NOT NULL,
    active_user_count bigint NOT NULL,
    user_message_count bigint NOT NULL,
    assistant_message_count bigint NOT NULL,
    tool_message_count bigint NOT NULL,
    system_message_count bigint NOT NULL,
    developer_message_count bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    median_turns double precision,
    median_duration_seconds double precision,
    is_stale boolean NOT NULL,
    CONSTRAINT tenant_days_tenant_id_day_pkey PRIMARY KEY (tenant_id, day)
) WITH (fillfactor = 80);

-- list_stale_days reads it.
CREATE INDEX tenant_days_is_stale_idx
ON tenant_days (tenant_id, day)
WHERE is_stale;
