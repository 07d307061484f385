-- The counter script. It does in Redis, on the server's own clock, what limiter::counter::apply does.
--
-- KEYS are the keys of the counters, all of one slot. If an item needs the record of the lane, its key is the last of
-- KEYS. ARGV[1] is the batch. ARGV[2], if present, is the key of the server's fence (see fence.lua). The script returns
-- one string, the reply. wire/mod.rs describes the batch and the reply. The script reads each key of a counter with one
-- GET, or with two if the compact path leaves the item to the general one, and writes it with at most one SET or DEL.
-- An error that concerns one key does not affect the others. All numbers are integers below 2^53, which the doubles of
-- Lua hold exactly.
--
-- script.rs assembles the script from the files of this folder, behind constants that it takes from the Rust code.
--
-- This file reads the head of the batch. It stops the script if the batch must not run on this server, or not any more.

local pack, unpack, call, pcall = struct.pack, struct.unpack, redis.call, pcall
local batch = ARGV[1]

local version, holder, batch_id, not_after, first_item = unpack('>BI6I6I7', batch)
if version ~= VERSION then
  return redis.error_reply('TIDEGATE this script is version ' .. VERSION .. ', the batch is version ' .. version)
end
local time = call('TIME')
-- Microseconds since the epoch.
local now = time[1] * 1000000 + time[2]
-- The batch holds 0 if it has no end, else its end plus one.
local has_end = not_after > 0
not_after = not_after - 1
if has_end and now > not_after then
  return pack('>BBI7', VERSION, BATCH_LATE, now)
end
local replication = call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then
  return redis.error_reply('READONLY this server is a replica')
end
local _, label_end = string.find(replication, 'master_replid:', 1, true)
if ARGV[2] and call('GET', ARGV[2]) == string.sub(replication, label_end + 1, label_end + 40) then
  return redis.error_reply('TIDEGATE another server replaced this one as the primary')
end

-- The first 24 bits of the replication id. An incarnation ends with the mark of the server under which it began.
local replication_mark = tonumber(string.sub(replication, label_end + 1, label_end + 6), 16)
-- The incarnation that begins with this batch, as BatchContext::new_incarnation computes it.
local new_incarnation = (holder + batch_id) % REPLICATION_MARKS * REPLICATION_MARKS + replication_mark
if new_incarnation == 0 then
  new_incarnation = 1
elseif new_incarnation >= FIRST_NOTE then
  new_incarnation = FIRST_NOTE - 1
end

-- The record of the lane, once an item has read it (lane.lua).
local lane

-- Returns an instant in milliseconds as the decimal text that Redis reads. It keeps the last text: formatting a number
-- is expensive, and most keys of a batch expire together.
local formatted_ms, formatted
local function format_ms(ms)
  if ms ~= formatted_ms then formatted_ms, formatted = ms, string.format('%.0f', ms) end
  return formatted
end
