-- A reply outlives the request that asked for it: how it stands, and the text that has come so far.
-- depends: 0003_create_messages

-- The making of one assistant message by a model. A live one (`ended_at` NULL) is renewed while a
-- replica works on it; one that is not renewed within the lease is ended by any other replica.
-- `char_count` is the length of the text that is kept so far, in code points; `reason` says why it
-- ended; by `writer_id` who began it knows it again when the answer to its commit was lost.
-- Distributed with messages on Citus.
CREATE TABLE replies (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    writer_id uuid NOT NULL,
    char_count bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL,
    ended_at timestamptz,
    reason text,
    CONSTRAINT replies_owner_id_conversation_id_seq_pkey
    PRIMARY KEY (owner_id, conversation_id, seq),
    CONSTRAINT replies_owner_id_conversation_id_seq_fkey
    FOREIGN KEY (owner_id, conversation_id, seq)
    REFERENCES messages (owner_id, conversation_id, seq) ON DELETE CASCADE,
    CONSTRAINT replies_reason_check CHECK (char_length(reason) BETWEEN 1 AND 64),
    CONSTRAINT replies_ended_at_check CHECK ((ended_at IS NULL) = (reason IS NULL))
) WITH (fillfactor = 70);

-- get_live_reply finds by it, and a conversation has at most one live reply.
CREATE UNIQUE INDEX replies_owner_id_conversation_id_key
ON replies (owner_id, conversation_id)
WHERE ended_at IS NULL;

-- list_lapsed_replies reads it: over all owners; only live ones enter, `created_at` never moves.
-- The condition on 1970 always holds, and only that statement says it: no other can be planned over
-- all owners.
CREATE INDEX replies_created_at_idx
ON replies (created_at)
WHERE ended_at IS NULL AND created_at > '1970-01-01 00:00:00+00';
