-- Tells a server that another one has replaced it as the primary: from then on the counter script does nothing there.
-- Tells the successor that it is the primary: this lifts a fence that says otherwise.
--
-- KEYS[1] is the fence. ARGV[1] is the replication id of the successor, which may be this same server. ARGV[2] is for
-- how many milliseconds the fence holds: by then every node has noticed the replacement.
--
-- The fence names this server's own replication id. A server that becomes a primary again has another id, and counts.
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'replica' end
local _, label_end = string.find(replication, 'master_replid:', 1, true)
local own = string.sub(replication, label_end + 1, label_end + 40)
if own == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 'successor'
end
redis.call('SET', KEYS[1], own, 'PX', ARGV[2])
return 'fenced'
