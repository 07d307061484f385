DO $$
DECLARE
    recorded text;
BEGIN
    FOREACH recorded IN ARRAY ARRAY['rate_limit_domains', 'rate_limit_rules', 'cluster_settings', 'users', 'api_keys',
        'user_tiers', 'admin_tokens']
    LOOP
        EXECUTE format('DROP TRIGGER tidegate_record_change ON %I', recorded);
        EXECUTE format('DROP TRIGGER tidegate_reject_truncate ON %I', recorded);
    END LOOP;
END
$$;
DROP FUNCTION tidegate_prune_audit(interval, integer);
DROP FUNCTION tidegate_prune_change_log(interval, integer);
DROP FUNCTION tidegate_reconcile(bigint);
DROP FUNCTION tidegate_replace_refused(jsonb);
DROP FUNCTION tidegate_record_action(text, text);
DROP FUNCTION tidegate_record_change();
DROP FUNCTION tidegate_log_change(text, text, text, jsonb);
DROP FUNCTION tidegate_take_revision(bigint);
DROP FUNCTION tidegate_lock_revision();
DROP TABLE refused_changes;
DROP TABLE audit;
DROP TABLE change_log;
DROP TABLE config_revision;
DROP FUNCTION tidegate_reject_delete();
DROP FUNCTION tidegate_reject_truncate();
DROP FUNCTION tidegate_timeline();
DROP FUNCTION tidegate_actor();
