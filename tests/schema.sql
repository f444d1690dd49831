-- What the migrations make. `REGENERATE=1 pytest tests/test_migrations.py` writes it.

CREATE TABLE public.conversation_days (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    day date NOT NULL,
    tenant_id text NOT NULL,
    turn_count bigint NOT NULL,
    duration_seconds double precision NOT NULL
)
WITH (fillfactor='80');

CREATE TABLE public.conversation_tallies (
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
    active_day date
)
WITH (fillfactor='80');

CREATE TABLE public.conversations (
    owner_id uuid NOT NULL,
    id uuid NOT NULL,
    last_seq bigint DEFAULT 0 NOT NULL,
    revision bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    active_at timestamp with time zone NOT NULL,
    pinned_at timestamp with time zone,
    archived_at timestamp with time zone,
    deleted_at timestamp with time zone,
    user_message_count bigint DEFAULT 0 NOT NULL,
    assistant_message_count bigint DEFAULT 0 NOT NULL,
    tool_message_count bigint DEFAULT 0 NOT NULL,
    system_message_count bigint DEFAULT 0 NOT NULL,
    developer_message_count bigint DEFAULT 0 NOT NULL,
    input_tokens bigint DEFAULT 0 NOT NULL,
    output_tokens bigint DEFAULT 0 NOT NULL,
    forked_from uuid,
    forked_from_seq bigint,
    key text,
    title text,
    metadata json NOT NULL,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    fingerprint bytea,
    changed_at timestamp with time zone,
    CONSTRAINT conversations_forked_from_check CHECK (((forked_from IS NULL) = (forked_from_seq IS NULL))),
    CONSTRAINT conversations_key_check CHECK (((char_length(key) >= 1) AND (char_length(key) <= 128))),
    CONSTRAINT conversations_last_seq_check CHECK (((last_seq >= 0) AND (last_seq < '1099511627776'::bigint))),
    CONSTRAINT conversations_revision_check CHECK ((revision >= 0)),
    CONSTRAINT conversations_tags_check CHECK ((cardinality(tags) <= 32)),
    CONSTRAINT conversations_title_check CHECK ((char_length(title) <= 500)),
    CONSTRAINT conversations_tokens_check CHECK (((input_tokens >= 0) AND (output_tokens >= 0)))
)
WITH (fillfactor='70');

CREATE TABLE public.messages (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    revision bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone,
    deleted_at timestamp with time zone,
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
    CONSTRAINT messages_append_count_check CHECK (((append_key IS NULL) = (append_count IS NULL))),
    CONSTRAINT messages_append_key_check CHECK (((char_length(append_key) >= 1) AND (char_length(append_key) <= 255))),
    CONSTRAINT messages_client_id_check CHECK (((char_length(client_id) >= 1) AND (char_length(client_id) <= 128))),
    CONSTRAINT messages_role_check CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text, 'tool'::text, 'system'::text, 'developer'::text]))),
    CONSTRAINT messages_seq_check CHECK ((seq > 0)),
    CONSTRAINT messages_status_check CHECK ((status = ANY (ARRAY['completed'::text, 'in_progress'::text, 'incomplete'::text, 'failed'::text, 'cancelled'::text])))
);

CREATE TABLE public.migration_checksums (
    migration_id text NOT NULL,
    sha256 text NOT NULL
);

CREATE TABLE public.owner_days (
    owner_id uuid NOT NULL,
    day date NOT NULL,
    tenant_id text NOT NULL
);

CREATE TABLE public.owners (
    id uuid NOT NULL,
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT owners_tenant_id_check CHECK (((char_length(tenant_id) >= 1) AND (char_length(tenant_id) <= 255))),
    CONSTRAINT owners_user_id_check CHECK (((char_length(user_id) >= 1) AND (char_length(user_id) <= 255)))
);

CREATE TABLE public.replies (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    writer_id uuid NOT NULL,
    char_count bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    renewed_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    reason text,
    input_count integer DEFAULT 0 NOT NULL,
    CONSTRAINT replies_ended_at_check CHECK (((ended_at IS NULL) = (reason IS NULL))),
    CONSTRAINT replies_reason_check CHECK (((char_length(reason) >= 1) AND (char_length(reason) <= 64)))
)
WITH (fillfactor='70');

CREATE TABLE public.reply_chunks (
    owner_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    from_char bigint NOT NULL,
    text json NOT NULL
);

CREATE TABLE public.rollups (
    name text NOT NULL,
    after_active_at timestamp with time zone NOT NULL,
    after_owner uuid NOT NULL,
    after_conversation uuid NOT NULL,
    rolled_up_at timestamp with time zone
);

CREATE TABLE public.service_keys (
    prefix text NOT NULL,
    sha256 bytea NOT NULL,
    tenant_id text NOT NULL,
    user_id text,
    is_admin boolean NOT NULL,
    created_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT service_keys_is_admin_check CHECK (((NOT is_admin) OR (user_id IS NULL))),
    CONSTRAINT service_keys_sha256_check CHECK ((octet_length(sha256) = 32)),
    CONSTRAINT service_keys_tenant_id_check CHECK (((char_length(tenant_id) >= 1) AND (char_length(tenant_id) <= 255))),
    CONSTRAINT service_keys_user_id_check CHECK (((char_length(user_id) >= 1) AND (char_length(user_id) <= 255)))
);

CREATE TABLE public.tenant_days (
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
    is_stale boolean NOT NULL
)
WITH (fillfactor='80');

ALTER TABLE ONLY public.conversation_days
    ADD CONSTRAINT conversation_days_owner_id_conversation_id_day_pkey PRIMARY KEY (owner_id, conversation_id, day);

ALTER TABLE ONLY public.conversation_tallies
    ADD CONSTRAINT conversation_tallies_owner_id_conversation_id_pkey PRIMARY KEY (owner_id, conversation_id);

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_owner_id_id_pkey PRIMARY KEY (owner_id, id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_owner_id_conversation_id_seq_pkey PRIMARY KEY (owner_id, conversation_id, seq);

ALTER TABLE ONLY public.migration_checksums
    ADD CONSTRAINT migration_checksums_pkey PRIMARY KEY (migration_id);

ALTER TABLE ONLY public.owner_days
    ADD CONSTRAINT owner_days_owner_id_day_pkey PRIMARY KEY (owner_id, day);

ALTER TABLE ONLY public.owners
    ADD CONSTRAINT owners_id_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.replies
    ADD CONSTRAINT replies_owner_id_conversation_id_seq_pkey PRIMARY KEY (owner_id, conversation_id, seq);

ALTER TABLE ONLY public.reply_chunks
    ADD CONSTRAINT reply_chunks_owner_id_conversation_id_seq_from_char_pkey PRIMARY KEY (owner_id, conversation_id, seq, from_char);

ALTER TABLE ONLY public.rollups
    ADD CONSTRAINT rollups_name_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.service_keys
    ADD CONSTRAINT service_keys_prefix_pkey PRIMARY KEY (prefix);

ALTER TABLE ONLY public.tenant_days
    ADD CONSTRAINT tenant_days_tenant_id_day_pkey PRIMARY KEY (tenant_id, day);

CREATE INDEX conversation_days_day_tenant_id_idx ON public.conversation_days USING btree (day, tenant_id);

CREATE INDEX conversations_active_at_owner_id_id_idx ON public.conversations USING btree (active_at, owner_id, id) WHERE (active_at > '1970-01-01 00:00:00+00'::timestamp with time zone);

CREATE INDEX conversations_deleted_at_idx ON public.conversations USING btree (deleted_at) WHERE (deleted_at IS NOT NULL);

CREATE INDEX conversations_owner_id_active_at_archived_idx ON public.conversations USING btree (owner_id, active_at DESC) WHERE ((deleted_at IS NULL) AND (archived_at IS NOT NULL));

CREATE INDEX conversations_owner_id_active_at_idx ON public.conversations USING btree (owner_id, active_at DESC) WHERE ((deleted_at IS NULL) AND (archived_at IS NULL));

CREATE INDEX conversations_owner_id_changed_at_idx ON public.conversations USING btree (owner_id, changed_at) WHERE (changed_at IS NOT NULL);

CREATE UNIQUE INDEX conversations_owner_id_key_key ON public.conversations USING btree (owner_id, key) WHERE ((key IS NOT NULL) AND (deleted_at IS NULL));

CREATE INDEX messages_deleted_at_idx ON public.messages USING btree (deleted_at) WHERE (deleted_at IS NOT NULL);

CREATE UNIQUE INDEX messages_owner_id_conversation_id_append_key_key ON public.messages USING btree (owner_id, conversation_id, append_key) WHERE (append_key IS NOT NULL);

CREATE UNIQUE INDEX messages_owner_id_conversation_id_client_id_key ON public.messages USING btree (owner_id, conversation_id, client_id) WHERE (client_id IS NOT NULL);

CREATE INDEX messages_owner_id_conversation_id_revision_idx ON public.messages USING btree (owner_id, conversation_id, revision) WHERE (revision > 0);

CREATE INDEX owner_days_day_tenant_id_owner_id_idx ON public.owner_days USING btree (day, tenant_id, owner_id);

CREATE INDEX replies_created_at_idx ON public.replies USING btree (created_at) WHERE ((ended_at IS NULL) AND (created_at > '1970-01-01 00:00:00+00'::timestamp with time zone));

CREATE UNIQUE INDEX replies_owner_id_conversation_id_key ON public.replies USING btree (owner_id, conversation_id) WHERE (ended_at IS NULL);

CREATE INDEX tenant_days_is_stale_idx ON public.tenant_days USING btree (tenant_id, day) WHERE is_stale;

CREATE STATISTICS public.messages_owner_id_conversation_id_stat (dependencies) ON owner_id, conversation_id FROM public.messages;

ALTER TABLE ONLY public.conversation_days
    ADD CONSTRAINT conversation_days_owner_id_conversation_id_fkey FOREIGN KEY (owner_id, conversation_id) REFERENCES public.conversation_tallies(owner_id, conversation_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.conversation_tallies
    ADD CONSTRAINT conversation_tallies_owner_id_conversation_id_fkey FOREIGN KEY (owner_id, conversation_id) REFERENCES public.conversations(owner_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES public.owners(id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_owner_id_conversation_id_fkey FOREIGN KEY (owner_id, conversation_id) REFERENCES public.conversations(owner_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.owner_days
    ADD CONSTRAINT owner_days_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES public.owners(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.replies
    ADD CONSTRAINT replies_owner_id_conversation_id_seq_fkey FOREIGN KEY (owner_id, conversation_id, seq) REFERENCES public.messages(owner_id, conversation_id, seq) ON DELETE CASCADE;

ALTER TABLE ONLY public.reply_chunks
    ADD CONSTRAINT reply_chunks_owner_id_conversation_id_seq_fkey FOREIGN KEY (owner_id, conversation_id, seq) REFERENCES public.replies(owner_id, conversation_id, seq) ON DELETE CASCADE;
