-- The hits of a window that count at an instant (usage.rs). A window has a grid, `cells` and a `log`.

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

-- Returns the first instant at which a hit of `at` is not in the window any more.
local function leaves_at(grid, at)
  return at + grid.window_ms * 1000
end

-- Returns the hits of a cell that the log has and that have left the window at `instant`, and when the last logged hit
-- of the cell leaves it.
local function logged_hits(grid, cell, log, instant)
  local start, stop = cell.start_ms * 1000, (cell.start_ms + grid.width_ms) * 1000
  local gone, all, last_leaves = 0, 0, nil
  for _, entry in ipairs(log) do
    if start <= entry.at and entry.at < stop then
      last_leaves = leaves_at(grid, entry.at)
      all = all + entry.hits
      if last_leaves <= instant then gone = gone + entry.hits end
    end
  end
  return gone, all, last_leaves
end

-- Returns the most hits of a cell that are in the window that ends at `instant`.
local function perhaps_in_window(grid, cell, log, instant)
  local charged = charged_in(cell)
  -- Hits that were taken back may be those that have left, so the charges count, not the hits that remain.
  return max(charged - logged_hits(grid, cell, log, instant), 0)
end

-- Returns the hits that count at `instant`. `used_of` returns those of a cell.
local function used_at(grid, window, span, instant, used_of)
  local sum, is_log_empty = 0, #window.log == 0
  for _, cell in ipairs(window.cells) do
    local start_ms = cell.start_ms
    if start_ms >= span.oldest_ms and start_ms <= span.start_ms then
      local used = used_of(cell)
      if start_ms ~= span.start_ms then
        if grid.sliding then used = weighted(used, overlap(span, instant), grid.width_ms) end
        if not is_log_empty then used = min(used, perhaps_in_window(grid, cell, window.log, instant)) end
      end
      sum = sum + used
    end
  end
  return sum
end

-- Returns the first instant at which at most `room` hits count in a sliding window, as the cells alone show.
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
local function fits_at(grid, window, span, instant, hits, limit)
  local room = limit - hits
  if room < 0 then return nil end
  if used_at(grid, window, span, instant, used_in) <= room then return instant end
  if grid.bounds or grid.older_cells == 0 then return span.end_ms * 1000 end
  -- What counts shrinks at these instants.
  local instants = {}
  if grid.sliding then
    instants[1] = sliding_fits_at(grid, window.cells, span, room)
  else
    for _, cell in ipairs(window.cells) do
      if cell.start_ms >= span.oldest_ms and cell.start_ms <= span.start_ms then
        instants[#instants + 1] = gone_at(grid, cell, span.end_ms) * 1000
      end
    end
  end
  for _, entry in ipairs(window.log) do instants[#instants + 1] = leaves_at(grid, entry.at) end
  table.sort(instants)
  -- A binary search for the first of them at which the hits fit.
  local from, to = 1, #instants + 1
  while from < to do
    local middle = floor((from + to) / 2)
    local at = instants[middle]
    if at > instant and used_at(grid, window, span_at(grid, floor(at / 1000)), at, used_in) <= room then
      to = middle
    else
      from = middle + 1
    end
  end
  return instants[from] or instants[#instants]
end

-- Returns the instant from which no hit counts any more if nothing more is charged: `instant` if none counts.
local function empty_at(grid, window, span, instant)
  local latest = instant
  for _, cell in ipairs(window.cells) do
    if cell.start_ms >= span.oldest_ms and used_in(cell) > 0 then
      local at = gone_at(grid, cell, span.end_ms) * 1000
      if #window.log > 0 then
        local _, logged, last_leaves = logged_hits(grid, cell, window.log, instant)
        if last_leaves and logged >= charged_in(cell) then at = min(at, last_leaves) end
      end
      latest = max(latest, at)
    end
  end
  return latest
end
