-- The part of the compact path that merges what other regions reported.
--
-- `others` are the entries of other regions in one cell, the oldest first, in one string: OTHER_SIZE bytes for each, as
-- OTHER_FORMAT packs them. There are at most MAX_FOREIGN_ENTRIES of all regions together, so no region has too many.
-- Notes and floors are left to the general path.

local sub, max = string.sub, math.max

-- Returns `others` with an entry merged into them: the larger number of each wins. Returns nothing if the entry cannot
-- be among them.
local function merge_other(others, region, incarnation, charged, returned)
  if region == 0 or incarnation >= FIRST_NOTE or charged >= U32_RANGE or returned >= U32_RANGE then return end
  for position = 1, #others, OTHER_SIZE do
    local of, by, known_charged, known_returned = unpack(OTHER_FORMAT, others, position)
    if of == region and by == incarnation then
      if known_charged >= charged and known_returned >= returned then return others end
      local merged = pack(OTHER_FORMAT, of, by, max(known_charged, charged), max(known_returned, returned))
      return sub(others, 1, position - 1) .. merged .. sub(others, position + OTHER_SIZE)
    end
  end
  if #others >= MAX_FOREIGN_ENTRIES * OTHER_SIZE then return end
  return others .. pack(OTHER_FORMAT, region, incarnation, charged, returned)
end

-- Returns `others` with those of `seen` merged into them, or nothing if there is no room.
local function merge_others(others, seen)
  for position = 1, #seen, OTHER_SIZE do
    others = merge_other(others, unpack(OTHER_FORMAT, seen, position))
    if not others then return end
  end
  return others
end

-- Returns what a record holds that has one cell and at most one entry of the replay guard: the incarnation, the second
-- in which the cell begins, what the incarnation charged and returned, that entry, and the entries of other regions.
-- Returns nothing for every other record.
local function read_record(stored)
  if #stored == 12 then
    local shape, incarnation, second, charged = unpack('>BI6I4B', stored)
    if shape == RECORD_TINY then return incarnation, second, charged, 0, '', '' end
  elseif #stored >= 19 then
    local shape, incarnation, second, charged, returned = unpack('>BI6I4I4I4', stored)
    if shape == RECORD_SHARED or (shape == RECORD_SINGLE and #stored == 19) then
      return incarnation, second, charged, returned, '', sub(stored, 20)
    elseif shape == RECORD_GUARDED or (shape == RECORD_SINGLE and #stored == 38) then
      return incarnation, second, charged, returned, sub(stored, 20, 38), sub(stored, 39)
    end
  end
end

-- Returns the reply to an import of the current cell, as import.lua does. Returns nothing, and has changed nothing, if
-- the general path must serve the item.
local function serve_short_import(key, position)
  local window_ms, older_cells, cells, cell_ms, size
  window_ms, older_cells, cells, position = unpack('>I6BB', batch, position)
  if cells ~= 1 then return end
  cell_ms, size, position = unpack('>I6B', batch, position)
  local width_ms = math.ceil(window_ms / max(older_cells, 1))
  local now_ms = math.floor(now / 1000)
  local start_ms = now_ms - now_ms % width_ms
  if size <= HAS_REGIONS or cell_ms ~= start_ms then return end
  if start_ms % 1000 ~= 0 or start_ms >= U32_RANGE * 1000 then return end
  local stored = call('GET', key)
  local incarnation, charged, returned, guard, others = new_incarnation, 0, 0, '', ''
  if stored then
    local cell_second
    incarnation, cell_second, charged, returned, guard, others = read_record(stored)
    if not incarnation or incarnation % REPLICATION_MARKS ~= replication_mark then return end
    if charged == 0 and others == '' then return end
    if cell_second * 1000 ~= start_ms then
      if cell_second * 1000 >= start_ms - width_ms * older_cells then return end
      charged, returned, others = 0, 0, ''
    end
  end
  for _ = 1, size - HAS_REGIONS do
    local of, by, of_charged, of_returned
    of, by, of_charged, of_returned, position = unpack('>I2I6I7I7', batch, position)
    others = merge_other(others, of, by, of_charged, of_returned)
    if not others then return end
  end
  local shape = guard == '' and RECORD_SHARED or RECORD_GUARDED
  local record = pack('>BI6I4I4I4', shape, incarnation, start_ms / 1000, charged, returned) .. guard .. others
  if record ~= stored then
    call('SET', key, record, 'PXAT', format_ms(start_ms + width_ms * (older_cells + 1)))
  end
  return pack('>BI6', IMPORTED, lane_record().since_ms)
end

return {
  merge = merge_others,
  import = serve_short_import,
}
