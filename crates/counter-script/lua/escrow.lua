-- Rights of regions under `strategy: escrow` (escrow.rs, notes.rs, lane_epoch.rs, transfer.rs). An escrow is { part,
-- others }: the rights that the region begins a cell with, and the regions that have rights beside it. Notes are
-- entries of a cell with numbers from FIRST_NOTE on.

local function read_escrow(text, position)
  local part, count
  part, count, position = unpack('>I7B', text, position)
  local others = {}
  for i = 1, count do others[i], position = unpack('>I2', text, position) end
  return { part = part, others = others }, position
end

-- Returns the value of a note, 0 without it.
local function note(cell, incarnation, region)
  local entry = cell and find_entry(cell, incarnation, region)
  return entry and entry.charged or 0
end

-- Raises the value of a note.
local function set_note(cell, incarnation, region, value)
  if value > note(cell, incarnation, region) then
    value = min(value, MAX_COUNT)
    merge_entries(cell, { { region = region, incarnation = incarnation, charged = value, returned = 0 } }, incarnation)
  end
end

-- Returns the instant in microseconds at which items under `escrow` run. It never goes back.
local function lane_now()
  return max(now, lane_record().latest_ms * 1000)
end

local function cell_from(cells, start_ms)
  for _, cell in ipairs(cells) do
    if cell.start_ms == start_ms then return cell end
  end
end

-- Returns 0 if the region may spend its rights of a cell. Otherwise returns SPENDING_LOST, or the epoch of which every
-- other region must confirm what it got.
local function spending_of(escrow, cell, start_ms)
  if not escrow.others[1] then return 0 end
  local epoch = lane_record()
  if start_ms <= epoch.data_since_ms then return SPENDING_LOST end
  if start_ms <= epoch.since_ms then
    for _, other in ipairs(escrow.others) do
      if note(cell, NOTE_CONFIRMED, other) < epoch.since_ms then return epoch.since_ms end
    end
  end
  return 0
end

-- Returns the hits that the region may still admit in a cell, and what `spending_of` returns.
local function rights_left(escrow, cell, start_ms)
  local spending = spending_of(escrow, cell, start_ms)
  if spending ~= 0 then return 0, spending end
  if not cell then return escrow.part, 0 end
  local begun = note(cell, NOTE_RIGHTS, 0)
  local has, gone = begun > 0 and min(begun - 1, escrow.part) or escrow.part, max(sum_and_floor(cell, 0))
  for _, entry in ipairs(cell.entries) do
    if entry.incarnation >= FIRST_NOTE and entry.incarnation < NOTE_CONFIRMED then
      if entry.region == 0 then gone = gone + entry.charged else has = has + entry.charged end
    end
  end
  return max(has - gone, 0), 0
end

-- Notes the rights that the region begins a cell with, at the first charge or transfer.
local function begin_rights(escrow, cell)
  if note(cell, NOTE_RIGHTS, 0) == 0 then set_note(cell, NOTE_RIGHTS, 0, escrow.part + 1) end
end

-- Returns the hits of the rest of a cell, if they come as fast as the `used` ones.
local function forecast(used, span, instant)
  local instant_ms, width_ms = floor(instant / 1000), max(span.end_ms - span.start_ms, 0)
  local elapsed_ms = max(instant_ms - span.start_ms, 0) + floor(width_ms / 16) + 1
  local left = floor(min(max(span.end_ms - instant_ms, 0), width_ms) * FORECAST_PARTS / elapsed_ms)
  return floor(min(used, MAX_LIMIT) * min(left, MAX_FORECAST * FORECAST_PARTS) / FORECAST_PARTS)
end

-- Returns the rights that a region can spare.
local function spare(available, used, span, instant, denied)
  if denied then return ceil(available / 2) end
  return max(available - max(forecast(used, span, instant), ceil(available / 4)), 0)
end
