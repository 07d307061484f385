-- The record of the lane (lane_epoch.rs): { mark, since_ms, data_since_ms, latest_ms }. The first item that needs it
-- reads it into `lane`.

-- Returns the record of the lane, as this primary leaves it. Its key is the last of KEYS.
local function lane_record()
  if lane then return lane end
  local name = KEYS[#KEYS]
  local stored = call('GET', name)
  local now_ms = math.floor(now / 1000)
  if stored then
    local mark, since_ms, data_since_ms, latest_ms = unpack('>I3I6I6I6', stored)
    if now_ms >= latest_ms + LANE_TIME_STEP_MS then latest_ms = now_ms end
    if mark ~= replication_mark then
      mark, since_ms = replication_mark, math.max(now_ms, latest_ms, since_ms + 1)
    end
    lane = { mark = mark, since_ms = since_ms, data_since_ms = data_since_ms, latest_ms = latest_ms }
  else
    lane = { mark = replication_mark, since_ms = now_ms, data_since_ms = now_ms, latest_ms = now_ms }
  end
  local text = pack('>I3I6I6I6', lane.mark, lane.since_ms, lane.data_since_ms, lane.latest_ms)
  if text ~= stored then call('SET', name, text) end
  return lane
end
