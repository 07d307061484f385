-- How the record of a window counter is written. A window is { incarnation, applied, debts, cells, log, noticed }:
-- `applied` has the last batch of each holder whose returns were applied (the replay guard).
--
-- A record begins with a byte for the version and the shape, and six bytes for the incarnation:
--   RECORD_TINY    one cell with fewer than 256 hits, none of them returned, and an empty `applied`. Most keys have this
--                  record, in 12 bytes.
--   RECORD_SINGLE  one cell, its returns, and `applied`.
--   RECORD_PLAIN   several cells without returns, and an empty `applied`.
--   RECORD_FULL    everything.
--
-- The shapes other than RECORD_FULL are for windows without debts, without a log and without a partition, whose cells
-- begin at whole seconds and hold the charges of the record's own incarnation alone.

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

-- Returns true if a shape other than RECORD_FULL can hold the window.
local function is_simple(window)
  if #window.debts > 0 or #window.log > 0 or window.noticed then return false end
  for _, cell in ipairs(window.cells) do
    local only = #cell.entries == 1 and cell.entries[1]
    local own = only and only.region == 0 and only.incarnation == window.incarnation
    local fits = own and only.charged < U32_RANGE and only.returned < U32_RANGE
    if not fits or cell.start_ms % 1000 ~= 0 or cell.start_ms >= U32_RANGE * 1000 then return false end
  end
  return true
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
