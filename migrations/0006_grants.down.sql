DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tidegate') AND current_user <> 'tidegate' THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM tidegate;
        REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM tidegate;
        REVOKE USAGE ON SCHEMA public FROM tidegate;
    END IF;
END
$$;
DROP FUNCTION tidegate_grant(name);
