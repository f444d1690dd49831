-- A growing text is kept by adding to it, never by writing the message again.
-- depends: 0005_create_replies

-- A piece of a live reply's text, as a JSON string: `json`, as a text may hold U+0000. It stands
-- behind the `from_char` code points before it. All of a reply's go when it ends, and its text is
-- the message's content.
CREATE TABLE reply_chunks (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    from_char bigint NOT NULL,
    text json NOT NULL,
    CONSTRAINT reply_chunks_owner_id_conversation_id_seq_from_char_pkey
    PRIMARY KEY (owner_id, conversation_id, seq, from_char),
    CONSTRAINT reply_chunks_owner_id_conversation_id_seq_fkey
    FOREIGN KEY (owner_id, conversation_id, seq)
    REFERENCES replies (owner_id, conversation_id, seq) ON DELETE CASCADE
);
