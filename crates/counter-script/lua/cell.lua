-- Cells of window counters (cell.rs). Cells are a list of { start_ms, entries }, the newest first. The entries of a
-- cell are a list of { incarnation, charged, returned }, the oldest first.

-- Returns the hits of the entries that the cell keeps apart, and those of its floor.
local function sum_and_floor(cell)
  local sum, floor_used = 0, 0
  for _, entry in ipairs(cell.entries) do
    local used = max(entry.charged - entry.returned, 0)
    if entry.incarnation == FLOOR then floor_used = used else sum = sum + used end
  end
  return sum, floor_used
end

-- Returns the hits of a cell that count.
local function used_in(cell)
  return max(sum_and_floor(cell))
end

-- Returns the hits that were ever charged to a cell. It is more than any count if the cell has dropped entries.
local function charged_in(cell)
  local charged = 0
  for _, entry in ipairs(cell.entries) do
    if entry.incarnation == FLOOR then return 2 * MAX_COUNT end
    charged = charged + entry.charged
  end
  return charged
end

local function find_entry(cell, incarnation)
  for _, entry in ipairs(cell.entries) do
    if entry.incarnation == incarnation then return entry end
  end
end

-- Returns the entry of `incarnation`, added if it is missing.
local function entry_of(cell, incarnation)
  local entry = find_entry(cell, incarnation)
  if not entry then
    entry = { incarnation = incarnation, charged = 0, returned = 0 }
    table.insert(cell.entries, entry)
  end
  return entry
end

-- Drops the oldest entries, except that of `current`, and keeps the sum of all as the floor.
local function fold(cell, current)
  local entries = cell.entries
  if #entries <= MAX_ENTRIES then return end
  local sum, floor_used = sum_and_floor(cell)
  local floor_entry = entry_of(cell, FLOOR)
  floor_entry.charged = min(floor_entry.charged + max(sum - floor_used, 0), MAX_COUNT)
  local i = 1
  while #entries > MAX_ENTRIES and i <= #entries do
    local incarnation = entries[i].incarnation
    if incarnation ~= FLOOR and incarnation ~= current then table.remove(entries, i) else i = i + 1 end
  end
end

-- Merges entries that a node saw of this cell: the larger number of each wins. The entry of `current` is not dropped.
local function merge_entries(cell, seen, current)
  for _, entry in ipairs(seen) do
    local own = entry_of(cell, entry.incarnation)
    own.charged, own.returned = max(own.charged, entry.charged), max(own.returned, entry.returned)
  end
  fold(cell, current)
end

-- Charges `tokens` to `incarnation`.
local function charge(cell, incarnation, tokens)
  local entry, floor_entry = entry_of(cell, incarnation), find_entry(cell, FLOOR)
  entry.charged = min(entry.charged + tokens, MAX_COUNT)
  if floor_entry then floor_entry.charged = min(floor_entry.charged + tokens, MAX_COUNT) end
  fold(cell, incarnation)
end

-- Takes back what `incarnation` has charged to the cell that begins at `start_ms`, never more than that.
local function give_back(cells, start_ms, incarnation, tokens)
  for _, cell in ipairs(cells) do
    if cell.start_ms == start_ms then
      local entry, floor_entry = find_entry(cell, incarnation), find_entry(cell, FLOOR)
      if not entry or entry == floor_entry then return end
      local back = min(tokens, max(entry.charged - entry.returned, 0))
      entry.returned = entry.returned + back
      if floor_entry then floor_entry.returned = min(floor_entry.returned + back, floor_entry.charged) end
      return
    end
  end
end

-- Takes back hits of any incarnation, the newest first. Returns how many.
local function refund_cell(cell, hits)
  local left = hits
  for i = #cell.entries, 1, -1 do
    local entry = cell.entries[i]
    if entry.incarnation ~= FLOOR then
      local back = min(left, max(entry.charged - entry.returned, 0))
      entry.returned, left = entry.returned + back, left - back
    end
  end
  local floor_entry = find_entry(cell, FLOOR)
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

local function read_cells(text, position)
  local cells, count = {}
  count, position = unpack('>B', text, position)
  for i = 1, count do
    local start_ms, size
    local entries = {}
    start_ms, size, position = unpack('>I6B', text, position)
    for j = 1, size do
      local incarnation, charged, returned
      incarnation, charged, returned, position = unpack('>I6I7I7', text, position)
      entries[j] = { incarnation = incarnation, charged = charged, returned = returned }
    end
    cells[i] = { start_ms = start_ms, entries = entries }
  end
  return cells, position
end

-- Writes the newest `count` cells.
local function write_cells(out, cells, count)
  out[#out + 1] = pack('>B', count)
  for i = 1, count do
    local entries = cells[i].entries
    out[#out + 1] = pack('>I6B', cells[i].start_ms, #entries)
    for _, entry in ipairs(entries) do
      out[#out + 1] = pack('>I6I7I7', entry.incarnation, entry.charged, entry.returned)
    end
  end
end
