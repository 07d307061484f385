-- Tells a server that another one has replaced it as the primary: the counter script does nothing there from then on. Tells
-- the successor that it is the primary: whatever said otherwise is lifted.
--
-- KEYS: the fence. ARGV: the replication id of the successor, which may be this same server, and for how many milliseconds
-- the fence holds: by then every node has noticed.
-- The fence names this server's own replication id. A server that becomes a primary again has another id, and counts.
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'replica' end
local _, at = string.find(replication, 'master_replid:', 1, true)
local own = string.sub(replication, at + 1, at + 40)
if own == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 'successor'
end
redis.call('SET', KEYS[1], own, 'PX', ARGV[2])
return 'fenced'
