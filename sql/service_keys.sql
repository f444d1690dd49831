-- A service key lets another service in; it is found by its prefix, before any owner is known.

-- name: create_service_key(prefix, sha256, tenant_id, user_id, is_admin)
INSERT INTO service_keys (prefix, sha256, tenant_id, user_id, is_admin, created_at)
VALUES (:prefix, :sha256, :tenant_id, :user_id, :is_admin, now());

-- name: get_service_key(prefix)
SELECT
    prefix,
    sha256,
    tenant_id,
    user_id,
    is_admin,
    created_at,
    revoked_at,
    last_used_at
FROM service_keys
WHERE prefix = :prefix;

-- name: list_service_keys()
-- Oldest first, revoked ones too.
SELECT
    prefix,
    sha256,
    tenant_id,
    user_id,
    is_admin,
    created_at,
    revoked_at,
    last_used_at
FROM service_keys
ORDER BY created_at, prefix;

-- name: revoke_service_key(prefix)
-- No row: there is no such key. A revoked key keeps its first time.
UPDATE service_keys
SET revoked_at = least(revoked_at, now())
WHERE prefix = :prefix
RETURNING prefix;

-- name: touch_service_key(prefix)
-- Coarse: at most once an hour.
UPDATE service_keys
SET last_used_at = now()
WHERE
    prefix = :prefix
    AND (last_used_at IS NULL OR last_used_at < now() - interval '1 hour');
