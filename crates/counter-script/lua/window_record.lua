-- How the record of a window counter is written. A window is { incarnation, applied, debts, cells, log, noticed }:
-- `applied` has the last batch of each holder whose returns were applied (the replay guard).
--
-- A record begins with a byte for the version and the shape, and six bytes for the incarnation:
--   RECORD_TINY    one cell with fewer than 256 hits, none of them returned, and an empty `applied`. Most keys have this
--                  record, in 12 bytes.
--   RECORD_SINGLE  one cell, its returns, and `applied`.
--   RECORD_SHARED  one cell, its returns, and up to MAX_FOREIGN_ENTRIES entries of other regions (shared.lua). The own
--                  region may have charged nothing.
--   RECORD_GUARDED the same, with one batch of `applied` before the entries.
--   RECORD_PLAIN   several cells without returns, and an empty `applied`.
--   RECORD_FULL    everything.
--
-- The shapes other than RECORD_FULL are for windows without debts, without a log and without a partition, whose cells
-- begin at whole seconds and hold the charges of the record's own incarnation alone, beside those of other regions.

local function simple_cell(incarnation, second, charged, returned)
  local entry = { region = 0, incarnation = incarnation, charged = charged, returned = returned }
  return { start_ms = second * 1000, entries = { entry } }
end

local function read_window(text)
  local shape, incarnation, position = unpack('>BI6', text)
  local window = { incarnation = incarnation, applied = {}, debts = {}, cells = {}, log = {} }
  if shape == RECORD_TINY then
    local second, charged = unpack('>I4B', text, position)
    window.cells[1] = simple_cell(incarnation, second, charged, 0)
  elseif shape == RECORD_SINGLE then
    local second, charged, returned
    second, charged, returned, position = unpack('>I4I4I4', text, position)
    window.cells[1] = simple_cell(incarnation, second, charged, returned)
    while position <= #text do
      local batch_of_holder
      batch_of_holder, position = read_applied_batch(text, position)
      table.insert(window.applied, batch_of_holder)
    end
  elseif shape == RECORD_SHARED or shape == RECORD_GUARDED then
    local second, charged, returned
    second, charged, returned, position = unpack('>I4I4I4', text, position)
    if shape == RECORD_GUARDED then window.applied[1], position = read_applied_batch(text, position) end
    local cell = simple_cell(incarnation, second, charged, returned)
    if charged == 0 then cell.entries = {} end
    read_others(cell.entries, text, position, (#text - position + 1) / OTHER_SIZE)
    window.cells[1] = cell
  elseif shape == RECORD_PLAIN then
    local count
    count, position = unpack('>B', text, position)
    for i = 1, count do
      local second, charged
      second, charged, position = unpack('>I4I4', text, position)
      window.cells[i] = simple_cell(incarnation, second, charged, 0)
    end
  elseif shape == RECORD_FULL then
    window.cells, position = read_cells(text, position)
    window.applied, position = read_applied(text, position)
    -- Records of earlier scripts end before the debts, before the log, or before the partition.
    if position <= #text then window.debts, position = read_debts(text, position) end
    if position <= #text then window.log, position = read_log(text, position) end
    if position <= #text then
      local since_ms, cell_ms, used, admits = unpack('>I6I6I7I7', text, position)
      window.noticed = { since_ms = since_ms, cell_ms = cell_ms, used = used, admits = admits }
    end
  else
    error('the value is not the record of a window')
  end
  return window
end

local function has_more_than_cells(window)
  return #window.debts > 0 or #window.log > 0 or window.noticed
end

local function begins_at_short_second(cell)
  return cell.start_ms % 1000 == 0 and cell.start_ms < U32_RANGE * 1000
end

-- Returns true if an entry is that of `incarnation`, and has numbers of four bytes.
local function is_short(entry, incarnation)
  return entry.incarnation == incarnation and entry.charged < U32_RANGE and entry.returned < U32_RANGE
end

-- Returns true if RECORD_TINY, RECORD_SINGLE or RECORD_PLAIN can hold the window.
local function is_simple(window)
  if has_more_than_cells(window) then return false end
  for _, cell in ipairs(window.cells) do
    local only = #cell.entries == 1 and cell.entries[1]
    local fits = only and only.region == 0 and is_short(only, window.incarnation)
    if not fits or not begins_at_short_second(cell) then return false end
  end
  return true
end

-- Returns true if RECORD_SHARED or RECORD_GUARDED can hold the window.
local function is_shared(window)
  local cells = window.cells
  if has_more_than_cells(window) or #window.applied > 1 or #cells > 1 or not begins_at_short_second(cells[1]) then
    return false
  end
  local others = 0
  for i, entry in ipairs(cells[1].entries) do
    local is_other = entry.region ~= 0
    if not is_short(entry, is_other and entry.incarnation or window.incarnation) then return false end
    if is_other then
      if entry.incarnation >= FIRST_NOTE then return false end
      others = others + 1
    elseif i > 1 or entry.charged == 0 then
      return false
    end
  end
  return others > 0 and others <= MAX_FOREIGN_ENTRIES
end

local function write_shared(window)
  local cell, guard = window.cells[1], window.applied[1]
  local own = find_entry(cell, window.incarnation, 0) or { charged = 0, returned = 0 }
  local shape = guard and RECORD_GUARDED or RECORD_SHARED
  local out = { pack('>BI6I4I4I4', shape, window.incarnation, cell.start_ms / 1000, own.charged, own.returned) }
  if guard then write_applied_batch(out, guard) end
  for _, entry in ipairs(cell.entries) do
    if entry.region ~= 0 then
      out[#out + 1] = pack(OTHER_FORMAT, entry.region, entry.incarnation, entry.charged, entry.returned)
    end
  end
  return table.concat(out)
end

local function write_single(window)
  local cell, applied = window.cells[1], window.applied
  local second, entry = cell.start_ms / 1000, cell.entries[1]
  if entry.returned == 0 and entry.charged < 256 and #applied == 0 then
    return pack('>BI6I4B', RECORD_TINY, window.incarnation, second, entry.charged)
  end
  local out = { pack('>BI6I4I4I4', RECORD_SINGLE, window.incarnation, second, entry.charged, entry.returned) }
  for _, batch_of_holder in ipairs(applied) do write_applied_batch(out, batch_of_holder) end
  return table.concat(out)
end

-- Returns the record of a window that has a cell.
local function write_window(window)
  local cells = window.cells
  if is_simple(window) then
    if #cells == 1 then return write_single(window) end
    local returned = 0
    for _, cell in ipairs(cells) do returned = returned + cell.entries[1].returned end
    if returned == 0 and #window.applied == 0 then
      local out = { pack('>BI6B', RECORD_PLAIN, window.incarnation, #cells) }
      for _, cell in ipairs(cells) do
        out[#out + 1] = pack('>I4I4', cell.start_ms / 1000, cell.entries[1].charged)
      end
      return table.concat(out)
    end
  elseif is_shared(window) then
    return write_shared(window)
  end
  local out = { pack('>BI6', RECORD_FULL, window.incarnation) }
  write_cells(out, cells, 1, #cells)
  write_applied(out, window.applied)
  write_debts(out, window.debts)
  local noticed = window.noticed
  if #window.log > 0 or noticed then write_log(out, window.log) end
  if noticed then
    out[#out + 1] = pack('>I6I6I7I7', noticed.since_ms, noticed.cell_ms, noticed.used, noticed.admits)
  end
  return table.concat(out)
end

-- Returns when the record may expire, in milliseconds. A cell whose hits were all returned does not expire earlier: it
-- still shows that they were.
local function window_expires(grid, cells)
  local span = span_at(grid, cells[1].start_ms)
  -- The newest cell is outside of the calendar's bounds, so nothing of the record counts any more.
  if not span then return grid.bounds[1] end
  return gone_at(grid, cells[1], span.end_ms)
end
