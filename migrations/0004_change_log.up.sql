-- The change log and the audit. Triggers write both when a transaction commits.
--
-- A sequence does not follow commit order: a transaction with a lower number can commit after one with a higher number,
-- and a reader that went past the higher number would never see it. Therefore a *deferred* trigger locks the one row of
-- `config_revision` at the end of a transaction and takes the next revision. PostgreSQL holds the lock until the
-- transaction is committed and visible. So whoever sees a revision sees every lower one.

CREATE TABLE config_revision (
    singleton boolean NOT NULL DEFAULT true,
    -- The revision of the last transaction: max(the last + 1, its time in ms).
    revision bigint NOT NULL,
    commit_id uuid NOT NULL,
    -- The revision of the last transaction that changed rules or domains.
    rules_revision bigint NOT NULL,
    -- The change log is complete above this revision.
    pruned_to bigint NOT NULL,
    -- The transaction that took `revision`.
    transaction_id xid8 NOT NULL,
    CONSTRAINT config_revision_pkey PRIMARY KEY (singleton),
    CONSTRAINT config_revision_singleton CHECK (singleton)
);
-- The first revision is that of the migration, so that an empty rule book has a revision as well.
INSERT INTO config_revision (revision, commit_id, rules_revision, pruned_to, transaction_id)
SELECT first.revision, gen_random_uuid(), first.revision, 0, '0'
FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS revision) AS first;

CREATE TABLE change_log (
    revision bigint NOT NULL,
    -- The order within a revision.
    part bigint GENERATED ALWAYS AS IDENTITY,
    commit_id uuid NOT NULL,
    op text NOT NULL,
    table_name text NOT NULL,
    row_name text NOT NULL,
    payload jsonb NOT NULL,
    -- The timeline of the server. A server that is promoted begins a new one.
    timeline integer NOT NULL,
    CONSTRAINT change_log_pkey PRIMARY KEY (revision, part),
    CONSTRAINT change_log_op CHECK (op IN ('put', 'remove', 'none'))
);
INSERT INTO change_log (revision, commit_id, op, table_name, row_name, payload, timeline)
SELECT revision, commit_id, 'none', 'config_revision', '', '{}', 1 FROM config_revision;
CREATE INDEX change_log_by_row ON change_log (table_name, row_name, revision, part);

CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    database_user text NOT NULL,
    action text NOT NULL,
    table_name text,
    row_name text NOT NULL,
    before jsonb,
    after jsonb,
    revision bigint,
    CONSTRAINT audit_pkey PRIMARY KEY (id)
);
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_revision ON audit (revision);

CREATE TABLE refused_changes (
    revision bigint NOT NULL,
    rows text[] NOT NULL,
    errors text[] NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT refused_changes_pkey PRIMARY KEY (revision)
);

-- Whom the audit names: the setting `tidegate.actor`, else the database user.
CREATE FUNCTION tidegate_actor() RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog
AS $$ SELECT coalesce(nullif(current_setting('tidegate.actor', true), ''), session_user) $$;

-- The timeline of this server, which must be a primary.
CREATE FUNCTION tidegate_timeline() RETURNS integer LANGUAGE sql VOLATILE
SET search_path = pg_catalog
AS $$ SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer $$;

-- Locks the row of `config_revision` until the end of the transaction, and returns it.
CREATE FUNCTION tidegate_lock_revision() RETURNS config_revision LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$ SELECT * FROM public.config_revision FOR UPDATE $$;

-- The revision of this transaction. The first call locks the row of `config_revision` and takes the next revision,
-- which is above `above`.
CREATE FUNCTION tidegate_take_revision(above bigint DEFAULT 0) RETURNS config_revision
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    head public.config_revision;
BEGIN
    SELECT * INTO STRICT head FROM public.config_revision;
    -- The setting ends with the transaction, or with the savepoint that made it. The transaction's id alone would not
    -- do: a dump that was restored elsewhere brings the id of a transaction of another server.
    IF head.transaction_id = pg_current_xact_id()
        AND current_setting('tidegate.commit_id', true) = head.commit_id::text THEN
        RETURN head;
    END IF;
    SELECT * INTO STRICT head FROM public.config_revision FOR UPDATE;
    UPDATE public.config_revision SET
        revision = greatest(head.revision + 1, above + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint),
        commit_id = gen_random_uuid(),
        transaction_id = pg_current_xact_id()
    RETURNING * INTO STRICT head;
    -- Records in Redis keep 48 bits of a revision.
    IF head.revision >= 281474976710655 THEN
        RAISE EXCEPTION 'the revision % is too large: expected a clock that is right', head.revision;
    END IF;
    PERFORM set_config('tidegate.commit_id', head.commit_id::text, true);
    PERFORM pg_notify('tidegate', head.revision::text);
    RETURN head;
END
$$;

-- Appends a change of this transaction to the log.
CREATE FUNCTION tidegate_log_change(op text, table_name text, row_name text, payload jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    head public.config_revision := public.tidegate_take_revision();
BEGIN
    INSERT INTO public.change_log (revision, commit_id, op, table_name, row_name, payload, timeline)
    VALUES (head.revision, head.commit_id, op, table_name, row_name, payload, public.tidegate_timeline());
    IF table_name IN ('rate_limit_domains', 'rate_limit_rules') AND head.rules_revision <> head.revision THEN
        UPDATE public.config_revision AS own SET rules_revision = own.revision;
    END IF;
    RETURN head.revision;
END
$$;

-- Writes what changed in a row to the audit, and to the change log if `logged`. The trigger's first argument is the
-- word logged or audited, the others are the columns that name the row.
CREATE FUNCTION tidegate_record_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
SET timezone = 'UTC'
AS $$
DECLARE
    old_row jsonb;
    new_row jsonb;
    old_name text;
    new_name text;
    old_payload jsonb;
    new_payload jsonb;
    revision_taken bigint;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        old_row := to_jsonb(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_row := to_jsonb(NEW);
    END IF;
    IF old_row = new_row THEN
        RETURN NULL;
    END IF;
    SELECT string_agg(old_row ->> name, '/' ORDER BY place), string_agg(new_row ->> name, '/' ORDER BY place)
    INTO old_name, new_name
    FROM unnest(TG_ARGV[1:]) WITH ORDINALITY AS names (name, place);

    IF TG_ARGV[0] = 'logged' THEN
        old_payload := old_row;
        new_payload := new_row;
        IF TG_TABLE_NAME = 'api_keys' THEN
            new_payload := new_row - ARRAY['prefix', 'created_at', 'expires_at', 'revoked_at'] || jsonb_build_object(
                'expires_at_ms', floor(extract(epoch FROM (new_row ->> 'expires_at')::timestamptz) * 1000)::bigint,
                'revoked_at_ms', floor(extract(epoch FROM (new_row ->> 'revoked_at')::timestamptz) * 1000)::bigint);
            -- The log names a key by its hash, which is the name that look-ups use.
            IF old_row ->> 'hash' <> new_row ->> 'hash' OR new_row IS NULL THEN
                revision_taken := public.tidegate_log_change('remove', TG_TABLE_NAME, old_row ->> 'hash',
                    jsonb_build_object('hash', old_row -> 'hash'));
            END IF;
            IF new_row IS NOT NULL THEN
                revision_taken := public.tidegate_log_change('put', TG_TABLE_NAME, new_row ->> 'hash', new_payload);
            END IF;
        ELSE
            IF old_name <> new_name OR new_row IS NULL THEN
                SELECT jsonb_object_agg(name, old_row -> name) INTO old_payload FROM unnest(TG_ARGV[1:]) AS name;
                revision_taken := public.tidegate_log_change('remove', TG_TABLE_NAME, old_name, old_payload);
            END IF;
            IF new_row IS NOT NULL THEN
                revision_taken := public.tidegate_log_change('put', TG_TABLE_NAME, new_name, new_payload);
            END IF;
        END IF;
    END IF;

    INSERT INTO public.audit (actor, database_user, action, table_name, row_name, before, after, revision)
    VALUES (public.tidegate_actor(), session_user, lower(TG_OP), TG_TABLE_NAME, coalesce(new_name, old_name),
        old_row - 'hash', new_row - 'hash', revision_taken);
    RETURN NULL;
END
$$;

CREATE FUNCTION tidegate_reject_truncate() RETURNS trigger LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of % would not be seen by the cluster: expected DELETE', TG_TABLE_NAME;
END
$$;

CREATE FUNCTION tidegate_reject_delete() RETURNS trigger LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION '% has one row, which cannot be deleted', TG_TABLE_NAME;
END
$$;
CREATE TRIGGER tidegate_reject_delete BEFORE DELETE ON config_revision
    FOR EACH ROW EXECUTE FUNCTION tidegate_reject_delete();
ALTER TABLE config_revision ENABLE ALWAYS TRIGGER tidegate_reject_delete;

-- The triggers also fire in a session whose `session_replication_role` is `replica`.
DO $$
DECLARE
    recorded record;
BEGIN
    FOR recorded IN
        SELECT * FROM (VALUES
            ('rate_limit_domains', 'logged', ARRAY['domain']),
            ('rate_limit_rules', 'logged', ARRAY['domain', 'name']),
            ('cluster_settings', 'logged', ARRAY['name']),
            ('users', 'logged', ARRAY['user_id']),
            ('api_keys', 'logged', ARRAY['key_id']),
            ('user_tiers', 'audited', ARRAY['tier']),
            ('admin_tokens', 'audited', ARRAY['name'])
        ) AS tables (name, kind, columns)
    LOOP
        EXECUTE format(
            'CREATE CONSTRAINT TRIGGER tidegate_record_change AFTER INSERT OR UPDATE OR DELETE ON %I '
            'DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tidegate_record_change(%L, %s)',
            recorded.name, recorded.kind,
            (SELECT string_agg(quote_literal(name), ', ') FROM unnest(recorded.columns) AS name));
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER tidegate_record_change', recorded.name);
    END LOOP;
    FOR recorded IN
        SELECT unnest(ARRAY['rate_limit_domains', 'rate_limit_rules', 'cluster_settings', 'users', 'api_keys',
            'user_tiers', 'admin_tokens', 'config_revision', 'change_log', 'audit']) AS name
    LOOP
        EXECUTE format(
            'CREATE TRIGGER tidegate_reject_truncate BEFORE TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION tidegate_reject_truncate()',
            recorded.name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER tidegate_reject_truncate', recorded.name);
    END LOOP;
END
$$;

-- Writes something that changed no row to the audit.
CREATE FUNCTION tidegate_record_action(action text, target text) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
    INSERT INTO public.audit (actor, database_user, action, row_name)
    VALUES (public.tidegate_actor(), session_user, action, target)
$$;

-- Replaces the table of refused changes.
CREATE FUNCTION tidegate_replace_refused(refused jsonb) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
    DELETE FROM public.refused_changes AS old
    WHERE old.revision <> ALL (SELECT (item ->> 'revision')::bigint FROM jsonb_array_elements(refused) AS item);
    INSERT INTO public.refused_changes AS old (revision, rows, errors)
    SELECT (item ->> 'revision')::bigint,
        ARRAY(SELECT jsonb_array_elements_text(item -> 'rows')), ARRAY(SELECT jsonb_array_elements_text(item -> 'errors'))
    FROM jsonb_array_elements(refused) AS item
    ON CONFLICT (revision) DO UPDATE SET rows = EXCLUDED.rows, errors = EXCLUDED.errors
    WHERE (old.rows, old.errors) IS DISTINCT FROM (EXCLUDED.rows, EXCLUDED.errors)
$$;

-- Begins the transaction that brings a server and the cluster together, which has the mark `above`: takes a revision
-- above it, and appends an entry that changes no row, so that the cluster finds the transaction's mark in the log.
-- Nobody else commits until the transaction ends.
CREATE FUNCTION tidegate_reconcile(above bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    latest bigint := floor(extract(epoch FROM clock_timestamp() + interval '1 day') * 1000)::bigint;
BEGIN
    -- Revisions only grow, so a revision that is far ahead stays ahead of the clock.
    IF above > latest THEN
        RAISE EXCEPTION 'the revision % is more than a day ahead of the clock: expected at most %', above, latest;
    END IF;
    PERFORM public.tidegate_take_revision(above);
    RETURN public.tidegate_log_change('none', 'config_revision', '', '{}');
END
$$;

-- Removes the oldest log entries that are older than `keep`, which is at least a day: at most `most` of them. The last
-- entry of each rule, domain and setting stays, so that the rules of every revision from `pruned_to` on can be told.
-- Returns the number of removed entries.
CREATE FUNCTION tidegate_prune_change_log(keep interval DEFAULT '30 days', most integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
DECLARE
    newest bigint;
    removed bigint;
BEGIN
    SELECT least(head.revision - 1,
        floor(extract(epoch FROM clock_timestamp() - greatest(keep, interval '1 day')) * 1000)::bigint)
    INTO newest FROM public.config_revision AS head;
    -- A reader that is at the newest revision needs none of these entries.
    WITH old_entries AS (
        SELECT entry.revision, entry.part FROM public.change_log AS entry
        WHERE entry.revision <= newest AND NOT (
            entry.op = 'put' AND entry.table_name IN ('rate_limit_domains', 'rate_limit_rules', 'cluster_settings')
            AND NOT EXISTS (
                SELECT FROM public.change_log AS later
                WHERE later.table_name = entry.table_name AND later.row_name = entry.row_name
                    AND later.revision <= newest AND (later.revision, later.part) > (entry.revision, entry.part)
            )
        )
        ORDER BY entry.revision, entry.part LIMIT least(greatest(most, 1), 100000)
    ), removed_entries AS (
        DELETE FROM public.change_log AS entry USING old_entries AS old
        WHERE entry.revision = old.revision AND entry.part = old.part
        RETURNING 1
    ), pruned AS (
        -- A removed entry was the newest of its row until another one replaced it, at `newest` at the latest.
        UPDATE public.config_revision AS head SET pruned_to = newest
        WHERE head.pruned_to < newest AND EXISTS (SELECT FROM removed_entries)
    )
    SELECT count(*) INTO removed FROM removed_entries;
    RETURN removed;
END
$$;

-- Removes the oldest audit entries that are older than `keep`, which is at least 30 days: at most `most` of them.
-- Returns their number.
CREATE FUNCTION tidegate_prune_audit(keep interval DEFAULT '400 days', most integer DEFAULT 10000) RETURNS bigint
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public
AS $$
    WITH removed AS (
        DELETE FROM public.audit AS entry USING (
            SELECT id FROM public.audit WHERE at < now() - greatest(keep, interval '30 days')
            ORDER BY at LIMIT least(greatest(most, 1), 100000)
        ) AS old
        WHERE entry.id = old.id RETURNING entry.id
    )
    SELECT count(*) FROM removed
$$;
