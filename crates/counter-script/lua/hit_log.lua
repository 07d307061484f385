-- When the hits of a small limit were charged (hit_log.rs): a list of { at, hits }, the oldest first.

-- Notes a charge to the cell that begins at `cell_start`. If the log is full, the hits of its last entry count as
-- charged now, or are forgotten if they are of an older cell.
local function note_hits(log, cell_start, at, hits)
  hits = min(hits, MAX_LOGGED_HITS)
  local last = log[#log]
  if last and #log >= MAX_LOG and last.at < cell_start then
    last.at, last.hits = at, hits
  elseif last and (#log >= MAX_LOG or last.at >= at) then
    last.at, last.hits = max(last.at, at), min(last.hits + hits, MAX_LOGGED_HITS)
  else
    log[#log + 1] = { at = at, hits = hits }
  end
end

-- Returns the log without the entries from before `oldest`.
local function logged_since(log, oldest)
  local kept = {}
  for _, entry in ipairs(log) do
    if entry.at >= oldest then kept[#kept + 1] = entry end
  end
  return kept
end

local function read_log(text, position)
  local log, count = {}
  count, position = unpack('>B', text, position)
  for i = 1, count do
    local at, hits
    at, hits, position = unpack('>I7I2', text, position)
    log[i] = { at = at, hits = hits }
  end
  return log, position
end

local function write_log(out, log)
  out[#out + 1] = pack('>B', #log)
  for _, entry in ipairs(log) do out[#out + 1] = pack('>I7I2', entry.at, entry.hits) end
end
