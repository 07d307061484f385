-- The grid of a window counter (grid.rs): { width_ms, older_cells, sliding }, or { bounds } for a calendar. A span is
-- { start_ms, end_ms, oldest_ms }: the current cell, and the beginning of the oldest cell that counts.

-- Returns the span at an instant in milliseconds, or nil if it is outside the calendar bounds.
local function span_at(grid, ms)
  local bounds = grid.bounds
  if bounds then
    for i = 1, 3 do
      if bounds[i] <= ms and ms < bounds[i + 1] then
        return { start_ms = bounds[i], end_ms = bounds[i + 1], oldest_ms = bounds[i] }
      end
    end
    return nil
  end
  local start_ms = ms - ms % grid.width_ms
  local oldest_ms = max(start_ms - grid.width_ms * grid.older_cells, 0)
  return { start_ms = start_ms, end_ms = start_ms + grid.width_ms, oldest_ms = oldest_ms }
end

-- Returns the part of the older cell that still overlaps, in milliseconds rounded up: as much as is left of the current
-- cell.
local function overlap(span, instant)
  return ceil(max(span.end_ms * 1000 - instant, 0) / 1000)
end

-- Returns `used` times the overlapping part. Both roundings are up.
local function weighted(used, overlap_ms, width_ms)
  local weight = floor((overlap_ms * WEIGHT_ONE + width_ms - 1) / width_ms)
  -- A count above every limit need not be weighed exactly, and must not overflow.
  return ceil(min(used, 2 * MAX_LIMIT) * weight / WEIGHT_ONE)
end

-- Returns the hits that count at `instant`.
local function used_at(grid, cells, span, instant)
  local sum = 0
  for _, cell in ipairs(cells) do
    local start_ms = cell.start_ms
    if start_ms >= span.oldest_ms and start_ms <= span.start_ms then
      if grid.sliding and start_ms ~= span.start_ms then
        sum = sum + weighted(used_in(cell), overlap(span, instant), grid.width_ms)
      else
        sum = sum + used_in(cell)
      end
    end
  end
  return sum
end

-- Returns the first instant at which at most `room` hits count in a sliding window.
local function sliding_fits_at(grid, cells, span, room)
  local current, older = 0, 0
  for _, cell in ipairs(cells) do
    if cell.start_ms == span.start_ms then
      current = used_in(cell)
    elseif cell.start_ms == span.oldest_ms then
      older = used_in(cell)
    end
  end
  local used, left, end_ms = older, room - current, span.end_ms
  if left < 0 then used, left, end_ms = current, room, span.end_ms + grid.width_ms end
  local weight = WEIGHT_ONE
  if used > 0 then weight = min(floor(left * WEIGHT_ONE / used), WEIGHT_ONE) end
  return (end_ms - floor(weight * grid.width_ms / WEIGHT_ONE)) * 1000
end

-- Returns the first instant at which `hits` would fit if nothing more is charged, or nil if never.
local function fits_at(grid, cells, span, instant, hits, limit)
  local room = limit - hits
  if room < 0 then return nil end
  if used_at(grid, cells, span, instant) <= room then return instant end
  if grid.sliding then return sliding_fits_at(grid, cells, span, room) end
  if grid.bounds or grid.older_cells == 0 then return span.end_ms * 1000 end
  local sum = 0
  for _, cell in ipairs(cells) do
    if cell.start_ms >= span.oldest_ms then sum = sum + used_in(cell) end
  end
  for i = #cells, 1, -1 do
    local cell = cells[i]
    if cell.start_ms >= span.oldest_ms then
      sum = sum - used_in(cell)
      if sum <= room then return (cell.start_ms + grid.width_ms * (grid.older_cells + 1)) * 1000 end
    end
  end
  return nil
end

-- Returns the millisecond from which a cell does not count any more. `end_ms` is the end of the current cell, which
-- only a fixed window and a calendar need.
local function gone_at(grid, cell, end_ms)
  if grid.bounds or grid.older_cells == 0 then return end_ms end
  return cell.start_ms + (grid.older_cells + 1) * grid.width_ms
end

-- Returns the instant from which no hit counts any more if nothing more is charged: `instant` if none counts.
local function empty_at(grid, cells, span, instant)
  for _, cell in ipairs(cells) do
    if cell.start_ms >= span.oldest_ms and used_in(cell) > 0 then
      return max(gone_at(grid, cell, span.end_ms) * 1000, instant)
    end
  end
  return instant
end
