-- Limits that regions count together.

ALTER TABLE rate_limit_rules ADD COLUMN global jsonb;
ALTER TABLE rate_limit_rules DROP CONSTRAINT rate_limit_rules_scope;
ALTER TABLE rate_limit_rules ADD CONSTRAINT rate_limit_rules_scope CHECK (
    scope = 'region' OR scope = 'global' AND algorithm <> 'token_bucket'
);
COMMENT ON CONSTRAINT rate_limit_rules_scope ON rate_limit_rules IS
    'scope: expected region | global; a token_bucket cannot be global';
ALTER TABLE rate_limit_rules ADD CONSTRAINT rate_limit_rules_global CHECK (
    CASE scope
        WHEN 'global' THEN global IS NOT NULL
            AND jsonb_typeof(global) = 'object'
            AND global - 'strategy' - 'on_partition' = '{}'
            AND (
                global ->> 'strategy' = 'gossip'
                AND calendar IS NULL
                AND coalesce(global ->> 'on_partition', 'share') IN ('open', 'share', 'deny')
                OR global ->> 'strategy' = 'escrow'
                AND algorithm = 'fixed_window'
                AND NOT global ? 'on_partition'
            ) IS TRUE
        ELSE global IS NULL
    END
);
COMMENT ON CONSTRAINT rate_limit_rules_global ON rate_limit_rules IS
    'global: expected only with scope: global, and there {"strategy": "gossip", "on_partition": "open" | "share" | "deny"} for a window or {"strategy": "escrow"} for a fixed_window or a calendar';
