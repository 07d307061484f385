-- Denied checks. A partition has one day, in UTC.

CREATE TABLE rate_limit_violations (
    at timestamptz NOT NULL,
    event_id uuid NOT NULL DEFAULT gen_random_uuid(),
    domain text NOT NULL,
    rule text NOT NULL,
    user_id text,
    key_id text,
    region text NOT NULL,
    node text NOT NULL,
    request_id text,
    endpoint text,
    client_ip inet,
    user_agent text,
    limit_hits bigint,
    current_count bigint,
    hits bigint NOT NULL DEFAULT 1,
    CONSTRAINT rate_limit_violations_pkey PRIMARY KEY (at, event_id),
    CONSTRAINT rate_limit_violations_hits CHECK (hits >= 0)
) PARTITION BY RANGE (at);
COMMENT ON CONSTRAINT rate_limit_violations_hits ON rate_limit_violations IS 'hits: expected 0 or more';
CREATE INDEX rate_limit_violations_by_rule ON rate_limit_violations (domain, rule, at);

-- Makes the partitions of yesterday, today and the next `days_ahead` days that do not exist. Returns their number.
CREATE FUNCTION tidegate_make_partitions(days_ahead integer DEFAULT 7) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    day date;
    made integer := 0;
    name text;
BEGIN
    -- Two nodes can call this at the same time.
    PERFORM pg_advisory_xact_lock(hashtext('tidegate_partitions'));
    FOR ahead IN -1..least(greatest(days_ahead, 0), 366) LOOP
        day := today + ahead;
        name := 'rate_limit_violations_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('public.' || name) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE public.%I PARTITION OF public.rate_limit_violations FOR VALUES FROM (%L) TO (%L)',
                name, day || ' 00:00:00Z', day + 1 || ' 00:00:00Z');
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END
$$;

-- Drops the partitions of days that ended before the last `days_kept` days, which are at least 7. Returns their number.
CREATE FUNCTION tidegate_drop_partitions(days_kept integer DEFAULT 90) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    oldest text := 'rate_limit_violations_'
        || to_char((now() AT TIME ZONE 'UTC')::date - greatest(days_kept, 7), 'YYYYMMDD');
    dropped integer := 0;
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tidegate_partitions'));
    FOR name IN
        SELECT child.relname FROM pg_inherits AS link JOIN pg_class AS child ON child.oid = link.inhrelid
        WHERE link.inhparent = 'public.rate_limit_violations'::regclass
            AND child.relname ~ '^rate_limit_violations_[0-9]{8}$' AND child.relname < oldest
    LOOP
        EXECUTE format('DROP TABLE public.%I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

SELECT tidegate_make_partitions();
