-- A conversation is the row whose lock gives its messages their order.
-- depends: 0001_create_owners

-- An ordered run of messages of one owner. `last_seq` only grows; `revision` counts every change
-- that is not an append; the counters count visible messages by role; `input_tokens` and
-- `output_tokens` sum the usage that callers reported, also of messages deleted since; a fork
-- begins at 0, as nothing was spent on it. `active_at`
-- is `updated_at` cut to the minute: indexing the coarse time keeps most appends HOT updates, for
-- which the fillfactor leaves room. `fingerprint` is of the request that made it with an
-- Idempotency-Key. A purge in progress sets `deleted_at` to 1970: past every window at once.
CREATE TABLE conversations (
    owner_id uuid NOT NULL,
    id uuid NOT NULL,
    last_seq bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    active_at timestamptz NOT NULL,
    pinned_at timestamptz,
    archived_at timestamptz,
    deleted_at timestamptz,
    user_message_count bigint NOT NULL DEFAULT 0,
    assistant_message_count bigint NOT NULL DEFAULT 0,
    tool_message_count bigint NOT NULL DEFAULT 0,
    system_message_count bigint NOT NULL DEFAULT 0,
    developer_message_count bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    forked_from uuid,
    forked_from_seq bigint,
    key text,
    title text,
    metadata json NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    fingerprint bytea,
    CONSTRAINT conversations_owner_id_id_pkey PRIMARY KEY (owner_id, id),
    CONSTRAINT conversations_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES owners (id),
    CONSTRAINT conversations_last_seq_check CHECK (last_seq >= 0 AND last_seq < 1099511627776),
    CONSTRAINT conversations_revision_check CHECK (revision >= 0),
    CONSTRAINT conversations_tokens_check CHECK (input_tokens >= 0 AND output_tokens >= 0),
    CONSTRAINT conversations_key_check CHECK (char_length(key) BETWEEN 1 AND 128),
    CONSTRAINT conversations_title_check CHECK (char_length(title) <= 500),
    CONSTRAINT conversations_tags_check CHECK (cardinality(tags) <= 32),
    CONSTRAINT conversations_forked_from_check
    CHECK ((forked_from IS NULL) = (forked_from_seq IS NULL))
) WITH (fillfactor = 70);

-- get_or_create_conversation finds by it, and at most one live conversation has a key.
CREATE UNIQUE INDEX conversations_owner_id_key_key
ON conversations (owner_id, key)
WHERE key IS NOT NULL AND deleted_at IS NULL;

-- list_conversations reads it.
CREATE INDEX conversations_owner_id_active_at_idx
ON conversations (owner_id, active_at DESC)
WHERE deleted_at IS NULL AND archived_at IS NULL;

-- list_archived_conversations reads it.
CREATE INDEX conversations_owner_id_active_at_archived_idx
ON conversations (owner_id, active_at DESC)
WHERE deleted_at IS NULL AND archived_at IS NOT NULL;

-- list_expired_conversations reads it: over all owners, only deleted rows enter.
CREATE INDEX conversations_deleted_at_idx
ON conversations (deleted_at)
WHERE deleted_at IS NOT NULL;
