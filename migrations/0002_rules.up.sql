-- The rules. The constraints reject what SQL can judge; the leader of the cluster refuses the rest and says so in
-- `refused_changes`.

-- True for a limit as an override writes it: a whole number up to the largest limit, or "unlimited".
CREATE FUNCTION tidegate_is_quota(value jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
    SELECT CASE jsonb_typeof(value)
        WHEN 'number' THEN value::numeric = trunc(value::numeric) AND value::numeric BETWEEN 0 AND 68719476736
        WHEN 'string' THEN value = '"unlimited"'
        ELSE false
    END
$$;

-- True for a list of one dimension, in which every text is non-empty.
CREATE FUNCTION tidegate_is_list(list text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
    SELECT coalesce(array_ndims(list), 1) = 1 AND array_position(list, NULL) IS NULL AND NOT ('' = ANY (list))
$$;

-- True for the value of `per`: attributes, or { "ip": { "v4": 32, "v6": 64 } }.
CREATE FUNCTION tidegate_is_per(value jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
    SELECT jsonb_typeof(value) = 'array' AND NOT EXISTS (
        SELECT FROM jsonb_array_elements(CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE '[]' END) AS item
        WHERE NOT CASE jsonb_typeof(item)
            WHEN 'string' THEN item <> '""'
            WHEN 'object' THEN
                (SELECT count(*) FROM jsonb_object_keys(item)) = 1
                AND NOT jsonb_path_exists(item, 'strict $ ? (exists(@.""))')
                AND jsonb_path_exists(item, '$.* ? (@.type() == "object" && @.v4 >= 0 && @.v4 <= 32
                    && @.v4 == @.v4.floor() && @.v6 >= 0 && @.v6 <= 128 && @.v6 == @.v6.floor())')
                AND NOT jsonb_path_exists(item, '$.*.keyvalue() ? (@.key != "v4" && @.key != "v6")')
            ELSE false
        END
    )
$$;

-- True for a condition of `match`: a text, a list of texts, or one of prefix, suffix, glob, route, cidr, regex,
-- present, not.
CREATE FUNCTION tidegate_is_condition(value jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
DECLARE
    kind text;
    inner_value jsonb;
BEGIN
    -- Conditions nest by `not` only.
    FOR depth IN 1..32 LOOP
        CASE jsonb_typeof(value)
        WHEN 'string' THEN
            RETURN true;
        WHEN 'array' THEN
            RETURN jsonb_array_length(value) > 0
                AND NOT jsonb_path_exists(value, 'strict $[*] ? (@.type() != "string")');
        WHEN 'object' THEN
            IF (SELECT count(*) FROM jsonb_object_keys(value)) <> 1 THEN
                RETURN false;
            END IF;
            SELECT each.key, each.value INTO kind, inner_value FROM jsonb_each(value) AS each;
            CASE
            WHEN kind IN ('prefix', 'suffix', 'glob', 'regex') THEN
                RETURN jsonb_typeof(inner_value) = 'string';
            WHEN kind = 'route' THEN
                RETURN jsonb_typeof(inner_value) = 'string' AND left(inner_value #>> '{}', 1) = '/';
            WHEN kind = 'present' THEN
                RETURN jsonb_typeof(inner_value) = 'boolean';
            WHEN kind = 'cidr' THEN
                RETURN jsonb_typeof(inner_value) = 'string' OR jsonb_typeof(inner_value) = 'array'
                    AND jsonb_array_length(inner_value) > 0
                    AND NOT jsonb_path_exists(inner_value, 'strict $[*] ? (@.type() != "string")');
            WHEN kind = 'not' THEN
                value := inner_value;
            ELSE
                RETURN false;
            END CASE;
        ELSE
            RETURN false;
        END CASE;
    END LOOP;
    RETURN false;
END
$$;

-- True for the value of `match`.
CREATE FUNCTION tidegate_is_match(value jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, public
AS $$
    SELECT jsonb_typeof(value) = 'object' AND NOT EXISTS (
        SELECT FROM jsonb_each(CASE jsonb_typeof(value) WHEN 'object' THEN value ELSE '{}' END) AS condition
        WHERE NOT public.tidegate_is_condition(condition.value)
    )
$$;

-- True for the value of `response_headers`: at most 16 headers with 2048 bytes in all, printable, each once, and none
-- that the node, the connection or a gateway uses.
CREATE FUNCTION tidegate_is_headers(value jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
    SELECT jsonb_typeof(value) = 'object' AND coalesce((
        SELECT count(*) <= 16
            AND count(*) = count(DISTINCT lower(header.key COLLATE "C"))
            AND sum(octet_length(header.key) + octet_length(header.value #>> '{}')) <= 2048
            AND bool_and(jsonb_typeof(header.value) = 'string' AND header.value #>> '{}' ~ '^[ -~]*$')
            AND bool_and(header.key ~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$')
            AND bool_and(lower(header.key COLLATE "C") !~ '^(ratelimit|x-ratelimit-|x-tidegate-|grpc-|x-accel-|x-sendfile|x-envoy-)')
            AND bool_and(lower(header.key COLLATE "C") <> ALL (ARRAY[
                'connection', 'http2-settings', 'keep-alive', 'proxy-authenticate', 'proxy-authentication-info',
                'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'trailers', 'transfer-encoding', 'upgrade',
                'content-digest', 'content-encoding', 'content-length', 'content-md5', 'content-range', 'content-type',
                'digest', 'repr-digest', 'age', 'date', 'server', 'via', 'retry-after', 'x-request-id']))
        FROM jsonb_each(CASE jsonb_typeof(value) WHEN 'object' THEN value ELSE '{}' END) AS header
    ), true)
$$;

-- True for the value of `overrides`: objects with the fields of an override, at least one of which changes something.
CREATE FUNCTION tidegate_is_overrides(value jsonb, is_bucket boolean, has_replaces boolean) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, public
AS $$
    SELECT jsonb_typeof(value) = 'array' AND NOT EXISTS (
        SELECT FROM jsonb_array_elements(CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE '[]' END) AS item
        WHERE NOT CASE WHEN jsonb_typeof(item) <> 'object' THEN false ELSE
            item ?| ARRAY['limit', 'burst', 'mode', 'on_store_failure', 'response_headers']
            AND item - ARRAY['match', 'exact_keys', 'when', 'limit', 'burst', 'mode', 'on_store_failure',
                'response_headers'] = '{}'
            AND public.tidegate_is_match(coalesce(item -> 'match', '{}'))
            AND (NOT item ? 'exact_keys' OR jsonb_path_exists(item, 'strict $.exact_keys ? (@.type() == "array")[0]')
                AND NOT jsonb_path_exists(item, 'strict $.exact_keys[*] ? (@.type() != "string" || @ == "")'))
            AND (NOT item ? 'when' OR jsonb_typeof(item -> 'when') = 'string'
                AND octet_length(item ->> 'when') BETWEEN 1 AND 4096)
            AND (NOT item ? 'limit' OR public.tidegate_is_quota(item -> 'limit'))
            AND (NOT item ? 'burst' OR is_bucket AND jsonb_typeof(item -> 'burst') = 'number'
                AND public.tidegate_is_quota(item -> 'burst') AND item -> 'burst' <> '0')
            AND (NOT item ? 'mode' OR item -> 'mode' IN ('"enforce"', '"shadow"')
                OR item -> 'mode' = '"off"' AND NOT has_replaces)
            AND (NOT item ? 'on_store_failure' OR item -> 'on_store_failure' IN ('"local"', '"allow"', '"deny"'))
            AND (NOT item ? 'response_headers' OR public.tidegate_is_headers(item -> 'response_headers'))
        END
    )
$$;

CREATE TABLE rate_limit_domains (
    domain text NOT NULL,
    charge text NOT NULL DEFAULT 'all_or_nothing',
    default_answer text NOT NULL DEFAULT 'allow',
    identity text NOT NULL DEFAULT 'caller',
    on_identity_failure text NOT NULL DEFAULT 'deny',
    CONSTRAINT rate_limit_domains_pkey PRIMARY KEY (domain),
    CONSTRAINT rate_limit_domains_domain CHECK (octet_length(domain) BETWEEN 1 AND 256),
    CONSTRAINT rate_limit_domains_charge CHECK (charge IN ('all_or_nothing', 'each')),
    CONSTRAINT rate_limit_domains_default_answer CHECK (default_answer IN ('allow', 'deny')),
    CONSTRAINT rate_limit_domains_identity CHECK (identity IN ('caller', 'key', 'either')),
    CONSTRAINT rate_limit_domains_on_identity_failure CHECK (on_identity_failure IN ('deny', 'allow'))
);
COMMENT ON CONSTRAINT rate_limit_domains_domain ON rate_limit_domains IS 'domain: expected 1 to 256 bytes';
COMMENT ON CONSTRAINT rate_limit_domains_charge ON rate_limit_domains IS 'charge: expected all_or_nothing | each';
COMMENT ON CONSTRAINT rate_limit_domains_default_answer ON rate_limit_domains IS
    'default_answer: expected allow | deny';
COMMENT ON CONSTRAINT rate_limit_domains_identity ON rate_limit_domains IS 'identity: expected caller | key | either';
COMMENT ON CONSTRAINT rate_limit_domains_on_identity_failure ON rate_limit_domains IS
    'on_identity_failure: expected deny | allow';

CREATE TABLE rate_limit_rules (
    domain text NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,
    match jsonb NOT NULL DEFAULT '{}',
    exact_keys text[],
    when_expression text,
    per jsonb NOT NULL,
    limit_hits bigint,
    unlimited boolean NOT NULL DEFAULT false,
    overdraft boolean NOT NULL DEFAULT false,
    window_ms bigint,
    calendar text,
    time_zone text,
    algorithm text NOT NULL DEFAULT 'sliding_window',
    cells integer,
    burst bigint,
    consistency text,
    scope text NOT NULL DEFAULT 'region',
    on_store_failure text NOT NULL DEFAULT 'local',
    mode text NOT NULL DEFAULT 'enforce',
    overrides jsonb NOT NULL DEFAULT '[]',
    replaces text[] NOT NULL DEFAULT '{}',
    response_headers jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT rate_limit_rules_pkey PRIMARY KEY (domain, name),
    CONSTRAINT rate_limit_rules_domain FOREIGN KEY (domain) REFERENCES rate_limit_domains
        ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT rate_limit_rules_name CHECK (name ~ '^[a-z0-9_-]{1,64}$'),
    CONSTRAINT rate_limit_rules_match CHECK (tidegate_is_match(match)),
    CONSTRAINT rate_limit_rules_exact_keys CHECK (
        exact_keys IS NULL OR cardinality(exact_keys) > 0 AND tidegate_is_list(exact_keys)
    ),
    CONSTRAINT rate_limit_rules_when_expression CHECK (octet_length(when_expression) BETWEEN 1 AND 4096),
    CONSTRAINT rate_limit_rules_per CHECK (tidegate_is_per(per)),
    CONSTRAINT rate_limit_rules_limit_hits CHECK (limit_hits BETWEEN 0 AND 68719476736),
    CONSTRAINT rate_limit_rules_limit_or_unlimited CHECK ((limit_hits IS NULL) = unlimited),
    CONSTRAINT rate_limit_rules_window_ms CHECK (window_ms BETWEEN 250 AND 34560000000),
    CONSTRAINT rate_limit_rules_calendar CHECK (calendar IN ('hour', 'day', 'week', 'month', 'year')),
    CONSTRAINT rate_limit_rules_window_or_calendar CHECK ((window_ms IS NULL) <> (calendar IS NULL)),
    CONSTRAINT rate_limit_rules_calendar_is_fixed CHECK (calendar IS NULL OR algorithm = 'fixed_window'),
    CONSTRAINT rate_limit_rules_time_zone CHECK (time_zone IS NULL OR calendar IS NOT NULL AND time_zone <> ''),
    CONSTRAINT rate_limit_rules_algorithm CHECK (
        algorithm IN ('sliding_window', 'rolling_window', 'fixed_window', 'token_bucket')
    ),
    CONSTRAINT rate_limit_rules_cells CHECK (
        cells IS NULL OR cells BETWEEN 2 AND 20 AND algorithm = 'rolling_window'
    ),
    CONSTRAINT rate_limit_rules_burst CHECK (
        burst IS NULL OR burst BETWEEN 1 AND 68719476736 AND algorithm = 'token_bucket'
    ),
    CONSTRAINT rate_limit_rules_burst_refills CHECK (
        limit_hits = 0 OR burst::numeric * window_ms < 315360000001::numeric * limit_hits
    ),
    CONSTRAINT rate_limit_rules_consistency CHECK (
        consistency = 'exact' OR consistency = 'leased' AND algorithm <> 'token_bucket'
    ),
    CONSTRAINT rate_limit_rules_scope CHECK (scope = 'region'),
    CONSTRAINT rate_limit_rules_on_store_failure CHECK (on_store_failure IN ('local', 'allow', 'deny')),
    CONSTRAINT rate_limit_rules_mode CHECK (mode IN ('enforce', 'shadow', 'off')),
    CONSTRAINT rate_limit_rules_overrides CHECK (
        tidegate_is_overrides(overrides, algorithm = 'token_bucket', cardinality(replaces) > 0)
    ),
    CONSTRAINT rate_limit_rules_replaces CHECK (tidegate_is_list(replaces) AND NOT (name = ANY (replaces))),
    CONSTRAINT rate_limit_rules_response_headers CHECK (tidegate_is_headers(response_headers)),
    CONSTRAINT rate_limit_rules_size CHECK (
        octet_length(match::text) + octet_length(per::text) + octet_length(overrides::text) <= 1048576
    )
);
COMMENT ON CONSTRAINT rate_limit_rules_domain ON rate_limit_rules IS 'domain: expected a domain of rate_limit_domains';
COMMENT ON CONSTRAINT rate_limit_rules_name ON rate_limit_rules IS 'name: expected 1 to 64 of a-z, 0-9, _ and -';
COMMENT ON CONSTRAINT rate_limit_rules_match ON rate_limit_rules IS
    'match: expected an object of conditions: a text, a list of texts, or one of prefix, suffix, glob, route, cidr, regex, present, not';
COMMENT ON CONSTRAINT rate_limit_rules_exact_keys ON rate_limit_rules IS
    'exact_keys: expected at least one attribute name';
COMMENT ON CONSTRAINT rate_limit_rules_when_expression ON rate_limit_rules IS
    'when_expression: expected a CEL expression of 1 to 4096 bytes';
COMMENT ON CONSTRAINT rate_limit_rules_per ON rate_limit_rules IS
    'per: expected a list of attributes, such as ["user"] or [{"ip": {"v4": 32, "v6": 64}}]';
COMMENT ON CONSTRAINT rate_limit_rules_limit_hits ON rate_limit_rules IS
    'limit_hits: expected 0 to 68719476736, or unlimited = true';
COMMENT ON CONSTRAINT rate_limit_rules_limit_or_unlimited ON rate_limit_rules IS
    'limit_hits: expected either limit_hits or unlimited = true, not both';
COMMENT ON CONSTRAINT rate_limit_rules_window_ms ON rate_limit_rules IS
    'window_ms: expected 250 to 34560000000 milliseconds (400 days)';
COMMENT ON CONSTRAINT rate_limit_rules_calendar ON rate_limit_rules IS
    'calendar: expected hour | day | week | month | year';
COMMENT ON CONSTRAINT rate_limit_rules_window_or_calendar ON rate_limit_rules IS
    'window_ms: expected either window_ms or calendar';
COMMENT ON CONSTRAINT rate_limit_rules_calendar_is_fixed ON rate_limit_rules IS
    'calendar: expected only with algorithm: fixed_window';
COMMENT ON CONSTRAINT rate_limit_rules_time_zone ON rate_limit_rules IS
    'time_zone: expected an IANA time zone, and only with calendar';
COMMENT ON CONSTRAINT rate_limit_rules_algorithm ON rate_limit_rules IS
    'algorithm: expected sliding_window | rolling_window | fixed_window | token_bucket';
COMMENT ON CONSTRAINT rate_limit_rules_cells ON rate_limit_rules IS
    'cells: expected 2 to 20, and only with rolling_window';
COMMENT ON CONSTRAINT rate_limit_rules_burst ON rate_limit_rules IS
    'burst: expected 1 to 68719476736, and only with token_bucket';
COMMENT ON CONSTRAINT rate_limit_rules_burst_refills ON rate_limit_rules IS
    'burst: expected a burst that refills within 3650 days';
COMMENT ON CONSTRAINT rate_limit_rules_consistency ON rate_limit_rules IS
    'consistency: expected leased | exact; a token_bucket is always exact';
COMMENT ON CONSTRAINT rate_limit_rules_scope ON rate_limit_rules IS
    'scope: expected region: counting across regions is not built yet';
COMMENT ON CONSTRAINT rate_limit_rules_on_store_failure ON rate_limit_rules IS
    'on_store_failure: expected local | allow | deny';
COMMENT ON CONSTRAINT rate_limit_rules_mode ON rate_limit_rules IS 'mode: expected enforce | shadow | off';
COMMENT ON CONSTRAINT rate_limit_rules_overrides ON rate_limit_rules IS
    'overrides: expected a list of objects with match and one of limit, burst, mode, on_store_failure, response_headers';
COMMENT ON CONSTRAINT rate_limit_rules_replaces ON rate_limit_rules IS
    'replaces: expected names of other limits of the domain';
COMMENT ON CONSTRAINT rate_limit_rules_response_headers ON rate_limit_rules IS
    'response_headers: expected at most 16 headers that rules may set, with 2048 bytes of printable ASCII in all';
COMMENT ON CONSTRAINT rate_limit_rules_size ON rate_limit_rules IS
    'match, per and overrides: expected at most 1 MiB in all';

-- Makes the domain of a rule that has none, and places a new rule behind the others of its domain.
CREATE FUNCTION tidegate_place_rule() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
BEGIN
    INSERT INTO public.rate_limit_domains (domain) VALUES (NEW.domain) ON CONFLICT DO NOTHING;
    IF NEW.position IS NULL THEN
        SELECT coalesce(max(rule.position), 0) + 1 INTO NEW.position
        FROM public.rate_limit_rules AS rule WHERE rule.domain = NEW.domain;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER tidegate_place_rule BEFORE INSERT OR UPDATE OF domain, position ON rate_limit_rules
    FOR EACH ROW EXECUTE FUNCTION tidegate_place_rule();
ALTER TABLE rate_limit_rules ENABLE ALWAYS TRIGGER tidegate_place_rule;
