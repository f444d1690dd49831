-- Other services come in by a key.
-- depends:

-- The keys that let services in. A key is `vb_<prefix>_<secret>`; only the SHA-256 of the whole is
-- kept. A key without `user_id` acts for the users it names, an admin key also for its tenant. A
-- local table on Citus: found by prefix before the owner is known.
CREATE TABLE service_keys (
    prefix text NOT NULL,
    sha256 bytea NOT NULL,
    tenant_id text NOT NULL,
    user_id text,
    is_admin boolean NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT service_keys_prefix_pkey PRIMARY KEY (prefix),
    CONSTRAINT service_keys_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT service_keys_tenant_id_check CHECK (char_length(tenant_id) BETWEEN 1 AND 255),
    CONSTRAINT service_keys_user_id_check CHECK (char_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT service_keys_is_admin_check CHECK (NOT is_admin OR user_id IS NULL)
);
