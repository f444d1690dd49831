-- Owners come first: every other key starts with an owner's id.
-- depends:

-- Whose conversations these are: maps an owner's id, a hash, back to the tenant and the user it was
-- made of. Distributed by id on Citus.
CREATE TABLE owners (
    id uuid NOT NULL,
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT owners_id_pkey PRIMARY KEY (id),
    CONSTRAINT owners_tenant_id_check CHECK (char_length(tenant_id) BETWEEN 1 AND 255),
    CONSTRAINT owners_user_id_check CHECK (char_length(user_id) BETWEEN 1 AND 255)
);
