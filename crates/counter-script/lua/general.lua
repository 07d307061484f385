-- The general path, which serves every item. This file has what window counters and token buckets share.

local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max

-- Returns `incarnation`, or a new one if another server has become the primary since it began
-- (BatchContext::continue_or_renew).
local function continue_or_renew(incarnation)
  if incarnation % REPLICATION_MARKS == replication_mark then return incarnation end
  return new_incarnation
end

-- Stores `record` under `key` until `expires_ms`. `stored` is the value that is there, or false. Deletes the key if
-- `record` is nil or expires at once. Does not write a value that is already there.
local function store(key, stored, record, expires_ms)
  if record and expires_ms * 1000 <= now then record = nil end
  if record == stored or (not record and not stored) then return end
  if record then
    call('SET', key, record, 'PXAT', format_ms(expires_ms))
  else
    call('DEL', key)
  end
end
