-- Serves the items of window counters (window_record.rs).

-- Reads a compact item into the form of every other item. `returns_position` is where its returns begin. The table
-- constructors name every field: a table that gets its fields one by one is allocated several times.
local function read_compact_item(kind, position)
  local width_ms, older_cells, limit, want, holders, min_left
  width_ms, older_cells, limit, want, holders, min_left, position = unpack('>I6BI7I4I4I7', batch, position)
  local item = {
    grid = { width_ms = width_ms, older_cells = older_cells, sliding = kind % KIND_COMPACT == KIND_SLIDING },
    limit = limit, want = want, holders = holders, min_left = min_left,
    asks = {}, seen = {}, debts_seen_in = 0, debts_seen = {}, reports = {}, returns = 0, returns_position = 0,
  }
  if kind >= HAS_ASK then
    local hits, count
    hits, count, position = unpack('>I6I4', batch, position)
    item.asks[1] = { hits = hits, count = count }
  end
  if kind % (2 * HAS_SEEN) >= HAS_SEEN then
    local start_ms, incarnation, charged, returned
    start_ms, incarnation, charged, returned, position = unpack('>I6I6I7I7', batch, position)
    local entry = { incarnation = incarnation, charged = charged, returned = returned }
    item.seen[1] = { start_ms = start_ms, entries = { entry } }
  end
  if kind % (2 * HAS_RETURN) >= HAS_RETURN then item.returns = 1 end
  item.returns_position = position
  return item
end

local function read_item(kind, position)
  if kind >= KIND_COMPACT then return read_compact_item(kind, position) end
  local grid
  if kind == KIND_CALENDAR then
    local previous, current, following, last
    previous, current, following, last, position = unpack('>I6I6I6I6', batch, position)
    grid = { bounds = { previous, current, following, last } }
  else
    local width_ms, older_cells
    width_ms, older_cells, position = unpack('>I6B', batch, position)
    grid = { width_ms = width_ms, older_cells = older_cells, sliding = kind == KIND_SLIDING }
  end
  local limit, want, holders, min_left, asks, seen, debts_seen_in, debts_seen, reports, returns
  limit, want, holders, min_left, position = unpack('>I7I4I4I7', batch, position)
  asks, position = read_asks(batch, position)
  seen, position = read_cells(batch, position)
  debts_seen_in, position = unpack('>I6', batch, position)
  debts_seen, position = read_debts(batch, position)
  reports, position = read_reports(batch, position)
  returns, position = unpack('>I4', batch, position)
  return {
    grid = grid, limit = limit, want = want, holders = holders, min_left = min_left, asks = asks, seen = seen,
    debts_seen_in = debts_seen_in, debts_seen = debts_seen, reports = reports, returns = returns,
    returns_position = position,
  }
end

-- Returns the instant that counts. Time never goes back while the key lives, nor behind what a node has seen of it.
local function current_instant(item, window)
  local newest_ms = 0
  for _, cell in ipairs(window and window.cells or {}) do newest_ms = max(newest_ms, cell.start_ms) end
  for _, cell in ipairs(item.seen) do newest_ms = max(newest_ms, cell.start_ms) end
  for _, report in ipairs(item.reports) do newest_ms = max(newest_ms, report.cell_ms) end
  return max(now, newest_ms * 1000)
end

-- Takes returns back and charges debts. Returns true if the debts were charged: those of a repeated batch are not.
local function receive(item, window, span)
  local incarnation, cells = window.incarnation, window.cells
  -- A debt of a cell that is over counts no more.
  window.debts = that_count(window.debts, span)
  -- In the incarnation that the node saw, the record knows all that the node saw, and what was confirmed since.
  if item.debts_seen_in ~= incarnation then merge_debts(window.debts, that_count(item.debts_seen, span)) end
  local first = (item.returns > 0 or #item.reports > 0) and accept(window.applied)
  if first then
    local position = item.returns_position
    for _ = 1, item.returns do
      local cell_ms, source, tokens
      cell_ms, source, tokens, position = unpack('>I6I6I7', batch, position)
      give_back(cells, cell_ms, source, tokens)
    end
    for _, report in ipairs(that_count(item.reports, span)) do
      charge_debt(window.debts, cells, report, incarnation)
    end
  end
  return first or #item.reports == 0
end

-- Drops the cells that the newest one makes obsolete. Time alone drops none: a clock that steps back finds them again.
local function drop_old_cells(grid, cells)
  if not cells[1] then return end
  local newest = span_at(grid, cells[1].start_ms)
  local oldest_ms = newest and newest.oldest_ms or cells[1].start_ms
  for i = #cells, 1, -1 do
    if cells[i].start_ms < oldest_ms then table.remove(cells, i) end
  end
end

-- Serves an item of a window counter and returns the reply. `position` is where the item begins, behind its kind.
return function(key, kind, position)
  local stored = call('GET', key)
  local item = read_item(kind, position)
  local grid, limit, asks = item.grid, item.limit, item.asks

  local window = stored and read_window(stored)
  local instant = current_instant(item, window)
  local span = span_at(grid, floor(instant / 1000))
  if not span then return pack('>B', OUT_OF_BOUNDS) end

  window = window or { incarnation = new_incarnation, applied = {}, debts = {}, cells = {} }
  window.incarnation, window.applied = continue_or_renew(window.incarnation), prune(window.applied)
  local cells = window.cells
  for _, cell in ipairs(item.seen) do
    if cell.start_ms >= span.oldest_ms then
      merge_entries(cell_at(cells, cell.start_ms), cell.entries, window.incarnation)
    end
  end
  local reported = receive(item, window, span)

  -- A counter without a limit denies nothing, however much is counted.
  local used = limit < MAX_COUNT and used_at(grid, cells, span, instant) or 0
  local available = max(limit - used, 0)
  local counts, tokens = grant_in_order(asks, available)
  local lease = 0
  if max(span.end_ms * 1000 - instant, 0) >= item.min_left then
    lease = min(floor((available - tokens) / (2 * max(item.holders, 1))), item.want)
  end
  tokens = tokens + lease
  if tokens > 0 then charge(cell_at(cells, span.start_ms), window.incarnation, tokens) end
  drop_old_cells(grid, cells)

  local out = { pack('>B', WINDOW_DONE) }
  write_granted(out, asks, counts, function(hits) return fits_at(grid, cells, span, instant, hits, limit) end)
  out[#out + 1] = pack('>I4I7I7I6I6I6', lease, available - tokens, empty_at(grid, cells, span, instant),
    window.incarnation, span.start_ms, span.end_ms)
  write_cells(out, cells, min(#cells, 2))
  out[#out + 1] = pack('>B', reported and 1 or 0)
  write_debts(out, window.debts)
  -- A key that holds nothing need not exist.
  if cells[1] then
    store(key, stored, write_window(window), window_expires(grid, cells))
  else
    store(key, stored, nil)
  end
  return table.concat(out)
end
