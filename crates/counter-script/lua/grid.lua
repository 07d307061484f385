-- The grid of a window counter (grid.rs): { window_ms, width_ms, older_cells, sliding }, or { bounds } for a calendar.
-- A span is { start_ms, end_ms, oldest_ms }: the current cell, and the beginning of the oldest cell that counts.

-- Returns the grid of a window whose cells are `window_ms` divided by `older_cells` wide, rounded up.
local function grid_of(window_ms, older_cells, sliding)
  local width_ms = ceil(window_ms / max(older_cells, 1))
  return { window_ms = window_ms, width_ms = width_ms, older_cells = older_cells, sliding = sliding }
end

-- Reads the grid of an item of this kind.
local function read_grid(kind, position)
  if kind == KIND_CALENDAR then
    local previous, current, following, last
    previous, current, following, last, position = unpack('>I6I6I6I6', batch, position)
    return { bounds = { previous, current, following, last } }, position
  end
  local window_ms, older_cells
  window_ms, older_cells, position = unpack('>I6B', batch, position)
  return grid_of(window_ms, older_cells, kind == KIND_SLIDING), position
end

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

-- Returns the millisecond from which a cell does not count any more. `end_ms` is the end of the current cell, which
-- only a fixed window and a calendar need.
local function gone_at(grid, cell, end_ms)
  if grid.bounds or grid.older_cells == 0 then return end_ms end
  return cell.start_ms + (grid.older_cells + 1) * grid.width_ms
end

-- Returns true if the hits of this limit are logged.
local function is_logged(grid, limit)
  return limit <= MAX_LOGGED_LIMIT and not grid.bounds and grid.older_cells > 0
end
