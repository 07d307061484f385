DROP FUNCTION tidegate_drop_partitions(integer);
DROP FUNCTION tidegate_make_partitions(integer);
DROP TABLE rate_limit_violations;
