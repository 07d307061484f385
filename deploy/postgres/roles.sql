-- Creates the roles and the database. Run it once, on the primary, as the superuser:
--   psql -v tidegate="$(cat tidegate.password)" -v replication=… -v rewind=… -f roles.sql
-- Patroni has made the users `replication` and `rewind` already.
SELECT to_regrole('replication') IS NULL AS bare \gset

-- Owns the database, so that `tidegate migrate up` can create its tables.
CREATE ROLE tidegate LOGIN PASSWORD :'tidegate';
\if :bare
-- Replicas stream the primary's WAL as this user. It can read no table.
CREATE ROLE replication LOGIN REPLICATION PASSWORD :'replication';
-- pg_rewind reads the files of the new primary as this user.
CREATE ROLE rewind LOGIN PASSWORD :'rewind';
GRANT EXECUTE ON FUNCTION
  pg_catalog.pg_ls_dir(text, boolean, boolean),
  pg_catalog.pg_stat_file(text, boolean),
  pg_catalog.pg_read_binary_file(text),
  pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)
  TO rewind;
\endif
CREATE DATABASE ratelimiter OWNER tidegate;
REVOKE ALL ON DATABASE ratelimiter FROM PUBLIC;
