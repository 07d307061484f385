-- Settings that every node shares, and the tokens of the admin API.

CREATE TABLE cluster_settings (
    name text NOT NULL,
    value jsonb NOT NULL,
    CONSTRAINT cluster_settings_pkey PRIMARY KEY (name),
    CONSTRAINT cluster_settings_name CHECK (name ~ '^[a-z0-9_.]{1,64}$'),
    CONSTRAINT cluster_settings_value CHECK (
        octet_length(value::text) <= 65536 AND NOT jsonb_path_exists(value, 'strict $.**{32}')
    )
);
COMMENT ON CONSTRAINT cluster_settings_name ON cluster_settings IS 'name: expected 1 to 64 of a-z, 0-9, _ and .';
COMMENT ON CONSTRAINT cluster_settings_value ON cluster_settings IS 
    'value: expected at most 64 KiB, nested at most 32 deep';

CREATE TABLE admin_tokens (
    hash text NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT admin_tokens_pkey PRIMARY KEY (hash),
    CONSTRAINT admin_tokens_name_is_unique UNIQUE (name),
    CONSTRAINT admin_tokens_hash CHECK (hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT admin_tokens_name CHECK (octet_length(name) BETWEEN 1 AND 256 AND name !~ '[[:cntrl:]]'),
    CONSTRAINT admin_tokens_role CHECK (role IN ('viewer', 'editor', 'owner'))
);
COMMENT ON CONSTRAINT admin_tokens_hash ON admin_tokens IS
    'hash: expected the SHA-256 of the token as 64 hexadecimal digits in lower case';
COMMENT ON CONSTRAINT admin_tokens_name ON admin_tokens IS
    'name: expected 1 to 256 bytes without control characters';
COMMENT ON CONSTRAINT admin_tokens_role ON admin_tokens IS 'role: expected viewer | editor | owner';
