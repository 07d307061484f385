-- Tiers, users and API keys. docs/database.md describes every table and column.
--
-- The comment of a constraint says what it expects. Tidegate shows it to whoever breaks the constraint.

DO $$
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'expected a database whose encoding is UTF8, not %', getdatabaseencoding();
    END IF;
END
$$;

CREATE TABLE user_tiers (
    tier text NOT NULL,
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_tiers_pkey PRIMARY KEY (tier),
    CONSTRAINT user_tiers_tier CHECK (octet_length(tier) BETWEEN 1 AND 64 AND tier !~ '[[:cntrl:]]'),
    CONSTRAINT user_tiers_description CHECK (octet_length(description) <= 1024)
);
COMMENT ON CONSTRAINT user_tiers_tier ON user_tiers IS 'tier: expected 1 to 64 bytes without control characters';
COMMENT ON CONSTRAINT user_tiers_description ON user_tiers IS 'description: expected at most 1024 bytes';

CREATE TABLE users (
    user_id text NOT NULL,
    tier text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (user_id),
    CONSTRAINT users_user_id CHECK (octet_length(user_id) BETWEEN 1 AND 256 AND user_id !~ '[[:cntrl:]]'),
    CONSTRAINT users_tier FOREIGN KEY (tier) REFERENCES user_tiers ON UPDATE CASCADE
);
COMMENT ON CONSTRAINT users_user_id ON users IS 'user_id: expected 1 to 256 bytes without control characters';
COMMENT ON CONSTRAINT users_tier ON users IS 'tier: expected a tier of user_tiers';
CREATE INDEX users_by_tier ON users (tier);

CREATE TABLE api_keys (
    hash text NOT NULL,
    key_id text NOT NULL DEFAULT 'key_' || replace(gen_random_uuid()::text, '-', ''),
    prefix text NOT NULL DEFAULT '',
    user_id text NOT NULL,
    tier text,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT api_keys_pkey PRIMARY KEY (hash),
    CONSTRAINT api_keys_key_id_is_unique UNIQUE (key_id),
    CONSTRAINT api_keys_hash CHECK (hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT api_keys_key_id CHECK (key_id ~ '^[A-Za-z0-9_-]{1,64}$' AND key_id <> hash),
    CONSTRAINT api_keys_prefix CHECK (octet_length(prefix) <= 16 AND prefix !~ '[[:cntrl:]]'),
    CONSTRAINT api_keys_user_id FOREIGN KEY (user_id) REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT api_keys_tier FOREIGN KEY (tier) REFERENCES user_tiers ON UPDATE CASCADE,
    CONSTRAINT api_keys_expires_at CHECK (expires_at >= '1970-01-01Z' AND expires_at < '9999-01-01Z'),
    CONSTRAINT api_keys_revoked_at CHECK (revoked_at >= '1970-01-01Z' AND revoked_at < '9999-01-01Z')
);
COMMENT ON CONSTRAINT api_keys_hash ON api_keys IS
    'hash: expected the SHA-256 of the key as 64 hexadecimal digits in lower case';
COMMENT ON CONSTRAINT api_keys_key_id ON api_keys IS
    'key_id: expected 1 to 64 of A-Z, a-z, 0-9, _ and -, and not the hash';
COMMENT ON CONSTRAINT api_keys_prefix ON api_keys IS 'prefix: expected at most the first 16 bytes of the key';
COMMENT ON CONSTRAINT api_keys_user_id ON api_keys IS 'user_id: expected a user of users';
COMMENT ON CONSTRAINT api_keys_tier ON api_keys IS 'tier: expected a tier of user_tiers';
COMMENT ON CONSTRAINT api_keys_expires_at ON api_keys IS 'expires_at: expected a time from 1970 to 9998';
COMMENT ON CONSTRAINT api_keys_revoked_at ON api_keys IS 'revoked_at: expected a time from 1970 to 9998';
CREATE INDEX api_keys_by_user ON api_keys (user_id, key_id);
CREATE INDEX api_keys_by_tier ON api_keys (tier);
