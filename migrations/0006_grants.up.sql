-- What a node may do. A node that has a role of its own cannot change the log, the audit or the tables themselves.

CREATE FUNCTION tidegate_grant(role_name name) RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', role_name);
    EXECUTE format('GRANT SELECT ON config_revision, change_log, audit, refused_changes TO %I', role_name);
    EXECUTE format(
        'GRANT SELECT, INSERT, UPDATE, DELETE ON user_tiers, users, api_keys, rate_limit_domains, rate_limit_rules, '
        'cluster_settings TO %I', role_name);
    EXECUTE format('GRANT SELECT, INSERT ON admin_tokens, rate_limit_violations TO %I', role_name);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION tidegate_lock_revision(), tidegate_reconcile(bigint), '
        'tidegate_record_action(text, text), tidegate_replace_refused(jsonb), '
        'tidegate_prune_change_log(interval, integer), tidegate_prune_audit(interval, integer), '
        'tidegate_make_partitions(integer), tidegate_drop_partitions(integer) TO %I', role_name);
END
$$;

-- These functions run with the rights of their owner.
REVOKE EXECUTE ON FUNCTION tidegate_lock_revision(), tidegate_take_revision(bigint), tidegate_reconcile(bigint),
    tidegate_log_change(text, text, text, jsonb), tidegate_record_action(text, text), tidegate_replace_refused(jsonb),
    tidegate_prune_change_log(interval, integer), tidegate_prune_audit(interval, integer),
    tidegate_make_partitions(integer), tidegate_drop_partitions(integer), tidegate_grant(name) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tidegate') AND current_user <> 'tidegate' THEN
        PERFORM tidegate_grant('tidegate');
    END IF;
END
$$;
