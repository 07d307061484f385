-- Serves every item of the batch and returns the reply.

local serve_general
local function serve(key, kind, position)
  if kind >= KIND_COMPACT then
    local reply = serve_compact(key, kind, position)
    if reply then return reply end
  elseif kind > IMPORT and kind < IMPORT + KIND_CALENDAR then
    shared = shared or load_part('shared')
    local reply = shared.import(key, position)
    if reply then return reply end
  end
  serve_general = serve_general or load_part('general')
  return serve_general(key, kind, position)
end

-- Returns the reply to an item that raised an error. An error is a table since Redis 7, and a string before.
local function failed(reason)
  reason = string.sub(type(reason) == 'table' and reason.err or tostring(reason), 1, 80)
  return pack('>BB', FAILED, #reason) .. reason
end

local replies = { pack('>BBI7', VERSION, BATCH_RAN, now) }
local position = first_item
local count = 0
while position <= #batch do
  count = count + 1
  local size, kind, item = unpack('>I3B', batch, position)
  local ok, reply = pcall(serve, KEYS[count], kind, item)
  replies[count + 1] = ok and reply or failed(reply)
  position = item + size
end
return table.concat(replies)
