-- What a region admits of a counter while another region does not hear it (share.rs). A share is { since_ms, weight,
-- weights }. `window.noticed` is { since_ms, cell_ms, used, admits }.

local function read_share(text, position)
  local since_ms, weight, weights
  since_ms, weight, weights, position = unpack('>I6I4I4', text, position)
  return { since_ms = since_ms, weight = weight, weights = weights }, position
end

-- Returns the weighted part of `hits`, rounded down.
local function part_of(share, hits)
  local product = hits * share.weight
  return min((product - product % share.weights) / share.weights, hits)
end

-- Returns the hits of a cell that the region itself has used.
local function own_used_in(cell)
  return max(sum_and_floor(cell, 0))
end

-- Returns the hits that the region itself has used in the cells from `start_ms` on.
local function own_used_since(cells, start_ms)
  local used = 0
  for _, cell in ipairs(cells) do
    if cell.start_ms >= start_ms then used = used + own_used_in(cell) end
  end
  return used
end

-- Returns the hits that the region may still admit. `available` are those that are left of the limit. Notes the
-- partition, if it is a new one for this counter.
local function share_of(share, grid, window, span, instant, limit, available)
  local cells, noticed = window.cells, window.noticed
  if not noticed or share.since_ms > noticed.since_ms + NOTICE_TOLERANCE_MS then
    noticed = {
      since_ms = share.since_ms, cell_ms = span.start_ms, used = own_used_since(cells, span.start_ms),
      admits = part_of(share, available),
    }
    window.noticed = noticed
  end
  local in_progress
  if grid.bounds or grid.older_cells == 0 then
    in_progress = span.start_ms <= noticed.since_ms
  else
    in_progress = floor(instant / 1000) < noticed.since_ms + grid.window_ms
  end
  local left
  if in_progress then
    left = max(noticed.used + noticed.admits - own_used_since(cells, noticed.cell_ms), 0)
  else
    left = max(part_of(share, limit) - used_at(grid, window, span, instant, own_used_in), 0)
  end
  return min(available, left)
end
