-- Limits that regions count together cannot be kept.
DELETE FROM rate_limit_rules WHERE scope = 'global';
ALTER TABLE rate_limit_rules DROP CONSTRAINT rate_limit_rules_global;
ALTER TABLE rate_limit_rules DROP CONSTRAINT rate_limit_rules_scope;
ALTER TABLE rate_limit_rules ADD CONSTRAINT rate_limit_rules_scope CHECK (scope = 'region');
COMMENT ON CONSTRAINT rate_limit_rules_scope ON rate_limit_rules IS
    'scope: expected region: counting across regions is not built yet';
ALTER TABLE rate_limit_rules DROP COLUMN global;
