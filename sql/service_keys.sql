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

-- name: find_live_keys(prefixes)
-- In no order. No row: there is no such key, or it is revoked. is_due: its use is to be noted.
SELECT
    prefix,
    sha256,
    tenant_id,
    user_id,
    is_admin,
    (last_used_at IS NULL OR last_used_at < now() - interval '1 hour') AS is_due
FROM service_keys
WHERE
    prefix = any(:prefixes)
    AND revoked_at IS NULL;

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

-- name: touch_service_keys(prefixes)
-- Coarse: at most once an hour. A key that somebody else is touching is left to them.
UPDATE service_keys
SET last_used_at = now()
WHERE
    prefix IN (
        SELECT service_key.prefix
        FROM service_keys AS service_key
        WHERE
            service_key.prefix = any(:prefixes)
            AND (
                service_key.last_used_at IS NULL
                OR service_key.last_used_at < now() - interval '1 hour'
            )
        FOR NO KEY UPDATE SKIP LOCKED
    );
