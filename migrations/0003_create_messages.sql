-- Messages are what the service exists for.
-- depends: 0002_create_conversations

-- One entry of a conversation. Its primary key is its order, its page key and its identity: the id
-- on the wire is computed from it. `json` columns keep the bytes that came, which `jsonb` would
-- not. `append_key` and `append_count` stand on the first row of a keyed append, its `fingerprint`
-- is of the whole request; else `fingerprint` is of the message, where client ids decide.
-- `body_bytes` sums its payloads. `updated_at` is NULL until the first edit. `revision` is 0 as
-- appended, else the conversation's revision that changed it last. `source` keeps a foreign object
-- as it came when the columns cannot rebuild it.
CREATE TABLE messages (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    revision bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz,
    deleted_at timestamptz,
    body_bytes integer NOT NULL,
    append_count integer,
    role text NOT NULL,
    status text NOT NULL,
    client_id text,
    append_key text,
    fingerprint bytea,
    tool_call_id text,
    name text,
    model text,
    content json,
    tool_calls json,
    audio_files json,
    function_calls json,
    usage json,
    metadata json,
    source json,
    CONSTRAINT messages_owner_id_conversation_id_seq_pkey
    PRIMARY KEY (owner_id, conversation_id, seq),
    CONSTRAINT messages_owner_id_conversation_id_fkey
    FOREIGN KEY (owner_id, conversation_id)
    REFERENCES conversations (owner_id, id) ON DELETE CASCADE,
    CONSTRAINT messages_seq_check CHECK (seq > 0),
    CONSTRAINT messages_role_check
    CHECK (role IN ('user', 'assistant', 'tool', 'system', 'developer')),
    CONSTRAINT messages_status_check
    CHECK (status IN ('completed', 'in_progress', 'incomplete', 'failed', 'cancelled')),
    CONSTRAINT messages_client_id_check CHECK (char_length(client_id) BETWEEN 1 AND 128),
    CONSTRAINT messages_append_key_check CHECK (char_length(append_key) BETWEEN 1 AND 255),
    CONSTRAINT messages_append_count_check CHECK ((append_key IS NULL) = (append_count IS NULL))
);

-- append_messages and get_message find by it, and a client id stands once in a conversation.
CREATE UNIQUE INDEX messages_owner_id_conversation_id_client_id_key
ON messages (owner_id, conversation_id, client_id)
WHERE client_id IS NOT NULL;

-- append_messages finds a replay by it, and an Idempotency-Key stands once in a conversation.
CREATE UNIQUE INDEX messages_owner_id_conversation_id_append_key_key
ON messages (owner_id, conversation_id, append_key)
WHERE append_key IS NOT NULL;

-- restore_messages finds what one call deleted; readers that follow a conversation, what changed.
CREATE INDEX messages_owner_id_conversation_id_revision_idx
ON messages (owner_id, conversation_id, revision)
WHERE revision > 0;

-- list_expired_messages reads it: over all owners, only deleted rows enter.
CREATE INDEX messages_deleted_at_idx
ON messages (deleted_at)
WHERE deleted_at IS NOT NULL;

-- A conversation has one owner. Without it the planner takes the two for independent, expects one
-- row of any conversation, and may read the whole of it for one key.
CREATE STATISTICS messages_owner_id_conversation_id_stat (DEPENDENCIES)
ON owner_id, conversation_id FROM messages;
