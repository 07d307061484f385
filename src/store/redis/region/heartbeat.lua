-- A node's heartbeat: compares the region's constants, records that the node is running, and returns the members.
--
-- KEYS: the constants, the members. ARGV: this node's constants, its member text, for how many milliseconds the
-- heartbeat is valid, 1 if the node is established, and the most members.
-- Returns the constants in force. Returns the members only if these constants are the node's own.
local constants = redis.call('GET', KEYS[1])
if not constants then
  -- This node is the first of the region, or the key was lost.
  redis.call('SET', KEYS[1], ARGV[1])
  constants = ARGV[1]
end
if constants ~= ARGV[1] and ARGV[4] == '1' then
  -- The key was lost, and a new node with other constants wrote its own.
  redis.call('SET', KEYS[1], ARGV[1])
  constants = ARGV[1]
end
if constants ~= ARGV[1] then return { constants, {} } end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
-- A member whose end is so far ahead would never end: the clock of the server was ahead when it was written.
redis.call('ZREMRANGEBYSCORE', KEYS[2], now + 2 * ARGV[3], '+inf')
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local members = redis.call('ZRANGE', KEYS[2], 0, -1)
-- The oldest of too many members go, a few at a time: they are the first.
local surplus = math.min(#members - ARGV[5], 4000)
if surplus > 0 then
  redis.call('ZREM', KEYS[2], unpack(members, 1, surplus))
  members = { unpack(members, #members - ARGV[5] + 1) }
end
return { constants, members }
