-- Cells of window counters (cell.rs). Cells are a list of { start_ms, entries }, the newest first. The entries of a
-- cell are a list of { region, incarnation, charged, returned }: those of the store's own region, then those of others,
-- of each region the oldest first. The region is 0 for the store's own. Notes are entries that count no hits
-- (notes.rs).

local function is_note(entry)
  return entry.incarnation >= FIRST_NOTE and entry.incarnation ~= FLOOR
end

-- Returns the hits of the entries that the cell keeps apart of a region, and those of its floor.
local function sum_and_floor(cell, region)
  local sum, floor_used = 0, 0
  for _, entry in ipairs(cell.entries) do
    if entry.region == region and not is_note(entry) then
      local used = max(entry.charged - entry.returned, 0)
      if entry.incarnation == FLOOR then floor_used = used else sum = sum + used end
    end
  end
  return sum, floor_used
end

-- Returns the hits of a cell that count, of all regions.
local function used_in(cell)
  local used, known = 0, {}
  for _, entry in ipairs(cell.entries) do
    local region = entry.region
    if not known[region] then
      known[region] = true
      used = used + max(sum_and_floor(cell, region))
    end
  end
  return used
end

-- Returns the hits that were ever charged to a cell. It is more than any count if the cell has dropped entries.
local function charged_in(cell)
  local charged = 0
  for _, entry in ipairs(cell.entries) do
    if entry.incarnation == FLOOR then return 2 * MAX_COUNT end
    if not is_note(entry) then charged = charged + entry.charged end
  end
  return charged
end

-- Returns true if the store's own region has charged the cell.
local function is_own(cell)
  for _, entry in ipairs(cell.entries) do
    if entry.region == 0 and not is_note(entry) then return true end
  end
  return false
end

local function find_entry(cell, incarnation, region)
  for _, entry in ipairs(cell.entries) do
    if entry.incarnation == incarnation and entry.region == region then return entry end
  end
end

-- Returns the entry of `incarnation`, added if it is missing.
local function entry_of(cell, incarnation, region)
  local entry = find_entry(cell, incarnation, region)
  if not entry then
    entry = { region = region, incarnation = incarnation, charged = 0, returned = 0 }
    local at = #cell.entries + 1
    while region == 0 and at > 1 and cell.entries[at - 1].region ~= 0 do at = at - 1 end
    table.insert(cell.entries, at, entry)
  end
  return entry
end

-- Drops the oldest entries of a region, except that of `current`, and keeps the sum of all as the floor of the own
-- region. Another region sends its floor by itself.
local function fold(cell, region, current)
  local entries, most, count = cell.entries, region == 0 and MAX_ENTRIES or MAX_FOREIGN_ENTRIES, 0
  for _, entry in ipairs(entries) do
    if entry.region == region and not is_note(entry) then count = count + 1 end
  end
  if count <= most then return end
  if region == 0 then
    local sum, floor_used = sum_and_floor(cell, 0)
    if not find_entry(cell, FLOOR, 0) then count = count + 1 end
    local floor_entry = entry_of(cell, FLOOR, 0)
    floor_entry.charged = min(floor_entry.charged + max(sum - floor_used, 0), MAX_COUNT)
  end
  local i = 1
  while count > most and i <= #entries do
    local entry = entries[i]
    local is_current = region == 0 and entry.incarnation == current
    if entry.region == region and entry.incarnation < FIRST_NOTE and not is_current then
      table.remove(entries, i)
      count = count - 1
    else
      i = i + 1
    end
  end
end

-- Returns true if the cell may keep an entry.
local function has_room_for(cell, new)
  local region = new.region
  if is_note(new) then
    local notes = 0
    for _, entry in ipairs(cell.entries) do
      if entry.region == region and is_note(entry) then
        if entry.incarnation == new.incarnation then return true end
        notes = notes + 1
      end
    end
    if notes >= MAX_NOTES then return false end
  end
  if region == 0 then return true end
  local known, others = {}, 0
  for _, entry in ipairs(cell.entries) do
    if entry.region == region then return true end
    if entry.region ~= 0 and not known[entry.region] then
      known[entry.region] = true
      others = others + 1
    end
  end
  return others < MAX_REGIONS - 1
end

-- Merges entries that a node saw of this cell, or that another region reported: the larger number of each wins. The
-- entry of `current` is not dropped. Entries of a region for which there is no room are left out.
local function merge_entries(cell, seen, current)
  for _, entry in ipairs(seen) do
    if has_room_for(cell, entry) then
      local own = entry_of(cell, entry.incarnation, entry.region)
      own.charged, own.returned = max(own.charged, entry.charged), max(own.returned, entry.returned)
      fold(cell, entry.region, current)
    end
  end
end

-- Charges `tokens` to `incarnation`.
local function charge(cell, incarnation, tokens)
  local entry, floor_entry = entry_of(cell, incarnation, 0), find_entry(cell, FLOOR, 0)
  entry.charged = min(entry.charged + tokens, MAX_COUNT)
  if floor_entry then floor_entry.charged = min(floor_entry.charged + tokens, MAX_COUNT) end
  fold(cell, 0, incarnation)
end

-- Takes back what `incarnation` has charged to the cell that begins at `start_ms`, never more than that.
local function give_back(cells, start_ms, incarnation, tokens)
  for _, cell in ipairs(cells) do
    if cell.start_ms == start_ms then
      local entry, floor_entry = find_entry(cell, incarnation, 0), find_entry(cell, FLOOR, 0)
      if not entry or entry.incarnation >= FIRST_NOTE then return end
      local back = min(tokens, max(entry.charged - entry.returned, 0))
      entry.returned = entry.returned + back
      if floor_entry then floor_entry.returned = min(floor_entry.returned + back, floor_entry.charged) end
      return
    end
  end
end

-- Takes back hits of any incarnation of the store's own region, the newest first. Returns how many.
local function refund_cell(cell, hits)
  local left = hits
  for i = #cell.entries, 1, -1 do
    local entry = cell.entries[i]
    if entry.region == 0 and entry.incarnation < FIRST_NOTE then
      local back = min(left, max(entry.charged - entry.returned, 0))
      entry.returned, left = entry.returned + back, left - back
    end
  end
  local floor_entry = find_entry(cell, FLOOR, 0)
  if floor_entry then floor_entry.returned = min(floor_entry.returned + hits - left, floor_entry.charged) end
  return hits - left
end

-- Returns the cell that begins at `start_ms`, added if it is missing.
local function cell_at(cells, start_ms)
  local at = #cells + 1
  for i, cell in ipairs(cells) do
    if cell.start_ms <= start_ms then
      at = i
      break
    end
  end
  if not cells[at] or cells[at].start_ms ~= start_ms then
    table.insert(cells, at, { start_ms = start_ms, entries = {} })
  end
  return cells[at]
end

-- Reads cells. A cell whose count of entries has the flag HAS_REGIONS names the region of each entry.
local function read_cells(text, position)
  local cells, count = {}
  count, position = unpack('>B', text, position)
  for i = 1, count do
    local start_ms, size
    local entries = {}
    start_ms, size, position = unpack('>I6B', text, position)
    local has_regions = size >= HAS_REGIONS
    if has_regions then size = size - HAS_REGIONS end
    for j = 1, size do
      local region, incarnation, charged, returned = 0
      if has_regions then region, position = unpack('>I2', text, position) end
      incarnation, charged, returned, position = unpack('>I6I7I7', text, position)
      entries[j] = { region = region, incarnation = incarnation, charged = charged, returned = returned }
    end
    cells[i] = { start_ms = start_ms, entries = entries }
  end
  return cells, position
end

-- Adds the entries of other regions that begin at `position`, in the short form of shared.lua.
local function read_others(entries, text, position, count)
  for _ = 1, count do
    local region, incarnation, charged, returned
    region, incarnation, charged, returned, position = unpack(OTHER_FORMAT, text, position)
    entries[#entries + 1] = { region = region, incarnation = incarnation, charged = charged, returned = returned }
  end
end

-- Writes the cells from the one at `first` to the one at `last`.
local function write_cells(out, cells, first, last)
  out[#out + 1] = pack('>B', max(last - first + 1, 0))
  for i = first, last do
    local entries, has_regions = cells[i].entries, false
    for _, entry in ipairs(entries) do has_regions = has_regions or entry.region ~= 0 end
    out[#out + 1] = pack('>I6B', cells[i].start_ms, #entries + (has_regions and HAS_REGIONS or 0))
    for _, entry in ipairs(entries) do
      if has_regions then out[#out + 1] = pack('>I2', entry.region) end
      out[#out + 1] = pack('>I6I7I7', entry.incarnation, entry.charged, entry.returned)
    end
  end
end
