-- A node's heartbeat: compares the region's constants, says that the node is there, and tells who else is.
--
-- KEYS: the constants, the members. ARGV: this node's constants, its member name, for how many milliseconds it counts,
-- and 1 where it has long been found fit.
-- Answers the constants that are in force, and the members while they are this node's own.
local kept = redis.call('GET', KEYS[1])
if not kept then
  -- The first node of the region, or the record was lost.
  redis.call('SET', KEYS[1], ARGV[1])
  kept = ARGV[1]
end
if kept ~= ARGV[1] and ARGV[4] == '1' then
  -- They were lost, and a newcomer that differs wrote its own.
  redis.call('SET', KEYS[1], ARGV[1])
  kept = ARGV[1]
end
if kept ~= ARGV[1] then return { kept, {} } end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return { kept, redis.call('ZRANGE', KEYS[2], 0, -1) }
